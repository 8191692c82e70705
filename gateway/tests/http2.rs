//! HTTP/2 from clients: nghttp, h2load and curl, and frames by hand for what no client does of its own accord.

use std::{
    sync::atomic::Ordering::Relaxed,
    time::{Duration, Instant},
};

use gateway::drain;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::{sleep, timeout},
};

#[allow(dead_code)]
#[path = "listeners/stage.rs"]
mod stage;

use stage::{PATIENCE, Stage};

#[tokio::test(flavor = "multi_thread")]
async fn http2_is_served_in_the_clear_by_its_preface() {
    let stage = Stage::set("['127.0.0.1:0']", "").await;
    let got = stage
        .curl("--http2-prior-knowledge http://127.0.0.1:{port}/x?y -d hello -H Cookie:a=1 -H te:trailers")
        .await;
    assert!(got.starts_with("HTTP/2 200"), "{got}");
    assert!(got.contains("POST /x?y HTTP/1.1\r\n") && got.contains("body-bytes: 5"), "{got}");
    assert!(got.contains("via: 2.0 portcullis") && got.contains("x-forwarded-proto: http\r\n"), "{got}");
    assert!(!got.contains("te: trailers"), "{got}");
    let large = stage
        .run(
            "curl",
            "-sS --http2-prior-knowledge http://127.0.0.1:{port}/large -o /dev/null -w %{size_download}",
        )
        .await;
    assert_eq!(large, (8 << 20).to_string());
    let health = stage.curl("--http2-prior-knowledge http://127.0.0.1:{port}/healthz").await;
    assert!(health.starts_with("HTTP/2 200"), "{health}");
    let load = stage.run("h2load", "-n 2000 -c 4 -m 20 http://127.0.0.1:{port}/y").await;
    assert!(load.contains("2000 succeeded, 0 failed, 0 errored"), "{load}");
    stage.reload("[{address: '127.0.0.1:0', http2: false}]", "").unwrap();
    let got = stage.curl("--http2-prior-knowledge http://127.0.0.1:{port}/").await;
    assert!(!got.contains("HTTP/2 200"), "{got}");
    stage.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn http2_requests_with_two_meanings_are_refused() {
    let stage = Stage::set("['127.0.0.1:0']", "limits: { header_count: 20 }").await;
    let many: String = (0..20).map(|number| format!(" -H x-{number}:y")).collect();
    for (arguments, said) in [
        ("-H host:a.example", "another host than Host"),
        ("-H :authority:a.example -H host:a.example", "200"),
        ("-H :authority:a.example -H host:b.example", "another host than Host"),
        ("-H :authority:a_b@c", "the host is not a name"),
        ("-H :method:CONNECT", "PROTOCOL_ERROR"),
        ("-H :scheme:ftp", "the request target"),
        ("-H expect:200-ok", "Expect is not"),
        (&*many, "too many headers"),
    ] {
        let got = stage.run("nghttp", &format!("-v {arguments} http://127.0.0.1:{{port}}/x")).await;
        assert!(got.contains(said), "{arguments}: {got}");
        let (served, refused) = (said == "200", said != "200" && said != "PROTOCOL_ERROR");
        assert_eq!(got.contains(":status: 200"), served, "{arguments}: {got}");
        assert_eq!(got.contains(":status: 400"), refused, "{arguments}: {got}");
    }
    stage.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_http2_client_that_reads_nothing_or_rests_is_ended() {
    let stage =
        Stage::set("['127.0.0.1:0']", "timeouts: { header: 300ms, stall: 300ms, keep_alive: 400ms }").await;
    // The window that a connection begins with is never opened again.
    let mut stalled = TcpStream::connect(stage.running.addresses[0]).await.unwrap();
    stalled.write_all(&raw::request("/large")).await.unwrap();
    let mut resting = TcpStream::connect(stage.running.addresses[0]).await.unwrap();
    resting.write_all(&raw::request("/x")).await.unwrap();
    for stream in [&mut stalled, &mut resting] {
        let mut rest = Vec::new();
        let _ = timeout(PATIENCE, stream.read_to_end(&mut rest)).await.expect("an end in time");
    }
    let counted = &stage.running.shared.metrics.connections;
    assert_eq!((counted.stalled.load(Relaxed), counted.idle.load(Relaxed)), (1, 1));
    stage.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_http2_client_that_takes_requests_back_is_cut() {
    let stage = Stage::set("['127.0.0.1:0']", "http2: { resets: 10 }").await;
    let mut stream = TcpStream::connect(stage.running.addresses[0]).await.unwrap();
    stream.write_all(&raw::beginning()).await.unwrap();
    for number in 0..1000 {
        let id = 2 * number + 1;
        let both = [raw::headers(id, "/large"), raw::reset(id)].concat();
        if stream.write_all(&both).await.is_err() {
            break;
        }
        tokio::task::yield_now().await;
    }
    let mut rest = Vec::new();
    let _ = timeout(PATIENCE, stream.read_to_end(&mut rest)).await.expect("an end in time");
    let begun = Instant::now();
    while stage.running.shared.connections.count() > 0 {
        assert!(begun.elapsed() < PATIENCE, "the connection is over");
        sleep(Duration::from_millis(5)).await;
    }
    stage.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_tells_http2_clients_to_go() {
    let stage = Stage::set("['127.0.0.1:0']", "drain: { unready: 0s, close: 1s, end: 5s }").await;
    let mut stream = TcpStream::connect(stage.running.addresses[0]).await.unwrap();
    stream.write_all(&raw::request("/x")).await.unwrap();
    let begun = Instant::now();
    while stage.running.shared.metrics.connections.accepted.load(Relaxed) == 0 {
        assert!(begun.elapsed() < PATIENCE);
        sleep(Duration::from_millis(5)).await;
    }
    let shared = stage.running.shared.clone();
    let draining = tokio::spawn(async move { drain::drain(&shared, std::future::pending()).await });
    let read = async {
        let mut got = Vec::new();
        while !raw::frames(&got).any(|kind| kind == raw::GOAWAY) {
            assert!(stream.read_buf(&mut got).await.unwrap() > 0, "GOAWAY before the end");
        }
    };
    timeout(PATIENCE, read).await.expect("GOAWAY");
    drop(stream);
    let drained = timeout(PATIENCE, draining).await.unwrap().unwrap();
    assert_eq!((drained.cut, drained.hurried), (0, false));
    stage.end().await;
}

/// Frames (RFC 9113, RFC 7541).
mod raw {
    pub const GOAWAY: u8 = 7;

    fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
    }

    /// Preface and empty settings.
    pub fn beginning() -> Vec<u8> {
        [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), frame(4, 0, 0, &[])].concat()
    }

    /// `GET path` of a.example, without a body.
    pub fn headers(stream: u32, path: &str) -> Vec<u8> {
        let text = |text: &str| [&[u8::try_from(text.len()).unwrap()], text.as_bytes()].concat();
        // :method GET, :scheme http; :path and :authority literally.
        let block = [&[0x82, 0x86, 0x04][..], &text(path), &[0x01], &text("a.example")].concat();
        frame(1, 0x5, stream, &block)
    }

    pub fn reset(stream: u32) -> Vec<u8> {
        frame(3, 0, stream, &8u32.to_be_bytes())
    }

    /// A connection's first request.
    pub fn request(path: &str) -> Vec<u8> {
        [beginning(), headers(1, path)].concat()
    }

    /// Kinds of the whole frames in `bytes`.
    pub fn frames(mut bytes: &[u8]) -> impl Iterator<Item = u8> {
        std::iter::from_fn(move || {
            let head: &[u8; 9] = bytes.first_chunk()?;
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
            bytes = bytes.get(9 + length..)?;
            Some(head[3])
        })
    }
}
