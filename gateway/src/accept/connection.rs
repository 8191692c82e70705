//! One connection: hyper over the screen, a service that counts its requests, and what the watchman wants of it.

use std::{
    future::Future,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU8, Ordering::Relaxed},
    },
    task::{Context, Poll, Waker},
};

use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::{
    head_limits,
    service::{ConnectionService, Gateway},
    watch::Watchman,
};
use crate::{
    in_flight::InFlightGuard,
    screen::{
        HeadLimits,
        io::{RefusalCell, ScreenedIo, Signals},
    },
    shared::Shared,
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
    http: http1::Builder,
    limits: HeadLimits,
}

impl Served {
    /// Reads what is fixed from the snapshot.
    pub fn new(shared: Arc<Shared>, watchman: Arc<Watchman>) -> Self {
        let snapshot = shared.snapshot();
        let limits = head_limits(&snapshot.settings.fixed);
        let mut http = http1::Builder::new();
        // Waiting is the watchman's business: a timer for each request is dear. Whole heads are the screen's.
        http.header_read_timeout(None);
        http.max_buf_size(READ_AHEAD_BYTES.max(2 * limits.bytes_max));
        if limits.headers_max > HEADERS_ON_STACK {
            http.max_headers(limits.headers_max);
        }
        let gateway = Gateway::new(shared.clone(), &snapshot.settings.fixed.health_path);
        Self { shared, watchman, gateway, http, limits }
    }

    /// Serves a connection until it ends.
    pub fn connection(
        &self,
        stream: TcpStream,
        peer: SocketAddr,
        place: InFlightGuard,
    ) -> impl Future<Output = ()> + Send + use<> {
        let signals = Signals::new(self.watchman.clock());
        let watched = Arc::new(Watched { signals, order: AtomicU8::new(0), task: OnceLock::new() });
        self.watchman.watch(&watched);
        let signals = watched.signals.clone();
        let service = ConnectionService::new(self.gateway.clone(), peer, RefusalCell::new(signals.clone()));
        let io = TokioIo::new(ScreenedIo::new(stream, self.limits, signals));
        let http = self.http.serve_connection(io, service).with_upgrades();
        Connection { http, watched, closing: false, _place: place }
    }
}

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
    http: http1::UpgradeableConnection<TokioIo<ScreenedIo<TcpStream>>, ConnectionService>,
    watched: Arc<Watched>,
    closing: bool,
    _place: InFlightGuard,
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
            if Pin::new(&mut self.http).poll(cx).is_ready() {
                return Poll::Ready(());
            }
            match self.watched.order.load(Relaxed) {
                order if order == Order::Cut as u8 => return Poll::Ready(()),
                order if order == Order::Close as u8 && !self.closing => {
                    self.closing = true;
                    Pin::new(&mut self.http).graceful_shutdown();
                }
                _ => return Poll::Pending,
            }
        }
    }
}
