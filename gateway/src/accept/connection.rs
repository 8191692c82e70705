//! One connection: what opens it, then hyper over a screened or a watched stream, and what the watchman wants of it.

use std::{
    future::Future,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU8, Ordering::Relaxed},
    },
    task::{Context, Poll, Waker, ready},
};

use hyper::server::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};

use super::{
    head_limits,
    http2::{Http2Service, Streams, WatchedIo},
    opening::{self, Opened},
    service::{ConnectionService, Gateway},
    stream::{ClientStream, Socket},
    watch::Watchman,
};
use crate::{
    in_flight::InFlightGuard,
    screen::{
        HeadLimits,
        io::{RefusalCell, ScreenedIo, Signals},
    },
    shared::Shared,
    snapshot::Listener,
};

/// hyper's headers on the stack; beyond it allocates.
const HEADERS_ON_STACK: usize = 100;
/// hyper's default bound of what is read ahead of the parser; it must hold a whole head.
const READ_AHEAD_BYTES: usize = 400 << 10;

/// What connections of one worker have in common.
pub struct Served {
    /// What all workers share.
    pub shared: Arc<Shared>,
    watchman: Arc<Watchman>,
    gateway: Gateway,
    http1: http1::Builder,
    limits: HeadLimits,
}

impl Served {
    /// Reads what is fixed from the snapshot.
    pub fn new(shared: Arc<Shared>, watchman: Arc<Watchman>) -> Self {
        let snapshot = shared.snapshot();
        let limits = head_limits(&snapshot.settings.fixed);
        let mut http1 = http1::Builder::new();
        // Waiting is the watchman's business: a timer for each request is dear. Whole heads are the screen's.
        http1.header_read_timeout(None);
        http1.max_buf_size(READ_AHEAD_BYTES.max(2 * limits.bytes_max));
        if limits.headers_max > HEADERS_ON_STACK {
            http1.max_headers(limits.headers_max);
        }
        let gateway = Gateway::new(shared.clone(), &snapshot.settings.fixed.health_path);
        Self { shared, watchman, gateway, http1, limits }
    }

    /// Serves a connection until it ends.
    pub fn connection(
        self: &Arc<Self>,
        socket: Socket,
        address: SocketAddr,
        listener: Arc<Listener>,
        place: InFlightGuard,
    ) -> impl Future<Output = ()> + Send + use<> {
        let signals = Signals::new(self.watchman.clock());
        let watched = Arc::new(Watched {
            signals,
            streams: OnceLock::new(),
            order: AtomicU8::new(0),
            task: OnceLock::new(),
        });
        self.watchman.watch(&watched);
        let opening = opening::open(socket, address, listener, self.shared.clone());
        let stage = Stage::Opening(Box::pin(opening));
        Connection { stage, served: self.clone(), watched, closing: false, _place: place }
    }

    fn http1(&self, opened: Opened, signals: &Arc<Signals>) -> Http1 {
        let service =
            ConnectionService::new(self.gateway.clone(), opened.peer, RefusalCell::new(signals.clone()));
        let io = TokioIo::new(ScreenedIo::new(opened.stream, self.limits, signals.clone()));
        self.http1.serve_connection(io, service).with_upgrades()
    }

    fn http2(&self, opened: Opened, watched: &Arc<Watched>) -> Http2 {
        let settings = self.shared.snapshot().settings.http2;
        let limits = self.limits;
        let service =
            Http2Service::new(self.gateway.clone(), opened.peer, watched, limits.headers_max, settings);
        let io = TokioIo::new(WatchedIo::new(opened.stream, watched.signals.clone()));
        settings.builder(limits.bytes_max).serve_connection(io, service)
    }
}

type Http1 = http1::UpgradeableConnection<TokioIo<ScreenedIo<ClientStream>>, ConnectionService>;
type Http2 = http2::Connection<TokioIo<WatchedIo<ClientStream>>, Http2Service, TokioExecutor>;

/// What the watchman may want of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Order {
    /// End after the request in flight; now if there is none.
    Close = 1,
    /// End now.
    Cut = 2,
}

/// What the watchman knows of a connection.
#[derive(Debug)]
pub struct Watched {
    /// What its stream tells.
    pub signals: Arc<Signals>,
    /// Its requests, if it speaks HTTP/2.
    pub streams: OnceLock<Arc<Streams>>,
    order: AtomicU8,
    task: OnceLock<Waker>,
}

impl Watched {
    /// Gives an order, which stands; `false` if the same or more was ordered before.
    pub fn order(&self, order: Order) -> bool {
        let before = self.order.fetch_max(order as u8, Relaxed);
        if before < order as u8 {
            self.wake();
        }
        before < order as u8
    }

    /// Lets the connection look at what is wanted.
    pub fn wake(&self) {
        if let Some(task) = self.task.get() {
            task.wake_by_ref();
        }
    }
}

struct Connection {
    stage: Stage,
    served: Arc<Served>,
    watched: Arc<Watched>,
    closing: bool,
    _place: InFlightGuard,
}

/// How far a connection has come. The stage of most connections has its place here, the others are on the heap.
#[expect(
    clippy::large_enum_variant,
    reason = "the large one is what nearly all are, and each request goes through it"
)]
enum Stage {
    Opening(Pin<Box<dyn Future<Output = Option<Opened>> + Send>>),
    Http1(Http1),
    Http2(Box<Http2>),
}

impl Connection {
    /// Goes as far as it can with what has arrived; ready at the connection's end.
    fn advance(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            let opened = match &mut self.stage {
                Stage::Http1(http) => return Pin::new(http).poll(cx).map(drop),
                Stage::Http2(http) => return Pin::new(http).poll(cx).map(drop),
                Stage::Opening(opening) => ready!(opening.as_mut().poll(cx)),
            };
            let Some(opened) = opened else { return Poll::Ready(()) };
            self.stage = if opened.http2 {
                Stage::Http2(Box::new(self.served.http2(opened, &self.watched)))
            } else {
                Stage::Http1(self.served.http1(opened, &self.watched.signals))
            };
        }
    }

    /// Ends after what is in flight. `false` if nothing can be.
    fn close(&mut self) -> bool {
        match &mut self.stage {
            Stage::Opening(_) => return false,
            Stage::Http1(http) => Pin::new(http).graceful_shutdown(),
            Stage::Http2(http) => Pin::new(&mut **http).graceful_shutdown(),
        }
        true
    }
}

impl Future for Connection {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        // The future is a task of its own, so its waker stays the same.
        if self.watched.task.get().is_none() {
            let _ = self.watched.task.set(cx.waker().clone());
        }
        loop {
            // First what has arrived is read: a request on its way in is not closed upon.
            if self.advance(cx).is_ready() {
                return Poll::Ready(());
            }
            match self.watched.order.load(Relaxed) {
                order if order == Order::Cut as u8 => return Poll::Ready(()),
                order if order == Order::Close as u8 && !self.closing => {
                    self.closing = true;
                    if !self.close() {
                        return Poll::Ready(());
                    }
                }
                _ => return Poll::Pending,
            }
        }
    }
}
