//! A small real HTTP server that closes without losing a request: the core of `shop_server` and `story_server`.
//!
//! On SIGTERM each connection's next answer says `Connection: close`, new connections are still taken, idle
//! ones are closed when the grace has passed, and the server ends when none is left.

use std::{
    convert::Infallible,
    future::Future,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use anyhow::Result;
use http_body_util::Full;
use hyper::{
    Request, Response,
    body::{Bytes, Incoming},
    header::{CONNECTION, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use tokio::{
    net::{TcpListener, TcpSocket, TcpStream},
    pin,
    signal::unix::{SignalKind, signal},
    sync::watch,
    time::{Instant, sleep},
};

/// Quiet for so long with no connection open, a closing server ends.
const QUIET: Duration = Duration::from_millis(200);
/// After idle connections were closed, the rest is cut after this.
const LAST_BOUND: Duration = Duration::from_secs(5);

/// What a server knows of itself.
#[derive(Default)]
pub struct Counts {
    closing: AtomicBool,
    open: AtomicU64,
    connections: AtomicU64,
}

impl Counts {
    /// Whether it was told to end.
    pub fn closing(&self) -> bool {
        self.closing.load(Relaxed)
    }

    /// Connections that it took so far.
    pub fn connections(&self) -> u64 {
        self.connections.load(Relaxed)
    }
}

/// Listens, also where a predecessor's connections are still remembered.
pub fn listen(address: SocketAddr) -> Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    Ok(socket.listen(4096)?)
}

/// Serves until SIGTERM, and on until no connection is left. `answer` gets each request and the address that
/// it reached.
pub async fn serve<A, F>(listener: TcpListener, counts: Arc<Counts>, grace: Duration, answer: A) -> Result<()>
where
    A: Fn(Request<Incoming>, SocketAddr) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response<Full<Bytes>>> + Send + 'static,
{
    let (close_idle, idle) = watch::channel(false);
    let mut terminate = signal(SignalKind::terminate())?;
    let mut idle_deadline = None;
    let mut quiet_since = Instant::now();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                tokio::spawn(converse(accepted?.0, counts.clone(), idle.clone(), answer.clone()));
                quiet_since = Instant::now();
            }
            _ = terminate.recv() => {
                counts.closing.store(true, Relaxed);
                quiet_since = Instant::now();
                idle_deadline = Some(quiet_since + grace);
            }
            () = sleep(QUIET / 4), if idle_deadline.is_some() => {}
        }
        let Some(deadline) = idle_deadline else { continue };
        let now = Instant::now();
        if counts.open.load(Relaxed) > 0 {
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

async fn converse<A, F>(stream: TcpStream, counts: Arc<Counts>, mut idle: watch::Receiver<bool>, answer: A)
where
    A: Fn(Request<Incoming>, SocketAddr) -> F,
    F: Future<Output = Response<Full<Bytes>>>,
{
    let Ok(local) = stream.local_addr() else { return };
    let _ = stream.set_nodelay(true);
    counts.connections.fetch_add(1, Relaxed);
    counts.open.fetch_add(1, Relaxed);
    let service = service_fn(|request| {
        let answer = answer(request, local);
        let counts = &counts;
        async move {
            let mut response = answer.await;
            if counts.closing() {
                response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            }
            Ok::<_, Infallible>(response)
        }
    });
    let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
    pin!(connection);
    tokio::select! {
        _ = connection.as_mut() => {}
        () = told(&mut idle) => {
            connection.as_mut().graceful_shutdown();
            let _ = connection.await;
        }
    }
    counts.open.fetch_sub(1, Relaxed);
}

async fn told(idle: &mut watch::Receiver<bool>) {
    let _ = idle.wait_for(|close| *close).await;
}
