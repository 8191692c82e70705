//! Bytes that one server may read as one request and another as two, by class. Each payload is whole as we read it, so
//! that a victim's request can follow it.
//!
//! | module | classes |
//! |---|---|
//! | [`framing`] | both lengths, odd `Transfer-Encoding`, odd `Content-Length`, what `Connection` takes away |
//! | [`chunks`] | sizes, extensions, data's end, trailers |
//! | [`lines`] | bare CR and LF, folds, spaces, control bytes, header names |
//! | [`target`] | request line, target, absolute form, `Host`, versions |
//! | [`http2`] | the same over HTTP/2: fields, pseudo-header fields, lengths, trailers |
//! | [`early`] | pipelining, `Upgrade` with early data, `Expect` |

mod chunks;
mod early;
mod framing;
mod http2;
mod lines;
mod target;

use std::collections::HashSet;

/// What a client sends, and what must become of it.
#[derive(Clone, Debug)]
pub struct Payload {
    /// What it tries.
    pub class: &'static str,
    /// One connection's bytes.
    pub bytes: Vec<u8>,
    /// What must become of them.
    pub must: Must,
    /// Whether another's request follows on the same connection.
    pub victim: bool,
}

/// What must become of a payload.
#[derive(Clone, Debug)]
pub enum Must {
    /// The gateway refuses it and closes; no origin sees a request.
    Refuse,
    /// Every origin sees requests with these bodies.
    Pass(Vec<Vec<u8>>),
    /// Either, but every origin alike.
    Agree,
}

/// A request that must never be one of its own.
const SMUGGLED: &str = "GET /smuggled HTTP/1.1\r\nHost: b.example\r\n\r\n";

impl Payload {
    /// Refused by us.
    fn refuse(class: &'static str, bytes: impl Into<Vec<u8>>) -> Self {
        Self { class, bytes: bytes.into(), must: Must::Refuse, victim: true }
    }

    /// As many requests as bodies.
    fn pass<const N: usize>(class: &'static str, bytes: impl Into<Vec<u8>>, bodies: [&[u8]; N]) -> Self {
        Self {
            class,
            bytes: bytes.into(),
            must: Must::Pass(bodies.map(<[u8]>::to_vec).to_vec()),
            victim: true,
        }
    }

    /// Whatever we make of it, everybody must.
    fn agree(class: &'static str, bytes: impl Into<Vec<u8>>) -> Self {
        Self { class, bytes: bytes.into(), must: Must::Agree, victim: true }
    }

    /// Its bytes, as a string literal has them.
    pub fn shown(&self) -> String {
        self.bytes.escape_ascii().to_string()
    }
}

/// Every payload, once: classes overlap.
pub fn all() -> Vec<Payload> {
    let mut payloads =
        [framing::all(), chunks::all(), lines::all(), target::all(), early::all(), http2::all()].concat();
    let mut sent = HashSet::new();
    payloads.retain(|payload| sent.insert(payload.bytes.clone()));
    payloads
}

/// A GET with further header lines, each with its CRLF.
fn get(headers: impl AsRef<[u8]>) -> Vec<u8> {
    [b"GET /get HTTP/1.1\r\nHost: a.example\r\n", headers.as_ref(), b"\r\n"].concat()
}

/// A POST with further header lines, each with its CRLF, and a body.
fn post(headers: impl AsRef<[u8]>, body: impl AsRef<[u8]>) -> Vec<u8> {
    [b"POST /post HTTP/1.1\r\nHost: a.example\r\n", headers.as_ref(), b"\r\n", body.as_ref()].concat()
}

/// A POST with a chunked body.
fn chunked(body: impl AsRef<[u8]>) -> Vec<u8> {
    post("Transfer-Encoding: chunked\r\n", body)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    #[test]
    fn the_corpus_is_large_and_lets_some_pass() {
        let payloads = all();
        assert!(payloads.len() >= 300, "{} payloads", payloads.len());
        let mut classes: HashMap<&str, usize> = HashMap::new();
        for payload in &payloads {
            *classes.entry(payload.class).or_default() += 1;
        }
        assert!(classes.len() >= 18, "{classes:?}");
        let passing = payloads.iter().filter(|payload| matches!(payload.must, Must::Pass(_))).count();
        assert!(passing >= 50, "only {passing} must pass: refusing everything would do");
    }
}
