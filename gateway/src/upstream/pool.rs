//! Connections to instances that are kept, by each worker its own: no lock, and an answer wakes no other core.
//!
//! | module | what |
//! |---|---|
//! | [`http1`] | whoever takes a connection has it alone until its answer is over |
//! | [`http2`] | many requests share a connection, as many as the instance and `pool.streams_max` let |
//! | [`stream`] | one request on an HTTP/2 connection, there and back |
//!
//! Bounds: `pool.idle_max` or `pool.connections_max` connections to an instance, `pool.idle_timeout` without a request,
//! `pool.max_age` in all.

pub mod http1;
pub mod http2;
pub mod stream;

use std::{sync::Arc, time::Duration};

use http::{Request, Response};
use tokio::time::timeout;

use super::{AnswerStream, Endpoint, Outgoing, Upstream, connect::Connector};
use crate::{config::connect::Protocol, error::UpstreamError};

/// What a request is sent on.
pub enum Connection {
    /// A connection.
    Http1(http1::Connection),
    /// A place on one.
    Http2(Arc<http2::Place>),
}

/// Why there is no answer.
pub enum NotAnswered {
    /// Nothing was sent: here is the request again.
    Unsent(Box<Request<Outgoing>>),
    /// The instance says that it did nothing of it (RFC 9113, section 8.7): the body begins anew.
    Refused(Outgoing),
    /// It may have been served.
    Lost(UpstreamError),
}

impl Connection {
    /// Whether it served a request before.
    pub fn is_used(&self) -> bool {
        match self {
            Self::Http1(connection) => connection.is_used(),
            Self::Http2(place) => place.is_used(),
        }
    }

    /// Waits until it takes a request; mostly it does at once: its task took notice of the last answer's end before
    /// anyone else. An error is told to the request that is sent.
    pub async fn ready(&mut self) {
        if let Self::Http1(connection) = self {
            connection.ready().await;
        }
    }

    /// Sends a request and waits for the head of its answer.
    ///
    /// # Errors
    /// [`NotAnswered`].
    pub async fn send(&mut self, request: Request<Outgoing>) -> Result<Response<AnswerStream>, NotAnswered> {
        match self {
            Self::Http1(connection) => connection.send(request).await,
            Self::Http2(place) => Box::pin(stream::send(place, request)).await,
        }
    }
}

/// A kept connection with room for a request.
pub fn take(upstream: &Upstream, endpoint: &Endpoint) -> Option<Connection> {
    match upstream.connector.protocol {
        Protocol::Http1 => http1::take(upstream, endpoint).map(Connection::Http1),
        Protocol::Http2 => http2::take(upstream, endpoint).map(Connection::Http2),
    }
}

/// A connection that was surely open a moment ago.
///
/// # Errors
/// [`UpstreamError::Connect`], [`UpstreamError::ConnectTimeout`], [`UpstreamError::Tls`], [`UpstreamError::Protocol`].
pub async fn open(upstream: &Upstream, endpoint: &Endpoint) -> Result<Connection, UpstreamError> {
    let connector = &upstream.connector;
    if connector.is_plain(endpoint) {
        let open = timeout(upstream.connect_timeout, http1::open_plain(endpoint));
        let sender = open.await.unwrap_or(Err(UpstreamError::ConnectTimeout))?;
        return Ok(Connection::Http1(http1::Connection::new(sender, upstream, endpoint)));
    }
    match connector.protocol {
        Protocol::Http1 => {
            let open = Box::pin(timeout(upstream.connect_timeout, http1::open(connector, endpoint)));
            let sender = open.await.unwrap_or(Err(UpstreamError::ConnectTimeout))?;
            Ok(Connection::Http1(http1::Connection::new(sender, upstream, endpoint)))
        }
        Protocol::Http2 => Box::pin(http2::place(upstream, endpoint)).await.map(Connection::Http2),
    }
}

/// One request on a connection of its own, which is not kept.
///
/// # Errors
/// [`UpstreamError`].
pub async fn ask(
    connector: &Connector,
    endpoint: &Endpoint,
    request: Request<Outgoing>,
) -> Result<Response<AnswerStream>, UpstreamError> {
    let answer = match connector.protocol {
        Protocol::Http1 => http1::ask(connector, endpoint, request).await,
        Protocol::Http2 => {
            let place = http2::own_place(connector, endpoint).await?;
            stream::send(&place, request).await
        }
    };
    answer.map_err(|error| match error {
        NotAnswered::Unsent(_) | NotAnswered::Refused(_) => UpstreamError::Broken,
        NotAnswered::Lost(error) => error,
    })
}

/// Keeps a connection whose answer is over, unless it is too old, closed, or one too many.
pub fn put_back(upstream: &Upstream, connection: Connection) {
    match connection {
        Connection::Http1(connection) => http1::put_back(upstream, connection),
        // Its place is free when nobody holds it.
        Connection::Http2(_) => {}
    }
}

/// Closes what is idle for too long, too old, or closed by the other end. Each worker calls it once a second.
pub fn sweep() {
    http1::sweep();
    http2::sweep();
}

/// Idle connections of this worker.
pub fn idle_count() -> usize {
    http1::idle_count() + http2::idle_count()
}

/// Closes every idle connection of this worker.
pub fn clear() {
    http1::clear();
    http2::clear();
}

/// Which connections a request may use: those to its instance, made in its service's present way.
fn key(upstream: &Upstream, endpoint: &Endpoint) -> (u64, u64) {
    (endpoint.id, upstream.connector.id)
}

/// Up to a tenth less, so that connections opened together do not retire together.
fn jittered(age: Duration, salt: u64) -> Duration {
    let noise = (crate::clock::now_ns() ^ salt).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 54;
    age - age / 10 * noise as u32 / 1024
}
