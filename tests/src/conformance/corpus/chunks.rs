//! Chunked bodies: the forms of a size, extensions, what ends a chunk, trailers.

use super::{Payload, SMUGGLED, chunked};

pub(super) fn all() -> Vec<Payload> {
    [sizes(), extensions(), ends(), trailers()].concat()
}

fn sizes() -> Vec<Payload> {
    const ODD: [&[u8]; 28] = [
        b"0x5",
        b"+5",
        b"-5",
        b"-0",
        b" 5",
        b"\t5",
        b"5 ",
        b"5\t",
        b"5 5",
        b"5_",
        b"5.0",
        b"5,5",
        b"5h",
        b"g",
        b"",
        b"\"5\"",
        b"\x005",
        b"5\x00",
        b"5\x0b",
        b"\xef\xbb\xbf5",
        b"\xd9\xa5",
        b"10000000000000005",
        b"100000005\x0b",
        b"ffffffffffffffff5",
        b"8000000000000005",
        b"fffffffffffffffb",
        b"00000000000000000g",
        b"5\r5",
    ];
    let mut payloads: Vec<_> = ODD
        .into_iter()
        .map(|size| {
            let body = [size, b"\r\nhello\r\n0\r\n\r\n", SMUGGLED.as_bytes()].concat();
            Payload::refuse("chunk size", chunked(body))
        })
        .collect();
    for size in ["5", "05", "00000000000000000005"] {
        let bytes = chunked(format!("{size}\r\nhello\r\n0\r\n\r\n"));
        payloads.push(Payload::pass("chunk size", bytes, [b"hello"]));
    }
    for size in ["a", "A", "0A", "0a"] {
        let bytes = chunked(format!("{size}\r\n0123456789\r\n0\r\n\r\n"));
        payloads.push(Payload::pass("chunk size", bytes, [b"0123456789"]));
    }
    for end in ["00", "000000000000000000000"] {
        let bytes = chunked(format!("5\r\nhello\r\n{end}\r\n\r\n"));
        payloads.push(Payload::pass("chunk size", bytes, [b"hello"]));
    }
    let inner = chunked(format!("{:x}\r\n{SMUGGLED}\r\n0\r\n\r\n", SMUGGLED.len()));
    payloads.push(Payload::pass("chunk size", inner, [SMUGGLED.as_bytes()]));
    payloads
}

fn extensions() -> Vec<Payload> {
    const GOOD: [&str; 7] = ["a", "a=b", "a=\"b c\"", "a;b;c", "a=b;c=\"d;e\"", " a = b", ""];
    const ODD: [&[u8]; 9] = [
        b"5;\n",
        b"5;a\nhello\r\n0\r\n\r\n",
        b"5;a\rb",
        b"5;a\x00",
        b"5;a=\"\n\"",
        b"5;\x0b",
        b"5;\x7f",
        b"5 ;a",
        b"5\x00;a",
    ];
    let good = GOOD.into_iter().map(|extension| {
        let bytes = chunked(format!("5;{extension}\r\nhello\r\n0;{extension}\r\n\r\n"));
        Payload::pass("chunk extension", bytes, [b"hello"])
    });
    let odd = ODD.into_iter().map(|line| {
        let body = [line, b"\r\nhello\r\n0\r\n\r\n", SMUGGLED.as_bytes()].concat();
        Payload::refuse("chunk extension", chunked(body))
    });
    let long = Payload::refuse(
        "chunk extension",
        chunked(format!("5;{}\r\nhello\r\n0\r\n\r\n", "a".repeat(20_000))),
    );
    good.chain(odd).chain([long]).collect()
}

/// What follows a chunk's data, and a chunk's size.
fn ends() -> Vec<Payload> {
    const ODD: [&[u8]; 15] = [
        b"5\nhello\r\n0\r\n\r\n",
        b"5\rhello\r\n0\r\n\r\n",
        b"5\r\rhello\r\n0\r\n\r\n",
        b"5\n\nhello\r\n0\r\n\r\n",
        b"5\r\nhello\n0\r\n\r\n",
        b"5\r\nhello\r0\r\n\r\n",
        b"5\r\nhello0\r\n\r\n",
        b"5\r\nhelloXX0\r\n\r\n",
        b"5\r\nhello\r\r0\r\n\r\n",
        b"5\r\nhello \r\n0\r\n\r\n",
        b"4\r\nhello\r\n0\r\n\r\n",
        b"5\r\nhello\r\n0\n\n",
        b"5\r\nhello\r\n0\n\r\n",
        b"5\r\nhello\r\n0\r\n\n",
        b"5\r\nhello\r\n0\r\r\n",
    ];
    let odd = ODD
        .into_iter()
        .map(|body| Payload::refuse("chunk end", chunked([body, SMUGGLED.as_bytes()].concat())));
    let split = Payload::pass("chunk end", chunked("1\r\nh\r\n4\r\nello\r\n0\r\n\r\n"), [b"hello"]);
    let feeds = Payload::pass("chunk end", chunked("4\r\n\r\n\r\n\r\n0\r\n\r\n"), [b"\r\n\r\n"]);
    let last = Payload::pass("chunk end", chunked("7\r\n0\r\n\r\nGE\r\n0\r\n\r\n"), [b"0\r\n\r\nGE"]);
    odd.chain([split, feeds, last]).collect()
}

fn trailers() -> Vec<Payload> {
    const ODD: [&[u8]; 21] = [
        b"Content-Length: 5\r\n",
        b"content-length:0\r\n",
        b"Transfer-Encoding: chunked\r\n",
        b"Host: b.example\r\n",
        b"Connection: close\r\n",
        b"Expect: 100-continue\r\n",
        b"Authorization: Bearer x\r\n",
        b"TE: trailers\r\n",
        b"Upgrade: websocket\r\n",
        b"X: a\r\n b\r\n",
        b" X: a\r\n",
        b"X : a\r\n",
        b"X\r\n",
        b": a\r\n",
        b"X: a\n",
        b"X: a\r",
        b"X: a\rY: b\r\n",
        b"X: a\x00\r\n",
        b"X\x00: a\r\n",
        b"GET / HTTP/1.1\r\n",
        b"(: a\r\n",
    ];
    let body = |trailer: &[u8]| chunked([b"5\r\nhello\r\n0\r\n", trailer, b"\r\n"].concat());
    let odd = ODD.into_iter().map(|trailer| Payload::refuse("trailers", body(trailer)));
    let good = [&b"X-Digest: abc\r\n"[..], b"X:\r\nY: z\r\n", b"X-A: \xff\r\n"]
        .into_iter()
        .map(|trailer| Payload::pass("trailers", body(trailer), [b"hello"]));
    odd.chain(good).collect()
}
