//! Bytes that come before the answer to what they follow: pipelining, `Upgrade` with early data, `Expect`.

use super::{Payload, SMUGGLED, chunked, get, post};

pub(super) fn all() -> Vec<Payload> {
    [pipelines(), upgrades(), expectations()].concat()
}

fn pipelines() -> Vec<Payload> {
    let hello = post("Content-Length: 5\r\n", "hello");
    let pieces = chunked("5\r\nhello\r\n0\r\n\r\n");
    let both =
        ["Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", "Content-Length: 5\r\nContent-Length: 5\r\n"];
    let mut payloads = vec![
        Payload::pass("pipelining", [get(""), get("X: y\r\n")].concat(), [b"", b""]),
        Payload::pass("pipelining", [hello.clone(), get("")].concat(), [&b"hello"[..], b""]),
        Payload::pass(
            "pipelining",
            [pieces.clone(), hello.clone(), pieces.clone()].concat(),
            [b"hello", b"hello", b"hello"],
        ),
        Payload::pass("pipelining", get("").repeat(5), [b"", b"", b"", b"", b""]),
        Payload::pass("pipelining", [&hello[..], b"\r\n", &get("")].concat(), [&b"hello"[..], b""]),
    ];
    for odd in both {
        // The first is served, and what is wrong with the second ends the connection.
        payloads.push(Payload::agree("pipelining", [get(""), post(odd, "hello"), SMUGGLED.into()].concat()));
        payloads.push(Payload::agree(
            "pipelining",
            [pieces.clone(), post(odd, "hello"), SMUGGLED.into()].concat(),
        ));
    }
    payloads.push(Payload::agree("pipelining", [get("Connection: close\r\n"), SMUGGLED.into()].concat()));
    payloads.push(Payload::agree(
        "pipelining",
        [post("Connection: close\r\nContent-Length: 5\r\n", "hello"), SMUGGLED.into()].concat(),
    ));
    payloads
}

/// Nobody behind us changes the protocol here: what follows an `Upgrade` stays HTTP, or is refused.
fn upgrades() -> Vec<Payload> {
    let websocket = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n";
    let mut payloads = Vec::new();
    for upgrade in ["websocket", "h2c", "TLS/1.0", "websocket, h2c", "x"] {
        let lines = format!("Connection: Upgrade\r\nUpgrade: {upgrade}\r\n");
        payloads.push(Payload::agree("upgrade", get(&lines)));
        payloads
            .push(Payload::agree("upgrade", [get(format!("{lines}{websocket}")), SMUGGLED.into()].concat()));
        payloads.push(Payload::agree("upgrade", [get(&lines), b"\x81\x85\0\0\0\0hello".to_vec()].concat()));
        payloads.push(Payload::refuse(
            "upgrade",
            post(format!("{lines}Content-Length: {}\r\n", SMUGGLED.len()), SMUGGLED),
        ));
        payloads.push(Payload::refuse(
            "upgrade",
            post(format!("{lines}Transfer-Encoding: chunked\r\n"), "0\r\n\r\n"),
        ));
    }
    let settings =
        "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n";
    payloads.push(Payload::agree("upgrade", get(settings)));
    payloads
        .push(Payload::agree("upgrade", [&get(settings)[..], b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"].concat()));
    payloads.push(Payload::agree("upgrade", get("Upgrade: websocket\r\n")));
    payloads
}

fn expectations() -> Vec<Payload> {
    let mut payloads = Vec::new();
    for odd in ["200-ok", "100-continue, x", "", "x", "100-continue;x", "100"] {
        let bytes = post(format!("Expect: {odd}\r\nContent-Length: 5\r\n"), "hello");
        payloads.push(Payload::refuse("Expect", bytes));
    }
    for name in ["Expect: 100-continue", "expect:100-Continue"] {
        let bytes = post(format!("{name}\r\nContent-Length: 5\r\n"), "hello");
        payloads.push(Payload::pass("Expect", bytes, [b"hello"]));
        let bytes = post(format!("{name}\r\nTransfer-Encoding: chunked\r\n"), "5\r\nhello\r\n0\r\n\r\n");
        payloads.push(Payload::pass("Expect", bytes, [b"hello"]));
    }
    payloads.push(Payload::agree("Expect", get("Expect: 100-continue\r\n")));
    payloads.push(Payload::agree("Expect", [get("Expect: 100-continue\r\n"), SMUGGLED.into()].concat()));
    payloads.push(Payload::agree(
        "Expect",
        post("Expect: 100-continue\r\nExpect: 100-continue\r\nContent-Length: 5\r\n", "hello"),
    ));
    payloads
}
