//! One request on an HTTP/2 connection: its head, its body as the instance takes it, its answer (RFC 9113, section 8.1).
//!
//! Both bodies flow at the same time, each at its reader's pace: the answer may begin, and end, before the request has.

use std::{
    future::poll_fn,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use h2::{Reason, RecvStream, SendStream, client::ResponseFuture};
use http::{
    HeaderMap, Request, Response, Uri, Version,
    header::{CONTENT_LENGTH, HOST},
    request::Parts,
    uri::{self, Authority, PathAndQuery},
};
use http_body::{Body, Frame, SizeHint};
use tokio::task::AbortHandle;

use super::{
    NotAnswered,
    http2::{Place, takes_requests},
};
use crate::{
    error::UpstreamError,
    hop,
    upstream::{AnswerStream, Outgoing},
};

/// A body up to this size is kept until its answer begins, for an instance that says it did nothing of it.
const KEPT_BYTES_MAX: usize = 64 << 10;

/// An answer's body.
pub struct StreamAnswer {
    received: RecvStream,
    data_ended: bool,
    length: Option<u64>,
    /// What is still sent of the request; without an answer nobody wants it.
    sending: Option<AbortHandle>,
    _place: Arc<Place>,
}

/// The request's body on its way.
struct Sending {
    body: Outgoing,
    stream: SendStream<Bytes>,
    /// What was read of the body and awaits room in the instance's window.
    chunk: Bytes,
    ended: bool,
    kept: Kept,
}

/// What was read of a body, as long as it is small.
#[derive(Default)]
struct Kept {
    chunks: Vec<Bytes>,
    bytes: usize,
    too_much: bool,
}

/// Sends a request and waits for the head of its answer.
///
/// # Errors
/// [`NotAnswered`].
pub(super) async fn send(
    place: &Arc<Place>,
    request: Request<Outgoing>,
) -> Result<Response<AnswerStream>, NotAnswered> {
    let mut sender = place.sender.clone();
    if !takes_requests(&mut sender) {
        return Err(NotAnswered::Unsent(Box::new(request)));
    }
    let (head, body) = request.into_parts();
    let body = body.with_trailers();
    let is_empty = body.is_end_stream();
    let head = with_authority(head, place).ok_or(NotAnswered::Lost(UpstreamError::Protocol))?;
    let (response, stream) =
        sender.send_request(head, is_empty).map_err(|error| NotAnswered::Lost(classify(&error)))?;
    let mut sending = Sending { body, stream, chunk: Bytes::new(), ended: is_empty, kept: Kept::default() };
    let response = match answered(response, &mut sending).await {
        Ok(response) => response,
        Err(error) if did_nothing(&error) => {
            place.refused();
            let again = sending.again();
            return Err(again.map_or(NotAnswered::Lost(UpstreamError::Broken), NotAnswered::Refused));
        }
        Err(error) => return Err(NotAnswered::Lost(classify(&error))),
    };
    let (parts, received) = response.into_parts();
    let length = match received.is_end_stream() {
        true => Some(0),
        false => parts.headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok()),
    };
    let sending = (!sending.ended).then(|| tokio::spawn(sending.finish(place.clone())).abort_handle());
    let answer = StreamAnswer { received, data_ended: false, length, sending, _place: place.clone() };
    Ok(Response::from_parts(parts, AnswerStream::Http2(Box::new(answer))))
}

/// The head with `:scheme` and `:authority`, which stands for `Host` (RFC 9113, section 8.3.1).
fn with_authority(mut head: Parts, place: &Place) -> Option<Request<()>> {
    let host = head.headers.remove(HOST);
    let named = host.and_then(|host| Authority::try_from(host.as_bytes()).ok());
    let mut target = uri::Parts::default();
    target.scheme = Some(place.scheme.clone());
    target.authority = Some(match named {
        Some(authority) => authority,
        None => Authority::try_from(place.authority.as_str()).unwrap_or(Authority::from_static("localhost")),
    });
    target.path_and_query = head.uri.path_and_query().cloned().or(Some(PathAndQuery::from_static("/")));
    head.uri = Uri::from_parts(target).ok()?;
    head.version = Version::HTTP_2;
    Some(Request::from_parts(head, ()))
}

/// Waits for the head of the answer, and sends the body meanwhile.
async fn answered(
    mut response: ResponseFuture,
    sending: &mut Sending,
) -> Result<Response<RecvStream>, h2::Error> {
    poll_fn(|cx| {
        if !sending.ended {
            sending.ended = sending.poll(cx).is_ready();
        }
        Pin::new(&mut response).poll(cx)
    })
    .await
}

/// Whether the instance says that it did nothing of the request (RFC 9113, section 8.7).
fn did_nothing(error: &h2::Error) -> bool {
    error.is_remote() && (error.is_go_away() || error.reason() == Some(Reason::REFUSED_STREAM))
}

fn classify(error: &h2::Error) -> UpstreamError {
    match error.is_library() || error.reason() == Some(Reason::PROTOCOL_ERROR) {
        true => UpstreamError::Protocol,
        false => UpstreamError::Broken,
    }
}

impl Sending {
    /// Sends what the body gives and the instance takes; ready when no more of it will be sent.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            // An answer may end before its request: the instance wants no more of it then.
            if self.stream.poll_reset(cx).is_ready() {
                return Poll::Ready(());
            }
            if !self.chunk.is_empty() {
                ready!(self.send_chunk(cx));
                continue;
            }
            let sent = match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                None => self.stream.send_data(Bytes::new(), true),
                // Why it ended stands in its fate.
                Some(Err(_)) => {
                    self.stream.send_reset(Reason::CANCEL);
                    return Poll::Ready(());
                }
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => {
                        self.kept.add(&data);
                        self.stream.reserve_capacity(data.len());
                        self.chunk = data;
                        continue;
                    }
                    Err(frame) => {
                        self.kept.too_much = true;
                        let trailers = frame.into_trailers().unwrap_or_default();
                        self.stream.send_trailers(trailers)
                    }
                },
            };
            // An error means that the stream is over, which its answer tells.
            drop(sent);
            return Poll::Ready(());
        }
    }

    fn send_chunk(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while self.stream.capacity() == 0 {
            if !matches!(ready!(self.stream.poll_capacity(cx)), Some(Ok(_))) {
                self.chunk.clear();
                return Poll::Ready(());
            }
        }
        let piece = self.chunk.split_to(self.stream.capacity().min(self.chunk.len()));
        if self.stream.send_data(piece, false).is_err() {
            self.chunk.clear();
        }
        Poll::Ready(())
    }

    async fn finish(mut self, _place: Arc<Place>) {
        poll_fn(|cx| self.poll(cx)).await;
    }

    /// The body from its beginning; nothing if too much of it is gone.
    fn again(self) -> Option<Outgoing> {
        match self.body {
            body if self.kept.bytes == 0 && !self.kept.too_much => Some(body),
            body if body.is_end_stream() && !self.kept.too_much => {
                Some(Outgoing::full(self.kept.chunks.concat().into()))
            }
            _ => None,
        }
    }
}

impl Kept {
    fn add(&mut self, data: &Bytes) {
        self.bytes += data.len();
        if self.bytes > KEPT_BYTES_MAX {
            self.too_much = true;
            self.chunks.clear();
        } else {
            self.chunks.push(data.clone());
        }
    }
}

impl Body for StreamAnswer {
    type Data = Bytes;
    type Error = h2::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
        if !self.data_ended {
            match ready!(self.received.poll_data(cx)) {
                Some(Ok(data)) => {
                    // Whoever asks for a frame has room for it. An error is the stream's, told by the next frame.
                    let _ = self.received.flow_control().release_capacity(data.len());
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                // The answer is whole, only the rest of the request is not wanted (RFC 9113, section 8.1).
                Some(Err(error)) if error.reason() == Some(Reason::NO_ERROR) && error.is_reset() => {
                    return Poll::Ready(None);
                }
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => self.data_ended = true,
            }
        }
        Poll::Ready(ready!(self.received.poll_trailers(cx)).transpose().map(
            |trailers: Result<HeaderMap, _>| {
                trailers.map(|trailers| Frame::trailers(hop::trailers(trailers)))
            },
        ))
    }

    fn is_end_stream(&self) -> bool {
        self.received.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        match self.length {
            Some(length) => SizeHint::with_exact(length),
            None => SizeHint::default(),
        }
    }
}

impl Drop for StreamAnswer {
    fn drop(&mut self) {
        if let Some(sending) = self.sending.take().filter(|_| !self.received.is_end_stream()) {
            sending.abort();
        }
    }
}
