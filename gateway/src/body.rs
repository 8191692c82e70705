//! The body of a client's request, and the body of an answer: none, bytes at hand, or a service's as it comes. When it is gone, the request
//! is over, and its record is closed.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::body::Incoming;

use crate::{
    record::Closing,
    upgrade::Switched,
    upstream::{AnswerBody, answer::BrokeOff},
};

/// A request's body.
#[derive(Debug, Default)]
pub enum ClientBody {
    /// Nothing, or nothing any more.
    #[default]
    Empty,
    /// As it comes.
    Incoming(Incoming),
}

/// An answer's body.
pub struct Body {
    kind: Kind,
    closing: Option<Closing>,
    trailers: bool,
}

enum Kind {
    Empty,
    Full(Option<Bytes>),
    Upstream(AnswerBody),
    Switched(Box<Switched>),
}

impl Body {
    /// Nothing.
    pub fn empty() -> Self {
        Self { kind: Kind::Empty, closing: None, trailers: false }
    }

    /// Bytes at hand.
    pub fn full(bytes: impl Into<Bytes>) -> Self {
        Self { kind: Kind::Full(Some(bytes.into())), closing: None, trailers: false }
    }

    /// A service's.
    pub fn upstream(body: AnswerBody) -> Self {
        Self { kind: Kind::Upstream(body), closing: None, trailers: false }
    }

    /// None: another protocol follows.
    pub fn switched(switched: Box<Switched>) -> Self {
        Self { kind: Kind::Switched(switched), closing: None, trailers: false }
    }

    /// What follows, with the record that its end closes; an answer without a body is left.
    pub fn take_switched(&mut self) -> Option<(Box<Switched>, Option<Closing>)> {
        match std::mem::replace(&mut self.kind, Kind::Empty) {
            Kind::Switched(switched) => Some((switched, self.closing.take())),
            kind => {
                self.kind = kind;
                None
            }
        }
    }

    /// Lets trailers through, for clients of HTTP/2. hyper's HTTP/1.1 leaves an answer without an end when it gets
    /// some that its client did not ask for.
    pub fn pass_trailers(&mut self) {
        self.trailers = true;
    }

    /// The same, closing a record when it is over.
    pub fn closing(mut self, closing: Closing) -> Self {
        self.closing = Some(closing);
        self
    }
}

impl HttpBody for ClientBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match self.get_mut() {
            Self::Empty => Poll::Ready(None),
            Self::Incoming(incoming) => Pin::new(incoming).poll_frame(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Incoming(incoming) => incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Incoming(incoming) => incoming.size_hint(),
        }
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = BrokeOff;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BrokeOff>>> {
        let this = self.get_mut();
        let frame = match &mut this.kind {
            Kind::Empty | Kind::Switched(_) => Poll::Ready(None),
            Kind::Full(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Kind::Upstream(body) => Pin::new(body).poll_frame(context),
        };
        if !this.trailers && matches!(&frame, Poll::Ready(Some(Ok(frame))) if frame.is_trailers()) {
            return Poll::Ready(None);
        }
        if let Some(closing) = &mut this.closing {
            match &frame {
                Poll::Ready(Some(Ok(frame))) => {
                    closing.sent(frame.data_ref().map_or(0, Bytes::len));
                }
                Poll::Ready(Some(Err(error))) => closing.broke_off(*error),
                Poll::Ready(None) | Poll::Pending => {}
            }
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Empty | Kind::Switched(_) => true,
            Kind::Full(bytes) => bytes.is_none(),
            Kind::Upstream(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Empty | Kind::Switched(_) | Kind::Full(None) => SizeHint::with_exact(0),
            Kind::Full(Some(bytes)) => SizeHint::with_exact(bytes.len() as u64),
            Kind::Upstream(body) => body.size_hint(),
        }
    }
}
