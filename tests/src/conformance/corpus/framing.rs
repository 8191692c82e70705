//! Where a body ends: both lengths, odd `Transfer-Encoding`, odd `Content-Length`, and what `Connection` takes away.

use super::{Payload, SMUGGLED, post};

/// `Transfer-Encoding` lines that are not exactly `chunked`, as somebody has once read them: header lines with CRLF.
const ODD_CODINGS: [&[u8]; 43] = [
    b"Transfer-Encoding: xchunked\r\n",
    b"Transfer-Encoding: chunkedx\r\n",
    b"Transfer-Encoding: chunked, chunked\r\n",
    b"Transfer-Encoding: chunked, identity\r\n",
    b"Transfer-Encoding: identity, chunked\r\n",
    b"Transfer-Encoding: identity\r\n",
    b"Transfer-Encoding: gzip, chunked\r\n",
    b"Transfer-Encoding: chunked, gzip\r\n",
    b"Transfer-Encoding: chunked,\r\n",
    b"Transfer-Encoding: ,chunked\r\n",
    b"Transfer-Encoding: , chunked\r\n",
    b"Transfer-Encoding: chunked;q=1\r\n",
    b"Transfer-Encoding: chunked; a=b\r\n",
    b"Transfer-Encoding: \"chunked\"\r\n",
    b"Transfer-Encoding: 'chunked'\r\n",
    b"Transfer-Encoding: chunk\r\n",
    b"Transfer-Encoding: chunked chunked\r\n",
    b"Transfer-Encoding: cow\r\n",
    b"Transfer-Encoding:\r\n",
    b"Transfer-Encoding: \r\n",
    b"Transfer-Encoding: chunked\x00\r\n",
    b"Transfer-Encoding: \x00chunked\r\n",
    b"Transfer-Encoding:\x0bchunked\r\n",
    b"Transfer-Encoding:\x0cchunked\r\n",
    b"Transfer-Encoding: chunked\x0b\r\n",
    b"Transfer-Encoding: chunked\x0c\r\n",
    b"Transfer-Encoding: \x7fchunked\r\n",
    b"Transfer-Encoding: \xa0chunked\r\n",
    b"Transfer-Encoding: chunked\xa0\r\n",
    b"Transfer-Encoding: \xef\xbb\xbfchunked\r\n",
    b"Transfer-Encoding: chun\xc4\xb7ed\r\n",
    b"Transfer-Encoding : chunked\r\n",
    b"Transfer-Encoding\t: chunked\r\n",
    b" Transfer-Encoding: chunked\r\n",
    b"\tTransfer-Encoding: chunked\r\n",
    b"X: y\r\n Transfer-Encoding: chunked\r\n",
    b"Transfer-Encoding:\r\n chunked\r\n",
    b"Transfer-Encoding\r\n : chunked\r\n",
    b"X: y\nTransfer-Encoding: chunked\r\n",
    b"X: y\rTransfer-Encoding: chunked\r\n",
    b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
    b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n",
    b"Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n",
];

/// Names that some server reads as `Transfer-Encoding` and that are another header to us.
const OTHER_NAMES: [&str; 4] =
    ["Transfer_Encoding", "Transfer-Encodings", "X-Transfer-Encoding", "Transfer.Encoding"];

/// `Content-Length` lines that are no decimal number, for a body of five bytes.
const ODD_LENGTHS: [&[u8]; 30] = [
    b"Content-Length: +5\r\n",
    b"Content-Length: -5\r\n",
    b"Content-Length: -0\r\n",
    b"Content-Length: 0x5\r\n",
    b"Content-Length: 5,5\r\n",
    b"Content-Length: 5, 5\r\n",
    b"Content-Length: 5,\r\n",
    b"Content-Length: ,5\r\n",
    b"Content-Length: 5;5\r\n",
    b"Content-Length: 5 5\r\n",
    b"Content-Length: 0 5\r\n",
    b"Content-Length: 5.0\r\n",
    b"Content-Length: 5e0\r\n",
    b"Content-Length: 5_0\r\n",
    b"Content-Length: \"5\"\r\n",
    b"Content-Length:\r\n",
    b"Content-Length: \r\n",
    b"Content-Length: five\r\n",
    b"Content-Length: 5\x00\r\n",
    b"Content-Length: \x0b5\r\n",
    b"Content-Length: 5\x0c\r\n",
    b"Content-Length: \xd9\xa5\r\n",
    b"Content-Length: 18446744073709551621\r\n",
    b"Content-Length: 9223372036854775808\r\n",
    b"Content-Length: 99999999999999999999999999999999\r\n",
    b"Content-Length : 5\r\n",
    b"Content-Length\t: 5\r\n",
    b"Content-Length:\r\n 5\r\n",
    b"X: y\r\n Content-Length: 5\r\n",
    b"X: y\nContent-Length: 5\r\n",
];

/// Two lengths.
const REPEATED_LENGTHS: [&str; 8] = [
    "Content-Length: 5\r\nContent-Length: 5\r\n",
    "Content-Length: 5\r\nContent-Length: 0\r\n",
    "Content-Length: 0\r\nContent-Length: 5\r\n",
    "Content-Length: 5\r\ncontent-length: 6\r\n",
    "Content-Length: 5\r\nX: y\r\nContent-Length: 5\r\n",
    "Content-Length: 5\r\nContent-Length:\r\n",
    "Content-Length: 5\r\nContent-Length: 05\r\n",
    "Content-Length: 5, 5\r\nContent-Length: 5\r\n",
];

pub(super) fn all() -> Vec<Payload> {
    [both_lengths(), codings(), lengths(), hop_by_hop()].concat()
}

/// A body that ends at once when read by chunks, and holds a request when read by its length.
fn by_length(coding: &[u8]) -> Vec<u8> {
    let body = format!("0\r\n\r\n{SMUGGLED}");
    let length = format!("Content-Length: {}\r\n", body.len());
    post([length.as_bytes(), coding].concat(), body)
}

/// The reverse: a body whose length ends within the first chunk, which holds a request.
fn by_chunks(coding: &[u8]) -> Vec<u8> {
    let size = format!("{:x}\r\n", SMUGGLED.len());
    let length = format!("Content-Length: {}\r\n", size.len());
    post([coding, length.as_bytes()].concat(), format!("{size}{SMUGGLED}\r\n0\r\n\r\n"))
}

fn both_lengths() -> Vec<Payload> {
    let plain: &[u8] = b"Transfer-Encoding: chunked\r\n";
    let mut payloads = Vec::new();
    for coding in ODD_CODINGS.into_iter().chain([
        plain,
        b"transfer-encoding:chunked\r\n",
        b"TRANSFER-ENCODING: CHUNKED\r\n",
    ]) {
        payloads.push(Payload::refuse("CL.TE", by_length(coding)));
        payloads.push(Payload::refuse("TE.CL", by_chunks(coding)));
    }
    payloads
}

fn codings() -> Vec<Payload> {
    let mut payloads: Vec<_> = ODD_CODINGS
        .into_iter()
        .map(|coding| Payload::refuse("TE.TE", post(coding, format!("0\r\n\r\n{SMUGGLED}"))))
        .collect();
    for coding in
        ["Transfer-Encoding: chunked", "transfer-encoding:CHUNKED", "Transfer-Encoding: \t chunked \t"]
    {
        let bytes = post(format!("{coding}\r\n"), "5\r\nhello\r\n0\r\n\r\n");
        payloads.push(Payload::pass("TE.TE", bytes, [b"hello"]));
    }
    for name in OTHER_NAMES {
        let bytes = post(format!("{name}: chunked\r\nContent-Length: 5\r\n"), "0\r\n\r\n");
        payloads.push(Payload::pass("other names", bytes, [b"0\r\n\r\n"]));
    }
    for name in ["Content_Length", "Content-Lengths", "X-Content-Length", "Content.Length"] {
        let bytes = post(format!("{name}: 0\r\nContent-Length: 5\r\n"), "hello");
        payloads.push(Payload::pass("other names", bytes, [b"hello"]));
    }
    payloads
}

fn lengths() -> Vec<Payload> {
    let mut payloads: Vec<_> = ODD_LENGTHS
        .into_iter()
        .chain(REPEATED_LENGTHS.map(str::as_bytes))
        .map(|length| Payload::refuse("Content-Length", post(length, "hello")))
        .collect();
    for (length, body) in [("5", "hello"), ("005", "hello"), (" \t5\t ", "hello"), ("0", ""), ("000", "")] {
        let bytes = post(format!("Content-Length:{length}\r\n"), body);
        payloads.push(Payload::pass("Content-Length", bytes, [body.as_bytes()]));
    }
    let inner = post(format!("Content-Length: {}\r\n", SMUGGLED.len()), SMUGGLED);
    payloads.push(Payload::pass("Content-Length", inner, [SMUGGLED.as_bytes()]));
    // A GET's body is a body (RFC 9110, 9.3.1).
    for method in ["GET", "HEAD", "DELETE", "OPTIONS"] {
        let head = format!(
            "{method} /body HTTP/1.1\r\nHost: a.example\r\nContent-Length: {}\r\n\r\n",
            SMUGGLED.len()
        );
        payloads.push(Payload::agree("a body of GET", head + SMUGGLED));
        let head =
            format!("{method} /body HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\n\r\n");
        payloads.push(Payload::agree(
            "a body of GET",
            format!("{head}{:x}\r\n{SMUGGLED}\r\n0\r\n\r\n", SMUGGLED.len()),
        ));
    }
    payloads
}

/// A client that declares the framing, or `Host`, a matter of its own connection.
fn hop_by_hop() -> Vec<Payload> {
    let mut payloads = Vec::new();
    for listed in [
        "Content-Length",
        "close, Content-Length",
        "content-length, X-Forwarded-For",
        "Host",
        "Keep-Alive, Host",
    ] {
        let bytes = post(format!("Connection: {listed}\r\nContent-Length: {}\r\n", SMUGGLED.len()), SMUGGLED);
        payloads.push(Payload::agree("Connection", bytes));
    }
    for listed in [
        "Transfer-Encoding",
        "Host",
        "TE, Trailer",
        "Via",
        "X-Forwarded-Host, X-Forwarded-Proto",
        "\"Host\"",
        ",,",
    ] {
        let bytes = post(
            format!("Connection: {listed}\r\nTransfer-Encoding: chunked\r\n"),
            "5\r\nhello\r\n0\r\n\r\n",
        );
        payloads.push(Payload::agree("Connection", bytes));
    }
    payloads
}
