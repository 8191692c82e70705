//! Clients' connections: a thread for each worker, with a runtime and listeners of its own (SO_REUSEPORT), so that a
//! connection never changes its core.
//!
//! | module | what |
//! |---|---|
//! | [`listeners`] | sockets that listen |
//! | [`stream`] | a client's socket, clear or TLS |
//! | [`opening`] | what comes before the first request: handshakes |
//! | [`proxy_protocol`] | what a balancer in front says of the client |
//! | [`connection`] | one connection, from hyper's point of view and its watchman's |
//! | [`http2`] | what of a connection is HTTP/2's own |
//! | [`service`] | the axum router: the health path, and the pipeline for all else |
//! | [`watch`] | who has been waiting for too long |
//!
//! Invariant: no more connections than `limits.connections`, over all workers; those beyond are told 503 where they can be, and counted.

pub mod connection;
pub mod http2;
pub mod listeners;
pub mod opening;
pub mod proxy_protocol;
pub mod service;
pub mod stream;
pub mod watch;

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, atomic::Ordering::Relaxed},
    thread::{self, JoinHandle},
    time::Duration,
};

use tokio::{sync::watch::Receiver, task::JoinSet};

use crate::{access_log::AccessLog, metrics, screen::HeadLimits, shared::Shared, upstream::pool};
use connection::Served;
use listeners::Source;
pub use listeners::{Listeners, SocketFiles};
use stream::Socket;
use watch::Watchman;

/// Without file descriptors accepting fails at once, again and again.
const PAUSE_AFTER_ERROR: Duration = Duration::from_millis(50);
/// What a connection beyond the limit is told where it can be, as far as its socket takes it at once.
const FULL: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\nretry-after: 1\r\n\
    connection: close\r\n\r\n";

/// What workers are to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Work {
    /// Take connections and serve them.
    Serve,
    /// Serve those that were taken, and let go of the listeners.
    TakeNoMore,
    /// End; what is left is cut.
    End,
}

/// Starts worker number `number`, which does what `orders` say.
///
/// # Errors
/// No thread can be started.
pub fn start(
    number: usize,
    listeners: Listeners,
    shared: Arc<Shared>,
    orders: Receiver<Work>,
) -> io::Result<JoinHandle<io::Result<()>>> {
    thread::Builder::new().name(format!("worker-{number}")).spawn(move || {
        metrics::count_as(number);
        AccessLog::buffer_here();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let ended = runtime.block_on(work(listeners, shared.clone(), orders));
        // Cuts what is left, which closes its records, before the lines of this thread are handed on.
        drop(runtime);
        shared.access_log.hand_on();
        ended
    })
}

async fn work(listeners: Listeners, shared: Arc<Shared>, mut orders: Receiver<Work>) -> io::Result<()> {
    let watchman = Watchman::new(shared.clone());
    let served = Arc::new(Served::new(shared, watchman.clone()));
    let mut taking = JoinSet::new();
    for (index, source) in listeners.into_sources()? {
        taking.spawn(take(source, index, served.clone()));
    }
    tokio::spawn(watchman.walk());
    // An error means that nobody is left who could say so.
    let _ = orders.wait_for(|work| *work >= Work::TakeNoMore).await;
    taking.shutdown().await;
    let _ = orders.wait_for(|work| *work >= Work::End).await;
    pool::clear();
    Ok(())
}

/// Takes connections from the listener that has this index in the configuration.
async fn take(source: Source, index: usize, served: Arc<Served>) {
    loop {
        match source.accept().await {
            Ok((socket, peer)) => admit(socket, peer, index, &served),
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

fn admit(socket: Socket, peer: SocketAddr, index: usize, served: &Arc<Served>) {
    let snapshot = served.shared.snapshot();
    // Addresses stay as they are until a restart, so the index does as well.
    let Some(listener) = snapshot.listeners.get(index) else { return };
    let Some(place) = served.shared.connections.enter() else {
        if listener.tls.is_none() {
            let _ = socket.try_write(FULL);
        }
        return;
    };
    served.shared.metrics.connections.accepted.fetch_add(1, Relaxed);
    tokio::spawn(served.connection(socket, peer, listener.clone(), place));
}

/// The screen's limits of this configuration.
pub fn head_limits(fixed: &crate::snapshot::Fixed) -> HeadLimits {
    HeadLimits { bytes_max: fixed.header_bytes, headers_max: fixed.header_count }
}
