//! A small real server, such as a load balancer meets: HTTP over TCP and, where asked, an echo over UDP.
//!
//! | path | answer |
//! |---|---|
//! | `/` | a page of `--body` bytes, after `--delay` |
//! | `/whoami` | its name |
//! | `/healthz` | 200 as long as it serves its connections, closing included |
//! | `/readyz` | 503 once it closes |
//! | `/bytes/N` | N bytes, byte i being i modulo 251 |
//! | `POST /sum` | length and sum of the body's bytes |
//! | `/counts` | connections and requests so far |
//!
//! On SIGTERM it closes without losing a request: each connection's next answer says `Connection: close`,
//! new connections are still taken, idle ones are closed when `--grace` has passed, and it ends when
//! none is left.

use std::{
    convert::Infallible,
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use anyhow::Result;
use clap::Parser;
use http_body_util::{BodyExt as _, Full};
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header::{CONNECTION, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use tests::http::SERVER_HEADER;
use tokio::{
    net::{TcpListener, TcpSocket, TcpStream, UdpSocket},
    pin,
    signal::unix::{SignalKind, signal},
    sync::watch,
    time::{Instant, sleep, sleep_until},
};

/// Quiet for so long with no connection open, a closing server ends.
const QUIET: Duration = Duration::from_millis(200);
/// After idle connections were closed, the rest is cut after this.
const LAST_BOUND: Duration = Duration::from_secs(5);

#[derive(Parser)]
struct Options {
    /// Its name; by default the address that the client reached.
    #[arg(long)]
    name: Option<String>,
    /// Where it listens.
    #[arg(long, default_value_t = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 80)))]
    listen: SocketAddr,
    /// Also echo datagrams here, after its name and a space.
    #[arg(long)]
    udp: Option<SocketAddr>,
    /// Bytes of the page.
    #[arg(long, default_value_t = 512)]
    body: usize,
    /// Milliseconds before the page is answered.
    #[arg(long, default_value_t = 0)]
    delay: u64,
    /// Seconds after SIGTERM in which connections are closed only after an answer.
    #[arg(long, default_value_t = 10)]
    grace: u64,
}

struct Shop {
    options: Options,
    page: Bytes,
    closing: AtomicBool,
    open: AtomicU64,
    connections: AtomicU64,
    requests: AtomicU64,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let options = Options::parse();
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(options.listen)?;
    let listener = socket.listen(4096)?;
    if let Some(address) = options.udp {
        tokio::spawn(echo(UdpSocket::bind(address).await?, options.name.clone().unwrap_or_default()));
    }
    let shop = Arc::new(Shop {
        page: Bytes::from(vec![b'.'; options.body]),
        options,
        closing: AtomicBool::new(false),
        open: AtomicU64::new(0),
        connections: AtomicU64::new(0),
        requests: AtomicU64::new(0),
    });
    serve(listener, shop.clone()).await?;
    println!("{} connections, {} requests", shop.connections.load(Relaxed), shop.requests.load(Relaxed));
    Ok(())
}

/// Accepts until SIGTERM, and on until no connection is left.
async fn serve(listener: TcpListener, shop: Arc<Shop>) -> Result<()> {
    let (close_idle, idle) = watch::channel(false);
    let mut terminate = signal(SignalKind::terminate())?;
    let mut idle_deadline = None;
    let mut quiet_since = Instant::now();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                tokio::spawn(converse(accepted?.0, shop.clone(), idle.clone()));
                quiet_since = Instant::now();
            }
            _ = terminate.recv() => {
                shop.closing.store(true, Relaxed);
                quiet_since = Instant::now();
                idle_deadline = Some(quiet_since + Duration::from_secs(shop.options.grace));
            }
            () = sleep(QUIET / 4), if idle_deadline.is_some() => {}
        }
        let Some(deadline) = idle_deadline else { continue };
        let now = Instant::now();
        if shop.open.load(Relaxed) > 0 {
            quiet_since = now;
        }
        if now >= deadline {
            close_idle.send_replace(true);
        }
        if now - quiet_since >= QUIET || now >= deadline + LAST_BOUND {
            return Ok(());
        }
    }
}

async fn converse(stream: TcpStream, shop: Arc<Shop>, mut idle: watch::Receiver<bool>) {
    let Ok(local) = stream.local_addr() else { return };
    let _ = stream.set_nodelay(true);
    shop.connections.fetch_add(1, Relaxed);
    shop.open.fetch_add(1, Relaxed);
    let service = service_fn(|request| answer(request, local, &shop));
    let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
    pin!(connection);
    tokio::select! {
        _ = connection.as_mut() => {}
        () = told(&mut idle) => {
            connection.as_mut().graceful_shutdown();
            let _ = connection.await;
        }
    }
    shop.open.fetch_sub(1, Relaxed);
}

async fn told(idle: &mut watch::Receiver<bool>) {
    let _ = idle.wait_for(|close| *close).await;
}

async fn answer(
    request: Request<Incoming>,
    local: SocketAddr,
    shop: &Shop,
) -> Result<Response<Full<Bytes>>, Infallible> {
    shop.requests.fetch_add(1, Relaxed);
    let name = shop.options.name.clone().unwrap_or_else(|| local.ip().to_string());
    let path = request.uri().path().to_string();
    let (status, body) = match (request.method(), path.as_str()) {
        (_, "/") => {
            sleep_until(Instant::now() + Duration::from_millis(shop.options.delay)).await;
            (StatusCode::OK, shop.page.clone())
        }
        (_, "/whoami") => (StatusCode::OK, Bytes::from(format!("{name}\n"))),
        (_, "/healthz") => (StatusCode::OK, Bytes::from_static(b"ok\n")),
        (_, "/readyz") if shop.closing.load(Relaxed) => (StatusCode::SERVICE_UNAVAILABLE, Bytes::new()),
        (_, "/readyz") => (StatusCode::OK, Bytes::from_static(b"ok\n")),
        (_, "/counts") => {
            let (connections, requests) = (shop.connections.load(Relaxed), shop.requests.load(Relaxed));
            (StatusCode::OK, Bytes::from(format!("{connections} {requests}\n")))
        }
        (&Method::POST, "/sum") => match request.into_body().collect().await {
            Ok(body) => (StatusCode::OK, Bytes::from(sum(&body.to_bytes()))),
            Err(_) => (StatusCode::BAD_REQUEST, Bytes::new()),
        },
        (_, path) => match path.strip_prefix("/bytes/").and_then(|count| count.parse::<usize>().ok()) {
            Some(count) => (StatusCode::OK, (0..count).map(|index| (index % 251) as u8).collect()),
            None => (StatusCode::NOT_FOUND, Bytes::new()),
        },
    };
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    if let Ok(name) = HeaderValue::from_str(&name) {
        response.headers_mut().insert(SERVER_HEADER, name);
    }
    if shop.closing.load(Relaxed) {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    Ok(response)
}

fn sum(body: &[u8]) -> String {
    format!("{} {}\n", body.len(), body.iter().map(|byte| u64::from(*byte)).sum::<u64>())
}

async fn echo(socket: UdpSocket, name: String) {
    let mut buffer = vec![0; 65_536];
    while let Ok((length, client)) = socket.recv_from(&mut buffer).await {
        let answer = [name.as_bytes(), b" ", &buffer[..length]].concat();
        let _ = socket.send_to(&answer, client).await;
    }
}
