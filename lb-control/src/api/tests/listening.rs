//! The sockets: who may open them, what is replaced, and tokens over TCP.

use std::{
    fs,
    os::unix::{fs::PermissionsExt, net::UnixListener},
    path::Path,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UnixStream},
    sync::oneshot,
};

use super::*;

fn state() -> AppState {
    AppState {
        desired: Arc::new(DesiredState::in_memory()),
        observer: Arc::new(Eyes::default()),
        engine: Arc::new(Rehearsed),
        samples: Samples::channel().0,
    }
}

async fn ask(
    mut stream: impl tokio::io::AsyncRead + AsyncWriteExt + Unpin,
    path: &str,
    token: &str,
) -> String {
    let head = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{token}\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer.lines().next().unwrap_or_default().to_owned()
}

#[tokio::test]
async fn the_socket_is_private_and_a_dead_one_is_replaced() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("run/control.sock");
    fs::create_dir(path.parent().unwrap()).unwrap();
    drop(UnixListener::bind(&path).unwrap());
    let listeners = Listeners::bind(&path, None).await.unwrap();
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "nothing else is left");

    let refused = Listeners::bind(&path, None).await.err().unwrap();
    assert!(refused.to_string().contains("another process answers"), "{refused}");

    let (stop, stopped) = oneshot::channel::<()>();
    let server = tokio::spawn(serve(state(), listeners, async { drop(stopped.await) }));
    let stream = UnixStream::connect(&path).await.unwrap();
    assert_eq!(ask(stream, "/v1/status", "").await, "HTTP/1.1 200 OK");
    stop.send(()).unwrap();
    server.await.unwrap();
    assert!(!path.exists());
}

#[tokio::test]
async fn a_file_that_is_no_socket_stays() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("control.sock");
    fs::write(&path, "mine").unwrap();
    assert!(matches!(Listeners::bind(&path, None).await, Err(ListenError::NoSocket(_))));
    assert_eq!(fs::read(&path).unwrap(), b"mine");
}

fn token_file(directory: &Path, mode: u32) -> std::path::PathBuf {
    let path = directory.join("tokens");
    fs::write(&path, "correct-horse-battery\n").unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    path
}

#[tokio::test]
async fn tcp_asks_for_a_token() {
    let directory = tempfile::tempdir().unwrap();
    let token_file = token_file(directory.path(), 0o600);
    let tcp = TcpConfig { address: "127.0.0.1:0".parse().unwrap(), token_file };
    let listeners = Listeners::bind(&directory.path().join("s"), Some(&tcp)).await.unwrap();
    let address = listeners.tcp_address().unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let server = tokio::spawn(serve(state(), listeners, async { drop(stopped.await) }));
    for (path, token, expected) in [
        ("/healthz", "", "HTTP/1.1 200 OK"),
        ("/v1/status", "", "HTTP/1.1 401 Unauthorized"),
        ("/metrics", "", "HTTP/1.1 401 Unauthorized"),
        ("/nowhere", "", "HTTP/1.1 401 Unauthorized"),
        ("/v1/status", "Authorization: Bearer correct-horse-batterz\r\n", "HTTP/1.1 401 Unauthorized"),
        ("/v1/status", "Authorization: Basic correct-horse-battery\r\n", "HTTP/1.1 401 Unauthorized"),
        ("/v1/status", "Authorization: Bearer correct-horse-battery\r\n", "HTTP/1.1 200 OK"),
    ] {
        let stream = TcpStream::connect(address).await.unwrap();
        assert_eq!(ask(stream, path, token).await, expected, "{path} {token}");
    }
    let mut stream = UnixStream::connect(directory.path().join("s")).await.unwrap();
    stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").await.unwrap();
    let mut metrics = String::new();
    stream.read_to_string(&mut metrics).await.unwrap();
    assert!(metrics.contains("portcullis_api_answers_total{outcome=\"unauthorized\"} 5\n"), "{metrics}");
    stop.send(()).unwrap();
    server.await.unwrap();
}

#[tokio::test]
async fn tcp_without_a_private_token_file_is_refused_and_leaves_no_socket() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("s");
    let token_file = token_file(directory.path(), 0o644);
    let tcp = TcpConfig { address: "127.0.0.1:0".parse().unwrap(), token_file };
    let error = Listeners::bind(&socket, Some(&tcp)).await.err().unwrap().to_string();
    assert!(error.contains("mode 0644"), "{error}");
    assert!(!socket.exists());
}
