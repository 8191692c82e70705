//! What clients' listeners take, asked by curl, openssl and HAProxy: TLS and clients' certificates, Unix sockets, the
//! PROXY protocol, proxies in front.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    sync::atomic::Ordering::Relaxed,
    time::{Duration, Instant},
};

use gateway::accept::opening::HandshakeFailure;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    process::Command,
    time::{sleep, timeout},
};

#[path = "listeners/stage.rs"]
mod stage;

use stage::{PATIENCE, Stage, certificates, echo, write};

const TLS: &str = "[{address: '127.0.0.1:0', tls: {certificates: [\
    {certificate: a.pem, key: a.key}, {certificate: b.pem, key: b.key}]}}]";

#[tokio::test(flavor = "multi_thread")]
async fn a_name_chooses_its_certificate_and_alpn_the_version() {
    let stage = Stage::set(TLS, "").await;
    for (arguments, version) in
        [("--http2", "HTTP/2 200"), ("--http1.1", "HTTP/1.1 200"), ("--no-alpn", "HTTP/1.1 200")]
    {
        for host in ["a.example", "x.b.example"] {
            let got = stage
                .curl(&format!("{arguments} --resolve {host}:{{port}}:127.0.0.1 https://{host}:{{port}}/x"))
                .await;
            assert!(got.starts_with(version), "{arguments}: {got}");
            assert!(got.contains("x-forwarded-proto: https"), "{got}");
            assert!(got.contains(&format!("x-forwarded-host: {host}:")), "{got}");
        }
    }
    // A name that has no certificate gets the first one, which curl does not take.
    let got = stage.curl("--resolve c.example:{port}:127.0.0.1 https://c.example:{port}/").await;
    assert!(got.contains("does not match") || got.contains("subject name"), "{got}");
    let shown =
        stage.run("openssl", "s_client -connect 127.0.0.1:{port} -servername y.b.example -brief").await;
    assert!(shown.contains("TLSv1.3") && shown.contains("CN = b"), "{shown}");
    let old = stage.run("openssl", "s_client -connect 127.0.0.1:{port} -tls1_1 -brief").await;
    assert!(!old.contains("CONNECTION ESTABLISHED"), "{old}");
    assert_eq!(stage.failed(HandshakeFailure::Incompatible), 1);
    stage.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_and_versions_change_without_a_restart() {
    let only = |file: &str, more: &str| {
        format!(
            "[{{address: '127.0.0.1:0', tls: {{certificates: [{{certificate: {file}.pem, key: {file}.key}}]{more}}}}}]"
        )
    };
    let stage = Stage::set(&only("a", ""), "").await;
    const CONNECT: &str = "s_client -connect 127.0.0.1:{port} -brief";
    assert!(stage.run("openssl", CONNECT).await.contains("CN = a"));
    stage.reload(&only("b", ""), "").unwrap();
    assert!(stage.run("openssl", CONNECT).await.contains("CN = b"));
    let tls12 = "s_client -connect 127.0.0.1:{port} -tls1_2 -brief";
    assert!(stage.run("openssl", tls12).await.contains("TLSv1.2"));
    stage.reload(&only("b", ", min_version: 1.3"), "").unwrap();
    assert!(!stage.run("openssl", tls12).await.contains("CONNECTION ESTABLISHED"));
    // What cannot be used changes nothing, and neither may the address.
    assert!(stage.reload(&only("none", ""), "").is_err());
    assert!(stage.reload(&only("b", "").replace("127.0.0.1:0", "127.0.0.2:0"), "").is_err());
    assert!(stage.run("openssl", CONNECT).await.contains("CN = b"));
    // A session is resumed on another connection, whichever worker takes it.
    let first = "s_client -connect 127.0.0.1:{port} -tls1_3 -sess_out {dir}/session -ign_eof";
    let session = stage.at("session");
    let mut client = Command::new("openssl");
    let arguments = first.replace("{port}", &stage.running.addresses[0].port().to_string());
    let arguments = arguments.replace("{dir}", &stage.directory.path().display().to_string());
    client.args(arguments.split_whitespace()).stdin(std::process::Stdio::piped());
    let mut client =
        client.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null()).spawn().unwrap();
    let begun = Instant::now();
    while !session.exists() {
        assert!(begun.elapsed() < PATIENCE, "a ticket comes");
        sleep(Duration::from_millis(10)).await;
    }
    client.kill().await.unwrap();
    let again =
        stage.run("openssl", "s_client -connect 127.0.0.1:{port} -tls1_3 -sess_in {dir}/session").await;
    assert!(again.contains("Reused, TLSv1.3"), "{again}");
    stage.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_show_certificates() {
    let listen = |client: &str| {
        format!(
            "[{{address: '127.0.0.1:0', tls: {{certificates: [{{certificate: a.pem, key: a.key}}], \
             client_ca: ca.pem, client: {client}}}}}]"
        )
    };
    let stage = Stage::set(&listen("required"), "").await;
    const WITH: &str = "--cert {dir}/client.pem --key {dir}/client.key https://localhost:{port}/with";
    const WITHOUT: &str = "https://localhost:{port}/without";
    assert!(stage.curl(WITH).await.starts_with("HTTP/2 200"));
    assert!(!stage.curl(WITHOUT).await.contains("200"));
    assert_eq!(stage.failed(HandshakeFailure::NoCertificate), 1);
    // Another authority's, which has the same names.
    let other = rcgen::generate_simple_self_signed(vec!["app.clients.example".to_owned()]).unwrap();
    fs::write(stage.at("other.pem"), other.cert.pem()).unwrap();
    fs::write(stage.at("other.key"), other.signing_key.serialize_pem()).unwrap();
    assert!(
        !stage
            .curl("--cert {dir}/other.pem --key {dir}/other.key https://localhost:{port}/")
            .await
            .contains("200")
    );
    assert_eq!(stage.failed(HandshakeFailure::BadCertificate), 1);
    stage.reload(&listen("optional"), "").unwrap();
    assert!(stage.curl(WITHOUT).await.starts_with("HTTP/2 200"));
    let left = stage.end().await;
    let lines = fs::read_to_string(left.path().join("access.log")).unwrap();
    let of = |path: &str| lines.lines().find(|line| line.contains(path)).unwrap_or_default().to_owned();
    assert!(of("/with\"").contains("\"certificate\":\"CN=app\""), "{lines}");
    assert!(
        of("/without\"").contains("\"status\":200") && !of("/without\"").contains("certificate"),
        "{lines}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handshake_that_does_not_end_is_ended() {
    let stage = Stage::set(TLS, "timeouts: { header: 200ms }").await;
    let mut mute = TcpStream::connect(stage.running.addresses[0]).await.unwrap();
    let mut clear = TcpStream::connect(stage.running.addresses[0]).await.unwrap();
    clear.write_all(b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n").await.unwrap();
    for stream in [&mut mute, &mut clear] {
        let mut rest = Vec::new();
        let _ = timeout(PATIENCE, stream.read_to_end(&mut rest)).await.expect("an end in time");
        assert!(!rest.starts_with(b"HTTP"));
    }
    let begun = Instant::now();
    while stage.running.shared.handshakes.count() > 0 {
        assert!(begun.elapsed() < PATIENCE);
        tokio::task::yield_now().await;
    }
    assert_eq!((stage.failed(HandshakeFailure::Timeout), stage.failed(HandshakeFailure::Protocol)), (1, 1));
    stage.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_unix_socket_is_served_and_removed() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("gateway.sock");
    // What a killed process left.
    drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
    let listen = format!("[{{address: 'unix:{}', mode: '0600'}}]", socket.display());
    let stage = Stage::set(&listen, "").await;
    assert_eq!(fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o600);
    for (arguments, version) in [("", "HTTP/1.1 200"), ("--http2-prior-knowledge", "HTTP/2 200")] {
        for _ in 0..4 {
            let got = stage
                .curl(&format!("{arguments} --unix-socket {} http://a.example/x", socket.display()))
                .await;
            assert!(got.starts_with(version) && got.contains("x-forwarded-for: 127.0.0.1"), "{got}");
        }
    }
    stage.end().await;
    assert!(!socket.exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_balancer_says_for_whom_it_connects() {
    let listen = |required: bool| {
        format!(
            "[{{address: '127.0.0.1:0', proxy_protocol: {{from: [127.0.0.0/30], required: {required}}}}}, \
             {{address: '127.0.0.1:0', proxy_protocol: {{from: [127.0.0.0/30]}}, \
             tls: {{certificates: [{{certificate: a.pem, key: a.key}}]}}}}]"
        )
    };
    let stage = Stage::set(&listen(true), "").await;
    const PLAIN: &str = "http://127.0.0.1:{port}/x";
    for (arguments, version) in [("", "HTTP/1.1 200"), ("--http2-prior-knowledge", "HTTP/2 200")] {
        let got = stage.curl(&format!("--haproxy-protocol {arguments} {PLAIN}")).await;
        assert!(got.starts_with(version), "{got}");
    }
    let mut stream = TcpStream::connect(stage.running.addresses[0]).await.unwrap();
    let request = "GET /x HTTP/1.1\r\nHost: a.example\r\nConnection: close\r\n\r\n";
    let bytes = format!("PROXY TCP4 192.0.2.7 198.51.100.1 4711 80\r\n{request}");
    for piece in bytes.as_bytes().chunks(20) {
        stream.write_all(piece).await.unwrap();
        tokio::task::yield_now().await;
    }
    let mut got = String::new();
    timeout(PATIENCE, stream.read_to_string(&mut got)).await.unwrap().unwrap();
    assert!(got.contains("x-forwarded-for: 192.0.2.7\r\n"), "{got}");
    // HAProxy's version 2, in front of TLS that it does not read.
    let through = stage.running.addresses[1].port();
    let (mut balancer, port) = haproxy(stage.directory.path(), through).await;
    let got = stage
        .curl(&format!(
            "--interface 127.0.0.7 --resolve localhost:{port}:127.0.0.1 https://localhost:{port}/x"
        ))
        .await;
    assert!(got.starts_with("HTTP/2 200") && got.contains("x-forwarded-for: 127.0.0.7\r\n"), "{got}");
    balancer.kill().await.unwrap();
    // Whoever must say it and does not is not served; whoever is not asked may not say it.
    let counted = &stage.running.shared.metrics.connections.proxy_header;
    assert!(!stage.curl(PLAIN).await.contains("200"));
    assert_eq!(counted.load(Relaxed), 1);
    assert!(
        stage
            .curl(&format!("--interface 127.0.0.7 {PLAIN}"))
            .await
            .contains("x-forwarded-for: 127.0.0.7\r\n")
    );
    let forged = stage.curl(&format!("--interface 127.0.0.7 --haproxy-protocol {PLAIN}")).await;
    assert!(forged.starts_with("HTTP/1.1 400"), "{forged}");
    stage.reload(&listen(false), "").unwrap();
    assert!(stage.curl(PLAIN).await.starts_with("HTTP/1.1 200"));
    stage.end().await;
}

/// HAProxy in front of a port of this host, and its own port.
async fn haproxy(directory: &Path, port: u16) -> (tokio::process::Child, u16) {
    let file = directory.join("haproxy.cfg");
    let begun = Instant::now();
    loop {
        assert!(begun.elapsed() < PATIENCE, "haproxy listens");
        let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
        let text = format!(
            "defaults\n mode tcp\n timeout connect 5s\n timeout client 20s\n timeout server 20s\n\
             listen front\n bind 127.0.0.1:{free}\n server gateway 127.0.0.1:{port} send-proxy-v2\n"
        );
        fs::write(&file, text).unwrap();
        let mut command = Command::new("haproxy");
        command.args(["-db", "-q", "-f"]).arg(&file).kill_on_drop(true);
        let mut child = command.spawn().expect("haproxy is needed");
        // Somebody else may have taken the port: it ends then.
        while child.try_wait().unwrap().is_none() {
            if TcpStream::connect(("127.0.0.1", free)).await.is_ok() {
                return (child, free);
            }
            assert!(begun.elapsed() < PATIENCE, "haproxy listens");
            sleep(Duration::from_millis(10)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_trusted_proxies_name_clients() {
    const TRUST: &str = "trusted_proxies: [127.0.0.0/30]\n";
    let stage = Stage::set("['127.0.0.1:0']", TRUST).await;
    const SAID: &str = "-H X-Forwarded-For:192.0.2.66,192.0.2.7 -H X-Forwarded-Proto:https -H Forwarded:for=192.0.2.8 http://127.0.0.1:{port}/x";
    let got = stage.curl(SAID).await;
    assert!(got.contains("x-forwarded-for: 192.0.2.66,192.0.2.7, 127.0.0.1\r\n"), "{got}");
    assert!(got.contains("x-forwarded-proto: https\r\n") && !got.contains("\r\nforwarded: "), "{got}");
    let other = stage.curl(&format!("--interface 127.0.0.7 {SAID}")).await;
    assert!(other.contains("x-forwarded-for: 127.0.0.7\r\n"), "{other}");
    assert!(other.contains("x-forwarded-proto: http\r\n") && !other.contains("\r\nforwarded: "), "{other}");
    stage.reload("['127.0.0.1:0']", &format!("{TRUST}forwarded: forwarded")).unwrap();
    let got = stage.curl(SAID).await;
    assert!(got.contains("\r\nforwarded: for=192.0.2.8, for=127.0.0.1;host=\"127.0.0.1:"), "{got}");
    assert!(got.contains("\";proto=http\r\n") && !got.contains("x-forwarded-"), "{got}");
    stage.reload("['127.0.0.1:0']", "forwarded: both").unwrap();
    let got = stage.curl(SAID).await;
    assert!(
        got.contains("x-forwarded-for: 127.0.0.1\r\n") && got.contains("\r\nforwarded: for=127.0.0.1;host"),
        "{got}"
    );
    let left = stage.end().await;
    let lines = fs::read_to_string(left.path().join("access.log")).unwrap();
    // Each worker has its own lines, so their order is not the requests'.
    for client in ["192.0.2.7:0\"", "127.0.0.7:", "192.0.2.8:0\"", "127.0.0.1:"] {
        assert_eq!(lines.matches(&format!("\"client\":\"{client}")).count(), 1, "{client} in {lines}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renewed_certificate_is_noticed() {
    let directory = tempfile::tempdir().unwrap();
    let dir = directory.path();
    certificates(dir);
    let socket = dir.join("gateway.sock").display().to_string();
    let listen = format!(
        "[{{address: 'unix:{socket}', tls: {{certificates: [{{certificate: a.pem, key: a.key}}]}}}}]"
    );
    write(dir, &listen, "", echo().await);
    let mut command = Command::new(env!("CARGO_BIN_EXE_gateway"));
    command.args(["run", "--config"]).arg(dir.join("gateway.yaml")).kill_on_drop(true);
    let mut gateway = command.stderr(std::process::Stdio::null()).spawn().unwrap();
    let subject = async || {
        let mut client = Command::new("openssl");
        client.args(["s_client", "-brief", "-unix", &socket]).stdin(std::process::Stdio::null());
        let said = client.output().await.expect("openssl is needed");
        String::from_utf8_lossy(&[said.stdout, said.stderr].concat()).into_owned()
    };
    let begun = Instant::now();
    while !subject().await.contains("CN = a\n") {
        assert!(begun.elapsed() < PATIENCE, "it serves");
        sleep(Duration::from_millis(20)).await;
    }
    // Key and certificate do not change at once: between the two the one before stays.
    fs::copy(dir.join("client.key"), dir.join("a.key")).unwrap();
    fs::copy(dir.join("client.pem"), dir.join("a.pem")).unwrap();
    while !subject().await.contains("CN = app\n") {
        assert!(begun.elapsed() < PATIENCE, "the new one is shown");
        sleep(Duration::from_millis(20)).await;
    }
    gateway.kill().await.unwrap();
}
