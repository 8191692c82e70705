//! The process around the pipeline, with real sockets: connections and their limits, malformed requests, a new
//! configuration and a stop under load.

use std::{
    fs,
    net::SocketAddr,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use gateway::{drain, reload, run::Running, screen::Malformed};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    runtime::Handle,
    time::timeout,
};

#[allow(dead_code)]
#[path = "../src/screen/table.rs"]
mod table;

const PATIENCE: Duration = Duration::from_secs(20);
const GET: &[u8] = b"GET /x HTTP/1.1\r\nHost: a.example\r\n\r\n";

/// A gateway in front of a service that answers everything.
struct Stage {
    running: Running,
    served: Arc<AtomicU64>,
    file: PathBuf,
    service: SocketAddr,
    _directory: tempfile::TempDir,
}

impl Stage {
    async fn set(settings: &str) -> Self {
        let served = Arc::new(AtomicU64::new(0));
        let service = serve(served.clone()).await;
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("gateway.yaml");
        fs::write(&file, configuration(settings, service, "one")).unwrap();
        let (snapshot, _) = reload::load(&file, None).unwrap();
        let running = Running::start(snapshot).await.unwrap();
        Self { running, served, file, service, _directory: directory }
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.running.addresses[0]).await.unwrap()
    }

    async fn end(self) {
        tokio::task::spawn_blocking(|| self.running.end()).await.unwrap().unwrap();
    }
}

fn configuration(settings: &str, service: SocketAddr, route: &str) -> String {
    format!(
        "listen: ['127.0.0.1:0']\nworkers: 2\naccess_log: off\n{settings}\n\
         upstreams: {{ echo: {{ endpoints: ['{service}'] }} }}\n\
         routes: [{{ name: {route}, path: '/{{*rest}}', authenticate: [anonymous], upstream: echo }}]\n"
    )
}

/// An HTTP service: 200 to each head, with two bytes.
async fn serve(served: Arc<AtomicU64>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let served = served.clone();
            tokio::spawn(async move {
                let mut got = Vec::new();
                while stream.read_buf(&mut got).await.is_ok_and(|read| read > 0) {
                    while let Some(end) = memchr::memmem::find(&got, b"\r\n\r\n") {
                        got.drain(..end + 4);
                        served.fetch_add(1, Relaxed);
                        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
                    }
                }
            });
        }
    });
    address
}

/// One answer, or what came before the end of the stream.
async fn answer(stream: &mut TcpStream) -> String {
    let mut got = Vec::new();
    let read = async {
        loop {
            let text = String::from_utf8_lossy(&got).into_owned();
            if let Some((head, body)) = text.split_once("\r\n\r\n") {
                let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
                if length
                    .and_then(|length| length.parse().ok())
                    .is_none_or(|length: usize| body.len() >= length)
                {
                    return text;
                }
            }
            if stream.read_buf(&mut got).await.unwrap_or(0) == 0 {
                return text;
            }
        }
    };
    timeout(PATIENCE, read).await.expect("an answer in time")
}

async fn ended(stream: &mut TcpStream) -> bool {
    let mut rest = Vec::new();
    timeout(PATIENCE, stream.read_to_end(&mut rest)).await.is_ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_serves_many_requests() {
    let stage = Stage::set("").await;
    let mut stream = stage.connect().await;
    for _ in 0..50 {
        stream.write_all(GET).await.unwrap();
        assert!(answer(&mut stream).await.starts_with("HTTP/1.1 200"));
    }
    assert_eq!(stage.served.load(Relaxed), 50);
    assert_eq!(stage.running.shared.metrics.connections.accepted.load(Relaxed), 1);
    stage.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn malformed_requests_are_answered_and_never_passed_on() {
    let stage = Stage::set("").await;
    // HTTP/2's first line is the screen's to refuse where HTTP/2 is not served.
    let refused: Vec<_> = table::REFUSED.iter().filter(|(bytes, _)| !bytes.starts_with(b"PRI ")).collect();
    for (bytes, malformed) in &refused {
        let mut stream = stage.connect().await;
        stream.write_all(bytes).await.unwrap();
        let got = answer(&mut stream).await;
        let shown = String::from_utf8_lossy(bytes);
        assert!(got.starts_with("HTTP/1.1 400") && got.contains("connection: close"), "{shown:?}: {got}");
        assert!(got.contains(&malformed.to_string()), "{shown:?}: {got}");
        assert!(ended(&mut stream).await);
    }
    assert_eq!(stage.served.load(Relaxed), 0);
    let counted = stage.running.shared.metrics.unrouted.by_reason("malformed");
    assert_eq!(counted, refused.len() as u64);
    stage.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_beyond_the_limit_are_told_so() {
    let stage = Stage::set("limits: { connections: 2 }").await;
    let mut held = [stage.connect().await, stage.connect().await];
    for stream in &mut held {
        stream.write_all(GET).await.unwrap();
        assert!(answer(stream).await.starts_with("HTTP/1.1 200"));
    }
    let mut third = stage.connect().await;
    assert!(answer(&mut third).await.starts_with("HTTP/1.1 503"));
    assert_eq!(stage.running.shared.connections.refused(), 1);
    drop(held);
    let begun = Instant::now();
    loop {
        let mut stream = stage.connect().await;
        let _ = stream.write_all(GET).await;
        if answer(&mut stream).await.starts_with("HTTP/1.1 200") {
            break;
        }
        assert!(begun.elapsed() < PATIENCE, "a place is free again");
    }
    stage.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_too_slow_is_refused_and_who_is_idle_is_closed() {
    let stage = Stage::set("timeouts: { header: 200ms, keep_alive: 300ms }").await;
    let (mut slow, mut mute, mut idle) =
        (stage.connect().await, stage.connect().await, stage.connect().await);
    slow.write_all(b"GET / HTTP/1.1\r\nHost:").await.unwrap();
    idle.write_all(GET).await.unwrap();
    assert!(answer(&mut idle).await.starts_with("HTTP/1.1 200"));
    let got = answer(&mut slow).await;
    assert!(got.contains(&Malformed::HeadTooSlow.to_string()), "{got}");
    assert!(ended(&mut slow).await && ended(&mut mute).await && ended(&mut idle).await);
    let counted = &stage.running.shared.metrics.connections;
    assert_eq!((counted.slow_head.load(Relaxed), counted.idle.load(Relaxed)), (1, 1));
    stage.end().await;
}

/// Requests without end on connections that are kept; a connection that says it closes is replaced. Failures.
async fn load(address: SocketAddr, stop: Arc<AtomicBool>) -> (u64, Vec<String>) {
    let (mut done, mut failures) = (0, Vec::new());
    while !stop.load(Relaxed) {
        let Ok(mut stream) = TcpStream::connect(address).await else { break };
        while !stop.load(Relaxed) {
            if stream.write_all(GET).await.is_err() {
                failures.push("cannot send".into());
                break;
            }
            let got = answer(&mut stream).await;
            if !got.starts_with("HTTP/1.1 200") {
                failures.push(got);
                break;
            }
            done += 1;
            if got.contains("connection: close") {
                break;
            }
        }
    }
    (done, failures)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_loses_nothing_and_a_wrong_file_changes_nothing() {
    let stage = Stage::set("").await;
    let stop = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> =
        (0..8).map(|_| tokio::spawn(load(stage.running.addresses[0], stop.clone()))).collect();
    let shared = &stage.running.shared;
    let mut ticks = tokio::time::interval(Duration::from_millis(100));
    for turn in 0..30 {
        ticks.tick().await;
        let route = ["one", "two"][turn % 2];
        fs::write(&stage.file, configuration("", stage.service, route)).unwrap();
        reload::reload(&stage.file, shared, &Handle::current()).unwrap();
        assert!(shared.snapshot().routes.by_name(route).is_some());
    }
    let generation = shared.snapshot().generation;
    for wrong in ["nonsense: 1", "workers: 7", "limits: { connections: 5 }"] {
        fs::write(&stage.file, configuration("", stage.service, "one").replace("workers: 2", wrong)).unwrap();
        assert!(reload::reload(&stage.file, shared, &Handle::current()).is_err(), "{wrong}");
    }
    stop.store(true, Relaxed);
    let mut done = 0;
    for client in clients {
        let (requests, failures) = client.await.unwrap();
        assert_eq!(failures, [""; 0]);
        done += requests;
    }
    assert!(done > 100, "{done} requests");
    assert_eq!((generation, shared.snapshot().generation), (31, 31));
    let config = &shared.metrics.config;
    assert_eq!((config.reloads.load(Relaxed), config.failures.load(Relaxed)), (30, 3));
    assert!(config.last_failed.load(Relaxed));
    stage.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_under_load_loses_nothing() {
    let stage = Stage::set("drain: { unready: 300ms, close: 1s, end: 5s }").await;
    let stop = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> =
        (0..8).map(|_| tokio::spawn(load(stage.running.addresses[0], stop.clone()))).collect();
    let mut idle = stage.connect().await;
    idle.write_all(GET).await.unwrap();
    assert!(answer(&mut idle).await.starts_with("HTTP/1.1 200"));
    let shared = stage.running.shared.clone();
    let draining = tokio::spawn(async move { drain::drain(&shared, std::future::pending()).await });
    let begun = Instant::now();
    let mut health = stage.connect().await;
    loop {
        health.write_all(b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
        if answer(&mut health).await.starts_with("HTTP/1.1 503") {
            break;
        }
        assert!(begun.elapsed() < PATIENCE, "the health path says no");
    }
    // The balancer has understood: clients finish what they do and come no more.
    while stage.running.shared.phase() < gateway::shared::Phase::Closing {
        tokio::task::yield_now().await;
        assert!(begun.elapsed() < PATIENCE);
    }
    stop.store(true, Relaxed);
    for client in clients {
        let (requests, failures) = client.await.unwrap();
        assert!(requests > 0 && failures.is_empty(), "{requests} requests, {failures:?}");
    }
    // A connection that rests may still bring a request while answers close theirs.
    idle.write_all(GET).await.unwrap();
    let last = answer(&mut idle).await;
    assert!(last.starts_with("HTTP/1.1 200") && last.contains("connection: close"), "{last}");
    let drained = timeout(PATIENCE, draining).await.unwrap().unwrap();
    assert_eq!((drained.cut, drained.hurried), (0, false));
    stage.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_ends_at_once_and_says_what_it_cut() {
    let stage = Stage::set("").await;
    let mut stream = stage.connect().await;
    stream.write_all(GET).await.unwrap();
    assert!(answer(&mut stream).await.starts_with("HTTP/1.1 200"));
    let drained =
        timeout(PATIENCE, drain::drain(&stage.running.shared, std::future::ready(()))).await.unwrap();
    assert_eq!((drained.cut, drained.hurried), (1, true));
    stage.end().await;
    assert!(ended(&mut stream).await);
}
