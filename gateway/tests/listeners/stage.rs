//! A gateway with listeners to try, an authority for them, and programs that ask.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use gateway::{accept::opening::HandshakeFailure, reload, run::Running};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    process::Command,
    runtime::Handle,
    time::timeout,
};

/// Longer than anything here takes; only a defect lets it pass.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// A gateway in front of a service that answers with the head that it got.
pub struct Stage {
    pub running: Running,
    pub directory: tempfile::TempDir,
    pub service: SocketAddr,
}

impl Stage {
    /// With these listeners, and other settings.
    pub async fn set(listen: &str, settings: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        certificates(directory.path());
        let service = echo().await;
        write(directory.path(), listen, settings, service);
        let (snapshot, _) = reload::load(&directory.path().join("gateway.yaml"), None).unwrap();
        let running = Running::start(snapshot).await.unwrap();
        Self { running, directory, service }
    }

    pub fn at(&self, file: &str) -> PathBuf {
        self.directory.path().join(file)
    }

    /// `curl` with these arguments; `{port}` is the first listener's, `{dir}` where files are.
    pub async fn curl(&self, arguments: &str) -> String {
        self.run("curl", &format!("-sS -i --max-time 15 --cacert {{dir}}/ca.pem {arguments}")).await
    }

    /// What a program says, on both outputs.
    pub async fn run(&self, program: &str, arguments: &str) -> String {
        let port = self.running.addresses.first().map_or(0, SocketAddr::port).to_string();
        let directory = self.directory.path().display().to_string();
        let arguments = arguments.replace("{port}", &port).replace("{dir}", &directory);
        let mut command = Command::new(program);
        command.args(arguments.split_whitespace()).stdin(std::process::Stdio::null()).kill_on_drop(true);
        let ran = timeout(PATIENCE, command.output()).await.expect("an end in time");
        let ran = ran.unwrap_or_else(|error| panic!("{program} is needed: {error}"));
        String::from_utf8_lossy(&[ran.stdout, ran.stderr].concat()).into_owned()
    }

    /// Takes another configuration.
    pub fn reload(&self, listen: &str, settings: &str) -> Result<(), reload::LoadError> {
        write(self.directory.path(), listen, settings, self.service);
        reload::reload(&self.at("gateway.yaml"), &self.running.shared, &Handle::current())
    }

    pub fn failed(&self, failure: HandshakeFailure) -> u64 {
        self.running.shared.metrics.handshakes.by_failure(failure)
    }

    /// What it leaves behind.
    pub async fn end(self) -> tempfile::TempDir {
        tokio::task::spawn_blocking(|| self.running.end()).await.unwrap().unwrap();
        self.directory
    }
}

pub fn write(directory: &Path, listen: &str, settings: &str, service: SocketAddr) {
    let text = format!(
        "listen: {listen}\nworkers: 2\naccess_log: {}\n{settings}\n\
         upstreams: {{ echo: {{ endpoints: ['{service}'] }} }}\n\
         routes: [{{ name: all, path: '/{{*rest}}', authenticate: [anonymous], upstream: echo }}]\n",
        directory.join("access.log").display()
    );
    let text = text.replace("{dir}", &directory.display().to_string());
    fs::write(directory.join("gateway.yaml"), text).unwrap();
}

/// An authority, and certificates of it for two names and a client.
pub fn certificates(directory: &Path) {
    use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
    let put = |name: &str, text: String| fs::write(directory.join(name), text).unwrap();
    let mut authority = CertificateParams::new(Vec::new()).unwrap();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    authority.distinguished_name.push(DnType::CommonName, "authority");
    let key = KeyPair::generate().unwrap();
    put("ca.pem", authority.self_signed(&key).unwrap().pem());
    let issuer = Issuer::new(authority, key);
    for (file, names, subject) in [
        ("a", &["a.example", "localhost"][..], "a"),
        ("b", &["*.b.example"], "b"),
        ("client", &["app.clients.example"], "app"),
    ] {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, subject);
        let key = KeyPair::generate().unwrap();
        put(&format!("{file}.pem"), params.signed_by(&key, &issuer).unwrap().pem());
        put(&format!("{file}.key"), key.serialize_pem());
    }
}

/// An HTTP service that answers each request with its head, and its body's length.
pub async fn echo() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(converse(stream));
        }
    });
    address
}

async fn converse(mut stream: TcpStream) {
    let mut got = Vec::new();
    while stream.read_buf(&mut got).await.is_ok_and(|read| read > 0) {
        while let Some(end) = memchr::memmem::find(&got, b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&got[..end + 2]).into_owned();
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
            let length: usize = length.map_or(0, |length| length.parse().unwrap());
            while got.len() < end + 4 + length {
                if stream.read_buf(&mut got).await.unwrap_or(0) == 0 {
                    return;
                }
            }
            got.drain(..end + 4 + length);
            let large = head.starts_with("GET /large ");
            let body = if large { "x".repeat(8 << 20) } else { format!("{head}body-bytes: {length}\r\n") };
            let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
            if stream.write_all(answer.as_bytes()).await.is_err() {
                return;
            }
        }
    }
}
