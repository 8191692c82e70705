//! Services and their instances, with real sockets: which instance answers, what is repeated, who is left out, what a
//! body's way looks like.

use std::{
    net::SocketAddr,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use gateway::{
    compile::{self, Context},
    config,
    run::Running,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    time::{sleep, timeout},
};

/// Longer than anything here takes; only a defect lets it pass.
const PATIENCE: Duration = Duration::from_secs(20);

/// How an instance treats a connection.
#[derive(Clone, Copy, PartialEq)]
enum Manner {
    /// Answers every request.
    Well,
    /// Answers the first request of a connection, and closes it when the second is there.
    ClosesOnSecond,
    /// Answers 503.
    Unwell,
    /// Reads, and never answers.
    Silent,
}

/// An instance that answers with its own name.
struct Instance {
    address: SocketAddr,
    manner: Arc<Mutex<Manner>>,
    requests: Arc<AtomicU64>,
    connections: Arc<AtomicU64>,
}

impl Instance {
    async fn start(name: &'static str, manner: Manner) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let instance = Self {
            address: listener.local_addr().unwrap(),
            manner: Arc::new(Mutex::new(manner)),
            requests: Arc::default(),
            connections: Arc::default(),
        };
        let (manner, requests, connections) =
            (instance.manner.clone(), instance.requests.clone(), instance.connections.clone());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                connections.fetch_add(1, Relaxed);
                tokio::spawn(converse(stream, name, manner.clone(), requests.clone()));
            }
        });
        instance
    }

    fn requests(&self) -> u64 {
        self.requests.load(Relaxed)
    }

    fn becomes(&self, manner: Manner) {
        *self.manner.lock().unwrap() = manner;
    }
}

async fn converse(mut stream: TcpStream, name: &str, manner: Arc<Mutex<Manner>>, requests: Arc<AtomicU64>) {
    let (mut got, mut served) = (Vec::new(), 0);
    loop {
        let Some((head, body)) = message(&mut stream, &mut got).await else { return };
        let manner = *manner.lock().unwrap();
        if manner == Manner::ClosesOnSecond && served == 1 {
            return;
        }
        served += 1;
        requests.fetch_add(1, Relaxed);
        let status = match manner {
            Manner::Unwell => "503 Service Unavailable",
            Manner::Silent => continue,
            Manner::Well | Manner::ClosesOnSecond => "200 OK",
        };
        let text = match head.starts_with("POST") {
            true => body.len().to_string(),
            false => name.to_owned(),
        };
        let shown = if head.starts_with("HEAD") { "" } else { &text };
        let answer = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{shown}", text.len());
        if stream.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
    }
}

/// One message's head and body, by Content-Length or in chunks; nothing at the end of the stream.
async fn message(stream: &mut TcpStream, got: &mut Vec<u8>) -> Option<(String, Vec<u8>)> {
    let head = upto(stream, got, b"\r\n\r\n").await?;
    let lower = head.to_ascii_lowercase();
    let length = lower.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
    let mut body = Vec::new();
    if lower.contains("transfer-encoding: chunked") {
        loop {
            let size = usize::from_str_radix(upto(stream, got, b"\r\n").await?.trim(), 16).unwrap();
            body.extend(exactly(stream, got, size).await?);
            exactly(stream, got, 2).await?;
            if size == 0 {
                break;
            }
        }
    } else if let Some(length) = length {
        body = exactly(stream, got, length).await?;
    }
    Some((head, body))
}

async fn upto(stream: &mut TcpStream, got: &mut Vec<u8>, end: &[u8]) -> Option<String> {
    loop {
        if let Some(at) = memchr::memmem::find(got, end) {
            let bytes: Vec<u8> = got.drain(..at + end.len()).collect();
            return String::from_utf8(bytes).ok();
        }
        if stream.read_buf(got).await.ok()? == 0 {
            return None;
        }
    }
}

async fn exactly(stream: &mut TcpStream, got: &mut Vec<u8>, count: usize) -> Option<Vec<u8>> {
    while got.len() < count {
        if stream.read_buf(got).await.ok()? == 0 {
            return None;
        }
    }
    Some(got.drain(..count).collect())
}

/// A gateway of one worker in front of instances.
struct Stage(Running);

impl Stage {
    async fn set(instances: &[&Instance], upstream: &str, route: &str) -> Self {
        let endpoints: Vec<_> = instances.iter().map(|one| format!("'{}'", one.address)).collect();
        let text = format!(
            "listen: ['127.0.0.1:0']\nworkers: 1\naccess_log: off\n\
             upstreams: {{ all: {{ endpoints: [{}], {upstream} }} }}\n\
             routes: [{{ name: all, path: '/{{*rest}}', authenticate: [anonymous], upstream: all, {route} }}]\n",
            endpoints.join(", ")
        );
        let document = config::parse(&text).unwrap_or_else(|finding| panic!("{finding}"));
        let context = Context { directory: Path::new("."), previous: None };
        let (snapshot, _) =
            compile::compile(&document, context).unwrap_or_else(|findings| panic!("{findings}"));
        Self(Running::start(snapshot).await.unwrap())
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.0.addresses[0]).await.unwrap()
    }

    /// Status and body of one request.
    async fn ask(&self, method: &str, headers: &str, body: &[u8]) -> (u16, String) {
        let mut stream = self.connect().await;
        let head = format!("{method} /x HTTP/1.1\r\nhost: a\r\n{headers}\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        // The gateway may answer and close before it has read everything.
        let _ = stream.write_all(body).await;
        answered(&mut stream, method).await
    }

    async fn get(&self) -> (u16, String) {
        self.ask("GET", "", b"").await
    }

    async fn end(self) {
        tokio::task::spawn_blocking(|| self.0.end()).await.unwrap().unwrap();
    }
}

async fn answered(stream: &mut TcpStream, method: &str) -> (u16, String) {
    let read = async {
        let mut got = Vec::new();
        match method {
            "HEAD" => upto(stream, &mut got, b"\r\n\r\n").await.map(|head| (head, Vec::new())),
            _ => message(stream, &mut got).await,
        }
    };
    let (head, body) = timeout(PATIENCE, read).await.expect("in time").expect("an answer");
    (head[9..12].parse().unwrap(), String::from_utf8(body).unwrap())
}

async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let begun = Instant::now();
    while !holds().await {
        assert!(begun.elapsed() < PATIENCE, "{what}");
        sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn instances_take_turns_on_kept_connections() {
    let (one, two) = (Instance::start("one", Manner::Well).await, Instance::start("two", Manner::Well).await);
    let stage = Stage::set(&[&one, &two], "", "").await;
    for _ in 0..20 {
        assert_eq!(stage.get().await.0, 200);
    }
    assert_eq!((one.requests(), two.requests()), (10, 10));
    assert_eq!((one.connections.load(Relaxed), two.connections.load(Relaxed)), (1, 1));
    stage.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kept_connection_that_closes_fails_no_read_and_repeats_no_write() {
    let instance = Instance::start("one", Manner::ClosesOnSecond).await;
    let stage = Stage::set(&[&instance], "", "").await;
    for _ in 0..6 {
        assert_eq!(stage.get().await, (200, "one".into()));
    }
    assert_eq!(instance.requests(), 6);
    // A connection is kept now, and breaks under the next request: who may have placed an order is told so.
    let (status, _) = stage.ask("POST", "content-length: 2\r\n", b"hi").await;
    assert_eq!((status, instance.requests()), (502, 6));
    stage.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_that_fails_is_left_out_and_comes_back() {
    let (well, other) =
        (Instance::start("well", Manner::Well).await, Instance::start("other", Manner::Unwell).await);
    let stage = Stage::set(&[&well, &other], "ejection: { failures: 3, duration: 1s }", "").await;
    let mut failed = 0;
    for _ in 0..40 {
        failed += u32::from(stage.get().await.0 == 503);
    }
    assert_eq!((failed, other.requests()), (3, 3));
    other.becomes(Manner::Well);
    eventually("it comes back", async || stage.get().await.1 == "other").await;
    stage.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_instance_costs_no_request() {
    let well = Instance::start("well", Manner::Well).await;
    let dead = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let gone =
        Instance { address: dead.local_addr().unwrap(), ..Instance::start("gone", Manner::Well).await };
    drop(dead);
    let stage = Stage::set(&[&gone, &well], "", "").await;
    for _ in 0..30 {
        assert_eq!(stage.ask("POST", "content-length: 2\r\n", b"hi").await, (200, "2".into()));
    }
    stage.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn health_checks_decide_before_requests_do() {
    let (well, ill) =
        (Instance::start("well", Manner::Well).await, Instance::start("ill", Manner::Unwell).await);
    let health =
        "ejection: { failures: 0 }, health: { path: /h, interval: 20ms, timeout: 1s, rise: 1, fall: 2 }";
    let stage = Stage::set(&[&well, &ill], health, "").await;
    let endpoints = &stage.0.shared.snapshot().upstreams["all"].endpoints;
    let is = |index: usize, health| endpoints[index].health() == health;
    use gateway::upstream::endpoint::Health::{Down, Up};
    eventually("it is found", async || is(0, Up) && is(1, Down)).await;
    for _ in 0..10 {
        assert_eq!(stage.get().await, (200, "well".into()));
    }
    well.becomes(Manner::Unwell);
    eventually("none is well", async || is(0, Down)).await;
    assert_eq!(stage.get().await.0, 503);
    ill.becomes(Manner::Well);
    eventually("it is found again", async || is(1, Up)).await;
    assert_eq!(stage.get().await, (200, "ill".into()));
    stage.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_are_recycled_by_age() {
    let instance = Instance::start("one", Manner::Well).await;
    let stage = Stage::set(&[&instance], "pool: { max_age: 200ms }", "").await;
    assert_eq!(stage.get().await.0, 200);
    eventually("a new connection", async || {
        stage.get().await;
        instance.connections.load(Relaxed) > 2
    })
    .await;
    assert!(instance.connections.load(Relaxed) < instance.requests(), "most requests share one");
    stage.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_are_counted_and_framed() {
    let instance = Instance::start("one", Manner::Well).await;
    let stage = Stage::set(&[&instance], "", "body_bytes: 100KiB").await;
    let large = vec![b'x'; 100 << 10];
    let length = format!("content-length: {}\r\n", large.len());
    assert_eq!(stage.ask("POST", &length, &large).await, (200, large.len().to_string()));
    assert_eq!(stage.ask("POST", "content-length: 102401\r\n", b"").await.0, 413);
    let chunked = "transfer-encoding: chunked\r\n";
    assert_eq!(stage.ask("POST", chunked, b"2\r\nhi\r\n3\r\nyou\r\n0\r\n\r\n").await, (200, "5".into()));
    let mut endless = Vec::new();
    for _ in 0..101 {
        endless.extend_from_slice(b"400\r\n");
        endless.extend_from_slice(&[b'x'; 1024]);
        endless.extend_from_slice(b"\r\n");
    }
    assert_eq!(stage.ask("POST", chunked, &endless).await.0, 413);
    assert_eq!(stage.ask("HEAD", "", b"").await, (200, String::new()));
    assert_eq!(stage.get().await.0, 200, "nothing of it stayed behind");
    stage.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_break_off_have_no_instance_left_out() {
    let instance = Instance::start("one", Manner::Well).await;
    let stage = Stage::set(&[&instance], "ejection: { failures: 1, duration: 60s }", "timeout: 300ms").await;
    for _ in 0..3 {
        let mut stream = stage.connect().await;
        stream.write_all(b"POST /x HTTP/1.1\r\nhost: a\r\ncontent-length: 100\r\n\r\nhalf").await.unwrap();
        drop(stream);
    }
    // One that waits in the middle of its body until its time is over is told so.
    let mut stream = stage.connect().await;
    stream.write_all(b"POST /x HTTP/1.1\r\nhost: a\r\ncontent-length: 100\r\n\r\nhalf").await.unwrap();
    assert_eq!(answered(&mut stream, "POST").await.0, 408);
    let endpoint = stage.0.shared.snapshot().upstreams["all"].endpoints[0].clone();
    eventually("all are over", async || endpoint.in_flight() == 0).await;
    assert_eq!(endpoint.ejections_total(), 0);
    assert_eq!(stage.get().await.0, 200);
    instance.becomes(Manner::Silent);
    assert_eq!(stage.get().await.0, 504);
    assert_eq!(endpoint.ejections_total(), 1, "an instance that is silent is to blame");
    stage.end().await;
}
