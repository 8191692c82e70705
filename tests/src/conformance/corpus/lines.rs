//! Lines and their ends: bare CR and LF, folds, spaces before colons, control bytes, header names.

use super::{Payload, SMUGGLED, get, post};

pub(super) fn all() -> Vec<Payload> {
    [ends(), folds(), names(), control_bytes()].concat()
}

/// Every CRLF of a head, replaced by what somebody takes for a line's end.
fn ends() -> Vec<Payload> {
    const HEAD: [&str; 4] = ["GET /get HTTP/1.1", "Host: a.example", "X: y", ""];
    let mut payloads = Vec::new();
    for end in ["\n", "\r", "\n\r", "\r\r\n", "\r\n\n", "\x0b", "\x00\r\n", "\u{85}", "\u{2028}"] {
        for odd in 0..HEAD.len() {
            let mut bytes = String::new();
            for (number, line) in HEAD.iter().enumerate() {
                bytes += line;
                bytes += if number == odd { end } else { "\r\n" };
            }
            // What stands after the head's end is the victim's: an empty line before it is allowed.
            let payload = match (odd, end) {
                (3, "\r\n\n") | (2, "\r\n\n") => Payload::agree("line ends", bytes),
                (1, "\u{85}" | "\u{2028}") => Payload::refuse("line ends", bytes),
                // Bytes above 0x7f are part of a value, and the last line's is missing.
                (_, "\u{85}" | "\u{2028}") => Payload::agree("line ends", bytes),
                _ => Payload::refuse("line ends", bytes),
            };
            payloads.push(payload);
        }
    }
    for hidden in
        ["\nX-Y: z", "\rX-Y: z", "\n\nGET /smuggled HTTP/1.1", "\r\rGET /smuggled HTTP/1.1", "\n", "\r"]
    {
        payloads.push(Payload::refuse("line ends", get(format!("X: y{hidden}\r\n"))));
    }
    for before in ["\n", "\r", "\n\n", "\r\n\r\n", "\0", "\x0b", "\u{feff}"] {
        let bytes = [before.as_bytes(), &get("")].concat();
        payloads.push(Payload::refuse("line ends", bytes));
    }
    payloads.push(Payload::pass("line ends", [b"\r\n", &get("")[..]].concat(), [b""]));
    payloads
}

fn folds() -> Vec<Payload> {
    const FOLDED: [&str; 10] = [
        "X: a\r\n b\r\n",
        "X: a\r\n\tb\r\n",
        "X: a\r\n \r\n",
        "X:\r\n a\r\n",
        "X: a\r\n  Content-Length: 5\r\n",
        "X: a\r\n\tTransfer-Encoding: chunked\r\n",
        " X: a\r\n",
        "\tX: a\r\n",
        "X: a\n b\r\n",
        "X: a\r b\r\n",
    ];
    let folded = FOLDED.into_iter().map(|lines| Payload::refuse("folds", get(lines)));
    let first = [
        " Host: a.example\r\n",
        "\tHost: a.example\r\n",
        " \r\nHost: a.example\r\n",
        "\t\r\nHost: a.example\r\n",
    ]
    .into_iter()
    .map(|line| Payload::refuse("folds", format!("GET /get HTTP/1.1\r\n{line}\r\n")));
    let host = Payload::refuse("folds", "GET /get HTTP/1.1\r\nHost:\r\n a.example\r\n\r\n");
    folded.chain(first).chain([host]).collect()
}

fn names() -> Vec<Payload> {
    const ODD: [&[u8]; 23] = [
        b"X : a\r\n",
        b"X\t: a\r\n",
        b": a\r\n",
        b"X\r\n",
        b"X a\r\n",
        b"X y: a\r\n",
        b"(X): a\r\n",
        b"X,Y: a\r\n",
        b"X/Y: a\r\n",
        b"X;Y: a\r\n",
        b"X<Y: a\r\n",
        b"X=Y: a\r\n",
        b"X?Y: a\r\n",
        b"X@Y: a\r\n",
        b"X[Y: a\r\n",
        b"X\\Y: a\r\n",
        b"X{Y: a\r\n",
        b"\"X\": a\r\n",
        b"X\xc3\xa9: a\r\n",
        b"X\xff: a\r\n",
        b"\xef\xbb\xbfX: a\r\n",
        b"=\r\n",
        b"GET /smuggled HTTP/1.1\r\n",
    ];
    let odd = ODD.into_iter().map(|line| Payload::refuse("header names", get(line)));
    let good = [
        "X:a\r\n",
        "X: a\r\nX: b\r\n",
        "X-1.y_z~: a\r\n",
        "x: \t a \t\r\n",
        "X:\r\n",
        "X: a: b: c\r\n",
        "X: \"\r\n",
    ]
    .into_iter()
    .map(|lines| Payload::pass("header names", get(lines), [b""]));
    let length = post(format!("Content-Length : {}\r\n", SMUGGLED.len()), SMUGGLED);
    odd.chain(good).chain([Payload::refuse("header names", length)]).collect()
}

/// Each control byte in each part of a head.
fn control_bytes() -> Vec<Payload> {
    let mut payloads = Vec::new();
    for byte in (0..=0x20).chain([0x7f, 0x80, 0xa0, 0xff]) {
        let around = |before: &str, after: &str| [before.as_bytes(), &[byte], after.as_bytes()].concat();
        let class = "control bytes";
        payloads.push(Payload::refuse(class, around("G", "ET /get HTTP/1.1\r\nHost: a.example\r\n\r\n")));
        payloads.push(Payload::refuse(class, around("GET /g", "et HTTP/1.1\r\nHost: a.example\r\n\r\n")));
        payloads.push(Payload::refuse(class, around("GET /get HTTP/1.1\r\nHost: a.ex", "ample\r\n\r\n")));
        payloads.push(Payload::refuse(
            class,
            around("GET /get HTTP/1.1\r\nHost: a.example\r\nX", "y: a\r\n\r\n"),
        ));
        let value = around("GET /get HTTP/1.1\r\nHost: a.example\r\nX: a", "b\r\n\r\n");
        payloads.push(match byte {
            b'\t' | b' ' | 0x80.. => Payload::pass(class, value, [b""]),
            _ => Payload::refuse(class, value),
        });
    }
    payloads
}
