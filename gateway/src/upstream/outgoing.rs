//! The body that is sent to a service: none, bytes at hand, or the client's as it comes, counted.

use std::{
    error::Error,
    fmt,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use crate::{hop, mirror::Copy, pipeline::ClientBody};

/// What is sent.
#[derive(Debug, Default)]
pub enum Outgoing {
    /// Nothing.
    #[default]
    Empty,
    /// Bytes at hand; none once they were sent.
    Full(Option<Bytes>),
    /// The client's.
    Client(Box<Streamed>),
}

/// A client's body on its way.
#[derive(Debug)]
pub struct Streamed {
    body: ClientBody,
    left: u64,
    fate: Arc<Fate>,
    /// Gathers it for another service as well.
    copy: Option<Box<Copy>>,
    /// Whether its trailers go on.
    trailers: bool,
}

/// What became of a client's body, for the one who waits for the answer.
#[derive(Debug, Default)]
pub struct Fate(AtomicU8);

const TOO_LARGE: u8 = 1;
const LOST: u8 = 2;
const COMPLETE: u8 = 3;

/// The body did not get through. Why stands in its [`Fate`].
#[derive(Debug)]
pub struct BodyEnded;

impl Outgoing {
    /// The client's body, of at most `limit` bytes.
    pub fn client(body: ClientBody, limit: u64) -> Self {
        Self::Client(Box::new(Streamed {
            body,
            left: limit,
            fate: Arc::default(),
            copy: None,
            trailers: false,
        }))
    }

    /// Bytes at hand.
    pub fn full(bytes: Bytes) -> Self {
        if bytes.is_empty() { Self::Empty } else { Self::Full(Some(bytes)) }
    }

    /// What becomes of a client's body; nothing for one that is at hand.
    pub fn fate(&self) -> Option<Arc<Fate>> {
        match self {
            Self::Client(streamed) => Some(streamed.fate.clone()),
            Self::Empty | Self::Full(_) => None,
        }
    }

    /// Sends the client's trailers too, for HTTP/2. hyper's HTTP/1.1 leaves a message without an end when it gets
    /// some that its head does not announce.
    pub fn with_trailers(mut self) -> Self {
        if let Self::Client(streamed) = &mut self {
            streamed.trailers = true;
        }
        self
    }

    /// Lets a copy of it be sent, once it has passed.
    pub fn copy_to(&mut self, copy: Box<Copy>) {
        let whole = match self {
            Self::Empty | Self::Full(None) => Some(copy),
            Self::Full(Some(bytes)) => copy.with(bytes),
            Self::Client(streamed) => {
                streamed.copy = Some(copy);
                None
            }
        };
        if let Some(copy) = whole {
            copy.send();
        }
    }

    /// Whether there is nothing to send.
    pub fn is_empty(&self) -> bool {
        matches!(self, Self::Empty)
    }
}

impl Fate {
    /// It grew beyond its limit.
    pub fn is_too_large(&self) -> bool {
        self.0.load(Relaxed) == TOO_LARGE
    }

    /// The client broke off.
    pub fn is_lost(&self) -> bool {
        self.0.load(Relaxed) == LOST
    }

    /// All of it was there.
    pub fn is_complete(&self) -> bool {
        self.0.load(Relaxed) == COMPLETE
    }
}

impl Body for Outgoing {
    type Data = Bytes;
    type Error = BodyEnded;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyEnded>>> {
        match self.get_mut() {
            Self::Empty => Poll::Ready(None),
            Self::Full(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Client(streamed) => streamed.poll(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Full(bytes) => bytes.is_none(),
            Self::Client(streamed) => streamed.body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty | Self::Full(None) => SizeHint::with_exact(0),
            Self::Full(Some(bytes)) => SizeHint::with_exact(bytes.len() as u64),
            Self::Client(streamed) => streamed.body.size_hint(),
        }
    }
}

impl Streamed {
    fn complete(&mut self) {
        self.fate.0.store(COMPLETE, Relaxed);
        if let Some(copy) = self.copy.take() {
            copy.send();
        }
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyEnded>>> {
        let frame = match ready!(Pin::new(&mut self.body).poll_frame(context)) {
            None => {
                self.complete();
                return Poll::Ready(None);
            }
            Some(Ok(frame)) => frame,
            Some(Err(_)) => {
                self.fate.0.store(LOST, Relaxed);
                return Poll::Ready(Some(Err(BodyEnded)));
            }
        };
        let Some(data) = frame.data_ref() else {
            self.complete();
            if !self.trailers {
                return Poll::Ready(None);
            }
            return Poll::Ready(frame.into_trailers().ok().map(hop::trailers).map(Frame::trailers).map(Ok));
        };
        match self.left.checked_sub(data.len() as u64) {
            Some(left) => {
                self.left = left;
                self.copy = self.copy.take().and_then(|copy| copy.with(data));
                if self.body.is_end_stream() {
                    self.complete();
                }
                Poll::Ready(Some(Ok(frame)))
            }
            None => {
                self.fate.0.store(TOO_LARGE, Relaxed);
                Poll::Ready(Some(Err(BodyEnded)))
            }
        }
    }
}

impl fmt::Display for BodyEnded {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("the client's body did not get through")
    }
}

impl Error for BodyEnded {}
