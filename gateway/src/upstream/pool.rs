//! Connections to instances that are kept, by each worker its own: no lock, and an answer wakes no other core.
//!
//! Bounds: `pool.idle_max` idle connections to an instance, `pool.idle_timeout` without a request, `pool.max_age` in
//! all. Whoever takes one gets it alone; [`super::AnswerBody`] puts it back when its answer is over.

use std::{cell::RefCell, collections::HashMap, sync::Arc, time::Duration};

use http::{Request, Response};
use hyper::{
    body::Incoming,
    client::conn::{
        TrySendError,
        http1::{self, SendRequest},
    },
};
use hyper_util::rt::TokioIo;
use tokio::{
    net::TcpStream,
    time::{Instant, timeout},
};

use super::{Endpoint, Outgoing, Upstream};
use crate::{error::UpstreamError, small_writes::SmallWrites};

thread_local! {
    static IDLE: RefCell<HashMap<u64, Idle>> = RefCell::default();
}

/// Idle connections to one instance, the last one put back last.
#[derive(Default)]
struct Idle {
    connections: Vec<Connection>,
    idle_timeout: Duration,
}

/// An open connection.
pub struct Connection {
    sender: SendRequest<Outgoing>,
    endpoint: u64,
    /// When it serves no further request.
    retires: Instant,
    /// When it was put back; never, if it is new.
    idle_since: Option<Instant>,
}

impl Connection {
    /// Whether it served a request before.
    pub fn is_used(&self) -> bool {
        self.idle_since.is_some()
    }

    /// Waits until it takes a request; mostly it does at once: its task took notice of the last answer's end before
    /// anyone else. An error is told to the request that is sent.
    pub async fn ready(&mut self) {
        if !self.sender.is_ready() {
            let _ = self.sender.ready().await;
        }
    }

    /// Sends a request; the head of the answer comes later.
    ///
    /// # Errors
    /// hyper's; it carries the request if nothing of it was sent.
    pub fn send(
        &mut self,
        request: Request<Outgoing>,
    ) -> impl Future<Output = Result<Response<Incoming>, TrySendError<Request<Outgoing>>>> + use<> {
        self.sender.try_send_request(request)
    }
}

/// A kept connection.
pub fn take(endpoint: &Endpoint) -> Option<Connection> {
    IDLE.with_borrow_mut(|idle| {
        let connections = &mut idle.get_mut(&endpoint.id)?.connections;
        while let Some(connection) = connections.pop() {
            if !connection.sender.is_closed() {
                return Some(connection);
            }
        }
        None
    })
}

/// A new connection.
///
/// # Errors
/// [`UpstreamError::Connect`], [`UpstreamError::ConnectTimeout`].
pub async fn open(upstream: &Upstream, endpoint: &Endpoint) -> Result<Connection, UpstreamError> {
    let stream = match timeout(upstream.connect_timeout, TcpStream::connect(endpoint.address)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(_)) => return Err(UpstreamError::Connect),
        Err(_) => return Err(UpstreamError::ConnectTimeout),
    };
    let _ = stream.set_nodelay(true);
    let (sender, connection) =
        http1::handshake(TokioIo::new(SmallWrites(stream))).await.map_err(|_| UpstreamError::Connect)?;
    tokio::spawn(async move {
        // What goes wrong on it is told to the request that it serves.
        let _ = connection.with_upgrades().await;
    });
    Ok(Connection {
        sender,
        endpoint: endpoint.id,
        retires: Instant::now() + jittered(upstream.pool.max_age, endpoint.id),
        idle_since: None,
    })
}

/// Up to a tenth less, so that connections opened together do not retire together.
fn jittered(age: Duration, salt: u64) -> Duration {
    let noise = (crate::clock::now_ns() ^ salt).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 54;
    age - age / 10 * noise as u32 / 1024
}

/// Keeps a connection whose answer is over, unless it is too old, closed, or one too many.
pub fn put_back(upstream: &Upstream, mut connection: Connection) {
    let now = Instant::now();
    if connection.sender.is_closed() || now >= connection.retires {
        return;
    }
    connection.idle_since = Some(now);
    IDLE.with_borrow_mut(|idle| {
        let idle = idle.entry(connection.endpoint).or_default();
        idle.idle_timeout = upstream.pool.idle_timeout;
        if idle.connections.len() < upstream.pool.idle_max {
            idle.connections.push(connection);
        }
    });
}

/// Closes what is idle for too long, too old, or closed by the other end. Each worker calls it once a second.
pub fn sweep() {
    let now = Instant::now();
    IDLE.with_borrow_mut(|idle| {
        idle.retain(|_, idle| {
            idle.connections.retain(|connection| {
                let rested = connection.idle_since.is_some_and(|since| now >= since + idle.idle_timeout);
                !rested && now < connection.retires && !connection.sender.is_closed()
            });
            !idle.connections.is_empty()
        });
    });
}

/// Idle connections of this worker.
pub fn idle_count() -> usize {
    IDLE.with_borrow(|idle| idle.values().map(|idle| idle.connections.len()).sum())
}

/// Closes every idle connection of this worker.
pub fn clear() {
    IDLE.with_borrow_mut(HashMap::clear);
}

/// Keeps the compiler's word that connections may cross threads out of the pool's way: they never do.
const _: fn() = || {
    fn sends<T: Send>() {}
    sends::<Arc<Endpoint>>();
    sends::<Connection>();
};
