//! Requests over HTTP/2 that would be two over HTTP/1.1: line ends in fields, forbidden fields, pseudo-header fields,
//! bodies whose length is not `content-length` (RFC 9113, 8.1.1 to 8.3.1).
//!
//! Frames are made by hand, with literal fields (RFC 7541, 6.2.2), since no library sends them.

use super::{Must, Payload, SMUGGLED};

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

type Field<'a> = (&'a [u8], &'a [u8]);

const METHOD: Field = (b":method", b"POST");
const SCHEME: Field = (b":scheme", b"http");
const PATH: Field = (b":path", b"/h2");
const AUTHORITY: Field = (b":authority", b"a.example");
const HEAD: [Field; 4] = [METHOD, SCHEME, PATH, AUTHORITY];

pub(super) fn all() -> Vec<Payload> {
    [forbidden_fields(), odd_fields(), pseudo_fields(), authorities(), lengths(), trailers()].concat()
}

/// One connection: a request with these fields, and data if there is any.
fn connection(fields: &[Field], data: &[&[u8]]) -> Vec<u8> {
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    frame(&mut bytes, SETTINGS, 0, 0, &[]);
    headers(&mut bytes, fields, data.is_empty());
    for (number, part) in data.iter().enumerate() {
        let flags = if number + 1 == data.len() { END_STREAM } else { 0 };
        frame(&mut bytes, DATA, flags, 1, part);
    }
    // Nothing more will come: the connection closes when its stream has ended.
    frame(&mut bytes, GOAWAY, 0, 0, &[0; 8]);
    bytes
}

fn headers(bytes: &mut Vec<u8>, fields: &[Field], is_last: bool) {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        for text in [name, value] {
            let length = u8::try_from(text.len()).ok().filter(|length| *length < 127);
            block.push(length.expect("a length in one byte"));
            block.extend_from_slice(text);
        }
    }
    let end = if is_last { END_STREAM } else { 0 };
    frame(bytes, HEADERS, END_HEADERS | end, 1, &block);
}

fn frame(bytes: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    bytes.extend_from_slice(&(payload.len() as u32).to_be_bytes()[1..]);
    bytes.extend_from_slice(&[kind, flags]);
    bytes.extend_from_slice(&stream.to_be_bytes());
    bytes.extend_from_slice(payload);
}

fn payload(class: &'static str, bytes: Vec<u8>, must: Must) -> Payload {
    Payload { class, bytes, must, victim: false }
}

/// The usual head and these fields, with a body.
fn with(fields: &[Field], body: &[u8]) -> Vec<u8> {
    connection(&[&HEAD, fields].concat(), &[body])
}

fn forbidden_fields() -> Vec<Payload> {
    const FORBIDDEN: [Field; 12] = [
        (b"connection", b"close"),
        (b"connection", b"x-a"),
        (b"keep-alive", b"timeout=5"),
        (b"proxy-connection", b"keep-alive"),
        (b"transfer-encoding", b"chunked"),
        (b"transfer-encoding", b"identity"),
        (b"transfer-encoding", b""),
        (b"upgrade", b"websocket"),
        (b"upgrade", b"h2c"),
        (b"te", b"gzip"),
        (b"te", b"trailers, gzip"),
        (b"te", b"chunked"),
    ];
    let body = format!("0\r\n\r\n{SMUGGLED}");
    let refuse = |field| payload("h2 forbidden fields", with(&[field], body.as_bytes()), Must::Refuse);
    let mut payloads: Vec<_> = FORBIDDEN.into_iter().map(refuse).collect();
    let pass = Must::Pass(vec![b"hello".to_vec()]);
    payloads.push(payload("h2 forbidden fields", with(&[(b"te", b"trailers")], b"hello"), pass));
    payloads
}

fn odd_fields() -> Vec<Payload> {
    const NAMES: [&[u8]; 14] = [
        b"X-A",
        b"Transfer-Encoding",
        b"x a",
        b"x:a",
        b"x\r\ny",
        b"x\ny",
        b"x\0y",
        b"",
        b" x",
        b"x ",
        b"x\x7f",
        b"x\xff",
        b"(x)",
        b"transfer-encoding: chunked\r\nx",
    ];
    const VALUES: [&[u8]; 10] = [
        b"a\r\nTransfer-Encoding: chunked",
        b"a\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: b.example\r\n\r\n",
        b"a\nb",
        b"a\rb",
        b"a\0b",
        b"\r\n",
        b"\n",
        b"a\x01b",
        b"a\x0bb",
        b"a\x7fb",
    ];
    const GOOD: [&[u8]; 4] = [b"", b"a: b", b"a\tb", b"\xe9"];
    let names =
        NAMES.into_iter().map(|name| payload("h2 fields", with(&[(name, b"a")], b"hello"), Must::Refuse));
    let values = VALUES
        .into_iter()
        .map(|value| payload("h2 fields", with(&[(b"x-a", value)], b"hello"), Must::Refuse));
    let pass = || Must::Pass(vec![b"hello".to_vec()]);
    let good =
        GOOD.into_iter().map(move |value| payload("h2 fields", with(&[(b"x-a", value)], b"hello"), pass()));
    let crumbs = with(&[(b"cookie", b"a=b"), (b"cookie", b"c=d")], b"hello");
    names.chain(values).chain(good).chain([payload("h2 fields", crumbs, Must::Agree)]).collect()
}

fn pseudo_fields() -> Vec<Payload> {
    const METHODS: [&[u8]; 7] =
        [b"", b"G T", b"GET /smuggled HTTP/1.1\r\nX:", b"GET\r\n", b"G\0T", b"G(T", b"CONNECT"];
    const PATHS: [&[u8]; 11] = [
        b"",
        b"h2",
        b"*",
        b"/a b",
        b"/a\r\nX: y",
        b"/ HTTP/1.1\r\nHost: b.example\r\n\r\nGET /smuggled",
        b"/a\0",
        b"/a\tb",
        b"http://b.example/",
        b"/a\\b",
        b"/\xe9",
    ];
    const SCHEMES: [&[u8]; 4] = [b"", b"http://b.example/", b"ht tp", b"http\r\nx: y"];
    let class = "h2 pseudo fields";
    let refuse = |fields: &[Field]| payload(class, connection(fields, &[b"hello"]), Must::Refuse);
    let mut payloads = Vec::new();
    for method in METHODS {
        payloads.push(refuse(&[(b":method", method), SCHEME, PATH, AUTHORITY]));
    }
    for path in PATHS {
        payloads.push(refuse(&[METHOD, SCHEME, (b":path", path), AUTHORITY]));
    }
    for scheme in SCHEMES {
        payloads.push(refuse(&[METHOD, (b":scheme", scheme), PATH, AUTHORITY]));
    }
    for missing in 0..3 {
        let rest: Vec<_> =
            HEAD.into_iter().enumerate().filter(|(at, _)| *at != missing).map(|(_, field)| field).collect();
        payloads.push(refuse(&rest));
    }
    for repeated in HEAD {
        payloads.push(refuse(&[METHOD, SCHEME, PATH, AUTHORITY, repeated]));
    }
    // The parser takes the fragment off before anybody sees it.
    let fragment = connection(&[METHOD, SCHEME, (b":path", b"/a#b"), AUTHORITY], &[b"hello"]);
    payloads.push(payload(class, fragment, Must::Agree));
    payloads.extend([
        refuse(&[METHOD, SCHEME, PATH, AUTHORITY, (b":status", b"200")]),
        refuse(&[METHOD, SCHEME, PATH, AUTHORITY, (b":x", b"y")]),
        refuse(&[(b"x-a", b"b"), METHOD, SCHEME, PATH, AUTHORITY]),
        refuse(&[METHOD, SCHEME, PATH, (b"x-a", b"b"), AUTHORITY]),
        refuse(&[(b":method", b"CONNECT"), AUTHORITY]),
        refuse(&[(b":method", b"CONNECT"), (b":protocol", b"websocket"), SCHEME, PATH, AUTHORITY]),
    ]);
    payloads
}

fn authorities() -> Vec<Payload> {
    const ODD: [&[u8]; 9] = [
        b"",
        b"user@a.example",
        b"a.example/b",
        b"a.example b",
        b"a.example\r\nX: y",
        b"a.example:x",
        b"a\\b",
        b"a.example,b",
        b"[::1",
    ];
    let class = "h2 authority";
    let fields = |authority, further: &[Field]| {
        connection(&[&[METHOD, SCHEME, PATH, (b":authority", authority)], further].concat(), &[b"hello"])
    };
    let mut payloads: Vec<_> =
        ODD.into_iter().map(|odd| payload(class, fields(odd, &[]), Must::Refuse)).collect();
    payloads.push(payload(class, fields(b"a.example", &[(b"host", b"b.example")]), Must::Refuse));
    payloads.push(payload(
        class,
        fields(b"a.example", &[(b"host", b"a.example"), (b"host", b"b.example")]),
        Must::Refuse,
    ));
    payloads.push(payload(class, fields(b"a.example", &[(b"host", b"")]), Must::Refuse));
    let pass = Must::Pass(vec![b"hello".to_vec()]);
    payloads.push(payload(class, fields(b"a.example", &[(b"host", b"a.example")]), pass.clone()));
    payloads.push(payload(class, fields(b"a.example:8080", &[]), pass));
    let host_alone = connection(&[METHOD, SCHEME, PATH, (b"host", b"a.example")], &[b"hello"]);
    payloads.push(payload(class, host_alone, Must::Agree));
    payloads.push(payload(class, connection(&[METHOD, SCHEME, PATH], &[b"hello"]), Must::Refuse));
    payloads
}

fn lengths() -> Vec<Payload> {
    const ODD: [&[u8]; 10] =
        [b"4", b"6", b"0", b"+5", b"5, 5", b"", b"0x5", b"five", b"18446744073709551621", b"-5"];
    let class = "h2 content-length";
    let length = |value| (&b"content-length"[..], value);
    let mut payloads: Vec<_> =
        ODD.into_iter().map(|odd| payload(class, with(&[length(odd)], b"hello"), Must::Refuse)).collect();
    for (first, second) in [(&b"5"[..], &b"5"[..]), (b"5", b"0"), (b"0", b"5")] {
        let bytes = with(&[length(first), length(second)], b"hello");
        // Equal ones have one meaning.
        payloads.push(payload(class, bytes, if first == second { Must::Agree } else { Must::Refuse }));
    }
    payloads.push(payload(class, connection(&[&HEAD[..], &[length(b"5")]].concat(), &[]), Must::Refuse));
    let pass = |body: &[u8]| Must::Pass(vec![body.to_vec()]);
    payloads.push(payload(class, with(&[length(b"5")], b"hello"), pass(b"hello")));
    payloads.push(payload(class, with(&[], SMUGGLED.as_bytes()), pass(SMUGGLED.as_bytes())));
    payloads.push(payload(class, connection(&HEAD, &[b"he", b"", b"llo"]), pass(b"hello")));
    payloads.push(payload(class, connection(&HEAD, &[b"hello", b""]), pass(b"hello")));
    payloads.push(payload(class, connection(&HEAD, &[]), pass(b"")));
    payloads
}

fn trailers() -> Vec<Payload> {
    const FIELDS: [(Field, bool); 7] = [
        // The parser drops pseudo-header fields here.
        ((b":path", b"/smuggled"), true),
        ((b":status", b"200"), true),
        ((b"connection", b"close"), false),
        ((b"transfer-encoding", b"chunked"), false),
        ((b"x-a", b"b\r\nX: y"), false),
        ((b"content-length", b"0"), true),
        ((b"x-digest", b"abc"), true),
    ];
    let trailed = |(field, may_pass)| {
        let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        frame(&mut bytes, SETTINGS, 0, 0, &[]);
        headers(&mut bytes, &HEAD, false);
        frame(&mut bytes, DATA, 0, 1, b"hello");
        headers(&mut bytes, &[field], true);
        frame(&mut bytes, GOAWAY, 0, 0, &[0; 8]);
        payload("h2 trailers", bytes, if may_pass { Must::Agree } else { Must::Refuse })
    };
    FIELDS.into_iter().map(trailed).collect()
}
