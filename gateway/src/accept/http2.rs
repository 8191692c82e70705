//! HTTP/2: a connection's requests, as the watchman wants to know of them, and what hyper calls for each.
//!
//! h2 refuses what breaks its framing; [`screen::http2`](crate::screen::http2) what has two meanings. The pipeline then
//! sees one form for both versions. A client that takes no byte of any answer, asks nothing, or takes requests back
//! again and again loses its connection.

use std::{
    convert::Infallible,
    future::Future,
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{Request, Response, Uri, Version};
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::{body::Incoming, server::conn::http2};
use hyper_util::rt::TokioExecutor;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{
    connection::{Order, Watched},
    service::{Gateway, serve},
};
use crate::{
    body::Body,
    config::listen::Http2Document,
    pipeline::Peer,
    screen::{self, io::Signals},
    small_writes,
    upstream::answer::BrokeOff,
};

/// Bounds of an HTTP/2 connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Http2Settings {
    /// Requests at the same time.
    pub streams_max: u32,
    /// Bytes of one request's body that may be on their way.
    pub stream_window: u32,
    /// Bytes of all requests' bodies that may be on their way.
    pub connection_window: u32,
    /// Bytes of one answer that wait for the client.
    pub send_bytes_max: usize,
    /// Requests that a client may take back before they are answered, over those that it let be answered.
    pub resets_max: u32,
}

impl Http2Settings {
    /// What hyper is told. `head_bytes_max` bounds a request's headers.
    pub fn builder(self, head_bytes_max: usize) -> http2::Builder<TokioExecutor> {
        // Tasks stay on the worker's thread: its runtime has no other.
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder
            .max_concurrent_streams(self.streams_max)
            .initial_stream_window_size(self.stream_window)
            .initial_connection_window_size(self.connection_window)
            .max_send_buf_size(self.send_bytes_max)
            .max_header_list_size(u32::try_from(head_bytes_max).unwrap_or(u32::MAX))
            .max_pending_accept_reset_streams(self.resets_max as usize)
            .max_local_error_reset_streams(self.resets_max as usize);
        builder
    }
}

impl From<&Http2Document> for Http2Settings {
    fn from(document: &Http2Document) -> Self {
        let bytes = |size: u64| u32::try_from(size).unwrap_or(u32::MAX);
        Self {
            streams_max: document.streams,
            stream_window: bytes(document.stream_window.0),
            connection_window: bytes(document.connection_window.0),
            send_bytes_max: bytes(document.send_buffer.0) as usize,
            resets_max: document.resets,
        }
    }
}

/// What the watchman knows of a connection's requests. Times are those of the coarse clock.
#[derive(Debug)]
pub struct Streams {
    signals: Arc<Signals>,
    open: AtomicU32,
    /// Answers of which a part waits for the client's window.
    waiting: AtomicU32,
    /// When a request last began or ended, or a part of an answer was taken.
    progress: AtomicU32,
    /// Requests taken back, less those answered; never below zero.
    resets: AtomicU32,
}

impl Streams {
    /// None yet.
    pub fn new(signals: Arc<Signals>) -> Arc<Self> {
        let progress = AtomicU32::new(signals.now());
        Arc::new(Self {
            signals,
            open: AtomicU32::new(0),
            waiting: AtomicU32::new(0),
            progress,
            resets: AtomicU32::new(0),
        })
    }

    /// Requests that have no whole answer yet.
    pub fn open(&self) -> u32 {
        self.open.load(Relaxed)
    }

    /// Whether a part of an answer waits for the client.
    pub fn is_waiting(&self) -> bool {
        self.waiting.load(Relaxed) > 0
    }

    /// When something last went on.
    pub fn progress(&self) -> u32 {
        self.progress.load(Relaxed)
    }

    fn note_progress(&self) {
        self.progress.store(self.signals.now(), Relaxed);
    }

    fn begin(self: &Arc<Self>) -> Stream {
        self.signals.note_head();
        self.open.fetch_add(1, Relaxed);
        self.note_progress();
        Stream { streams: self.clone(), waits: false, answered: false }
    }
}

/// One request, until its answer is gone.
struct Stream {
    streams: Arc<Streams>,
    waits: bool,
    answered: bool,
}

impl Stream {
    /// Whether a part of the answer waits for the client, from now on.
    fn wait(&mut self, waits: bool) {
        match (self.waits, waits) {
            (false, true) => drop(self.streams.waiting.fetch_add(1, Relaxed)),
            (true, false) => drop(self.streams.waiting.fetch_sub(1, Relaxed)),
            (true, true) | (false, false) => {}
        }
        self.waits = waits;
        self.streams.note_progress();
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.wait(false);
        self.streams.open.fetch_sub(1, Relaxed);
        let resets = &self.streams.resets;
        // All of a connection is on one thread.
        let after = match self.answered {
            true => resets.load(Relaxed).saturating_sub(1),
            false => resets.load(Relaxed).saturating_add(1),
        };
        resets.store(after, Relaxed);
    }
}

/// An answer's body on its way to an HTTP/2 client.
pub struct StreamBody {
    body: Body,
    stream: Stream,
}

impl HttpBody for StreamBody {
    type Data = Bytes;
    type Error = BrokeOff;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BrokeOff>>> {
        let this = self.get_mut();
        let frame = Pin::new(&mut this.body).poll_frame(cx);
        match &frame {
            // hyper asks for the next part when the window takes it.
            Poll::Ready(Some(Ok(_))) => this.stream.wait(true),
            Poll::Ready(Some(Err(_)) | None) => this.stream.answered = true,
            Poll::Pending => this.stream.wait(false),
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for StreamBody {
    fn drop(&mut self) {
        self.stream.answered |= self.body.is_end_stream();
    }
}

/// One connection's service.
pub struct Http2Service {
    gateway: Gateway,
    peer: Arc<Peer>,
    watched: Arc<Watched>,
    streams: Arc<Streams>,
    headers_max: usize,
    resets_max: u32,
}

impl Http2Service {
    /// For a connection of `peer`, with requests of at most so many headers.
    pub fn new(
        gateway: Gateway,
        peer: Arc<Peer>,
        watched: &Arc<Watched>,
        headers_max: usize,
        settings: Http2Settings,
    ) -> Self {
        let streams = watched.streams.get_or_init(|| Streams::new(watched.signals.clone())).clone();
        let resets_max = settings.resets_max;
        Self { gateway, peer, watched: watched.clone(), streams, headers_max, resets_max }
    }
}

impl hyper::service::Service<Request<Incoming>> for Http2Service {
    type Response = Response<StreamBody>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<StreamBody>, Infallible>> + Send>>;

    fn call(&self, mut request: Request<Incoming>) -> Self::Future {
        // What is taken back costs us more than it costs the client (CVE-2023-44487).
        if self.streams.resets.load(Relaxed) > self.resets_max && self.watched.order(Order::Cut) {
            self.gateway.shared().metrics.connections.resets.fetch_add(1, Relaxed);
        }
        let stream = self.streams.begin();
        let malformed = screen::http2::check(&mut request, self.headers_max).err();
        if malformed.is_some() {
            // What is refused must not meet the health path.
            *request.uri_mut() = Uri::from_static("*");
        } else if let Some(health) = self.gateway.health(&request) {
            return Box::pin(std::future::ready(Ok(health.map(|body| StreamBody { body, stream }))));
        }
        let shared = self.gateway.shared().clone();
        let answer = serve(shared, self.peer.clone(), malformed, request, Version::HTTP_2);
        Box::pin(async move { Ok(answer.await?.map(|body| StreamBody { body, stream })) })
    }
}

/// A stream that tells the watchman what goes over it.
#[derive(Debug)]
pub struct WatchedIo<T> {
    io: T,
    signals: Arc<Signals>,
}

impl<T> WatchedIo<T> {
    /// Tells `signals`.
    pub fn new(io: T, signals: Arc<Signals>) -> Self {
        Self { io, signals }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for WatchedIo<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for WatchedIo<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write(cx, bytes);
        self.signals.wrote(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = small_writes::poll_write_vectored(&mut self.io, cx, slices);
        self.signals.wrote(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
