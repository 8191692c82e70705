//! Composed answers from real services on loopback, through the whole pipeline.
//!
//! Nothing here waits for a time to pass but where a service is configured to be waited for.

use std::{
    convert::Infallible,
    net::SocketAddr,
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use gateway::{
    compile::{self, Context},
    config,
    pipeline::{self, ClientBody, Peer},
    shared::Shared,
};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{
    net::TcpListener,
    sync::{Barrier, watch},
    time::timeout,
};

/// Longer than anything here takes; only a defect lets it pass.
const PATIENCE: Duration = Duration::from_secs(20);

/// A service whose answer is told by the path that it is asked for.
struct Service {
    address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
    /// Requests that were given up before they were answered.
    given_up: watch::Receiver<usize>,
    /// Connections that were opened.
    connections: Arc<Mutex<usize>>,
}

#[derive(Clone, Debug)]
struct Seen {
    target: String,
    headers: HeaderMap,
}

impl Service {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let (give_up, given_up) = watch::channel(0);
        let seen = Arc::new(Mutex::new(Vec::new()));
        let connections = Arc::new(Mutex::new(0));
        let (seen_here, connections_here) = (seen.clone(), connections.clone());
        let (together, give_up) = (Arc::new(Barrier::new(2)), Arc::new(give_up));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                *connections_here.lock().expect("a lock") += 1;
                let (seen, together, give_up) = (seen_here.clone(), together.clone(), give_up.clone());
                let service = service_fn(move |request: Request<Incoming>| {
                    let target = request.uri().to_string();
                    let headers = request.headers().clone();
                    seen.lock().expect("a lock").push(Seen { target: target.clone(), headers });
                    answer(target, together.clone(), give_up.clone())
                });
                tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
            }
        });
        Self { address, seen, given_up, connections }
    }

    fn seen(&self) -> Vec<Seen> {
        self.seen.lock().expect("a lock").clone()
    }
}

/// Counts a request that is dropped before it is answered.
struct GivenUp(Option<Arc<watch::Sender<usize>>>);

impl Drop for GivenUp {
    fn drop(&mut self) {
        if let Some(give_up) = self.0.take() {
            give_up.send_modify(|count| *count += 1);
        }
    }
}

async fn answer(
    target: String,
    together: Arc<Barrier>,
    give_up: Arc<watch::Sender<usize>>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let mut given_up = GivenUp(Some(give_up));
    let path = target.split('?').next().unwrap_or_default();
    let (status, body) = match path {
        "/accounts/7" => {
            (200, r#"{"owner":"Ada","currency":"EUR","balance":1234567890123456.78,"internal":{"risk":3}}"#)
        }
        "/transactions/7" => {
            (200, r#"{"transactions":[{"id":"t-1","amount":-12.30},{"id":"t-2","amount":1.0e2}]}"#)
        }
        "/rates/EUR" => (200, r#"{"base":"\u0045UR","rates":{"USD":1.0800,"CHF":0.9300}}"#),
        "/odd" => (200, r#"{"currency":"../admin","empty":""}"#),
        "/together" => {
            together.wait().await;
            (200, "{}")
        }
        "/never" => std::future::pending().await,
        "/unavailable" => (503, r#"{"error":"come again"}"#),
        "/malformed" => (200, r#"{"a":1"#),
        "/twice" => (200, r#"{"a":1,"a":2}"#),
        "/list" => (200, "[1,2]"),
        "/empty" => (204, ""),
        "/large" => {
            (200, r#"{"a":"0123456789012345678901234567890123456789012345678901234567890123456789"}"#)
        }
        "/deep" => (200, r#"{"a":[[[[[[1]]]]]]}"#),
        _ => (404, ""),
    };
    given_up.0 = None;
    let mut response = Response::new(Full::from(body));
    *response.status_mut() = StatusCode::from_u16(status).expect("a status");
    Ok(response)
}

/// A gateway with one composed route at `/overview/{id}`.
fn gateway(service: &Service, compose: &str) -> Arc<Shared> {
    gateway_in(service, "10s", compose)
}

/// The same, with this time for the whole.
fn gateway_in(service: &Service, time: &str, compose: &str) -> Arc<Shared> {
    let address = service.address;
    let text = format!(
        "listen: [127.0.0.1:0]\n\
         access_log: 'off'\n\
         upstreams:\n  bank: {{ endpoints: ['{address}'], ejection: {{ failures: 0 }} }}\n  \
           named: {{ endpoints: ['{address}'], host: bank.example }}\n  \
           gone: {{ endpoints: ['127.0.0.1:1'] }}\n\
         routes:\n- name: overview\n  path: '/overview/{{id}}'\n  methods: [GET]\n  \
           authenticate: [anonymous]\n  timeout: {time}\n  compose:\n{compose}"
    );
    let document = config::parse(&text).unwrap_or_else(|finding| panic!("{finding}\n{text}"));
    let context = Context { directory: Path::new("."), previous: None };
    match compile::compile(&document, context) {
        Ok((snapshot, _)) => Shared::new(snapshot),
        Err(findings) => panic!("{findings}\n{text}"),
    }
}

async fn get(shared: &Arc<Shared>) -> (StatusCode, HeaderMap, String) {
    let peer = Peer {
        address: ([192, 0, 2, 1], 5000).into(),
        forwarded_for: HeaderValue::from_static("192.0.2.1"),
        https: false,
        certificate: None,
        proxied: None,
    };
    let request = Request::get("/overview/7").header("host", "api.example").header("x-private", "1");
    let request = request.body(ClientBody::Empty).expect("a request");
    let response =
        timeout(PATIENCE, pipeline::handle(shared, &peer, None, request)).await.expect("an answer");
    let (parts, body) = response.into_parts();
    let body = body.collect().await.expect("a body").to_bytes();
    (parts.status, parts.headers, String::from_utf8(body.to_vec()).expect("UTF-8"))
}

/// Steps, each on a line of flow style.
fn steps(steps: &[&str]) -> String {
    let steps: Vec<_> = steps.iter().map(|step| format!("    - {{ upstream: bank, {step} }}\n")).collect();
    format!("    steps:\n{}", steps.concat())
}

const ACCOUNT: &str = "name: account, path: '/accounts/{id}', at: account, json: { drop: [internal] }";
const TRANSACTIONS: &str = "name: transactions, path: '/transactions/{id}', optional: true";
const RATES: &str = "name: rates, path: '/rates/{account.currency}?for={id}', after: [account], optional: true, \
                     at: account.exchange, json: { pick: [rates], rename: { rates: to } }";

#[tokio::test]
async fn three_services_give_one_answer() {
    let service = Service::start().await;
    let shared = gateway(&service, &steps(&[RATES, ACCOUNT, TRANSACTIONS]));
    for round in 0..3 {
        let (status, headers, body) = get(&shared).await;
        assert_eq!(status, 200, "{body}");
        assert_eq!(
            body,
            r#"{"account":{"exchange":{"to":{"USD":1.0800,"CHF":0.9300}},"owner":"Ada","currency":"EUR","balance":1234567890123456.78},"transactions":[{"id":"t-1","amount":-12.30},{"id":"t-2","amount":1.0e2}]}"#
        );
        assert_eq!(headers["content-type"], "application/json");
        assert_eq!(headers["content-length"], body.len().to_string());
        assert!(!headers.contains_key("portcullis-partial") && !headers.contains_key("cache-control"));
        let seen = service.seen();
        assert_eq!(seen.len(), 3 * (round + 1));
        assert!(seen.iter().any(|seen| seen.target == "/rates/EUR?for=7"));
        assert!(seen.iter().all(|seen| seen.headers["host"] == "api.example"));
        assert!(seen.iter().all(|seen| seen.headers["x-forwarded-for"] == "192.0.2.1"));
        assert!(seen.iter().all(|seen| !seen.headers.contains_key("x-private")), "a client's headers stay");
    }
    assert_eq!(*service.connections.lock().expect("a lock"), 2, "connections are kept");
}

#[tokio::test]
async fn steps_run_at_the_same_time() {
    let service = Service::start().await;
    // Each is answered only when the other was asked as well.
    let shared =
        gateway(&service, &steps(&["name: a, path: /together, at: a", "name: b, path: /together, at: b"]));
    let (status, _, body) = get(&shared).await;
    assert_eq!((status.as_u16(), body.as_str()), (200, r#"{"a":{},"b":{}}"#));
}

#[tokio::test]
async fn a_partial_answer_says_what_failed() {
    let service = Service::start().await;
    for (step, entry) in [
        ("path: /unavailable", r#""reason":"status","status":503"#),
        ("path: /nothing", r#""reason":"status","status":404"#),
        ("path: /never, timeout: 50ms", r#""reason":"timeout""#),
        ("path: /malformed", r#""reason":"not_json""#),
        ("path: /twice", r#""reason":"not_json""#),
        ("path: /empty", r#""reason":"not_json""#),
        ("path: /list", r#""reason":"not_object""#),
        ("path: /large, bytes: 64", r#""reason":"too_large""#),
        ("path: '/rates/{odd.currency}', after: [odd]", r#""reason":"missing_value""#),
        ("path: '/rates/{odd.empty}', after: [odd]", r#""reason":"missing_value""#),
        ("path: '/rates/{odd.nothing}', after: [odd]", r#""reason":"missing_value""#),
    ] {
        let odd = "name: odd, path: /odd, json: { pick: [empty] }";
        let shared = gateway(&service, &steps(&[odd, &format!("name: part, optional: true, {step}")]));
        let (status, headers, body) = get(&shared).await;
        assert_eq!(status, 200, "{step}: {body}");
        assert_eq!(body, format!(r#"{{"empty":"","_partial":[{{"step":"part",{entry}}}]}}"#), "{step}");
        assert_eq!(headers["portcullis-partial"], "part");
        assert_eq!(headers["cache-control"], "no-store");
    }
    assert!(service.seen().iter().all(|seen| !seen.target.contains("admin")));
}

#[tokio::test]
async fn a_fallback_takes_the_answers_place() {
    let service = Service::start().await;
    let account = "name: account, path: /unavailable, fallback: '{\"currency\":\"EUR\",\"balance\":0.00,\"old\":1}', \
                   json: { drop: [old] }";
    let shared =
        gateway(&service, &format!("    note: missing\n{}", steps(&[account, &RATES.replace("{id}", "x")])));
    let (status, headers, body) = get(&shared).await;
    assert_eq!(status, 200);
    assert_eq!(
        body,
        r#"{"currency":"EUR","balance":0.00,"account":{"exchange":{"to":{"USD":1.0800,"CHF":0.9300}}},"missing":[{"step":"account","reason":"status","status":503,"fallback":true}]}"#
    );
    assert_eq!(headers["portcullis-partial"], "account");
}

#[tokio::test]
async fn what_reads_a_failed_answer_fails_with_it() {
    let service = Service::start().await;
    let account = "name: account, path: /unavailable, optional: true";
    let shared = gateway(&service, &steps(&[RATES, account]));
    let (status, headers, body) = get(&shared).await;
    assert_eq!(status, 200);
    assert_eq!(
        body,
        r#"{"_partial":[{"step":"rates","reason":"dependency"},{"step":"account","reason":"status","status":503}]}"#
    );
    assert_eq!(headers["portcullis-partial"], "rates, account");
    assert_eq!(service.seen().len(), 1);
}

#[tokio::test]
async fn a_required_step_that_fails_ends_the_rest() {
    let mut service = Service::start().await;
    for (step, status, detail) in [
        ("path: /unavailable", 502, "step vital: the service answered 503"),
        ("path: /never, timeout: 50ms", 504, "step vital: the service did not answer in time"),
        ("path: /malformed", 502, "step vital: the service's answer is not JSON"),
        ("path: /deep", 502, "step vital: the service's answer is not JSON"),
    ] {
        let before = *service.given_up.borrow();
        let compose = steps(&["name: slow, path: /never, optional: true", &format!("name: vital, {step}")]);
        let shared = gateway(&service, &format!("    depth: 5\n{compose}"));
        let (answered, headers, body) = get(&shared).await;
        assert_eq!(answered, status, "{step}: {body}");
        assert_eq!(headers["content-type"], "application/problem+json");
        assert!(body.contains(detail), "{step}: {body}");
        // The slow one is given up, and a vital one that is too slow as well.
        let given_up = before + 1 + usize::from(status == 504);
        let ended = service.given_up.wait_for(|count| *count >= given_up);
        timeout(PATIENCE, ended).await.expect("calls that are dropped").expect("a service");
    }
}

#[tokio::test]
async fn all_steps_share_the_deadline() {
    let service = Service::start().await;
    let compose =
        steps(&["name: a, path: '/odd', at: a", "name: b, path: '/never', after: [a], optional: true"]);
    let shared = gateway_in(&service, "200ms", &compose);
    let (status, _, body) = get(&shared).await;
    assert_eq!(status, 200);
    assert!(body.ends_with(r#""_partial":[{"step":"b","reason":"timeout"}]}"#), "{body}");
}

#[tokio::test]
async fn collisions_are_refused_or_decided() {
    let service = Service::start().await;
    let two = steps(&["name: a, path: '/accounts/{id}'", "name: b, path: /odd"]);
    let (status, _, body) = get(&gateway(&service, &two)).await;
    assert_eq!(status, 502);
    assert!(body.contains("collision") && !body.contains("admin"), "{body}");
    for (rule, currency) in [("first", r#""currency":"EUR""#), ("last", r#""currency":"../admin""#)] {
        let (status, _, body) = get(&gateway(&service, &format!("    collision: {rule}\n{two}"))).await;
        assert_eq!(status, 200);
        assert!(body.contains(currency), "{body}");
    }
}

#[tokio::test]
async fn a_service_that_is_not_there_is_told_apart() {
    let service = Service::start().await;
    let gone = steps(&["name: part, path: /, optional: true"]).replace("bank", "gone");
    let (status, _, body) = get(&gateway(&service, &gone)).await;
    assert_eq!(
        (status.as_u16(), body.as_str()),
        (200, r#"{"_partial":[{"step":"part","reason":"connect"}]}"#)
    );
    let named =
        steps(&["name: part, path: '/odd', headers: { x-account: 'no {id}' }"]).replace("bank", "named");
    assert_eq!(get(&gateway(&service, &named)).await.0, 200);
    let seen = service.seen();
    assert_eq!(seen[0].headers["host"], "bank.example");
    assert_eq!(seen[0].headers["x-account"], "no 7");
}
