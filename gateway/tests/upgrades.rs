//! WebSockets and other upgrades, with real sockets: what reaches the service, what passes through a tunnel and when,
//! how one ends.

use std::{
    net::SocketAddr,
    path::Path,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use gateway::{
    compile::{self, Context},
    config, drain,
    run::Running,
    screen::Malformed,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    time::{sleep, timeout},
};

/// Longer than anything here takes; only a defect lets it pass.
const PATIENCE: Duration = Duration::from_secs(20);

/// RFC 6455, section 1.3: this key has this answer.
const ASKS: &str = "GET /chat HTTP/1.1\r\nHost: a.example\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\
    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: chat\r\n\r\n";
const GRANTS: &str = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\nSec-WebSocket-Protocol: chat\r\n\r\n";
const PLAIN: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
const GET: &str = "GET /x HTTP/1.1\r\nHost: a.example\r\n\r\n";
const WEBSOCKET: &str = "upgrades: [websocket]";

/// A service with one answer; after a 101 it says `hello`, sends back what comes, and closes when the client does.
struct Service {
    address: SocketAddr,
    heads: Arc<Mutex<Vec<String>>>,
}

impl Service {
    async fn start(answer: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let service = Self { address: listener.local_addr().unwrap(), heads: Arc::default() };
        let heads = service.heads.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(converse(stream, answer, heads.clone()));
            }
        });
        service
    }

    fn heads(&self) -> Vec<String> {
        self.heads.lock().unwrap().clone()
    }
}

async fn converse(mut stream: TcpStream, answer: &str, heads: Arc<Mutex<Vec<String>>>) {
    let mut got = Vec::new();
    while let Some(head) = head(&mut stream, &mut got).await {
        heads.lock().unwrap().push(head);
        stream.write_all(answer.as_bytes()).await.unwrap();
        if answer.starts_with("HTTP/1.1 101") {
            stream.write_all(b"hello").await.unwrap();
            stream.write_all(&got).await.unwrap();
            let (mut reads, mut writes) = stream.split();
            let _ = tokio::io::copy(&mut reads, &mut writes).await;
            return;
        }
    }
}

/// One head in lower case; nothing at the end of the stream.
async fn head(stream: &mut TcpStream, got: &mut Vec<u8>) -> Option<String> {
    loop {
        if let Some(end) = memchr::memmem::find(got, b"\r\n\r\n") {
            let head: Vec<u8> = got.drain(..end + 4).collect();
            return Some(String::from_utf8(head).unwrap().to_ascii_lowercase());
        }
        if stream.read_buf(got).await.ok()? == 0 {
            return None;
        }
    }
}

struct Stage(Running);

impl Stage {
    async fn set(service: &Service, settings: &str, route: &str) -> Self {
        let text = format!(
            "listen: ['127.0.0.1:0']\nworkers: 1\naccess_log: off\n{settings}\n\
             upstreams: {{ one: {{ endpoints: ['{}'] }} }}\n\
             routes: [{{ name: all, path: '/{{*rest}}', authenticate: [anonymous], upstream: one, {route} }}]\n",
            service.address
        );
        let document = config::parse(&text).unwrap_or_else(|finding| panic!("{finding}"));
        let context = Context { directory: Path::new("."), previous: None };
        let (snapshot, _) =
            compile::compile(&document, context).unwrap_or_else(|findings| panic!("{findings}"));
        Self(Running::start(snapshot).await.unwrap())
    }

    /// A connection on which `bytes` were sent.
    async fn send(&self, bytes: impl AsRef<[u8]>) -> Client {
        let mut stream = TcpStream::connect(self.0.addresses[0]).await.unwrap();
        stream.write_all(bytes.as_ref()).await.unwrap();
        Client { stream, got: Vec::new() }
    }

    fn tunnels(&self) -> u32 {
        self.0.shared.snapshot().tunnels.count()
    }

    fn ended_by(&self, reason: &str) -> u64 {
        self.0.shared.snapshot().routes.by_name("all").unwrap().metrics.by_reason(reason)
    }

    fn carried(&self) -> (u64, u64) {
        self.0.shared.snapshot().routes.by_name("all").unwrap().metrics.tunnel_bytes()
    }

    async fn end(self) {
        tokio::task::spawn_blocking(|| self.0.end()).await.unwrap().unwrap();
    }
}

struct Client {
    stream: TcpStream,
    got: Vec<u8>,
}

impl Client {
    async fn head(&mut self) -> String {
        let head = timeout(PATIENCE, head(&mut self.stream, &mut self.got)).await.expect("in time");
        head.expect("an answer")
    }

    async fn exactly(&mut self, count: usize) -> Vec<u8> {
        while self.got.len() < count {
            let read = timeout(PATIENCE, self.stream.read_buf(&mut self.got)).await.expect("in time");
            assert_ne!(read.unwrap(), 0, "more comes");
        }
        self.got.drain(..count).collect()
    }

    async fn rest(mut self) -> String {
        let read = timeout(PATIENCE, self.stream.read_to_end(&mut self.got)).await.expect("in time");
        // A cut connection may be reset.
        let _ = read;
        String::from_utf8(self.got).unwrap()
    }
}

async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < PATIENCE, "{what}");
        sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_websocket_carries_bytes_both_ways_until_both_close() {
    let service = Service::start(GRANTS).await;
    let stage = Stage::set(&service, "", WEBSOCKET).await;
    let mut client = stage.send(ASKS).await;
    let answer = client.head().await;
    for line in [
        "http/1.1 101 ",
        "upgrade: websocket\r\n",
        "connection: upgrade\r\n",
        "sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo=\r\n",
        "sec-websocket-protocol: chat\r\n",
    ] {
        assert!(answer.contains(line), "{line:?} in {answer}");
    }
    assert_eq!(client.exactly(5).await, b"hello");
    assert_eq!((stage.tunnels(), stage.0.shared.connections.count()), (1, 0));
    let bytes: Vec<u8> = (0..300_000u32).map(|at| (at / 7) as u8).collect();
    let (mut reads, mut writes) = client.stream.into_split();
    let sent = bytes.clone();
    let sending = tokio::spawn(async move {
        writes.write_all(&sent).await.unwrap();
        writes.shutdown().await.unwrap();
    });
    let mut got = Vec::new();
    timeout(PATIENCE, reads.read_to_end(&mut got)).await.expect("in time").unwrap();
    assert!(got == bytes, "{} bytes came back", got.len());
    sending.await.unwrap();
    eventually("it is over", || stage.tunnels() == 0).await;
    let heads = service.heads();
    assert_eq!(heads.len(), 1);
    for line in [
        "connection: upgrade\r\n",
        "upgrade: websocket\r\n",
        "sec-websocket-key: dghlihnhbxbszsbub25jzq==\r\n",
    ] {
        assert!(heads[0].contains(line), "{line:?} in {}", heads[0]);
    }
    eventually("its record is closed", || stage.carried() == (300_000, 300_005)).await;
    stage.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_route_without_upgrades_sends_none_on() {
    let service = Service::start(PLAIN).await;
    let stage = Stage::set(&service, "", "").await;
    let mut client = stage.send(ASKS).await;
    assert!(client.head().await.starts_with("http/1.1 200"));
    assert_eq!(client.exactly(2).await, b"ok");
    client.stream.write_all(GET.as_bytes()).await.unwrap();
    assert!(client.head().await.starts_with("http/1.1 200"), "the connection goes on");
    let heads = service.heads();
    assert!(heads.len() == 2 && !heads[0].contains("upgrade"), "{heads:?}");
    stage.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_before_the_answer_pass_after_a_101_only() {
    let service = Service::start(GRANTS).await;
    let stage = Stage::set(&service, "", WEBSOCKET).await;
    let mut client = stage.send([ASKS, GET].concat()).await;
    assert!(client.head().await.starts_with("http/1.1 101"));
    assert_eq!(client.exactly(5 + GET.len()).await, ["hello", GET].concat().as_bytes());
    drop(client);
    stage.end().await;
    for route in [WEBSOCKET, ""] {
        let service = Service::start(PLAIN).await;
        let stage = Stage::set(&service, "", route).await;
        let mut client = stage.send([ASKS, GET].concat()).await;
        assert!(client.head().await.starts_with("http/1.1 200"));
        let rest = client.rest().await;
        assert!(rest.contains("HTTP/1.1 400") && rest.contains(&Malformed::EarlyData.to_string()), "{rest}");
        assert_eq!(service.heads().len(), 1, "the second never reaches it");
        stage.end().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_proves_nothing_is_none() {
    const WRONG_ACCEPT: &str = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
        Sec-WebSocket-Accept: AAAALMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
    const OTHER: &str = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: other\r\nConnection: Upgrade\r\n\r\n";
    for (answer, request) in [(WRONG_ACCEPT, ASKS), (OTHER, ASKS), (GRANTS, GET)] {
        let service = Service::start(answer).await;
        let stage = Stage::set(&service, "", WEBSOCKET).await;
        let mut client = stage.send(request).await;
        assert!(client.head().await.starts_with("http/1.1 502"), "{answer}");
        assert_eq!((stage.tunnels(), service.heads().len()), (0, 1));
        stage.end().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn broken_handshakes_never_reach_the_service() {
    let service = Service::start(GRANTS).await;
    let stage = Stage::set(&service, "", WEBSOCKET).await;
    for (request, status, says) in [
        (ASKS.replace("dGhlIHNhbXBsZSBub25jZQ==", "c2hvcnQ="), "400", "key"),
        (ASKS.replace("Version: 13", "Version: 8"), "426", "sec-websocket-version: 13"),
        (ASKS.replace("GET", "PUT"), "400", "get"),
    ] {
        let mut client = stage.send(&request).await;
        let mut answer = client.head().await;
        let length = answer.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
        answer += &String::from_utf8(client.exactly(length.unwrap()).await).unwrap().to_lowercase();
        assert!(
            answer.contains(&format!("http/1.1 {status}")) && answer.contains(says),
            "{request}: {answer}"
        );
    }
    assert_eq!(service.heads(), [""; 0]);
    stage.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tunnels_are_bounded_and_silent_ones_end() {
    let service = Service::start(GRANTS).await;
    let stage = Stage::set(&service, "limits: { tunnels: 1 }\ntimeouts: { tunnel: 300ms }", WEBSOCKET).await;
    let mut first = stage.send(ASKS).await;
    assert!(first.head().await.starts_with("http/1.1 101"));
    assert!(stage.send(ASKS).await.head().await.starts_with("http/1.1 503"));
    assert_eq!(first.rest().await, "hello");
    eventually("it is over", || stage.ended_by("tunnel_idle") == 1).await;
    assert_eq!((stage.tunnels(), stage.ended_by("tunnels_full")), (0, 1));
    stage.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_protocol_by_its_name() {
    let service = Service::start(
        "HTTP/1.1 101 UPGRADED\r\nContent-Type: x/y\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n",
    )
    .await;
    let stage = Stage::set(&service, "", "upgrades: [tcp], methods: [POST]").await;
    let asks = "POST /exec HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n";
    let mut client = stage.send(asks).await;
    let answer = client.head().await;
    assert!(answer.starts_with("http/1.1 101") && !answer.contains("content-type"), "{answer}");
    client.stream.write_all(b" world").await.unwrap();
    assert_eq!(client.exactly(11).await, b"hello world");
    drop(client);
    stage.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tunnel_lives_through_a_stop_until_its_end() {
    let service = Service::start(GRANTS).await;
    let drain = "drain: { unready: 10ms, close: 50ms, end: 300ms }";
    let stage = Stage::set(&service, drain, WEBSOCKET).await;
    let mut client = stage.send(ASKS).await;
    assert!(client.head().await.starts_with("http/1.1 101"));
    assert_eq!(client.exactly(5).await, b"hello");
    let shared = stage.0.shared.clone();
    let draining = tokio::spawn(async move { drain::drain(&shared, std::future::pending()).await });
    eventually("the stop ends", || stage.0.shared.phase() == gateway::shared::Phase::Ending).await;
    client.stream.write_all(b"still there").await.unwrap();
    assert_eq!(client.exactly(11).await, b"still there");
    assert_eq!(draining.await.unwrap().cut, 1);
    let shared = stage.0.shared.clone();
    stage.end().await;
    assert_eq!(client.rest().await, "");
    let route = shared.snapshot().routes.by_name("all").unwrap();
    assert_eq!((route.metrics.by_reason("tunnel_cut"), shared.open()), (1, 0));
}

#[test]
fn what_cannot_be_let_through_is_said() {
    for (route, rule) in [
        ("upstream: one, upgrades: [h2c]", "h2c"),
        ("upstream: one, upgrades: ['a b']", "a b"),
        ("upstream: one, upgrades: [WebSocket]", "lower case"),
        ("upstream: one, upgrades: [websocket], methods: [POST]", "GET"),
        (
            "compose: { steps: [{ name: a, upstream: one, path: / }] }, methods: [GET], upgrades: [websocket]",
            "composed",
        ),
    ] {
        let text = format!(
            "listen: ['127.0.0.1:0']\nupstreams: {{ one: {{ endpoints: ['127.0.0.1:1'] }} }}\n\
             routes: [{{ name: all, path: /, authenticate: [anonymous], {route} }}]\n"
        );
        let document = config::parse(&text).unwrap_or_else(|finding| panic!("{finding}"));
        let context = Context { directory: Path::new("."), previous: None };
        let findings = compile::compile(&document, context).err().expect(route).to_string();
        assert!(findings.contains("upgrades") && findings.contains(rule), "{findings}");
    }
}
