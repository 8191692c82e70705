//! One process takes over from another, with the real program: no request is lost under load, a WebSocket lives through,
//! and a process that cannot serve leaves the other one where it was.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use socket2::{Domain, Socket, Type};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream, UnixStream},
    time::{sleep, timeout},
};

/// Longer than anything here takes; only a defect lets it pass.
const PATIENCE: Duration = Duration::from_secs(30);
const GET: &[u8] = b"GET /x HTTP/1.1\r\nHost: a.example\r\n\r\n";
const ASKS: &[u8] = b"GET /chat HTTP/1.1\r\nHost: a.example\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
const GRANTS: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

/// The program, and all processes that it became.
struct Stage {
    first: Child,
    processes: Vec<u32>,
    address: SocketAddr,
    admin: SocketAddr,
    directory: tempfile::TempDir,
    _reserved: [Socket; 2],
}

impl Stage {
    async fn set() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let (clients, operators) = (reserve(), reserve());
        let (address, admin) = (local(&clients), local(&operators));
        let service = serve().await;
        let text = format!(
            "listen: ['{address}', 'unix:{}']\nadmin: {admin}\nworkers: 2\naccess_log: 'off'\n\
             drain: {{ unready: 20s, close: 300ms, end: 20s }}\n\
             upstreams: {{ one: {{ endpoints: ['{service}'] }} }}\n\
             routes: [{{ name: all, path: '/{{*rest}}', authenticate: [anonymous], upstream: one, upgrades: [websocket] }}]\n",
            directory.path().join("socket").display(),
        );
        fs::write(directory.path().join("gateway.yaml"), text).unwrap();
        let first = Command::new(env!("CARGO_BIN_EXE_gateway"))
            .args(["run", "--config", "gateway.yaml"])
            .current_dir(directory.path())
            .stderr(fs::File::create(directory.path().join("log")).unwrap())
            .spawn()
            .unwrap();
        let processes = vec![first.id()];
        let stage = Self { first, processes, address, admin, directory, _reserved: [clients, operators] };
        stage.eventually("it serves", async || stage.process().await == Some(stage.processes[0])).await;
        stage
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap()
    }

    /// The process that answers operators.
    async fn process(&self) -> Option<u32> {
        let mut stream = TcpStream::connect(self.admin).await.ok()?;
        stream.write_all(b"GET /v1/status HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await.ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.ok()?;
        let status: serde_json::Value = serde_json::from_str(answer.split_once("\r\n\r\n")?.1).ok()?;
        status["process"].as_u64()?.try_into().ok()
    }

    /// Lets the present process hand over, and waits until the next one answers.
    async fn hand_over(&mut self) {
        let before = *self.processes.last().unwrap();
        kill(before, libc::SIGUSR2);
        self.eventually("another process serves", async || {
            let log = self.log();
            log.matches("another process serves").count() == self.processes.len()
        })
        .await;
        let mut next = None;
        self.eventually("it answers", async || {
            next = self.process().await.filter(|process| *process != before);
            next.is_some()
        })
        .await;
        self.processes.extend(next);
    }

    async fn eventually(&self, what: &str, mut holds: impl AsyncFnMut() -> bool) {
        let begun = Instant::now();
        while !holds().await {
            assert!(begun.elapsed() < PATIENCE, "{what}\n{}", self.log());
            sleep(Duration::from_millis(10)).await;
        }
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        for process in self.processes.iter().filter(|process| is_alive(**process)) {
            kill(*process, libc::SIGKILL);
        }
        let _ = self.first.wait();
    }
}

/// A port of 127.0.0.1 that nobody else gets, and at which the program may listen.
fn reserve() -> Socket {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_reuse_address(true).unwrap();
    socket.set_reuse_port(true).unwrap();
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    socket
}

fn local(socket: &Socket) -> SocketAddr {
    socket.local_addr().unwrap().as_socket().unwrap()
}

fn kill(process: u32, signal: i32) {
    // SAFETY: it takes numbers only. The process is one of the stage's.
    unsafe { libc::kill(process.cast_signed(), signal) };
}

/// Whether a process runs; one that only waits for its parent does not.
fn is_alive(process: u32) -> bool {
    let stat = fs::read_to_string(Path::new("/proc").join(process.to_string()).join("stat"));
    stat.is_ok_and(|stat| !stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('Z')))
}

/// 200 to each request, slowly enough that some are always in flight; WebSockets echo.
async fn serve() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut got = Vec::new();
                while stream.read_buf(&mut got).await.is_ok_and(|read| read > 0) {
                    while let Some(end) = memchr::memmem::find(&got, b"\r\n\r\n") {
                        let head: Vec<u8> = got.drain(..end + 4).collect();
                        if head.starts_with(b"GET /chat") {
                            stream.write_all(GRANTS).await.unwrap();
                            let (mut reads, mut writes) = stream.split();
                            let _ = tokio::io::copy(&mut reads, &mut writes).await;
                            return;
                        }
                        sleep(Duration::from_millis(1)).await;
                        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
                    }
                }
            });
        }
    });
    address
}

/// One answer without a body or with two bytes, or what came before the end of the stream.
async fn answer(stream: &mut (impl AsyncRead + Unpin)) -> String {
    let mut got = Vec::new();
    let whole = |got: &[u8]| {
        got.ends_with(b"\r\n\r\nok") || (got.starts_with(b"HTTP/1.1 101") && got.ends_with(b"\r\n\r\n"))
    };
    let read = async { while !whole(&got) && stream.read_buf(&mut got).await.unwrap_or(0) > 0 {} };
    timeout(PATIENCE, read).await.expect("an answer in time");
    String::from_utf8(got).unwrap()
}

/// Requests without end, on connections that are kept until the gateway closes them; what failed.
async fn load(address: SocketAddr, stop: Arc<AtomicBool>, served: Arc<AtomicU64>) -> Vec<String> {
    let mut failures = Vec::new();
    while !stop.load(Relaxed) {
        let mut stream = match TcpStream::connect(address).await {
            Ok(stream) => stream,
            Err(error) => {
                failures.push(format!("cannot connect: {error}"));
                continue;
            }
        };
        while !stop.load(Relaxed) {
            let sent = stream.write_all(GET).await;
            let got = answer(&mut stream).await;
            if sent.is_err() || !got.starts_with("HTTP/1.1 200") {
                failures.push(format!("{sent:?}: {got:?}"));
                break;
            }
            let done = served.fetch_add(1, Relaxed);
            // A connection in three is new, so that some always wait to be taken.
            if got.contains("connection: close") || done.is_multiple_of(3) {
                break;
            }
        }
    }
    failures
}

#[tokio::test(flavor = "multi_thread")]
async fn three_processes_take_over_under_load_and_lose_nothing() {
    let mut stage = Stage::set().await;
    let mut socket = TcpStream::connect(stage.address).await.unwrap();
    socket.write_all(ASKS).await.unwrap();
    assert!(answer(&mut socket).await.starts_with("HTTP/1.1 101"), "{}", stage.log());
    let (stop, served) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let clients: Vec<_> =
        (0..16).map(|_| tokio::spawn(load(stage.address, stop.clone(), served.clone()))).collect();
    for turn in 1..=3 {
        stage.eventually("each serves many", async || served.load(Relaxed) > turn * 200).await;
        stage.hand_over().await;
    }
    let [first, middle @ .., last] = &stage.processes[..] else { panic!("four processes") };
    stage
        .eventually("those before are gone", async || !middle.iter().any(|process| is_alive(*process)))
        .await;
    stop.store(true, Relaxed);
    for client in clients {
        let failures = client.await.unwrap();
        assert_eq!(failures, [""; 0], "{}", stage.log());
    }
    assert!(is_alive(*first), "it has a WebSocket");
    socket.write_all(b"still there").await.unwrap();
    let mut echo = [0; 11];
    timeout(PATIENCE, socket.read_exact(&mut echo)).await.expect("in time").unwrap();
    assert_eq!(&echo, b"still there");
    drop(socket);
    stage.eventually("it goes with its WebSocket", async || !is_alive(*first)).await;
    assert_eq!(stage.log().matches("no connection was cut").count(), 3);
    let mut local = UnixStream::connect(stage.path("socket")).await.expect("its file is still there");
    local.write_all(GET).await.unwrap();
    assert!(answer(&mut local).await.starts_with("HTTP/1.1 200"));
    // The last one stops like any other; a second signal does not wait for the balancer to know.
    kill(*last, libc::SIGTERM);
    stage.eventually("it stops", async || stage.log().contains("stopping: unready")).await;
    kill(*last, libc::SIGTERM);
    stage.eventually("it is gone", async || !is_alive(*last)).await;
    assert!(!stage.path("socket").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_cannot_serve_does_not_take_over() {
    let stage = Stage::set().await;
    let file = stage.path("gateway.yaml");
    let good = fs::read_to_string(&file).unwrap();
    fs::write(&file, good.replace("upstream: one", "upstream: two")).unwrap();
    kill(stage.processes[0], libc::SIGUSR2);
    stage.eventually("it says why", async || stage.log().contains("this process goes on")).await;
    let log = stage.log();
    assert!(log.contains("no upstream has the name two"), "{log}");
    assert_eq!(stage.process().await, Some(stage.processes[0]));
    let mut stream = TcpStream::connect(stage.address).await.unwrap();
    stream.write_all(GET).await.unwrap();
    assert!(answer(&mut stream).await.starts_with("HTTP/1.1 200"));
}
