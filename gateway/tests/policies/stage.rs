//! A gateway in front of services written in Python, asked with curl.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use gateway::{
    compile::{self, Context},
    config,
    metrics::render,
    run::Running,
};

/// Longer than anything here takes; only a defect lets it pass.
const PATIENCE: Duration = Duration::from_secs(20);

/// A service; ends when dropped.
pub struct Origin {
    pub address: SocketAddr,
    child: Child,
}

impl Origin {
    pub fn start(name: &str) -> Self {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/policies/origin.py");
        let mut child = Command::new("python3")
            .args([script, name])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("python3");
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        Self { address: ([127, 0, 0, 1], line.trim().parse().unwrap()).into(), child }
    }

    /// How it answers from now on, such as `status=503&delay=0.5&reset=1`.
    pub fn becomes(&self, manner: &str) {
        self.ask("PUT", &format!("/manner?{manner}"));
    }

    /// Requests that reached it.
    pub fn requests(&self) -> u64 {
        self.ask("GET", "/count").parse().unwrap()
    }

    fn ask(&self, method: &str, target: &str) -> String {
        let mut stream = TcpStream::connect(self.address).unwrap();
        write!(stream, "{method} {target} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer.split_once("\r\n\r\n").unwrap().1.to_owned()
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// An address at which nobody listens.
pub fn nobody() -> SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// A gateway; ends when dropped.
pub struct Stage {
    pub running: Option<Running>,
    _runtime: tokio::runtime::Runtime,
}

/// What curl was told.
#[derive(Debug, PartialEq)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: String,
}

impl Stage {
    /// One service at `endpoints`, with settings of its own and of its route; a name in `endpoints` stands as it is.
    pub fn set(endpoints: &[SocketAddr], upstream: &str, route: &str) -> Self {
        let endpoints: Vec<_> = endpoints.iter().map(|address| format!("'{address}'")).collect();
        Self::written(&format!("endpoints: [{}], {upstream}", endpoints.join(", ")), route, "")
    }

    pub fn written(upstream: &str, route: &str, more: &str) -> Self {
        let document =
            config::parse(&document(upstream, route, more)).unwrap_or_else(|found| panic!("{found}"));
        let (snapshot, _) =
            compile::compile(&document, Context { directory: Path::new("."), previous: None })
                .unwrap_or_else(|findings| panic!("{findings}"));
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let running = runtime.block_on(Running::start(snapshot)).unwrap();
        Self { running: Some(running), _runtime: runtime }
    }

    /// Starts curl with these arguments for the path.
    pub fn curl(&self, arguments: &[&str], path: &str) -> Curl {
        let url = format!("http://{}{path}", self.running().addresses[0]);
        let child = Command::new("curl")
            .args(["-s", "-i", "--max-time", "20"])
            .args(arguments)
            .arg(url)
            .stdout(Stdio::piped())
            .spawn()
            .expect("curl");
        Curl(child)
    }

    pub fn get(&self) -> Answer {
        self.curl(&[], "/x").answer()
    }

    /// The value of a metric, by its whole name with labels.
    pub fn metric(&self, name: &str) -> u64 {
        let text = render(&self.running().shared).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no {name} in\n{text}")).parse().unwrap()
    }

    /// Why a request ended, by the access log's word.
    pub fn failures(&self, reason: &str) -> u64 {
        self.running().shared.snapshot().routes.by_name("all").unwrap().metrics.by_reason(reason)
    }

    pub fn running(&self) -> &Running {
        self.running.as_ref().unwrap()
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if let Some(running) = self.running.take() {
            let _ = running.end();
        }
    }
}

/// A request on its way.
pub struct Curl(Child);

impl Curl {
    pub fn answer(self) -> Answer {
        let output = self.0.wait_with_output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {text:?}"));
        Answer { status: head[9..12].parse().unwrap(), head: head.to_owned(), body: body.to_owned() }
    }
}

fn document(upstream: &str, route: &str, more: &str) -> String {
    format!(
        "listen: ['127.0.0.1:0']\nworkers: 2\naccess_log: \"off\"\n{more}\n\
         upstreams: {{ all: {{ {upstream} }} }}\n\
         routes: [{{ name: all, path: '/{{*rest}}', authenticate: [anonymous], upstream: all, {route} }}]\n"
    )
}

/// What is wrong with a configuration.
pub fn findings(upstream: &str, route: &str) -> String {
    let document = match config::parse(&document(upstream, route, "")) {
        Ok(document) => document,
        Err(finding) => return finding.to_string(),
    };
    match compile::compile(&document, Context { directory: Path::new("."), previous: None }) {
        Ok((_, warnings)) => warnings.to_string(),
        Err(findings) => findings.to_string(),
    }
}

pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < PATIENCE, "{what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}
