//! The request line: its form, targets, the absolute form, `Host`, versions.

use super::{Payload, SMUGGLED};

pub(super) fn all() -> Vec<Payload> {
    [lines(), targets(), absolute_forms(), hosts(), versions()].concat()
}

fn with_host(line: &str) -> String {
    format!("{line}\r\nHost: a.example\r\n\r\n")
}

fn lines() -> Vec<Payload> {
    const ODD: [&str; 22] = [
        "GET  /get HTTP/1.1",
        "GET /get  HTTP/1.1",
        "GET /get HTTP/1.1 ",
        " GET /get HTTP/1.1",
        "\tGET /get HTTP/1.1",
        "GET\t/get\tHTTP/1.1",
        "GET /get\tHTTP/1.1",
        "GET /get HTTP/1.1\t",
        "GET /get",
        "GET",
        "GET HTTP/1.1",
        "/get HTTP/1.1",
        "GET /a b HTTP/1.1",
        "GET /get HTTP/1.1 GET /smuggled HTTP/1.1",
        "GET /get x HTTP/1.1",
        "GET: /get HTTP/1.1",
        "G(T /get HTTP/1.1",
        "\"GET\" /get HTTP/1.1",
        "G,T /get HTTP/1.1",
        "GET\\ /get HTTP/1.1",
        "CONNECT a.example:443 HTTP/1.1",
        "CONNECT /get HTTP/1.1",
    ];
    let odd = ODD.into_iter().map(|line| Payload::refuse("request line", with_host(line)));
    let good = ["GET", "DELETE", "PATCH", "PUT", "POST"].into_iter().map(|method| {
        let line = format!("{method} /get HTTP/1.1\r\nHost: a.example\r\nContent-Length: 0\r\n\r\n");
        Payload::pass("request line", line, [b""])
    });
    let unknown =
        ["get", "QUERY", "M-SEARCH", "TRACE", "TRACK", "PRI", "HEAD", "OPTIONS", "!#$%&'*+-.^_`|~", "X"]
            .into_iter()
            .map(|method| Payload::agree("request line", with_host(&format!("{method} /get HTTP/1.1"))));
    odd.chain(good).chain(unknown).collect()
}

fn targets() -> Vec<Payload> {
    const ODD: [&str; 13] = [
        "get",
        "?a",
        "a.example:80",
        "*",
        "*a",
        "",
        "/a#b",
        "/a\\b",
        "/<a>",
        "/a\u{e9}",
        "ftp://a.example/",
        "http:/a.example/",
        "javascript:x",
    ];
    const GOOD: [&str; 12] = [
        "/",
        "/a",
        "/a/",
        "/a?b",
        "/a?b=c&d=%20",
        "/a?",
        "/a??",
        "/a;b=c",
        "/a/..b",
        "/%20",
        "/a:b@c",
        "/a?http://b.example/",
    ];
    const EITHER: [&str; 19] = [
        "//",
        "/\"a\"",
        "/a/../b",
        "/a/./b",
        "/a//b",
        "//a.example/b",
        "/%2e%2e/a",
        "/a%2fb",
        "/a%5cb",
        "/a%00b",
        "/a%",
        "/a%4",
        "/a%zz",
        "/%61",
        "/a%7eb",
        "/a%3fb",
        "/a%23b",
        "/a?b%00",
        "/a|b",
    ];
    let target = |target: &str| with_host(&format!("GET {target} HTTP/1.1"));
    let odd = ODD.into_iter().map(|odd| Payload::refuse("target", target(odd)));
    let good = GOOD.into_iter().map(|good| Payload::pass("target", target(good), [b""]));
    let either = EITHER.into_iter().map(|either| Payload::agree("target", target(either)));
    let asterisk = Payload::agree("target", with_host("OPTIONS * HTTP/1.1"));
    odd.chain(good).chain(either).chain([asterisk]).collect()
}

fn absolute_forms() -> Vec<Payload> {
    const ODD: [(&str, &str); 14] = [
        ("http://b.example/", "a.example"),
        ("http://a.example:8080/", "a.example"),
        ("http://a.example/", "a.example:8080"),
        ("https://a.example/", "a.example:80"),
        ("http://user@a.example/", "a.example"),
        ("http://user:word@a.example/", "a.example"),
        ("http://a.example@b.example/", "a.example"),
        ("http:///", "a.example"),
        ("http://", "a.example"),
        ("http://a.example", "b.example"),
        ("http://a.example\\@b.example/", "a.example"),
        ("http://a.example,b.example/", "a.example"),
        ("http://a.example:/b", "a.example:81"),
        ("http://[::1/", "[::1]"),
    ];
    const GOOD: [(&str, &str); 5] = [
        ("http://a.example/get", "a.example"),
        ("http://a.example/get?b", "a.example"),
        ("HTTP://A.EXAMPLE/get", "a.example"),
        ("http://a.example:80/get", "a.example"),
        ("http://a.example?b", "a.example"),
    ];
    let form = |(target, host): (&str, &str)| format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n");
    let odd = ODD.into_iter().map(|odd| Payload::refuse("absolute form", form(odd)));
    let good = GOOD.into_iter().map(|good| Payload::pass("absolute form", form(good), [b""]));
    let no_host = Payload::refuse("absolute form", "GET http://a.example/ HTTP/1.1\r\n\r\n");
    odd.chain(good).chain([no_host]).collect()
}

fn hosts() -> Vec<Payload> {
    const ODD: [&str; 31] = [
        "",
        "Host:\r\n",
        "Host: \r\n",
        "Host: a.example\r\nHost: a.example\r\n",
        "Host: a.example\r\nHost: b.example\r\n",
        "Host: a.example\r\nhost: b.example\r\n",
        "Host : a.example\r\n",
        "Host: a.example, b.example\r\n",
        "Host: a.example b.example\r\n",
        "Host: a.example:80:90\r\n",
        "Host: a.example:x\r\n",
        "Host: a.example:99999\r\n",
        "Host: a.example:-1\r\n",
        "Host: a.example/\r\n",
        "Host: a.example/b\r\n",
        "Host: a.example?b\r\n",
        "Host: a.example#b\r\n",
        "Host: user@a.example\r\n",
        "Host: http://a.example\r\n",
        "Host: \"a.example\"\r\n",
        "Host: <a.example>\r\n",
        "Host: a.example;b\r\n",
        "Host: a\\b\r\n",
        "Host: [::1\r\n",
        "Host: ::1\r\n",
        "Host: [::1]x\r\n",
        "Host: [g::1]\r\n",
        "Host: :80\r\n",
        "Host: a.example\r\n b\r\n",
        "X: y\nHost: a.example\r\n",
        "Host: a.example\x0b\r\n",
    ];
    const GOOD: [&str; 8] = [
        "Host: a.example",
        "Host:a.example",
        "host: \t a.example \t",
        "HOST: A.Example",
        "Host: a.example:8080",
        "Host: 192.0.2.1",
        "Host: [2001:db8::1]:80",
        "Host: a_b.example",
    ];
    let line = |host: &str| format!("GET /get HTTP/1.1\r\n{host}\r\n");
    let odd = ODD.into_iter().map(|host| Payload::refuse("Host", line(host)));
    let good = GOOD.into_iter().map(|host| Payload::pass("Host", line(&format!("{host}\r\n")), [b""]));
    let either =
        ["a.example.", "a..example", ".a.example", "a.example:", "a%2eexample", "a.example:080", "*"]
            .into_iter()
            .map(|host| Payload::agree("Host", line(&format!("Host: {host}\r\n"))));
    let further =
        ["X-Forwarded-Host: b.example\r\n", "X-Host: b.example\r\n", "Forwarded: host=b.example\r\n"]
            .into_iter()
            .map(|further| Payload::pass("Host", line(&format!("Host: a.example\r\n{further}")), [b""]));
    odd.chain(good).chain(either).chain(further).collect()
}

fn versions() -> Vec<Payload> {
    const ODD: [&str; 14] = [
        "HTTP/1.2",
        "HTTP/1.10",
        "HTTP/01.1",
        "HTTP/1.01",
        "HTTP/2.0",
        "HTTP/2",
        "HTTP/0.9",
        "HTTP/1",
        "HTTP/1.",
        "http/1.1",
        "HTTP/ 1.1",
        "HTTPS/1.1",
        "HTTP-1.1",
        "ICY/1.1",
    ];
    let odd =
        ODD.into_iter().map(|version| Payload::refuse("version", with_host(&format!("GET /get {version}"))));
    let old = [
        Payload::refuse("version", "GET /get HTTP/0.9\r\n\r\n"),
        Payload::refuse("version", "PRI * HTTP/2.0\r\n\r\nSX\r\n\r\n"),
        Payload::refuse(
            "version",
            format!(
                "POST /post HTTP/1.0\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{SMUGGLED}"
            ),
        ),
        // HTTP/1.0 closes after its answer: what follows is nobody's.
        Payload::agree("version", "GET /get HTTP/1.0\r\n\r\n"),
        Payload::agree("version", "GET /get HTTP/1.0\r\nHost: a.example\r\nConnection: keep-alive\r\n\r\n"),
        Payload::agree("version", "POST /post HTTP/1.0\r\nHost: a.example\r\nContent-Length: 5\r\n\r\nhello"),
        Payload::agree("version", "POST /post HTTP/1.0\r\nHost: a.example\r\n\r\nhello"),
    ];
    odd.chain(old).collect()
}
