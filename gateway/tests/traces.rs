//! Traces with real sockets: what a service is told of its trace, and what a collector of OTLP over HTTP receives.

use std::{
    net::SocketAddr,
    path::Path,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use axum::{Json, Router, extract::State, routing::post};
use gateway::{
    compile::{self, Context},
    config,
    run::Running,
};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    time::{sleep, timeout},
};

/// Longer than anything here takes; only a defect lets it pass.
const PATIENCE: Duration = Duration::from_secs(20);
const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PARENT: &str = "00f067aa0ba902b7";

/// What came to a service, or to a collector.
type Seen<T> = Arc<Mutex<Vec<T>>>;

/// A service that answers 503 and keeps the heads of requests.
async fn service() -> (SocketAddr, Seen<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, heads) = (listener.local_addr().unwrap(), Seen::default());
    let seen = heads.clone();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut got = Vec::new();
            while !got.ends_with(b"\r\n\r\n") && stream.read_buf(&mut got).await.unwrap_or(0) > 0 {}
            seen.lock().unwrap().push(String::from_utf8(got).unwrap());
            let answer =
                b"HTTP/1.1 503 Service Unavailable\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
            let _ = stream.write_all(answer).await;
        }
    });
    (address, heads)
}

/// A collector that takes everything.
async fn collector() -> (SocketAddr, Seen<Value>) {
    async fn take(State(seen): State<Seen<Value>>, Json(document): Json<Value>) -> Json<Value> {
        seen.lock().unwrap().push(document);
        Json(serde_json::json!({}))
    }
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, documents) = (listener.local_addr().unwrap(), Seen::default());
    let router = Router::new().route("/v1/traces", post(take)).with_state(documents.clone());
    tokio::spawn(async move { axum::serve(listener, router).await });
    (address, documents)
}

async fn start(service: SocketAddr, traces: &str) -> Running {
    let text = format!(
        "listen: ['127.0.0.1:0']\nworkers: 1\naccess_log: 'off'\n{traces}\n\
         upstreams: {{ one: {{ endpoints: ['{service}'] }} }}\n\
         routes: [{{ name: all, path: '/{{*rest}}', authenticate: [anonymous], upstream: one }}]\n"
    );
    let document = config::parse(&text).unwrap_or_else(|finding| panic!("{finding}"));
    let context = Context { directory: Path::new("."), previous: None };
    let (snapshot, _) = compile::compile(&document, context).unwrap_or_else(|findings| panic!("{findings}"));
    Running::start(snapshot).await.unwrap()
}

/// Sends a request with `headers`, and gives what the service saw of its trace: its version, trace, span and flags.
async fn traced(running: &Running, heads: &Seen<String>, headers: &str) -> (String, Vec<String>) {
    let mut stream = TcpStream::connect(running.addresses[0]).await.unwrap();
    let request = format!("GET /x?secret HTTP/1.1\r\nhost: a.example\r\nconnection: close\r\n{headers}\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    timeout(PATIENCE, stream.read_to_end(&mut answer)).await.expect("in time").unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 503"));
    let head = heads.lock().unwrap().pop().expect("it came");
    let parent = head.lines().find_map(|line| line.strip_prefix("traceparent: ")).unwrap_or_default();
    let parts = parent.split('-').map(str::to_owned).collect();
    (head, parts)
}

async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < PATIENCE, "{what}");
        sleep(Duration::from_millis(10)).await;
    }
}

async fn end(running: Running) {
    tokio::task::spawn_blocking(|| running.end()).await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_span_stands_between_the_callers_and_the_services() {
    let ((service, heads), (collector, documents)) = (service().await, collector().await);
    let traces = format!("traces: {{ endpoint: 'http://{collector}/v1/traces', sample: 0, service: shop }}");
    let running = start(service, &traces).await;
    // The caller has decided not to record, then nobody has: nothing is exported.
    let unsampled = format!("traceparent: 00-{TRACE}-{PARENT}-00\r\n");
    assert_eq!(traced(&running, &heads, &unsampled).await.1[3], "00");
    let (head, parts) = traced(&running, &heads, "tracestate: a=b\r\n").await;
    assert!(parts.len() == 4 && parts[3] == "00" && !head.contains("tracestate"), "{head}");
    let sampled = format!("traceparent: 00-{TRACE}-{PARENT}-01\r\ntracestate: a=b\r\n");
    let (head, parts) = traced(&running, &heads, &sampled).await;
    assert!(head.contains("tracestate: a=b\r\n"), "{head}");
    assert_eq!((parts[1].as_str(), parts[3].as_str()), (TRACE, "01"));
    assert_ne!(parts[2], PARENT);
    let counts = running.shared.snapshot().tracer.clone().unwrap().counts.clone();
    eventually("it is exported", || counts.exported() == 1).await;
    let documents = documents.lock().unwrap().clone();
    assert_eq!(documents.len(), 1);
    let resource = &documents[0]["resourceSpans"][0];
    assert_eq!(resource["resource"]["attributes"][0]["value"]["stringValue"], "shop");
    let spans = resource["scopeSpans"][0]["spans"].as_array().unwrap();
    assert_eq!(spans.len(), 1);
    let span = &spans[0];
    for (field, expected) in
        [("traceId", TRACE), ("parentSpanId", PARENT), ("spanId", &parts[2]), ("name", "GET all")]
    {
        assert_eq!(span[field], expected, "{span}");
    }
    let time = |field: &str| span[field].as_str().unwrap().parse::<u128>().unwrap();
    assert!(time("startTimeUnixNano") > 0 && time("endTimeUnixNano") > time("startTimeUnixNano"));
    assert_eq!((&span["kind"], &span["status"]["code"]), (&2.into(), &2.into()));
    let attribute = |key: &str| {
        let attributes = span["attributes"].as_array().unwrap();
        attributes.iter().find(|attribute| attribute["key"] == key).map(|attribute| &attribute["value"])
    };
    assert_eq!(attribute("http.response.status_code").unwrap()["intValue"], "503");
    assert_eq!(attribute("url.path").unwrap()["stringValue"], "/x");
    assert_eq!(attribute("portcullis.upstream").unwrap()["stringValue"], service.to_string());
    assert!(!span.to_string().contains("secret"));
    end(running).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_is_gone_costs_spans_and_no_request() {
    let (service, heads) = service().await;
    let gone = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let traces =
        format!("traces: {{ endpoint: 'http://{}/v1/traces', sample: 1 }}", gone.local_addr().unwrap());
    drop(gone);
    let running = start(service, &traces).await;
    assert_eq!(traced(&running, &heads, "").await.1[3], "01");
    let counts = running.shared.snapshot().tracer.clone().unwrap().counts.clone();
    eventually("it is dropped", || counts.dropped() == 1).await;
    assert_eq!(counts.exported(), 0);
    end(running).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_collector_the_callers_context_passes_as_it_came() {
    let (service, heads) = service().await;
    let running = start(service, "").await;
    let (_, parts) = traced(&running, &heads, &format!("traceparent: 00-{TRACE}-{PARENT}-01\r\n")).await;
    assert_eq!(parts, ["00", TRACE, PARENT, "01"]);
    assert_eq!(traced(&running, &heads, "").await.1, [""]);
    end(running).await;
}
