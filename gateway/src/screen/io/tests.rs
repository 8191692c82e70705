//! A real hyper server behind the screen, on loopback.

use std::convert::Infallible;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex};

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use super::super::table::{GOOD, REFUSED, REFUSED_BODIES};
use super::*;

/// What the service saw: paths of good requests, and refusals.
#[derive(Default)]
struct Log {
    good: Mutex<Vec<String>>,
    refused: Mutex<Vec<Malformed>>,
}

async fn answer(
    request: Request<Incoming>,
    index: u64,
    cell: RefusalCell,
    log: Arc<Log>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    // A real service waits before it answers; the refusal must outlast that.
    tokio::task::yield_now().await;
    let refusal = cell.take(index);
    let path = request.uri().path().to_owned();
    let body = request.into_body().collect().await;
    let refusal = refusal.or_else(|| cell.take(index));
    let response = Response::builder();
    Ok(if let Some(malformed) = refusal {
        log.refused.lock().unwrap().push(malformed);
        let body = Full::from(malformed.name());
        response.status(400).header("connection", "close").body(body).unwrap()
    } else {
        log.good.lock().unwrap().push(path);
        body.map(|_| response.status(200).body(Full::default()).unwrap()).expect("a whole body")
    })
}

async fn serve(stream: TcpStream, signals: Arc<Signals>, log: Arc<Log>) {
    let cell = RefusalCell::new(signals.clone());
    let limits = HeadLimits { bytes_max: 4096, headers_max: 32 };
    let io = TokioIo::new(ScreenedIo::new(stream, limits, signals));
    let seen = AtomicUsize::new(0);
    let service = hyper::service::service_fn(move |request| {
        let index = seen.fetch_add(1, Relaxed) as u64;
        answer(request, index, cell.clone(), log.clone())
    });
    let _ = hyper::server::conn::http1::Builder::new().serve_connection(io, service).await;
}

async fn start() -> (std::net::SocketAddr, Arc<Log>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, log) = (listener.local_addr().unwrap(), Arc::new(Log::default()));
    let shared = log.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream, Signals::new(Arc::new(AtomicU32::new(1))), shared.clone()));
        }
    });
    (address, log)
}

/// Sends the pieces one by one and reads until the server closes, or until `answers` heads have come.
async fn exchange(address: std::net::SocketAddr, pieces: &[&[u8]], answers: usize) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    for piece in pieces {
        // A server that refused an earlier piece may be gone.
        let _ = stream.write_all(piece).await;
        tokio::task::yield_now().await;
    }
    let mut got = Vec::new();
    let read = async {
        loop {
            let heads = memchr::memmem::find_iter(&got, "\r\n\r\n").count();
            if heads == answers || stream.read_buf(&mut got).await.unwrap() == 0 {
                break;
            }
        }
    };
    timeout(Duration::from_secs(10), read).await.expect("an answer in time");
    String::from_utf8(got).unwrap()
}

fn statuses(answers: &str) -> Vec<&str> {
    answers.match_indices("HTTP/1.").map(|(at, _)| &answers[at + 9..at + 12]).collect()
}

#[tokio::test]
async fn malformed_heads_get_400_and_never_reach_the_service() {
    let (address, log) = start().await;
    for (bytes, malformed) in REFUSED {
        let shown = String::from_utf8_lossy(bytes);
        for cut in [0, bytes.len() / 2] {
            let got = exchange(address, &[&bytes[..cut], &bytes[cut..]], usize::MAX).await;
            assert_eq!(statuses(&got), ["400"], "{shown:?}");
            assert!(got.contains("connection: close") && got.ends_with(malformed.name()), "{shown:?}: {got}");
            assert_eq!(log.refused.lock().unwrap().pop(), Some(*malformed), "{shown:?}");
        }
    }
    assert_eq!(*log.good.lock().unwrap(), [""; 0]);
}

#[tokio::test]
async fn malformed_bodies_end_in_an_error() {
    let (address, log) = start().await;
    for (bytes, malformed) in REFUSED_BODIES {
        let got = exchange(address, &[bytes], usize::MAX).await;
        let shown = String::from_utf8_lossy(bytes);
        assert_eq!(statuses(&got), ["400"], "{shown:?}");
        assert_eq!(log.refused.lock().unwrap().pop(), Some(*malformed), "{shown:?}");
    }
    assert_eq!(*log.good.lock().unwrap(), [""; 0]);
}

#[tokio::test]
async fn good_requests_get_200() {
    let (address, log) = start().await;
    for bytes in GOOD {
        let shown = String::from_utf8_lossy(bytes);
        let answers = if shown.contains("Expect") { 2 } else { 1 };
        for cut in [0, 1, bytes.len() / 2, bytes.len() - 1] {
            let got = exchange(address, &[&bytes[..cut], &bytes[cut..]], answers).await;
            assert_eq!(statuses(&got).last(), Some(&"200"), "{shown:?}");
        }
    }
    assert_eq!(log.good.lock().unwrap().len(), GOOD.len() * 4);
}

#[tokio::test]
async fn a_refusal_is_answered_after_what_came_before() {
    let (address, log) = start().await;
    let pipelined =
        [b"GET /one HTTP/1.1\r\nHost: a\r\n\r\n", GOOD[0], b"GET /bad HTTP/1.1\nHost: a\n\n"].concat();
    for cut in 0..pipelined.len() {
        let got = exchange(address, &[&pipelined[..cut], &pipelined[cut..]], usize::MAX).await;
        assert_eq!(statuses(&got), ["200", "200", "400"], "cut at {cut}");
    }
    let good = log.good.lock().unwrap();
    assert!(good.chunks(2).all(|pair| pair == ["/one", "/"]), "{good:?}");
}

#[tokio::test]
async fn an_answer_arrives_although_the_client_keeps_sending() {
    let (address, _) = start().await;
    let mut flood = REFUSED[0].0.to_vec();
    flood.resize(200_000, b'x');
    let got = exchange(address, &[&flood], usize::MAX).await;
    assert_eq!(statuses(&got), ["400"]);
}

#[tokio::test]
async fn a_partial_head_is_noticed_and_can_be_refused() {
    let (client, server) = tokio::io::duplex(1024);
    let now = Arc::new(AtomicU32::new(7));
    let signals = Signals::new(now.clone());
    let mut screened = ScreenedIo::new(server, HeadLimits::default(), signals.clone());
    let (mut client, mut got) = (client, Vec::with_capacity(1024));
    client.write_all(GOOD[0]).await.unwrap();
    screened.read_buf(&mut got).await.unwrap();
    assert_eq!((&got[..], signals.head_since(), signals.touched()), (GOOD[0], None, 7));
    now.store(9, Relaxed);
    client.write_all(b"GET / HT").await.unwrap();
    let mut read = Box::pin(async { screened.read_buf(&mut got).await });
    std::future::poll_fn(|cx| {
        assert!(read.as_mut().poll(cx).is_pending());
        Poll::Ready(())
    })
    .await;
    assert_eq!((signals.head_since(), signals.touched()), (Some(9), 9));
    signals.refuse_partial_head();
    read.await.unwrap();
    assert!(got.ends_with(STAND_IN));
    let cell = RefusalCell::new(signals.clone());
    assert_eq!([cell.take(0), cell.take(1), cell.take(2)], [None, Some(Malformed::HeadTooSlow), None]);
    assert_eq!(signals.head_since(), None);
}
