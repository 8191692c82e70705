//! Routing as curl meets it: which route takes a request, and what is done with it.

use std::{net::SocketAddr, path::Path, sync::Arc, time::Duration};

use gateway::{
    compile::{self, Context},
    config,
    mirror::Outcome,
    run::Running,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
    process::Command,
    sync::{Semaphore, mpsc},
    time::timeout,
};

/// Longer than anything here takes; only a defect lets it pass.
const PATIENCE: Duration = Duration::from_secs(20);

/// A gateway in front of the services `one` and `two`, which answer with their name and the head that they were sent.
struct Stage {
    running: Running,
}

impl Stage {
    async fn set(routes: &str) -> Self {
        Self::beside("", routes).await
    }

    /// With another service.
    async fn beside(upstream: &str, routes: &str) -> Self {
        let (one, two) = (echo("one").await, echo("two").await);
        let text = format!(
            "listen: ['127.0.0.1:0']\nworkers: 1\naccess_log: 'off'\n\
             upstreams: {{ one: {{ endpoints: ['{one}'] }}, two: {{ endpoints: ['{two}'] }}{upstream} }}\nroutes:\n{routes}"
        );
        let running = Running::start(compiled(&text).unwrap()).await.unwrap();
        Self { running }
    }

    /// What curl prints, the answer's head included; the last of `arguments` is the target.
    async fn curl(&self, arguments: &[&str]) -> String {
        let (target, options) = arguments.split_last().unwrap();
        let mut command = Command::new("curl");
        command.args(["--silent", "--include", "--path-as-is"]).args(options);
        command.arg(format!("http://{}{target}", self.running.addresses[0]));
        let output =
            timeout(PATIENCE, command.output()).await.expect("curl in time").expect("curl is installed");
        String::from_utf8(output.stdout).unwrap()
    }

    /// How many answers of a call of curl came from the services `one` and `two`.
    async fn shares(&self, options: &[&str], target: &str) -> (usize, usize) {
        let got = self.curl(&[options, &["--fail", target]].concat()).await;
        let from = |name: &str| got.lines().filter(|line| *line == name).count();
        (from("one"), from("two"))
    }

    async fn end(self) {
        tokio::task::spawn_blocking(|| self.running.end()).await.unwrap().unwrap();
    }
}

fn compiled(text: &str) -> Result<gateway::snapshot::Snapshot, String> {
    let document = config::parse(text).map_err(|finding| finding.to_string())?;
    let context = Context { directory: Path::new("."), previous: None };
    compile::compile(&document, context)
        .map(|(snapshot, _)| snapshot)
        .map_err(|findings| findings.to_string())
}

/// A service whose answers are its name and the head of the request.
async fn echo(name: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut got = Vec::new();
                while stream.read_buf(&mut got).await.is_ok_and(|read| read > 0) {
                    let text = String::from_utf8_lossy(&got).into_owned();
                    let Some((head, _)) = text.split_once("\r\n\r\n") else {
                        continue;
                    };
                    let answer = format!("{name}\n{head}\n");
                    let begin = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", answer.len());
                    let sent = if head.starts_with("HEAD ") { begin } else { begin + &answer };
                    if stream.write_all(sent.as_bytes()).await.is_err() {
                        return;
                    }
                    got.clear();
                }
            });
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread")]
async fn routes_differ_by_headers_query_cookies_and_expressions() {
    let stage = Stage::set(
        r#"
- { name: header, path: /a, when: { headers: { x-canary: 'yes' } }, authenticate: [anonymous], upstream: two }
- { name: query, path: /a, priority: 3, when: { query: { v: { prefix: '2.' } } }, authenticate: [anonymous], upstream: two }
- { name: cookie, path: /a, priority: 2, when: { cookies: { beta: { present: true } } }, authenticate: [anonymous], upstream: two }
- name: expression
  path: /a
  priority: 1
  when: { expression: 'request.headers["x-tenant"].matches("^eu-[0-9]+$") && request.method == "GET"' }
  authenticate: [anonymous]
  upstream: two
- { name: plain, path: /a, authenticate: [anonymous], upstream: one }
- { name: narrow, path: /b, when: { headers: { x-a: { regex: '[0-9]+' }, x-b: { absent: true } } }, authenticate: [anonymous], upstream: two }
- { name: rest, path: '/{*rest}', authenticate: [anonymous], upstream: one }
"#,
    )
    .await;
    for (arguments, service) in [
        (vec!["/a"], "one"),
        (vec!["-H", "x-canary: yes", "/a"], "two"),
        (vec!["-H", "X-Canary: yes ", "/a"], "two"),
        (vec!["-H", "x-canary: yes!", "/a"], "one"),
        (vec!["/a?v=2%2e1"], "two"),
        (vec!["/a?v=1&v=2.0"], "two"),
        (vec!["/a?w=2.1"], "one"),
        (vec!["-b", "alpha=1; beta=", "/a"], "two"),
        (vec!["-b", "alpha=beta", "/a"], "one"),
        (vec!["-H", "x-tenant: eu-17", "/a"], "two"),
        (vec!["-H", "x-tenant: us-17", "/a"], "one"),
        (vec!["-X", "POST", "-H", "x-tenant: eu-17", "/a"], "one"),
        (vec!["-H", "x-a: 12", "/b"], "two"),
        // What does not hold leaves the request to the next path.
        (vec!["-H", "x-a: 12a", "/b"], "one"),
        (vec!["-H", "x-a: 12", "-H", "x-b: 1", "/b"], "one"),
    ] {
        let got = stage.curl(&arguments).await;
        assert!(got.contains(&format!("\n{service}\n")), "{arguments:?} meets {service}: {got}");
    }
    // Where the header is not there, the expression comes to no answer; that is counted.
    let route = stage.running.shared.snapshot().routes.by_name("expression").unwrap();
    assert!(route.metrics.undecided() > 0);
    stage.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hosts_and_paths_are_tried_from_the_most_exact_on() {
    let stage = Stage::set(
        r"
- { name: exact, host: [a.example, b.example], path: '/{*rest}', authenticate: [anonymous], request: { headers: { set: { x-route: exact } } }, upstream: one }
- { name: label, host: '*.example', path: '/{*rest}', authenticate: [anonymous], request: { headers: { set: { x-route: label } } }, upstream: one }
- { name: depth, host: '**.example', path: '/{*rest}', authenticate: [anonymous], request: { headers: { set: { x-route: depth } } }, upstream: one }
- { name: text, path: /x/y, authenticate: [anonymous], request: { headers: { set: { x-route: text } } }, upstream: one }
- { name: amid, path: '/x/v{n}.json', authenticate: [anonymous], request: { headers: { set: { x-route: 'amid {n}' } } }, upstream: one }
- { name: parameter, path: '/x/{id}', authenticate: [anonymous], request: { headers: { set: { x-route: 'parameter {id}' } } }, upstream: one }
- { name: regex, path: 'regex:/x/(?<year>[0-9]{4})/(?<rest>.+)', authenticate: [anonymous], request: { headers: { set: { x-route: 'regex {year} {rest}' } } }, upstream: one }
- { name: rest, path: '/x/{*rest}', authenticate: [anonymous], request: { headers: { set: { x-route: 'rest {rest}' } } }, upstream: one }
",
    )
    .await;
    for (host, path, route) in [
        ("A.Example", "/1", "exact"),
        ("b.example.:80", "/1", "exact"),
        ("c.example", "/1", "label"),
        ("d.c.example", "/1", "depth"),
        ("other", "/x/y", "text"),
        ("other", "/x/v7.json", "amid 7"),
        ("other", "/x/v.json", "parameter v.json"),
        ("other", "/x/y2", "parameter y2"),
        ("other", "/x/2026/a/b", "regex 2026 a/b"),
        ("other", "/x/202/a/b", "rest 202/a/b"),
    ] {
        let got = stage.curl(&["-H", &format!("Host: {host}"), path]).await;
        assert!(got.contains(&format!("x-route: {route}\n")), "{host} {path} meets {route}: {got}");
    }
    for path in ["/x", "/x/"] {
        assert!(stage.curl(&["-H", "Host: other", path]).await.starts_with("HTTP/1.1 404"), "{path}");
    }
    stage.end().await;
}

#[test]
fn what_cannot_be_reached_is_refused_with_both_lines() {
    let route = |fields: &str| format!("- {{ {fields}, authenticate: [anonymous], upstream: a }}\n");
    let text = |routes: &[&str]| {
        let routes: String = routes.iter().map(|fields| route(fields)).collect();
        format!(
            "listen: ['127.0.0.1:0']\nupstreams: {{ a: {{ endpoints: ['127.0.0.1:1'] }} }}\nroutes:\n{routes}"
        )
    };
    for (routes, finding) in [
        (["name: a, path: /a", "name: b, path: /a"], "the route a on line 4 has this host, path and method"),
        (
            ["name: a, path: '/{x}'", "name: b, path: '/{y}'"],
            "the route a on line 4 has this host, path and method",
        ),
        (["name: a, path: /a", "name: b, path: /a, when: { headers: { x: '1' } }"], ""),
        (
            [
                "name: a, path: /a, methods: [GET]",
                "name: b, path: /a, methods: [GET], when: { headers: { x: '1' } }",
            ],
            "5:20: error: routes[1].path: never reached: the route a on line 4 takes all of it before",
        ),
        (
            [
                "name: a, path: /a, when: { headers: { x: '1' } }",
                "name: b, path: /a, when: { headers: { x: '1', y: '2' } }",
            ],
            "never reached: the route a on line 4",
        ),
        (["name: a, path: 'regex:('", "name: b, path: /b"], "4:"),
        (["name: a, path: /a, when: {}", "name: b, path: /b"], "when"),
        (
            ["name: a, path: /a, when: { headers: { x: { prefix: a, regex: b } } }", "name: b, path: /b"],
            "exactly one",
        ),
        (["name: a, path: /a, methods: [TRACE]", "name: b, path: /b"], "no method that is served"),
        (["name: a, path: /a//b", "name: b, path: /b"], "no request has this path"),
        (["name: a, host: 'a.*.b', path: /a", "name: b, path: /b"], "without a port"),
    ] {
        match compiled(&text(&routes)) {
            Ok(_) => assert_eq!(finding, "", "{routes:?} can be used"),
            Err(findings) => {
                assert!(!finding.is_empty() && findings.contains(finding), "{routes:?}: {findings}")
            }
        }
    }
    // Both may hold: the order decides, and that is said.
    let unclear = [
        "name: a, path: /a, when: { headers: { x: '1' } }",
        "name: b, path: /a, when: { query: { y: '2' } }",
    ];
    let document = config::parse(&text(&unclear)).unwrap();
    let context = Context { directory: Path::new("."), previous: None };
    let (_, warnings) = compile::compile(&document, context).unwrap_or_else(|findings| panic!("{findings}"));
    assert!(
        warnings.to_string().contains("the route a on line 4 may hold for the same requests"),
        "{warnings}"
    );
}

#[test]
fn many_routes_are_read_and_too_many_expressions_of_a_host_are_refused() {
    let begin =
        "listen: ['127.0.0.1:0']\nupstreams: { a: { endpoints: ['127.0.0.1:1'] } }\nroutes:\n".to_owned();
    // More nodes than the library's own bound allows.
    let methods = "GET, ".repeat(300_000);
    let many = format!("{begin}- {{ name: a, path: /, methods: [{methods}], authenticate: [anonymous] }}\n");
    assert!(config::parse(&many).is_ok(), "300,000 nodes are read");
    let deep = format!("{begin}{}{}", "[".repeat(100), "]".repeat(100));
    assert!(config::parse(&deep).is_err(), "100 levels are refused");

    let expressions = |count: usize, host: &dyn Fn(usize) -> usize| {
        let route = |index| {
            let host = host(index);
            format!(
                "- {{ name: r{index}, host: h{host}, path: 'regex:/a{index}', authenticate: [anonymous], upstream: a }}\n"
            )
        };
        (0..count).fold(begin.clone(), |text, index| text + &route(index))
    };
    assert!(compiled(&expressions(1_001, &|index| index % 2)).is_ok(), "two hosts share them");
    let findings = compiled(&expressions(1_001, &|_| 0)).err().expect("one host has too many");
    assert!(
        findings.starts_with("1004:")
            && findings
                .contains("at most 1000 regex: paths of one host; the first is of the route r0 on line 4"),
        "{findings}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn redirections_and_fixed_answers_ask_no_service() {
    let stage = Stage::set(
        r"
- { name: parts, path: '/old/{*rest}', authenticate: [anonymous], redirect: { status: 308, scheme: https, path: '/new/{rest}' } }
- { name: host, host: a.example, path: /, authenticate: [anonymous], redirect: { host: 'b.example:8443' } }
- { name: location, path: '/users/{id}', authenticate: [anonymous], redirect: { status: 302, location: 'https://c.example/{id}?from=gateway' } }
- name: fixed
  path: /maintenance
  authenticate: [anonymous]
  respond: { status: 503, headers: { retry-after: '120' }, body: 'back soon' }
  response: { headers: { set: { x-by: gateway } } }
",
    )
    .await;
    for (arguments, status, header) in [
        (
            vec!["-H", "Host: a.example:8080", "/old/a%20b?c=d"],
            "308",
            "location: https://a.example/new/a%20b?c=d\r\n",
        ),
        (vec!["-H", "Host: a.example", "/?c=d"], "307", "location: http://b.example:8443/?c=d\r\n"),
        (vec!["/users/7?c=d"], "302", "location: https://c.example/7?from=gateway\r\n"),
        (vec!["/maintenance"], "503", "retry-after: 120\r\n"),
        (vec!["/maintenance"], "503", "x-by: gateway\r\n"),
        (vec!["-d", "a body", "/maintenance"], "503", "\r\n\r\nback soon"),
    ] {
        let got = stage.curl(&arguments).await;
        assert!(
            got.starts_with(&format!("HTTP/1.1 {status} ")) && got.contains(header),
            "{arguments:?}: {got}"
        );
    }
    stage.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn services_are_sent_what_is_written_anew() {
    let stage = Stage::set(
        r"
- { name: strip, path: '/api/{*rest}', authenticate: [anonymous], request: { strip_prefix: /api/v1 }, upstream: one }
- { name: replace, path: '/old/{*rest}', authenticate: [anonymous], request: { replace: { regex: '^/old/([a-z]+)-(?<n>[0-9]+)', with: '/new/${n}/$1' } }, upstream: one }
- { name: drop, path: '/drop/{*rest}', authenticate: [anonymous], request: { replace: { regex: 'x', with: '' } }, upstream: one }
- name: query
  path: /query/{id}
  authenticate: [anonymous]
  request: { query: { remove: [debug], set: { id: '{id}', via: 'a b' } } }
  upstream: one
- name: form
  path: /form
  authenticate: [anonymous]
  request: { method: PUT, host: 'internal.example:8080', path: /store, headers: { set: { x-form: 'yes' } } }
  upstream: one
",
    )
    .await;
    for (arguments, line) in [
        (vec!["/api/v1/a?b=c"], "GET /a?b=c HTTP/1.1"),
        (vec!["/api/v1"], "GET / HTTP/1.1"),
        (vec!["/api/v12/a"], "GET /api/v12/a HTTP/1.1"),
        (vec!["/old/ab-12/c?d"], "GET /new/12/ab/c?d HTTP/1.1"),
        (vec!["/old/12"], "GET /old/12 HTTP/1.1"),
        (vec!["/drop/axb"], "GET /drop/ab HTTP/1.1"),
        (vec!["/query/7?debug=1&a=b&id=0"], "GET /query/7?a=b&id=7&via=a%20b HTTP/1.1"),
        (vec!["/query/7&admin=1"], "GET /query/7&admin=1?id=7%26admin%3D1&via=a%20b HTTP/1.1"),
        (vec!["-X", "POST", "/form?a"], "PUT /store?a HTTP/1.1"),
        (vec!["/form"], "host: internal.example:8080"),
        (vec!["/form"], "x-form: yes"),
    ] {
        let got = stage.curl(&arguments).await;
        assert!(got.lines().any(|got| got == line), "{arguments:?}: {line} in {got}");
    }
    // What would be a dot segment for the service.
    assert!(stage.curl(&["/drop/.x./a"]).await.starts_with("HTTP/1.1 400"));
    stage.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn weights_divide_requests_and_a_sticky_value_keeps_its_service() {
    let stage = Stage::set(
        r"
- { name: canary, path: /canary, authenticate: [anonymous], upstreams: [{ name: one, weight: 1 }, { name: two, weight: 1 }] }
- { name: off, path: /off, authenticate: [anonymous], upstreams: [{ name: one, weight: 0 }, { name: two, weight: 1 }] }
- name: sticky
  path: /sticky
  authenticate: [anonymous]
  upstreams: [{ name: one, weight: 1 }, { name: two, weight: 1 }]
  sticky: { cookie: session }
",
    )
    .await;
    // 60 requests by curl at once: that one service gets all of them happens once in 2^59 runs.
    let (one, two) = stage.shares(&[], "/canary?[1-60]").await;
    assert!(one > 0 && two > 0 && one + two == 60, "{one} and {two}");
    assert_eq!(stage.shares(&[], "/off?[1-20]").await, (0, 20));
    let mut met = [false; 2];
    for session in 0..30 {
        let shares = stage.shares(&["-b", &format!("session=s{session}")], "/sticky?[1-5]").await;
        assert!(shares == (5, 0) || shares == (0, 5), "session {session} keeps its service: {shares:?}");
        met[usize::from(shares.0 == 0)] = true;
    }
    assert_eq!(met, [true, true], "both services have sessions");
    stage.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn methods_are_refused_or_answered_where_no_route_takes_them() {
    let stage = Stage::set(
        r"
- { name: read, path: /a, methods: [GET], authenticate: [anonymous], upstream: one }
- { name: write, path: /a, methods: [PUT], authenticate: [anonymous], upstream: two }
- { name: own, path: /own, methods: [OPTIONS], authenticate: [anonymous], upstream: one }
- { name: any, path: /any, authenticate: [anonymous], upstream: one }
",
    )
    .await;
    let all = "allow: DELETE, GET, HEAD, OPTIONS, PATCH, POST, PUT\r\n";
    for (arguments, status, part) in [
        (vec!["-X", "OPTIONS", "/a"], "200", "allow: GET, HEAD, OPTIONS, PUT\r\n"),
        (vec!["-X", "OPTIONS", "--request-target", "*", "/"], "200", all),
        (vec!["-X", "OPTIONS", "/own"], "200", "\none\nOPTIONS /own"),
        (vec!["-X", "OPTIONS", "/any"], "200", "\none\nOPTIONS /any"),
        (vec!["-X", "POST", "/a"], "405", "allow: GET, HEAD, OPTIONS, PUT\r\n"),
        (vec!["-X", "TRACE", "/any"], "405", all),
        (vec!["-X", "TRACE", "/a"], "405", "allow: GET"),
        (vec!["-I", "/a"], "200", ""),
        (vec!["-X", "OPTIONS", "/none"], "404", ""),
    ] {
        let got = stage.curl(&arguments).await;
        assert!(
            got.starts_with(&format!("HTTP/1.1 {status} ")) && got.contains(part),
            "{arguments:?}: {got}"
        );
    }
    stage.end().await;
}

/// A service that says what it was sent, and answers 500 once it may.
async fn recorder(may: Arc<Semaphore>) -> (SocketAddr, mpsc::UnboundedReceiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (recorded, records) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let (recorded, may) = (recorded.clone(), may.clone());
            tokio::spawn(async move {
                let mut got = Vec::new();
                while stream.read_buf(&mut got).await.is_ok_and(|read| read > 0) {
                    let text = String::from_utf8_lossy(&got).into_owned();
                    let length = text.lines().find_map(|line| line.strip_prefix("content-length: "));
                    let length: usize = length.map_or(0, |length| length.parse().unwrap());
                    if text.split_once("\r\n\r\n").is_none_or(|(_, body)| body.len() != length) {
                        continue;
                    }
                    recorded.send(text).unwrap();
                    may.acquire().await.unwrap().forget();
                    let answer = b"HTTP/1.1 500 No\r\ncontent-length: 0\r\n\r\n";
                    stream.write_all(answer).await.unwrap();
                    got.clear();
                }
            });
        }
    });
    (address, records)
}

#[tokio::test(flavor = "multi_thread")]
async fn copies_reach_another_service_and_change_no_answer() {
    let may = Arc::new(Semaphore::new(0));
    let (address, mut records) = recorder(may.clone()).await;
    let stage = Stage::beside(
        &format!(", copies: {{ endpoints: ['{address}'], host: copies.example }}"),
        r"
- name: copied
  path: '/{*rest}'
  authenticate: [anonymous]
  request: { strip_prefix: /api }
  mirror: { upstream: copies, body_bytes: '16', in_flight: 1 }
  upstream: one
",
    )
    .await;
    let mirror = stage.running.shared.snapshot().routes.by_name("copied").unwrap().mirror.clone().unwrap();
    let count =
        |asked: Outcome| mirror.counts.all().find(|(outcome, _)| *outcome == asked).map(|(_, count)| count);
    let answered = async |arguments: &[&str]| {
        let got = stage.curl(arguments).await;
        assert!(got.starts_with("HTTP/1.1 200") && got.contains("\none\n"), "{arguments:?}: {got}");
    };
    let over = async || {
        timeout(PATIENCE, async {
            while mirror.in_flight.count() > 0 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        })
        .await
        .expect("the copy ends");
    };
    // The other service does not answer: the client has its answer all the same.
    answered(&["-d", "hello", "/api/a?b"]).await;
    let copy = timeout(PATIENCE, records.recv()).await.expect("a copy").unwrap();
    assert!(copy.starts_with("POST /a?b HTTP/1.1\r\n") && copy.ends_with("\r\n\r\nhello"), "{copy}");
    assert!(copy.contains("\r\nhost: copies.example\r\n"), "{copy}");
    answered(&["/api/b"]).await;
    assert_eq!(count(Outcome::NoRoom), Some(1), "one may be in flight");
    may.add_permits(2);
    over().await;
    assert_eq!(count(Outcome::Answered), Some(1));
    answered(&["-d", "seventeen bytes..", "/api/c"]).await;
    assert_eq!(count(Outcome::TooLarge), Some(1));
    answered(&["-H", "transfer-encoding: chunked", "-d", "sixteen bytes...", "/api/d"]).await;
    let copy = timeout(PATIENCE, records.recv()).await.expect("a copy").unwrap();
    assert!(copy.starts_with("POST /d ") && copy.ends_with("\r\n\r\nsixteen bytes..."), "{copy}");
    over().await;
    assert_eq!((count(Outcome::Answered), count(Outcome::Incomplete)), (Some(2), Some(0)));
    stage.end().await;
}

#[test]
fn actions_that_contradict_themselves_are_refused() {
    for (fields, rule) in [
        ("upstream: a, respond: { status: 200 }", "exactly one of upstream"),
        ("sticky: { header: x }, upstream: a", "sticky"),
        ("upstreams: [{ name: a, weight: 0 }]", "above 0"),
        ("upstreams: [{ name: a, weight: 1 }, { name: a, weight: 1 }]", "each service once"),
        ("upstreams: [{ name: b, weight: 1 }]", "no upstream has the name b"),
        (
            "upstreams: [{ name: a, weight: 1 }], sticky: { header: x, cookie: y }",
            "exactly one of header and cookie",
        ),
        ("redirect: { status: 304, host: b.example }", "301, 302"),
        ("redirect: { host: b.example, location: 'https://c' }", "either location"),
        ("redirect: { path: '//b' }", "one slash"),
        ("redirect: { location: 'https://b/{id}' }", "no parameter"),
        ("respond: { status: 204, body: x }", "has none"),
        ("respond: { status: 101 }", "200 to 599"),
        ("respond: { status: 200, headers: { connection: close } }", "gateway's own"),
        ("respond: { status: 200 }, stall: 1s", "handed on as it comes"),
        ("respond: { status: 200 }, request: { path: /b }", "no service is asked"),
        ("respond: { status: 200 }, request: { query: { remove: [a] } }", "no service is asked"),
        ("respond: { status: 200 }, mirror: { upstream: a }", "go to upstream or upstreams"),
        ("upstream: a, mirror: { upstream: b }", "no upstream has the name b"),
        ("upstream: a, mirror: { upstream: a, percent: 0 }", "above 0"),
        ("upstream: a, mirror: { upstream: a, in_flight: 0 }", "at least 1"),
        ("upstream: a, mirror: { upstream: a, body_bytes: 2MiB }", "at most 1MiB"),
        ("upstream: a, mirror: { upstream: a }, upgrades: [websocket]", "a tunnel cannot be copied"),
        ("upstream: a, request: { path: /b, strip_prefix: /c }", "at most one of path"),
        ("upstream: a, request: { strip_prefix: /c/ }", "without a last slash"),
        ("upstream: a, request: { replace: { regex: '(', with: '' } }", "("),
        ("upstream: a, request: { replace: { regex: '(a)', with: '$2' } }", "2 is no group"),
        ("upstream: a, request: { replace: { regex: '(?<a>a)', with: '${b}' } }", "b is no group"),
        ("upstream: a, request: { host: 'a/b' }", "a host such as"),
        ("upstream: a, request: { method: HEAD }", "but HEAD"),
        ("upstream: a, upgrades: [websocket], request: { method: GET }", "keeps its method"),
        ("upstream: a, request: { query: {} }", "by their names"),
        ("upstream: a, request: { query: { set: { a: '{b}' } } }", "no parameter"),
    ] {
        let text = format!(
            "listen: ['127.0.0.1:0']\nupstreams: {{ a: {{ endpoints: ['127.0.0.1:1'] }} }}\n\
             routes: [{{ name: r, path: /, authenticate: [anonymous], {fields} }}]\n"
        );
        let findings = compiled(&text).err().unwrap_or_else(|| panic!("{fields} is refused"));
        assert!(findings.starts_with("3:") && findings.contains(rule), "{fields}: {findings}");
    }
}
