//! What is spoken with services: HTTP/2 with nghttpd, TLS and Unix sockets with nginx, connections that go away.

use std::{
    fs,
    net::SocketAddr,
    path::Path,
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use gateway::{reload, run::Running};
use http::Response;
use tokio::{
    net::{TcpListener, TcpStream, UnixStream},
    process::{Child, Command},
    time::{sleep, timeout},
};

const X_SUM: http::HeaderName = http::HeaderName::from_static("x-sum");
const PATIENCE: Duration = Duration::from_secs(20);

/// A gateway in front of one service.
struct Stage {
    running: Running,
    directory: tempfile::TempDir,
}

impl Stage {
    /// `{dir}` is where certificates are.
    async fn set(directory: tempfile::TempDir, upstream: &str, route: &str) -> Self {
        let text = format!(
            "listen: ['127.0.0.1:0']\nworkers: 1\naccess_log: off\nupstreams: {{ one: {{ {upstream} }} }}\n\
             routes: [{{ name: all, path: '/{{*rest}}', authenticate: [anonymous], upstream: one, {route} }}]\n",
        );
        let text = text.replace("{dir}", &directory.path().display().to_string());
        let file = directory.path().join("gateway.yaml");
        fs::write(&file, text).unwrap();
        let (snapshot, _) = reload::load(&file, None).unwrap_or_else(|error| panic!("{error}"));
        let running = Running::start(snapshot).await.unwrap();
        Self { running, directory }
    }

    /// What a program says on both outputs; `{port}` is the gateway's.
    async fn run(&self, program: &str, arguments: &str) -> String {
        let arguments = arguments
            .replace("{port}", &self.running.addresses[0].port().to_string())
            .replace("{dir}", &self.directory.path().display().to_string());
        let mut command = Command::new(program);
        command.args(arguments.split_whitespace()).stdin(Stdio::null()).kill_on_drop(true);
        let ran = timeout(PATIENCE, command.output()).await.expect("an end in time");
        let ran = ran.unwrap_or_else(|error| panic!("{program} is needed: {error}"));
        String::from_utf8_lossy(&[ran.stdout, ran.stderr].concat()).into_owned()
    }

    async fn curl(&self, arguments: &str) -> String {
        self.run("curl", &format!("-sS -i --max-time 15 {arguments}")).await
    }

    async fn end(self) {
        tokio::task::spawn_blocking(|| self.running.end()).await.unwrap().unwrap();
    }
}

/// An authority, a service's certificate for `service.example`, and a client's.
fn certificates(directory: &Path) {
    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
    let put = |name: &str, text: String| fs::write(directory.join(name), text).unwrap();
    let mut authority = CertificateParams::new(Vec::new()).unwrap();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    // With another name than the certificates, or it would be taken for their own signature.
    authority.distinguished_name.push(rcgen::DnType::CommonName, "authority");
    let key = KeyPair::generate().unwrap();
    put("ca.pem", authority.self_signed(&key).unwrap().pem());
    let issuer = Issuer::new(authority, key);
    for (file, name) in [("service", "service.example"), ("client", "client.example")] {
        let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        let key = KeyPair::generate().unwrap();
        put(&format!("{file}.pem"), params.signed_by(&key, &issuer).unwrap().pem());
        put(&format!("{file}.key"), key.serialize_pem());
    }
}

fn directory() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    certificates(directory.path());
    fs::write(directory.path().join("file"), "what it has").unwrap();
    // nginx drops its privileges in its workers.
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(directory.path(), mode).unwrap();
    directory
}

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Starts a program and waits until it listens.
async fn start(program: &str, arguments: &str, port: u16) -> Child {
    let child = Command::new(program)
        .args(arguments.split_whitespace())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap_or_else(|error| panic!("{program} is needed: {error}"));
    let begun = Instant::now();
    while TcpStream::connect(("127.0.0.1", port)).await.is_err() {
        assert!(begun.elapsed() < PATIENCE, "{program} listens");
        sleep(Duration::from_millis(10)).await;
    }
    child
}

#[tokio::test(flavor = "multi_thread")]
async fn http2_with_prior_knowledge() {
    let (directory, port) = (directory(), free_port());
    let documents = directory.path().display().to_string();
    let arguments = format!("--no-tls -m 2 --echo-upload --trailer=x-sum:42 -d {documents} {port}");
    let _service = start("nghttpd", &arguments, port).await;
    let upstream =
        format!("endpoints: ['127.0.0.1:{port}'], protocol: http2, pool: {{ connections_max: 3 }}");
    let stage = Stage::set(directory, &upstream, "body_bytes: 10MiB").await;
    let got = stage.curl("http://127.0.0.1:{port}/file").await;
    assert!(got.starts_with("HTTP/1.1 200") && got.ends_with("what it has"), "{got}");
    assert!(stage.curl("-I http://127.0.0.1:{port}/file").await.contains("content-length: 11"));
    assert!(stage.curl("http://127.0.0.1:{port}/none").await.starts_with("HTTP/1.1 404"));
    // Both bodies flow, and many times what the windows hold.
    let large = vec![b'x'; 3 << 20];
    fs::write(stage.directory.path().join("large"), &large).unwrap();
    let got = stage.curl("--data-binary @{dir}/large -o {dir}/back http://127.0.0.1:{port}/echo").await;
    assert!(fs::read(stage.directory.path().join("back")).unwrap().ends_with(&large), "{got}");
    // Twenty at a time over three connections of two: none is refused, none is lost.
    let got = stage.run("h2load", "-n 300 -c 1 -m 20 http://127.0.0.1:{port}/file").await;
    assert!(got.contains("300 2xx"), "{got}");
    // Trailers come through where the client speaks HTTP/2.
    let got = stage.run("nghttp", "-v http://127.0.0.1:{port}/file").await;
    assert!(got.contains("x-sum: 42"), "{got}");
    stage.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn http2_over_tls() {
    let (directory, port) = (directory(), free_port());
    let files = directory.path().display().to_string();
    let arguments = format!("-d {files} {port} {files}/service.key {files}/service.pem");
    let _service = start("nghttpd", &arguments, port).await;
    let upstream = format!(
        "endpoints: ['127.0.0.1:{port}'], protocol: http2, host: service.example, tls: {{ ca: ca.pem }}, \
         health: {{ path: /file, interval: 20ms }}"
    );
    let stage = Stage::set(directory, &upstream, "").await;
    let got = stage.curl("http://127.0.0.1:{port}/file").await;
    assert!(got.starts_with("HTTP/1.1 200") && got.ends_with("what it has"), "{got}");
    let endpoint = stage.running.shared.snapshot().upstreams["one"].endpoints[0].clone();
    let begun = Instant::now();
    while endpoint.health() != gateway::upstream::endpoint::Health::Up {
        assert!(begun.elapsed() < PATIENCE, "health checks speak HTTP/2 over TLS");
        sleep(Duration::from_millis(10)).await;
    }
    stage.end().await;
}

/// nginx that serves a file over TLS, over TLS to clients that show a certificate, and at a Unix socket.
async fn nginx(directory: &Path) -> (Child, [u16; 2]) {
    let ports = [free_port(), free_port()];
    let dir = directory.display();
    let configuration = format!(
        "daemon off; master_process off; pid {dir}/pid; error_log {dir}/error.log; events {{}}\nhttp {{\naccess_log off;\n\
         client_body_temp_path {dir}/t1; proxy_temp_path {dir}/t2; fastcgi_temp_path {dir}/t3;\n\
         uwsgi_temp_path {dir}/t4; scgi_temp_path {dir}/t5;\n\
         ssl_certificate {dir}/service.pem; ssl_certificate_key {dir}/service.key;\n\
         add_header x-name '$ssl_server_name'; add_header x-resumed '$ssl_session_reused';\n\
         server {{ listen 127.0.0.1:{} ssl; root {dir}; }}\n\
         server {{ listen 127.0.0.1:{} ssl; root {dir}; ssl_client_certificate {dir}/ca.pem;\n\
         ssl_verify_client on; }}\n\
         server {{ listen unix:{dir}/socket; root {dir}; }}\n}}\n",
        ports[0], ports[1]
    );
    fs::write(directory.join("nginx.conf"), configuration).unwrap();
    let child = start("nginx", &format!("-c {dir}/nginx.conf"), ports[1]).await;
    (child, ports)
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_asks_for_the_name_and_resumes() {
    let directory = directory();
    let (_service, [port, _]) = nginx(directory.path()).await;
    // Each request on a connection of its own.
    let upstream = format!(
        "endpoints: ['127.0.0.1:{port}'], pool: {{ idle_max: 0 }}, \
         tls: {{ ca: ca.pem, server_name: service.example }}"
    );
    let stage = Stage::set(directory, &upstream, "").await;
    let first = stage.curl("http://127.0.0.1:{port}/file").await;
    assert!(first.starts_with("HTTP/1.1 200") && first.contains("x-name: service.example"), "{first}");
    let second = stage.curl("http://127.0.0.1:{port}/file").await;
    assert!(second.contains("x-resumed: r"), "{second}");
    stage.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_is_not_the_one_gets_no_request() {
    for (tls, status) in [
        ("{ ca: ca.pem, server_name: other.example }", 502),
        ("{ server_name: service.example }", 502),
        ("{ verify: false }", 200),
    ] {
        let directory = directory();
        let (_service, [port, _]) = nginx(directory.path()).await;
        let stage = Stage::set(directory, &format!("endpoints: ['127.0.0.1:{port}'], tls: {tls}"), "").await;
        let got = stage.curl("http://127.0.0.1:{port}/file").await;
        assert!(got.starts_with(&format!("HTTP/1.1 {status}")), "{tls}: {got}");
        assert_eq!(got.contains("urn:portcullis:problem:tls"), status == 502, "{got}");
        stage.end().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_is_shown_to_services_that_ask() {
    for (own, status) in [("", 400), (", certificate: client.pem, key: client.key", 200)] {
        let directory = directory();
        let (_service, [_, port]) = nginx(directory.path()).await;
        let upstream = format!(
            "endpoints: ['127.0.0.1:{port}'], tls: {{ ca: ca.pem, server_name: service.example{own} }}"
        );
        let stage = Stage::set(directory, &upstream, "").await;
        let got = stage.curl("http://127.0.0.1:{port}/file").await;
        assert!(got.starts_with(&format!("HTTP/1.1 {status}")), "{got}");
        stage.end().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn unix_sockets() {
    let directory = directory();
    let (_service, _) = nginx(directory.path()).await;
    let socket = directory.path().join("socket");
    assert!(UnixStream::connect(&socket).await.is_ok());
    let upstream = format!("endpoints: ['unix:{}']", socket.display());
    let stage = Stage::set(directory, &upstream, "").await;
    for _ in 0..3 {
        let got = stage.curl("http://127.0.0.1:{port}/file").await;
        assert!(got.starts_with("HTTP/1.1 200") && got.ends_with("what it has"), "{got}");
    }
    stage.end().await;
}

/// An HTTP/2 service whose connections each do what their number says.
async fn refuses_on(treat: fn(usize) -> Treatment) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let connections = Arc::new(AtomicUsize::new(0));
    let count = connections.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let treatment = treat(count.fetch_add(1, Relaxed));
            tokio::spawn(treated(stream, treatment));
        }
    });
    (address, connections)
}

#[derive(Clone, Copy)]
enum Treatment {
    Answers,
    /// RST_STREAM with REFUSED_STREAM.
    Refuses,
    /// Answers one request, and says GOAWAY with it.
    GoesAway,
}

async fn treated(stream: TcpStream, treatment: Treatment) {
    let mut connection = h2::server::handshake(stream).await.unwrap();
    while let Some(Ok((request, mut respond))) = connection.accept().await {
        if matches!(treatment, Treatment::Refuses) {
            respond.send_reset(h2::Reason::REFUSED_STREAM);
            continue;
        }
        if matches!(treatment, Treatment::GoesAway) {
            connection.graceful_shutdown();
        }
        tokio::spawn(async move {
            let mut body = request.into_body();
            let mut bytes = 0;
            while let Some(Ok(data)) = body.data().await {
                bytes += data.len();
                let _ = body.flow_control().release_capacity(data.len());
            }
            let mut stream = respond.send_response(Response::new(()), false).unwrap();
            stream.send_data(Bytes::from(bytes.to_string()), false).unwrap();
            stream.send_trailers(http::HeaderMap::from_iter([(X_SUM, "7".parse().unwrap())])).unwrap();
        });
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_refused_is_sent_again_with_its_body() {
    let refuses = |number| if number == 0 { Treatment::Refuses } else { Treatment::Answers };
    let (address, connections) = refuses_on(refuses).await;
    let upstream = format!("endpoints: ['{address}'], protocol: http2, pool: {{ streams_max: 1 }}");
    let stage = Stage::set(directory(), &upstream, "").await;
    let got = stage.curl("-d hello http://127.0.0.1:{port}/order").await;
    assert!(got.starts_with("HTTP/1.1 200") && got.ends_with('5'), "{got}");
    assert_eq!(connections.load(Relaxed), 2);
    stage.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_go_away_lose_no_request() {
    let (address, connections) = refuses_on(|_| Treatment::GoesAway).await;
    let stage = Stage::set(directory(), &format!("endpoints: ['{address}'], protocol: http2"), "").await;
    let got = stage.run("h2load", "-n 60 -c 2 -m 1 -d {dir}/file http://127.0.0.1:{port}/order").await;
    assert!(got.contains("60 2xx"), "{got}");
    assert!(connections.load(Relaxed) > 1);
    stage.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn trailers_that_a_client_cannot_take_do_not_keep_its_answer_from_ending() {
    let (address, _) = refuses_on(|_| Treatment::Answers).await;
    let stage = Stage::set(directory(), &format!("endpoints: ['{address}'], protocol: http2"), "").await;
    let got = stage.curl("-d hello http://127.0.0.1:{port}/a http://127.0.0.1:{port}/b").await;
    assert!(got.contains("chunked") && got.matches("200 OK").count() == 2 && got.ends_with('5'), "{got}");
    let got = stage.curl("--http2-prior-knowledge -d hello http://127.0.0.1:{port}/a").await;
    assert!(got.contains("x-sum: 7"), "{got}");
    stage.end().await;
}
