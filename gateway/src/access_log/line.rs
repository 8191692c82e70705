//! One line of the access log: a JSON object whose strings are escaped, whatever the client sent. The query is left
//! out unless it is asked for: keys and tokens stand there more often than they should.

use std::{fmt::Display, io::Write, time::SystemTime};

use super::choice::{Choice, Field, Fields, redacted};
use crate::record::Record;

/// Writes the line of a request that is over, its line feed included.
pub(super) fn write(out: &mut Vec<u8>, record: &Record, now: SystemTime, choice: &Choice) {
    let mut line = Line { out, begun: false, fields: choice.fields };
    line.shown(Field::Time, humantime::format_rfc3339_millis(now));
    line.shown(Field::Id, record.id);
    line.shown(Field::Client, record.client);
    line.text(Field::Method, record.method.as_str());
    if let Some(host) = &record.host {
        line.bytes(Field::Host, host.as_bytes());
    }
    line.text(Field::Path, record.uri.path());
    if let Some((query, shown)) = record.uri.query().zip(choice.query.as_ref()) {
        line.text(Field::Query, &redacted(query, shown));
    }
    if let Some(route) = &record.route {
        line.text(Field::Route, &route.name);
    }
    line.number(Field::Status, u64::from(record.status.as_u16()));
    if let Some(reason) = record.reason {
        line.text(Field::Reason, reason);
    }
    if let Some(detail) = &record.detail {
        line.text(Field::Detail, detail);
    }
    if let Some(consumer) = &record.consumer {
        line.text(Field::Consumer, consumer);
    }
    if let Some(certificate) = &record.certificate {
        line.text(Field::Certificate, &certificate.subject);
    }
    if let Some(endpoint) = &record.endpoint {
        line.shown(Field::Upstream, &endpoint.address);
    }
    line.number(Field::Bytes, record.bytes);
    if record.received > 0 {
        line.number(Field::Received, record.received);
    }
    let micros = u64::try_from(record.begun.elapsed().as_micros()).unwrap_or(u64::MAX);
    line.number(Field::DurationUs, micros);
    line.end();
}

struct Line<'a> {
    out: &'a mut Vec<u8>,
    begun: bool,
    fields: Fields,
}

impl Line<'_> {
    /// Begins a field, if it is to stand here.
    fn begin(&mut self, field: Field) -> bool {
        if !self.fields.has(field) {
            return false;
        }
        self.out.extend_from_slice(if self.begun { b",\"" } else { b"{\"" });
        self.begun = true;
        self.out.extend_from_slice(field.name().as_bytes());
        self.out.extend_from_slice(b"\":");
        true
    }

    fn number(&mut self, field: Field, value: u64) {
        if self.begin(field) {
            // Writing to memory cannot fail.
            let _ = write!(self.out, "{value}");
        }
    }

    /// A value whose text needs no escaping: an address, a time.
    fn shown(&mut self, field: Field, value: impl Display) {
        if self.begin(field) {
            let _ = write!(self.out, "\"{value}\"");
        }
    }

    fn text(&mut self, field: Field, value: &str) {
        if self.begin(field) {
            escape(self.out, value);
        }
    }

    /// Bytes that need not be UTF-8: what is not becomes U+FFFD.
    fn bytes(&mut self, field: Field, value: &[u8]) {
        self.text(field, &String::from_utf8_lossy(value));
    }

    fn end(self) {
        self.out.extend_from_slice(if self.begun { b"}\n" } else { b"{}\n" });
    }
}

/// A JSON string (RFC 8259, 7).
fn escape(out: &mut Vec<u8>, text: &str) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    out.push(b'"');
    let mut rest = text.as_bytes();
    while let Some(at) = rest.iter().position(|&byte| byte < b' ' || byte == b'"' || byte == b'\\') {
        out.extend_from_slice(&rest[..at]);
        match rest[at] {
            byte @ (b'"' | b'\\') => out.extend_from_slice(&[b'\\', byte]),
            byte => {
                let (high, low) = (HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]);
                out.extend_from_slice(&[b'\\', b'u', b'0', b'0', high, low]);
            }
        }
        rest = &rest[at + 1..];
    }
    out.extend_from_slice(rest);
    out.push(b'"');
}

#[cfg(test)]
pub(super) mod tests {
    use std::time::{Duration, Instant};

    use http::{HeaderValue, Request, StatusCode};
    use proptest::prelude::*;

    use super::*;
    use crate::{access_log::ALL, pipeline::Peer};

    pub(in crate::access_log) fn record(target: &str) -> Box<Record> {
        let peer = Peer {
            address: ([192, 0, 2, 7], 4711).into(),
            forwarded_for: HeaderValue::from_static("192.0.2.7"),
            https: false,
            certificate: None,
            proxied: None,
        };
        Record::begin(&peer, &Request::get(target).header("host", "a.example").body(()).unwrap())
    }

    fn parsed(record: &Record) -> serde_json::Value {
        parsed_by(record, &ALL)
    }

    fn parsed_by(record: &Record, choice: &Choice) -> serde_json::Value {
        let mut out = Vec::new();
        let now = SystemTime::UNIX_EPOCH + Duration::from_millis(1_700_000_000_123);
        write(&mut out, record, now, choice);
        let text = String::from_utf8(out).unwrap();
        assert_eq!(text.matches('\n').count(), 1, "one line: {text}");
        serde_json::from_str(&text).unwrap()
    }

    #[test]
    fn a_line_has_what_is_known_and_no_query() {
        let mut record = record("/accounts/7?token=secret");
        record.begun = Instant::now();
        record.status = StatusCode::TOO_MANY_REQUESTS;
        record.reason = Some("rate_limited");
        record.detail = Some("a \"rule\"\n\u{7}ü".into());
        record.consumer = Some("phone\\app".into());
        record.bytes = 12;
        let line = parsed(&record);
        assert_eq!(line["time"], "2023-11-14T22:13:20.123Z");
        assert_eq!(line["client"], "192.0.2.7:4711");
        assert_eq!(line["method"], "GET");
        assert_eq!(line["host"], "a.example");
        assert_eq!(line["path"], "/accounts/7");
        assert_eq!(line["status"], 429);
        assert_eq!(line["reason"], "rate_limited");
        assert_eq!(line["detail"], "a \"rule\"\n\u{7}ü");
        assert_eq!(line["consumer"], "phone\\app");
        assert_eq!(line["bytes"], 12);
        assert_eq!(line["id"], record.id.to_string());
        assert!(
            line["duration_us"].is_u64() && line.get("route").is_none() && line.get("upstream").is_none()
        );
        assert!(!line.to_string().contains("secret"));
    }

    #[test]
    fn a_host_that_is_not_utf8_does_not_break_the_line() {
        let mut record = record("/");
        record.host = Some(HeaderValue::from_bytes(b"a\xff\"b").unwrap());
        assert_eq!(parsed(&record)["host"], "a\u{fffd}\"b");
    }

    #[test]
    fn a_line_has_what_is_chosen() {
        let fields = [Field::Status, Field::Query].into_iter().collect();
        let choice = Choice { fields, query: Some(vec!["page".into()]), ..ALL.clone() };
        let line = parsed_by(&record("/accounts?page=2&token=secret"), &choice);
        assert_eq!(line, serde_json::json!({ "status": 200, "query": "page=2&token=-" }));
        let choice = Choice { fields: [Field::Query].into_iter().collect(), ..choice };
        assert_eq!(parsed_by(&record("/"), &choice), serde_json::json!({}));
    }

    proptest! {
        #[test]
        fn whatever_is_escaped_comes_back(text in any::<String>()) {
            let mut out = Vec::new();
            escape(&mut out, &text);
            prop_assert!(!out.iter().any(|&byte| byte < b' '));
            prop_assert_eq!(serde_json::from_slice::<String>(&out).unwrap(), text);
        }
    }
}
