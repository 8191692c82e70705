//! HTTP/1.1: whoever takes a connection has it alone; [`super::super::AnswerBody`] puts it back when its answer is over.

use std::{cell::RefCell, collections::HashMap, time::Duration};

use http::{Request, Response};
use hyper::client::conn::{
    TrySendError,
    http1::{self, SendRequest},
};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::Instant,
};

use super::NotAnswered;
use crate::{
    config::connect::Address,
    error::UpstreamError,
    upstream::{
        AnswerStream, Endpoint, Outgoing, Upstream,
        connect::{self, Connector},
    },
};

thread_local! {
    static IDLE: RefCell<HashMap<(u64, u64), Idle>> = RefCell::default();
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
    key: (u64, u64),
    /// When it serves no further request.
    retires: Instant,
    /// When it was put back; never, if it is new.
    idle_since: Option<Instant>,
}

impl Connection {
    /// A new one.
    pub(super) fn new(sender: SendRequest<Outgoing>, upstream: &Upstream, endpoint: &Endpoint) -> Self {
        let retires = Instant::now() + super::jittered(upstream.pool.max_age, endpoint.id);
        Self { sender, key: super::key(upstream, endpoint), retires, idle_since: None }
    }

    /// Whether it served a request before.
    pub(super) fn is_used(&self) -> bool {
        self.idle_since.is_some()
    }

    pub(super) async fn ready(&mut self) {
        if !self.sender.is_ready() {
            let _ = self.sender.ready().await;
        }
    }

    pub(super) fn send(
        &mut self,
        request: Request<Outgoing>,
    ) -> impl Future<Output = Result<Response<AnswerStream>, NotAnswered>> + use<> {
        let answer = self.sender.try_send_request(request);
        async { answer.await.map(|answer| answer.map(AnswerStream::Http1)).map_err(not_answered) }
    }
}

fn not_answered(mut error: TrySendError<Request<Outgoing>>) -> NotAnswered {
    match error.take_message() {
        Some(request) => NotAnswered::Unsent(Box::new(request)),
        None if error.error().is_parse() || error.error().is_parse_status() => {
            NotAnswered::Lost(UpstreamError::Protocol)
        }
        None => NotAnswered::Lost(UpstreamError::Broken),
    }
}

/// A kept connection.
pub(super) fn take(upstream: &Upstream, endpoint: &Endpoint) -> Option<Connection> {
    IDLE.with_borrow_mut(|idle| {
        let connections = &mut idle.get_mut(&super::key(upstream, endpoint))?.connections;
        while let Some(connection) = connections.pop() {
            if !connection.sender.is_closed() {
                return Some(connection);
            }
        }
        None
    })
}

/// A new clear connection over TCP.
///
/// # Errors
/// [`UpstreamError::Connect`].
pub(super) async fn open_plain(endpoint: &Endpoint) -> Result<SendRequest<Outgoing>, UpstreamError> {
    let Address::Tcp(address) = &endpoint.address else { return Err(UpstreamError::Connect) };
    begin(connect::tcp(*address).await?).await
}

/// A new connection of whichever kind.
///
/// # Errors
/// Those of [`Connector::connect`].
pub(super) async fn open(
    connector: &Connector,
    endpoint: &Endpoint,
) -> Result<SendRequest<Outgoing>, UpstreamError> {
    begin(connector.connect(endpoint).await?).await
}

async fn begin<T>(stream: T) -> Result<SendRequest<Outgoing>, UpstreamError>
where
    T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (sender, connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(|_| UpstreamError::Connect)?;
    tokio::spawn(async move {
        // What goes wrong on it is told to the request that it serves.
        let _ = connection.with_upgrades().await;
    });
    Ok(sender)
}

/// One request on a connection of its own.
///
/// # Errors
/// [`NotAnswered`].
pub(super) async fn ask(
    connector: &Connector,
    endpoint: &Endpoint,
    request: Request<Outgoing>,
) -> Result<Response<AnswerStream>, NotAnswered> {
    let mut sender = open(connector, endpoint).await.map_err(NotAnswered::Lost)?;
    sender.try_send_request(request).await.map(|answer| answer.map(AnswerStream::Http1)).map_err(not_answered)
}

pub(super) fn put_back(upstream: &Upstream, mut connection: Connection) {
    let now = Instant::now();
    if connection.sender.is_closed() || now >= connection.retires {
        return;
    }
    connection.idle_since = Some(now);
    IDLE.with_borrow_mut(|idle| {
        let idle = idle.entry(connection.key).or_default();
        idle.idle_timeout = upstream.pool.idle_timeout;
        if idle.connections.len() < upstream.pool.idle_max {
            idle.connections.push(connection);
        }
    });
}

pub(super) fn sweep() {
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

pub(super) fn idle_count() -> usize {
    IDLE.with_borrow(|idle| idle.values().map(|idle| idle.connections.len()).sum())
}

pub(super) fn clear() {
    IDLE.with_borrow_mut(HashMap::clear);
}
