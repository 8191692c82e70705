//! What must hold for as long as the gateway runs: exact limits under overload, and new configurations under load
//! without a lost request or growing memory. Short here; `cargo test --test endurance -- --ignored` takes 30 s each.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    net::SocketAddr,
    path::Path,
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use gateway::{
    clock::now_ns,
    compile::{self, Context},
    config,
    run::Running,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    time::{interval, sleep},
};

const GET: &[u8] = b"GET /x HTTP/1.1\r\nHost: a.example\r\n\r\n";
const WARM: &[u8] = b"GET /warm HTTP/1.1\r\nHost: a.example\r\n\r\n";

/// What one client saw.
#[derive(Default)]
struct Seen {
    admitted: Vec<(u64, u64)>,
    refused: u64,
    failures: Vec<String>,
}

/// Spends the burst, one request after another on a warm connection. Times before each was sent and after its answer,
/// ns; the last one is the first that was refused.
async fn spend_burst(address: SocketAddr) -> Vec<(u64, u64)> {
    let (mut stream, mut got, mut times) =
        (TcpStream::connect(address).await.unwrap(), Vec::new(), Vec::new());
    for request in [WARM, WARM].into_iter().chain(std::iter::repeat(GET)) {
        got.clear();
        let sent = now_ns();
        stream.write_all(request).await.unwrap();
        while !is_whole(&got) && stream.read_buf(&mut got).await.unwrap() > 0 {}
        if request == GET {
            times.push((sent, now_ns()));
        }
        match got.get(9..12) {
            Some(b"200") => {}
            Some(b"429") => break,
            _ => panic!("{}", String::from_utf8_lossy(&got)),
        }
    }
    times
}

/// Requests without a pause on one connection. Admitted ones with the times before they were sent and after the
/// answer, ns.
async fn load(address: SocketAddr, stop: Arc<AtomicBool>) -> Seen {
    let (mut seen, mut got) = (Seen::default(), Vec::new());
    let mut stream = TcpStream::connect(address).await.unwrap();
    while !stop.load(Relaxed) {
        let sent = now_ns();
        got.clear();
        let asked = stream.write_all(GET).await;
        while asked.is_ok() && !is_whole(&got) && stream.read_buf(&mut got).await.is_ok_and(|read| read > 0) {
        }
        match got.get(9..12) {
            Some(b"200") if is_whole(&got) => seen.admitted.push((sent, now_ns())),
            Some(b"429") if is_whole(&got) => seen.refused += 1,
            _ => {
                seen.failures.push(format!("{asked:?} {}", String::from_utf8_lossy(&got)));
                return seen;
            }
        }
    }
    seen
}

fn is_whole(got: &[u8]) -> bool {
    let Some(end) = memchr::memmem::find(got, b"\r\n\r\n") else { return false };
    let head = String::from_utf8_lossy(&got[..end]);
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
    got.len() >= end + 4 + length.unwrap_or(0)
}

async fn service() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let answer = axum::Router::new().fallback(|| async { "ok" });
    tokio::spawn(async move { axum::serve(listener, answer).await });
    address
}

fn configuration(settings: &str, route: &str, service: SocketAddr) -> String {
    format!(
        "listen: ['127.0.0.1:0']\naccess_log: off\n{settings}\n\
         upstreams: {{ all: {{ endpoints: ['{service}'] }} }}\n\
         routes: [{{ path: '/{{*rest}}', authenticate: [anonymous], upstream: all, {route} }}]\n"
    )
}

fn clients(address: SocketAddr, stop: &Arc<AtomicBool>) -> Vec<tokio::task::JoinHandle<Seen>> {
    (0..32).map(|_| tokio::spawn(load(address, stop.clone()))).collect()
}

async fn gather(clients: Vec<tokio::task::JoinHandle<Seen>>) -> Seen {
    let mut all = Seen::default();
    for client in clients {
        let seen = client.await.unwrap();
        all.admitted.extend(seen.admitted);
        all.refused += seen.refused;
        all.failures.extend(seen.failures);
    }
    all
}

/// 8 workers, more than 10 times what is admitted: rate × time + burst ± 1. The gateway decides at some moment between
/// a request's sending and its answer, so that times between decisions are known within bounds. A full bucket counts no
/// time: only from the first refusal on is every moment worth `rate`.
async fn limit_is_exact(seconds: u64) {
    const RATE: f64 = 300.0;
    const BURST: usize = 100;
    let rates = "workers: 8\nrates: { one: { rate: 300/s, burst: 100, key: all } }";
    let text = configuration(rates, "name: x, rates: [one]", service().await).replace(
        "routes: [",
        "routes: [{ name: warm, path: /warm, authenticate: [anonymous], upstream: all }, ",
    );
    let document = config::parse(&text).unwrap_or_else(|finding| panic!("{finding}"));
    let context = Context { directory: Path::new("."), previous: None };
    let (snapshot, _) = compile::compile(&document, context).unwrap_or_else(|findings| panic!("{findings}"));
    let running = Running::start(snapshot).await.unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let mut spent = spend_burst(running.addresses[0]).await;
    let clients = clients(running.addresses[0], &stop);
    sleep(Duration::from_secs(seconds)).await;
    stop.store(true, Relaxed);
    let seen = gather(clients).await;
    assert_eq!(seen.failures, [""; 0]);

    let (_, refused_at) = spent.pop().unwrap();
    let (begun, _) = spent[0];
    let last_sent = seen.admitted.iter().map(|(sent, _)| *sent).max().unwrap();
    let last_answered = seen.admitted.iter().map(|(_, answered)| *answered).max().unwrap();
    let budget = |since: u64, until: u64| RATE * (until - since) as f64 / 1e9;
    let admitted = (spent.len() + seen.admitted.len()) as f64;
    let least = spent.len() as f64 + budget(refused_at, last_sent);
    let most = BURST as f64 + budget(begun, last_answered);
    println!("{admitted} admitted of {}, due {least:.2} to {most:.2}", seen.refused as f64 + admitted);
    assert!(spent.len() >= BURST && least - 1.0 <= admitted && admitted <= most + 1.0);
    assert!(seen.refused as f64 >= 9.0 * admitted, "no overload: {} refused", seen.refused);
    tokio::task::spawn_blocking(|| running.end()).await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_is_exact_under_overload() {
    limit_is_exact(3).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes 30 s"]
async fn a_limit_is_exact_under_long_overload() {
    limit_is_exact(30).await;
}

/// The program, ended with the test.
struct Program(Child);

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Program {
    /// Starts it; where it serves, and how many configurations it has taken.
    fn start(file: &Path) -> (Self, SocketAddr, std::sync::mpsc::Receiver<()>) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_gateway"));
        command.args(["run", "--config"]).arg(file).env("RUST_LOG", "gateway=info").stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
        let serving = lines.find_map(|line| line.split_once("serving at ")?.1.trim().parse().ok());
        let (send, taken) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            lines.filter(|line| line.contains("configuration taken")).try_for_each(|_| send.send(()))
        });
        (Self(child), serving.expect("it serves"), taken)
    }

    fn hang_up(&self) {
        // SAFETY: no memory is passed; the child is not waited for before it is dropped, so that the id is its own.
        let sent = unsafe { libc::kill(self.0.id().try_into().unwrap(), libc::SIGHUP) };
        assert_eq!(sent, 0);
    }

    /// Resident memory, KiB.
    fn resident(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.0.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }
}

/// The program, a new configuration every 100 ms.
async fn reloads_are_free(seconds: u64) {
    let (service, directory) = (service().await, tempfile::tempdir().unwrap());
    let file = directory.path().join("gateway.yaml");
    let write = |route: &str| {
        let new = directory.path().join("new");
        fs::write(&new, configuration("workers: 2", &format!("name: {route}"), service)).unwrap();
        fs::rename(&new, &file).unwrap();
    };
    write("start");
    let (program, address, taken) = Program::start(&file);
    let stop = Arc::new(AtomicBool::new(false));
    let clients = clients(address, &stop);
    let (turns, mut ticks, mut resident) = (seconds * 10, interval(Duration::from_millis(100)), Vec::new());
    for turn in 0..turns {
        ticks.tick().await;
        resident.push(program.resident());
        write(["one", "two"][turn as usize % 2]);
        program.hang_up();
    }
    ticks.tick().await;
    resident.push(program.resident());
    stop.store(true, Relaxed);
    let seen = gather(clients).await;
    let taken = taken.try_iter().count() as u64;
    let (first, middle, last) = (resident[0], resident[resident.len() / 2], resident[resident.len() - 1]);
    println!(
        "{} requests, {} failed, {taken} configurations taken of {turns}, resident {first}, {middle}, {last} KiB",
        seen.admitted.len(),
        seen.failures.len()
    );
    assert_eq!((seen.failures, seen.refused), (Vec::new(), 0));
    assert!(seen.admitted.len() > 1000 && taken >= turns * 9 / 10);
    assert!(last * 10 <= middle * 11, "memory grows: {resident:?} KiB");
}

#[tokio::test(flavor = "multi_thread")]
async fn reloads_lose_nothing() {
    reloads_are_free(3).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes 30 s"]
async fn reloads_for_long_lose_nothing_and_keep_no_memory() {
    reloads_are_free(30).await;
}
