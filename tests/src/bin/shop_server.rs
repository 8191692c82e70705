//! A small real server, such as a load balancer meets: HTTP over TCP and, where asked, an echo over UDP.
//!
//! | path | answer |
//! |---|---|
//! | `/` | a page of `--body` bytes, after `--delay` |
//! | `POST /delay/N` | from now on the page comes after N milliseconds |
//! | `/whoami` | its name |
//! | `/healthz` | 200 as long as it serves its connections, closing included |
//! | `/readyz` | 503 once it closes |
//! | `/bytes/N` | N bytes, byte i being i modulo 251 |
//! | `POST /sum` | length and sum of the body's bytes |
//! | `/counts` | connections and requests so far |
//!
//! On SIGTERM it closes without losing a request, as [`tests::serve`] says.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use anyhow::Result;
use clap::Parser;
use http_body_util::{BodyExt as _, Full};
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header::HeaderValue,
};
use tests::{
    http::SERVER_HEADER,
    serve::{Counts, listen, serve},
};
use tokio::{
    net::UdpSocket,
    time::{Instant, sleep_until},
};

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
    udp: Vec<SocketAddr>,
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
    counts: Arc<Counts>,
    requests: AtomicU64,
    /// Milliseconds.
    delay: AtomicU64,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let options = Options::parse();
    let listener = listen(options.listen)?;
    for address in &options.udp {
        tokio::spawn(echo(UdpSocket::bind(address).await?, options.name.clone().unwrap_or_default()));
    }
    let grace = Duration::from_secs(options.grace);
    let counts = Arc::new(Counts::default());
    let page = Bytes::from(vec![b'.'; options.body]);
    let delay = AtomicU64::new(options.delay);
    let shop = Arc::new(Shop { page, options, counts: counts.clone(), requests: AtomicU64::new(0), delay });
    let served = shop.clone();
    serve(listener, counts, grace, move |request, local| answer(request, local, served.clone())).await?;
    println!("{} connections, {} requests", shop.counts.connections(), shop.requests.load(Relaxed));
    Ok(())
}

async fn answer(request: Request<Incoming>, local: SocketAddr, shop: Arc<Shop>) -> Response<Full<Bytes>> {
    shop.requests.fetch_add(1, Relaxed);
    let name = shop.options.name.clone().unwrap_or_else(|| local.ip().to_string());
    let path = request.uri().path().to_string();
    let (status, body) = match (request.method(), path.as_str()) {
        (_, "/") => {
            sleep_until(Instant::now() + Duration::from_millis(shop.delay.load(Relaxed))).await;
            (StatusCode::OK, shop.page.clone())
        }
        (_, "/whoami") => (StatusCode::OK, Bytes::from(format!("{name}\n"))),
        (_, "/healthz") => (StatusCode::OK, Bytes::from_static(b"ok\n")),
        (_, "/readyz") if shop.counts.closing() => (StatusCode::SERVICE_UNAVAILABLE, Bytes::new()),
        (_, "/readyz") => (StatusCode::OK, Bytes::from_static(b"ok\n")),
        (_, "/counts") => {
            let (connections, requests) = (shop.counts.connections(), shop.requests.load(Relaxed));
            (StatusCode::OK, Bytes::from(format!("{connections} {requests}\n")))
        }
        (&Method::POST, "/sum") => match request.into_body().collect().await {
            Ok(body) => (StatusCode::OK, Bytes::from(sum(&body.to_bytes()))),
            Err(_) => (StatusCode::BAD_REQUEST, Bytes::new()),
        },
        (&Method::POST, path) if path.starts_with("/delay/") => match path["/delay/".len()..].parse() {
            Ok(milliseconds) => {
                shop.delay.store(milliseconds, Relaxed);
                (StatusCode::OK, Bytes::new())
            }
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
    response
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
