//! Clients' connections: a thread for each worker, with a runtime and listeners of its own (SO_REUSEPORT), so that a
//! connection never changes its core.
//!
//! | module | what |
//! |---|---|
//! | [`connection`] | one connection, from hyper's point of view and its watchman's |
//! | [`service`] | the axum router: the health path, and the pipeline for all else |
//! | [`watch`] | who has been waiting for too long |
//!
//! Invariant: no more connections than `limits.connections`, over all workers; those beyond are told 503 and counted.

pub mod connection;
pub mod service;
pub mod watch;

use std::{
    io,
    net::{SocketAddr, TcpListener as StdListener},
    sync::{Arc, atomic::Ordering::Relaxed},
    thread::{self, JoinHandle},
    time::Duration,
};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch::Receiver,
};

use crate::{access_log::AccessLog, metrics, screen::HeadLimits, shared::Shared, upstream::pool};
use connection::Served;
use watch::Watchman;

/// Connections that the kernel holds until a worker takes them.
const BACKLOG: i32 = 4096;
/// Without file descriptors accepting fails at once, again and again.
const PAUSE_AFTER_ERROR: Duration = Duration::from_millis(50);
/// What a connection beyond the limit is told, as far as its socket takes it at once.
const FULL: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\nretry-after: 1\r\n\
    connection: close\r\n\r\n";

/// One worker's listeners, one for each address.
#[derive(Debug)]
pub struct Listeners(Vec<StdListener>);

impl Listeners {
    /// Listens at each address once for each worker. Port 0 becomes one free port for all of them.
    ///
    /// # Errors
    /// The address, and why it cannot be listened at.
    pub fn bind(addresses: &[SocketAddr], workers: usize) -> Result<Vec<Self>, (SocketAddr, io::Error)> {
        let mut all: Vec<_> = (0..workers).map(|_| Self(Vec::new())).collect();
        for &address in addresses {
            let mut actual = address;
            for worker in &mut all {
                let listener = listen(actual).map_err(|error| (address, error))?;
                actual = listener.local_addr().map_err(|error| (address, error))?;
                worker.0.push(listener);
            }
        }
        Ok(all)
    }

    /// Where they listen.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.0.iter().filter_map(|listener| listener.local_addr().ok()).collect()
    }
}

fn listen(address: SocketAddr) -> io::Result<StdListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        // An IPv4 address is listened at where the configuration names one.
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Starts worker number `number`. It ends when `stop` becomes true; connections that are left are cut.
///
/// # Errors
/// No thread can be started.
pub fn start(
    number: usize,
    listeners: Listeners,
    shared: Arc<Shared>,
    stop: Receiver<bool>,
) -> io::Result<JoinHandle<io::Result<()>>> {
    thread::Builder::new().name(format!("worker-{number}")).spawn(move || {
        metrics::count_as(number);
        AccessLog::buffer_here();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let ended = runtime.block_on(work(listeners, shared.clone(), stop));
        // Cuts what is left, which closes its records, before the lines of this thread are handed on.
        drop(runtime);
        shared.access_log.hand_on();
        ended
    })
}

async fn work(listeners: Listeners, shared: Arc<Shared>, mut stop: Receiver<bool>) -> io::Result<()> {
    let watchman = Watchman::new(shared.clone());
    let served = Arc::new(Served::new(shared, watchman.clone()));
    for listener in listeners.0 {
        let listener = TcpListener::from_std(listener)?;
        tokio::spawn(take(listener, served.clone()));
    }
    tokio::spawn(watchman.walk());
    // An error means that nobody is left who could say stop.
    let _ = stop.wait_for(|stop| *stop).await;
    pool::clear();
    Ok(())
}

async fn take(listener: TcpListener, served: Arc<Served>) {
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => admit(stream, peer, &served),
            Err(error) => {
                let before = served.shared.metrics.connections.accept_errors.fetch_add(1, Relaxed);
                if before.is_multiple_of(1000) {
                    tracing::error!(%error, "cannot take connections");
                }
                tokio::time::sleep(PAUSE_AFTER_ERROR).await;
            }
        }
    }
}

fn admit(stream: TcpStream, peer: SocketAddr, served: &Arc<Served>) {
    let Some(place) = served.shared.connections.enter() else {
        let _ = stream.try_write(FULL);
        return;
    };
    served.shared.metrics.connections.accepted.fetch_add(1, Relaxed);
    // Answers are written whole: waiting for more to send only delays them. A socket that refuses is dead already.
    let _ = stream.set_nodelay(true);
    tokio::spawn(served.connection(stream, peer, place));
}

/// The screen's limits of this configuration.
pub fn head_limits(fixed: &crate::snapshot::Fixed) -> HeadLimits {
    HeadLimits { bytes_max: fixed.header_bytes, headers_max: fixed.header_count }
}
