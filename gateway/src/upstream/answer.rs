//! The body of a service's answer, streamed. It knows its connection, puts it back when the answer is over, and
//! breaks off when the service stalls.

use std::{
    error::Error,
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use tokio::time::{Sleep, sleep, timeout};

use super::{
    Upstream,
    endpoint::InFlightOn,
    pool::{self, Connection, stream::StreamAnswer},
};
use crate::in_flight::InFlightGuard;

/// The largest body that is read for its connection's sake.
const UNUSED_BYTES_MAX: u64 = 16 << 10;
/// How long that may take; a new connection is cheaper than more.
const UNUSED_TIME_MAX: Duration = Duration::from_millis(50);

/// An answer's body as its protocol brings it.
pub enum AnswerStream {
    /// HTTP/1.1.
    Http1(Incoming),
    /// HTTP/2.
    Http2(Box<StreamAnswer>),
}

/// An answer's body.
pub struct AnswerBody {
    incoming: AnswerStream,
    connection: Option<Connection>,
    upstream: Arc<Upstream>,
    /// How long nothing may come.
    stall_max: Duration,
    /// Runs while nothing comes.
    stall: Option<Pin<Box<Sleep>>>,
    in_flight: InFlightOn,
}

/// The body broke off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BrokeOff {
    /// The connection failed.
    Connection,
    /// Nothing came for too long.
    Stalled,
}

impl AnswerBody {
    pub(super) fn new(
        incoming: AnswerStream,
        connection: Connection,
        keeps: bool,
        upstream: Arc<Upstream>,
        in_flight: InFlightOn,
    ) -> Self {
        let stall_max = upstream.stall;
        Self {
            incoming,
            connection: keeps.then_some(connection),
            upstream,
            stall_max,
            stall: None,
            in_flight,
        }
    }

    /// Bounds the time without a byte otherwise than its service does.
    pub fn stalls_after(&mut self, stall_max: Duration) {
        self.stall_max = stall_max;
    }

    /// Keeps a place among the service's requests until the body is gone.
    pub(super) fn holds(&mut self, place: Option<InFlightGuard>) {
        self.in_flight.place = place;
    }

    /// Reads what is left of a small body that nobody wants, so that its connection can be used again.
    pub async fn discard(mut self) {
        if self.size_hint().upper().is_some_and(|bytes| bytes <= UNUSED_BYTES_MAX) {
            let _ = timeout(UNUSED_TIME_MAX, async { while let Some(Ok(_)) = self.frame().await {} }).await;
        }
    }

    fn over(&mut self) {
        if let Some(connection) = self.connection.take() {
            pool::put_back(&self.upstream, connection);
        }
    }
}

impl Body for AnswerStream {
    type Data = Bytes;
    type Error = BrokeOff;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BrokeOff>>> {
        match self.get_mut() {
            Self::Http1(incoming) => Pin::new(incoming).poll_frame(context).map_err(|_| BrokeOff::Connection),
            Self::Http2(stream) => {
                Pin::new(&mut **stream).poll_frame(context).map_err(|_| BrokeOff::Connection)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Http1(incoming) => incoming.is_end_stream(),
            Self::Http2(stream) => stream.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Http1(incoming) => incoming.size_hint(),
            Self::Http2(stream) => stream.size_hint(),
        }
    }
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = BrokeOff;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BrokeOff>>> {
        let this = self.get_mut();
        match Pin::new(&mut this.incoming).poll_frame(context) {
            Poll::Ready(None) => {
                this.over();
                Poll::Ready(None)
            }
            Poll::Ready(Some(Ok(frame))) => {
                this.stall = None;
                if this.incoming.is_end_stream() {
                    this.over();
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(error))) => {
                this.connection = None;
                Poll::Ready(Some(Err(error)))
            }
            Poll::Pending => {
                let stall = this.stall.get_or_insert_with(|| Box::pin(sleep(this.stall_max)));
                match stall.as_mut().poll(context) {
                    Poll::Pending => Poll::Pending,
                    Poll::Ready(()) => {
                        this.connection = None;
                        Poll::Ready(Some(Err(BrokeOff::Stalled)))
                    }
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}

impl Drop for AnswerBody {
    fn drop(&mut self) {
        if self.incoming.is_end_stream() {
            self.over();
        }
    }
}

impl fmt::Display for BrokeOff {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            Self::Connection => "the service broke off",
            Self::Stalled => "the service stalled",
        })
    }
}

impl Error for BrokeOff {}
