//! HTTP/2: requests share connections. A request takes a place on the first connection that has one; when all are full,
//! another is opened up to `pool.connections_max`, and beyond that requests wait for a place.
//!
//! A connection has as many places as the instance says in its SETTINGS, at most `pool.streams_max`. One that is too
//! old, idle for too long, or told to go away (GOAWAY) is forgotten here: it ends when its last request does.

use std::{
    cell::RefCell,
    collections::HashMap,
    future::poll_fn,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::Bytes;
use h2::{
    Ping, PingPong,
    client::{self, SendRequest},
};
use http::uri::Scheme;
use tokio::{
    sync::{Notify, futures::OwnedNotified},
    time::{Instant, sleep, timeout},
};

use crate::{
    error::UpstreamError,
    upstream::{
        Endpoint, Upstream,
        connect::{Connector, Stream},
    },
};

/// Bytes of one answer that an instance may send ahead of a slow client.
const STREAM_WINDOW_BYTES: u32 = 128 << 10;
/// Names and values of an answer's headers.
const HEADER_LIST_BYTES_MAX: u32 = 64 << 10;

thread_local! {
    static ORIGINS: RefCell<HashMap<(u64, u64), Origin>> = RefCell::default();
}

/// One instance as this worker knows it.
#[derive(Default)]
struct Origin {
    connections: Vec<Multiplexed>,
    queue: Arc<Queue>,
    idle_timeout: Duration,
}

/// Requests that wait, and what they wait for.
#[derive(Default)]
struct Queue {
    opening: AtomicUsize,
    waiting: AtomicUsize,
    /// Connections that could not be opened so far.
    failures: AtomicU32,
    changed: Arc<Notify>,
}

/// A connection.
struct Multiplexed {
    sender: SendRequest<Bytes>,
    streams: Arc<Streams>,
    retires: Instant,
    /// Requests served when it was last found in use, and when that was.
    last_use: (u64, Instant),
}

/// What goes on on a connection.
#[derive(Default)]
struct Streams {
    open: AtomicUsize,
    /// As many as the instance lets be open at the same time.
    room: AtomicUsize,
    served: AtomicU64,
    /// It refused a request: further ones go elsewhere.
    refuses: AtomicBool,
}

/// A request's place on a connection; free again when dropped.
pub struct Place {
    pub(super) sender: SendRequest<Bytes>,
    pub(super) scheme: Scheme,
    /// What is asked for where a request names no host.
    pub(super) authority: String,
    streams: Arc<Streams>,
    queue: Arc<Queue>,
    used: bool,
}

/// A connection is being opened; that failed if it is dropped before it says otherwise.
struct Opening {
    queue: Arc<Queue>,
    succeeded: bool,
}

/// A request waits for a place.
struct Waiting {
    changed: OwnedNotified,
    failures: u32,
    counted: Counted,
}

/// One of those that wait.
struct Counted(Arc<Queue>);

enum Sought {
    Place(Arc<Place>),
    Open(Opening),
    Wait(Waiting),
}

impl Place {
    pub(super) fn is_used(&self) -> bool {
        self.used
    }

    /// Notes that the instance refused a request on this connection.
    pub(super) fn refused(&self) {
        self.streams.refuses.store(true, Relaxed);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.streams.open.fetch_sub(1, Relaxed);
        if self.queue.waiting.load(Relaxed) > 0 {
            self.queue.changed.notify_one();
        }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Relaxed);
    }
}

impl Drop for Opening {
    fn drop(&mut self) {
        self.queue.opening.fetch_sub(1, Relaxed);
        if !self.succeeded {
            self.queue.failures.fetch_add(1, Relaxed);
        }
        self.queue.changed.notify_waiters();
    }
}

impl Waiting {
    fn on(queue: &Arc<Queue>) -> Self {
        queue.waiting.fetch_add(1, Relaxed);
        let changed = queue.changed.clone().notified_owned();
        Self { changed, failures: queue.failures.load(Relaxed), counted: Counted(queue.clone()) }
    }

    /// Whether it makes sense to look again: not when the connection that was waited for could not be opened.
    async fn until_changed(self) -> bool {
        let Self { changed, failures, counted } = self;
        changed.await;
        counted.0.failures.load(Relaxed) == failures
    }
}

impl Origin {
    /// A place on a connection that is open; connections that take no further request are forgotten.
    fn free_place(
        &mut self,
        connector: &Connector,
        endpoint: &Endpoint,
        streams_max: usize,
    ) -> Option<Arc<Place>> {
        self.connections.retain_mut(Multiplexed::is_open);
        let free = self.connections.iter().find(|connection| connection.streams.has_room(streams_max))?;
        Some(free.place(connector, endpoint, &self.queue))
    }
}

impl Streams {
    fn has_room(&self, streams_max: usize) -> bool {
        self.open.load(Relaxed) < self.room.load(Relaxed).min(streams_max)
    }
}

impl Multiplexed {
    fn is_open(&mut self) -> bool {
        !self.streams.refuses.load(Relaxed) && takes_requests(&mut self.sender)
    }

    fn place(&self, connector: &Connector, endpoint: &Endpoint, queue: &Arc<Queue>) -> Arc<Place> {
        self.streams.open.fetch_add(1, Relaxed);
        Arc::new(Place {
            sender: self.sender.clone(),
            scheme: connector.scheme(),
            authority: endpoint.address.to_string(),
            used: self.streams.served.fetch_add(1, Relaxed) > 0,
            streams: self.streams.clone(),
            queue: queue.clone(),
        })
    }

    /// Whether it is kept for further requests.
    fn is_kept(&mut self, now: Instant, idle_timeout: Duration) -> bool {
        let served = self.streams.served.load(Relaxed);
        if served != self.last_use.0 || self.streams.open.load(Relaxed) > 0 {
            self.last_use = (served, now);
        }
        self.is_open() && now < self.retires && now < self.last_use.1 + idle_timeout
    }
}

/// Whether a connection takes requests: no error, no GOAWAY.
pub(super) fn takes_requests(sender: &mut SendRequest<Bytes>) -> bool {
    matches!(sender.poll_ready(&mut Context::from_waker(Waker::noop())), Poll::Ready(Ok(())))
}

/// A place on a connection that is open, if there is one.
pub(super) fn take(upstream: &Upstream, endpoint: &Endpoint) -> Option<Arc<Place>> {
    ORIGINS.with_borrow_mut(|origins| {
        let origin = origins.get_mut(&super::key(upstream, endpoint))?;
        origin.free_place(&upstream.connector, endpoint, upstream.pool.streams_max)
    })
}

/// A place; waits for one, or opens a connection.
///
/// # Errors
/// [`UpstreamError::Connect`], [`UpstreamError::ConnectTimeout`], [`UpstreamError::Tls`], [`UpstreamError::Protocol`].
pub(super) async fn place(upstream: &Upstream, endpoint: &Endpoint) -> Result<Arc<Place>, UpstreamError> {
    loop {
        match seek(upstream, endpoint) {
            Sought::Place(place) => return Ok(place),
            Sought::Wait(waiting) => {
                if !waiting.until_changed().await {
                    return Err(UpstreamError::Connect);
                }
            }
            Sought::Open(mut opening) => {
                let opened =
                    timeout(upstream.connect_timeout, open(upstream, endpoint, &opening.queue)).await;
                let connection = opened.unwrap_or(Err(UpstreamError::ConnectTimeout))?;
                let place = connection.place(&upstream.connector, endpoint, &opening.queue);
                opening.succeeded = true;
                ORIGINS.with_borrow_mut(|origins| {
                    let origin = origins.entry(super::key(upstream, endpoint)).or_default();
                    origin.queue = opening.queue.clone();
                    origin.idle_timeout = upstream.pool.idle_timeout;
                    origin.connections.push(connection);
                });
                return Ok(place);
            }
        }
    }
}

fn seek(upstream: &Upstream, endpoint: &Endpoint) -> Sought {
    let pool = &upstream.pool;
    ORIGINS.with_borrow_mut(|origins| {
        let origin = origins.entry(super::key(upstream, endpoint)).or_default();
        if let Some(place) = origin.free_place(&upstream.connector, endpoint, pool.streams_max) {
            return Sought::Place(place);
        }
        let queue = &origin.queue;
        let (opening, waiting) = (queue.opening.load(Relaxed), queue.waiting.load(Relaxed));
        // A connection that is being opened will have room for those that wait already.
        let suffices = waiting < opening * pool.streams_max;
        if suffices || origin.connections.len() + opening >= pool.connections_max {
            return Sought::Wait(Waiting::on(queue));
        }
        queue.opening.fetch_add(1, Relaxed);
        Sought::Open(Opening { queue: queue.clone(), succeeded: false })
    })
}

async fn open(
    upstream: &Upstream,
    endpoint: &Endpoint,
    queue: &Arc<Queue>,
) -> Result<Multiplexed, UpstreamError> {
    let pool = &upstream.pool;
    let stream = upstream.connector.connect(endpoint).await?;
    let retires = Instant::now() + super::jittered(pool.max_age, endpoint.id);
    begin(stream, pool.streams_max, pool.ping, retires, queue).await
}

/// A place on a connection of its own.
///
/// # Errors
/// Those of [`place`].
pub(super) async fn own_place(
    connector: &Connector,
    endpoint: &Endpoint,
) -> Result<Arc<Place>, UpstreamError> {
    let stream = connector.connect(endpoint).await?;
    let queue = Arc::default();
    Ok(begin(stream, 1, None, Instant::now(), &queue).await?.place(connector, endpoint, &queue))
}

/// Begins a connection and waits for the instance's SETTINGS: only then is it known to speak HTTP/2, and how many
/// requests it takes.
async fn begin(
    stream: Box<dyn Stream>,
    streams_max: usize,
    ping: Option<Duration>,
    retires: Instant,
    queue: &Arc<Queue>,
) -> Result<Multiplexed, UpstreamError> {
    // Clients that take nothing fill the windows of their own requests, never the connection's.
    let window = STREAM_WINDOW_BYTES.saturating_mul(u32::try_from(streams_max).unwrap_or(u32::MAX));
    let (sender, mut connection) = client::Builder::new()
        .enable_push(false)
        .initial_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(window.clamp(STREAM_WINDOW_BYTES, i32::MAX as u32))
        .max_header_list_size(HEADER_LIST_BYTES_MAX)
        .initial_max_send_streams(0)
        .handshake::<_, Bytes>(stream)
        .await
        .map_err(|_| UpstreamError::Connect)?;
    let settings = poll_fn(|cx| match Pin::new(&mut connection).poll(cx) {
        Poll::Ready(Err(error)) if error.is_io() => Poll::Ready(Err(UpstreamError::Connect)),
        Poll::Ready(_) => Poll::Ready(Err(UpstreamError::Protocol)),
        Poll::Pending if connection.max_concurrent_send_streams() > 0 => Poll::Ready(Ok(())),
        Poll::Pending => Poll::Pending,
    });
    settings.await?;
    let streams = Arc::new(Streams::default());
    streams.room.store(connection.max_concurrent_send_streams(), Relaxed);
    tokio::spawn(drive(connection, streams.clone(), queue.clone(), ping));
    Ok(Multiplexed { sender, streams, retires, last_use: (0, Instant::now()) })
}

/// Reads and writes a connection until it ends.
async fn drive(
    mut connection: client::Connection<Box<dyn Stream>, Bytes>,
    streams: Arc<Streams>,
    queue: Arc<Queue>,
    ping: Option<Duration>,
) {
    let pings = connection.ping_pong();
    let work = poll_fn(|cx| {
        let ended = Pin::new(&mut connection).poll(cx);
        let room = connection.max_concurrent_send_streams();
        if streams.room.swap(room, Relaxed) < room {
            queue.changed.notify_waiters();
        }
        ended
    });
    match (ping, pings) {
        (Some(interval), Some(pings)) => tokio::select! {
            _ = work => {}
            () = unanswered(pings, interval, &streams) => {}
        },
        // What goes wrong on it is told to the requests that it serves.
        _ => drop(work.await),
    }
    queue.changed.notify_waiters();
}

/// Ends when a ping is not answered while requests are in flight.
async fn unanswered(mut pings: PingPong, interval: Duration, streams: &Streams) {
    loop {
        sleep(interval).await;
        if streams.open.load(Relaxed) > 0
            && !matches!(timeout(interval, pings.ping(Ping::opaque())).await, Ok(Ok(_)))
        {
            return;
        }
    }
}

pub(super) fn sweep() {
    let now = Instant::now();
    ORIGINS.with_borrow_mut(|origins| {
        origins.retain(|_, origin| {
            let idle_timeout = origin.idle_timeout;
            origin.connections.retain_mut(|connection| connection.is_kept(now, idle_timeout));
            let queue = &origin.queue;
            !origin.connections.is_empty()
                || queue.opening.load(Relaxed) > 0
                || queue.waiting.load(Relaxed) > 0
        });
    });
}

pub(super) fn idle_count() -> usize {
    let is_idle = |connection: &&Multiplexed| connection.streams.open.load(Relaxed) == 0;
    ORIGINS.with_borrow(|origins| {
        origins.values().map(|origin| origin.connections.iter().filter(is_idle).count()).sum()
    })
}

pub(super) fn clear() {
    ORIGINS.with_borrow_mut(HashMap::clear);
}
