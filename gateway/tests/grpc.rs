//! Calls of gRPC as curl makes them: what a refusal is called, what a service is told. `cargo xtask conformance gateway
//! grpc` makes real ones.

use std::{fs, net::SocketAddr, process::Stdio, time::Duration};

use gateway::{reload, run::Running};
use http::Response;
use tokio::{net::TcpListener, process::Command, time::timeout};

const PATIENCE: Duration = Duration::from_secs(20);

/// A gateway with a service, one that is not there, and one that never answers.
struct Stage {
    running: Running,
    _silent: TcpListener,
}

impl Stage {
    async fn set() -> Self {
        let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (echo, silent_at) = (echo().await, silent.local_addr().unwrap());
        let text = format!(
            "listen: ['127.0.0.1:0']\nworkers: 1\naccess_log: off\nupstreams:\n  \
             echo: {{ endpoints: ['{echo}'], protocol: http2 }}\n  \
             gone: {{ endpoints: ['127.0.0.1:1'], protocol: http2 }}\n  \
             silent: {{ endpoints: ['{silent_at}'] }}\nroutes:\n  \
             - {{ name: echo, path: '/echo/{{*rest}}', authenticate: [anonymous], upstream: echo }}\n  \
             - {{ name: gone, path: '/gone/{{*rest}}', authenticate: [anonymous], upstream: gone }}\n  \
             - {{ name: silent, path: '/silent/{{*rest}}', authenticate: [anonymous], upstream: silent }}\n"
        );
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("gateway.yaml");
        fs::write(&file, text).unwrap();
        let (snapshot, _) = reload::load(&file, None).unwrap_or_else(|error| panic!("{error}"));
        Self { running: Running::start(snapshot).await.unwrap(), _silent: silent }
    }

    /// The head of an answer over HTTP/2, or with `--http1.1`.
    async fn curl(&self, path: &str, arguments: &[&str]) -> String {
        let url = format!("http://{}{path}", self.running.addresses[0]);
        let mut command = Command::new("curl");
        command.args(["-sS", "-i", "--max-time", "15", "--http2-prior-knowledge", "-X", "POST"]);
        command.args(arguments).arg(url).stdin(Stdio::null()).kill_on_drop(true);
        let ran =
            timeout(PATIENCE, command.output()).await.expect("an end in time").expect("curl is installed");
        String::from_utf8_lossy(&[ran.stdout, ran.stderr].concat()).into_owned()
    }

    async fn end(self) {
        tokio::task::spawn_blocking(|| self.running.end()).await.unwrap().unwrap();
    }
}

/// A service that answers with the headers that it was sent.
async fn echo() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut connection = h2::server::handshake(stream).await.unwrap();
                while let Some(Ok((request, mut respond))) = connection.accept().await {
                    let mut response = Response::new(());
                    for name in ["te", "grpc-timeout"] {
                        let value = request.headers().get(name).cloned();
                        response.headers_mut().extend(value.map(|value| {
                            (http::HeaderName::try_from(format!("got-{name}")).unwrap(), value)
                        }));
                    }
                    respond.send_response(response, true).unwrap();
                }
            });
        }
    });
    address
}

const CALL: &str = "content-type: application/grpc+proto";

#[tokio::test(flavor = "multi_thread")]
async fn refusals_are_statuses_of_grpc_to_calls_alone() {
    let stage = Stage::set().await;
    for (path, arguments, status) in [
        ("/none/x", &[][..], 12),
        ("/gone/x", &[], 14),
        ("/silent/x", &["-H", "grpc-timeout: 50m"], 4),
        ("/echo/a//b", &[], 3),
    ] {
        let call = [&["-H", CALL], arguments].concat();
        let got = stage.curl(path, &call).await;
        assert!(got.starts_with("HTTP/2 200") && got.contains("content-type: application/grpc\r\n"), "{got}");
        assert!(
            got.contains(&format!("grpc-status: {status}\r\n")) && got.contains("grpc-message: "),
            "{got}"
        );
        assert!(got.ends_with("\r\n\r\n"), "trailers only: {got}");
    }
    for arguments in [&["-H", "content-type: application/json"][..], &["--http1.1", "-H", CALL]] {
        let got = stage.curl("/none/x", arguments).await;
        assert!(
            got.contains(" 404") && got.contains("problem+json") && !got.contains("grpc-status"),
            "{got}"
        );
    }
    stage.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn services_are_told_of_trailers_and_of_the_time_that_is_left() {
    let stage = Stage::set().await;
    let got = stage.curl("/echo/x", &["-H", CALL, "-H", "grpc-timeout: 99S"]).await;
    assert!(got.contains("got-te: trailers"), "{got}");
    // Less than the caller gave, in the finest unit that holds it.
    let left = got.split("got-grpc-timeout: 98").nth(1).and_then(|rest| rest.split('\r').next());
    assert!(left.is_some_and(|left| left.len() == 7 && left.ends_with('u')), "{got}");
    let got = stage.curl("/echo/x", &["-H", "te: trailers", "-H", "grpc-timeout: 99S"]).await;
    assert!(got.contains("got-te: trailers") && got.contains("got-grpc-timeout: 99S"), "{got}");
    for arguments in [&[][..], &["--http1.1", "-H", "te: trailers"]] {
        let got = stage.curl("/echo/x", arguments).await;
        assert!(got.contains(" 200") && !got.contains("got-te"), "{got}");
    }
    stage.end().await;
}
