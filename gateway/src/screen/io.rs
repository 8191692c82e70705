//! The screen in front of a socket: its reader only ever gets whole heads that were found good.
//!
//! Bytes are examined where the socket put them, in the reader's own buffer. Only the beginning of a head that came in
//! pieces is kept here, bounded by [`HeadLimits::bytes_max`] and one read.
//!
//! In place of a refused head the reader gets one complete request that asks to close the connection. The service,
//! which counts its requests, asks [`RefusalCell::take`] with the number of each and so answers the refusal in its
//! turn, after the requests that came before. A violation in a body is an error of the stream.
//!
//! Behind a request for another protocol nothing passes until the service says how it was answered, by
//! [`RefusalCell::answered`]: after a switch all bytes do, untouched; otherwise those that came early are refused.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

use crate::small_writes;

use super::{Examined, HeadLimits, Malformed, Place, Rest, Screen};

/// What the reader gets in place of a refused head.
const STAND_IN: &[u8] = b"GET / HTTP/1.1\r\nhost: refused.invalid\r\nconnection: close\r\n\r\n";
/// Bytes read at once while a head comes in pieces.
const PIECE_BYTES: usize = 4096;
/// Bytes kept behind a request for another protocol; more wait in the socket.
const EARLY_BYTES_MAX: usize = 16 << 10;
/// How long and how much is read and thrown away before a connection with unread bytes is closed: closing at once
/// would reset it, and the client might never see the answer.
const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES_MAX: usize = 1 << 20;

/// What a connection's stream, its service and its watchman tell each other. No value is read across threads in a way
/// that needs an order between them.
#[derive(Debug, Default)]
pub struct Signals {
    /// 0, or the refused request's number + 1 in the high bits and the [`Malformed`] in the low eight.
    refusal: AtomicU64,
    /// 0, or the number + 1 of the last request for another protocol in the high bits and an [`Upgrade`] in the low two.
    upgrade: AtomicU64,
    hurry: AtomicBool,
    head_since: AtomicU32,
    write_blocked_since: AtomicU32,
    touched: AtomicU32,
    heads_passed: AtomicBool,
    now: Arc<AtomicU32>,
}

/// How a request for another protocol is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Upgrade {
    Awaited = 0,
    Refused = 1,
    Granted = 2,
}

impl Signals {
    /// Signals that take the time from `now`, a coarse clock above 0.
    pub fn new(now: Arc<AtomicU32>) -> Arc<Self> {
        let touched = AtomicU32::new(now.load(Relaxed));
        Arc::new(Self { touched, now, ..Self::default() })
    }

    /// When the head that has come only in part began, by the coarse clock.
    pub fn head_since(&self) -> Option<u32> {
        Some(self.head_since.load(Relaxed)).filter(|&since| since > 0)
    }

    /// Since when the client has taken no byte of what is to be sent, by the coarse clock.
    pub fn write_blocked_since(&self) -> Option<u32> {
        Some(self.write_blocked_since.load(Relaxed)).filter(|&since| since > 0)
    }

    /// Whether a whole head has come.
    pub fn heads_passed(&self) -> bool {
        self.heads_passed.load(Relaxed)
    }

    /// When the last byte went in or out, by the coarse clock.
    pub fn touched(&self) -> u32 {
        self.touched.load(Relaxed)
    }

    /// Refuse the head that has come only in part, when the connection's task runs next.
    pub fn refuse_partial_head(&self) {
        self.hurry.store(true, Relaxed);
    }

    /// The coarse clock.
    pub fn now(&self) -> u32 {
        self.now.load(Relaxed)
    }

    /// A whole head has come.
    pub fn note_head(&self) {
        self.heads_passed.store(true, Relaxed);
    }

    fn touch(&self) {
        self.touched.store(self.now.load(Relaxed), Relaxed);
    }

    /// Notes how an attempt to write ended.
    pub fn wrote<V>(&self, written: Poll<io::Result<V>>) -> Poll<io::Result<V>> {
        if written.is_ready() {
            self.touch();
            self.write_blocked_since.store(0, Relaxed);
        } else if self.write_blocked_since().is_none() {
            self.write_blocked_since.store(self.now.load(Relaxed).max(1), Relaxed);
        }
        written
    }

    fn set_upgrade(&self, index: u64, upgrade: Upgrade) {
        self.upgrade.store((index + 1) << 2 | upgrade as u64, Relaxed);
    }

    fn upgrade(&self) -> Upgrade {
        match self.upgrade.load(Relaxed) & 3 {
            0 => Upgrade::Awaited,
            1 => Upgrade::Refused,
            _ => Upgrade::Granted,
        }
    }

    fn refuse(&self, index: u64, malformed: Malformed) {
        self.refusal.store((index + 1) << 8 | malformed as u64, Relaxed);
    }
}

/// Where the service learns that one of its requests stands for a refused one.
#[derive(Debug, Clone)]
pub struct RefusalCell(Arc<Signals>);

impl RefusalCell {
    /// A cell that reads `signals`.
    pub fn new(signals: Arc<Signals>) -> Self {
        Self(signals)
    }

    /// Why the connection's request number `index`, counted from 0, is refused; `None` for a good one.
    ///
    /// For a violation in a body the answer changes from `None` while the body is read.
    pub fn take(&self, index: u64) -> Option<Malformed> {
        let refusal = self.0.refusal.load(Relaxed);
        if refusal >> 8 != index + 1 {
            return None;
        }
        Malformed::ALL.get(usize::from(refusal as u8)).copied()
    }

    /// Whether request number `index` asks for another protocol; then [`Self::answered`] must be called for it.
    pub fn asks_upgrade(&self, index: u64) -> bool {
        self.0.upgrade.load(Relaxed) >> 2 == index + 1
    }

    /// Says how request number `index` is answered. Called by the connection's task, which reads on then.
    pub fn answered(&self, index: u64, granted: bool) -> impl Future<Output = ()> + use<> {
        self.0.set_upgrade(index, if granted { Upgrade::Granted } else { Upgrade::Refused });
        std::future::poll_fn(|cx| {
            cx.waker().wake_by_ref();
            Poll::Ready(())
        })
    }
}

/// A stream whose reading side passes only what [`Screen`] found good.
#[derive(Debug)]
pub struct ScreenedIo<T> {
    io: T,
    screen: Screen,
    signals: Arc<Signals>,
    phase: Phase,
    held: Held,
    linger: Option<Pin<Box<Sleep>>>,
    lingered: usize,
}

#[derive(Debug, Clone, Copy)]
enum Phase {
    Screening,
    /// Another protocol was asked for.
    Awaiting,
    /// Another protocol is spoken.
    Tunnel,
    /// So many bytes of [`STAND_IN`] were given.
    StandIn(usize),
    Broken(Malformed),
}

/// Bytes taken from the socket that the reader has not got.
#[derive(Debug, Default)]
struct Held {
    bytes: Vec<u8>,
    given: usize,
    /// Up to here they are good; what follows is the beginning of a head.
    good: usize,
}

impl<T> ScreenedIo<T> {
    /// Screens what is read from `io`, and says what it refuses through `signals`.
    pub fn new(io: T, limits: HeadLimits, signals: Arc<Signals>) -> Self {
        let screen = Screen::new(limits);
        Self {
            io,
            screen,
            signals,
            phase: Phase::Screening,
            held: Held::default(),
            linger: None,
            lingered: 0,
        }
    }

    fn refuse(&mut self, malformed: Malformed) {
        let place = self.screen.refused().unwrap_or(Place::Head);
        self.signals.refuse(self.screen.request_index(), malformed);
        self.signals.head_since.store(0, Relaxed);
        self.phase = match place {
            Place::Head => Phase::StandIn(0),
            Place::Body => Phase::Broken(malformed),
        };
    }

    /// Notes that the last good byte ended a request for another protocol.
    fn note_upgrade(&mut self) {
        if self.screen.awaits_upgrade() {
            self.phase = Phase::Awaiting;
            self.signals.set_upgrade(self.screen.request_index(), Upgrade::Awaited);
        }
    }

    /// Goes on as the request for another protocol was answered.
    fn decide(&mut self, granted: bool) {
        let early = !self.held.bytes.is_empty();
        if granted {
            self.held.good = self.held.bytes.len();
            self.phase = Phase::Tunnel;
            return;
        }
        self.screen.stays(early);
        self.phase = Phase::Screening;
        if early {
            self.held = Held::default();
            self.refuse(Malformed::EarlyData);
        }
    }

    /// Notes that a head has begun, or that none is held.
    fn note_head(&self) {
        let pending = self.held.bytes.len() > self.held.good;
        if !pending {
            self.signals.head_since.store(0, Relaxed);
            self.signals.hurry.store(false, Relaxed);
        } else if self.signals.head_since().is_none() {
            self.signals.head_since.store(self.signals.now.load(Relaxed).max(1), Relaxed);
        }
    }
}

impl<T: AsyncRead + Unpin> ScreenedIo<T> {
    /// Reads into the reader's buffer. `true` if that, or what follows from it, gives the reader something.
    fn read_in_place(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<bool>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.io).poll_read(cx, buf))?;
        let fresh = &buf.filled()[before..];
        if fresh.is_empty() {
            return Poll::Ready(Ok(true));
        }
        self.signals.touch();
        let Examined { good, rest } = self.screen.examine(fresh);
        if good > 0 {
            self.signals.heads_passed.store(true, Relaxed);
            self.note_upgrade();
        }
        match rest {
            Rest::None => {}
            Rest::Early => {
                self.held.bytes.extend_from_slice(&fresh[good..]);
                buf.set_filled(before + good);
            }
            Rest::PartOfHead => {
                self.held.bytes.extend_from_slice(&fresh[good..]);
                self.note_head();
                buf.set_filled(before + good);
            }
            Rest::Refused(malformed) => {
                buf.set_filled(before + good);
                self.refuse(malformed);
            }
        }
        Poll::Ready(Ok(good > 0))
    }

    /// Reads the next piece of a head. `true` at the end of the stream.
    fn read_piece(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        let mut piece = [std::mem::MaybeUninit::uninit(); PIECE_BYTES];
        let mut piece = ReadBuf::uninit(&mut piece);
        ready!(Pin::new(&mut self.io).poll_read(cx, &mut piece))?;
        if piece.filled().is_empty() {
            return Poll::Ready(Ok(true));
        }
        self.signals.touch();
        self.held.bytes.extend_from_slice(piece.filled());
        let Examined { good, rest } = self.screen.examine(&self.held.bytes);
        self.held.good = good;
        if good > 0 {
            self.signals.heads_passed.store(true, Relaxed);
            self.note_upgrade();
        }
        match rest {
            Rest::Early => self.signals.head_since.store(0, Relaxed),
            Rest::None | Rest::PartOfHead => self.note_head(),
            Rest::Refused(malformed) => {
                self.held.bytes.truncate(good);
                self.refuse(malformed);
            }
        }
        Poll::Ready(Ok(false))
    }

    /// Keeps what comes early, within bounds. Ready at the end of the stream only.
    fn read_early(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut piece = [std::mem::MaybeUninit::uninit(); PIECE_BYTES];
        while self.held.bytes.len() < EARLY_BYTES_MAX {
            let mut piece = ReadBuf::uninit(&mut piece);
            ready!(Pin::new(&mut self.io).poll_read(cx, &mut piece))?;
            if piece.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
            self.signals.touch();
            self.held.bytes.extend_from_slice(piece.filled());
        }
        // The answer wakes the reader.
        Poll::Pending
    }

    fn read_screened(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            if self.held.give(buf) {
                return Poll::Ready(Ok(()));
            }
            match self.phase {
                Phase::Screening if self.held.bytes.is_empty() => {
                    if ready!(self.read_in_place(cx, buf))? {
                        return Poll::Ready(Ok(()));
                    }
                }
                Phase::Screening => match self.read_piece(cx) {
                    Poll::Ready(Ok(false)) => {}
                    Poll::Ready(ended) => return Poll::Ready(ended.map(|_| ())),
                    Poll::Pending if self.signals.hurry.load(Relaxed) => {
                        self.held = Held::default();
                        self.refuse(Malformed::HeadTooSlow);
                    }
                    Poll::Pending => return Poll::Pending,
                },
                Phase::Awaiting => match self.signals.upgrade() {
                    Upgrade::Awaited => return self.read_early(cx),
                    Upgrade::Refused => self.decide(false),
                    Upgrade::Granted => self.decide(true),
                },
                Phase::Tunnel => return Pin::new(&mut self.io).poll_read(cx, buf),
                // An end of the stream would cancel the answer; the reader closes the connection after it.
                Phase::StandIn(given) if given == STAND_IN.len() => return Poll::Pending,
                Phase::StandIn(given) => {
                    let taken = buf.remaining().min(STAND_IN.len() - given);
                    buf.put_slice(&STAND_IN[given..given + taken]);
                    self.phase = Phase::StandIn(given + taken);
                    return Poll::Ready(Ok(()));
                }
                Phase::Broken(malformed) => {
                    return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, malformed)));
                }
            }
        }
    }

    /// Reads and throws away what the client still sends.
    fn poll_linger(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let timer = self.linger.get_or_insert_with(|| Box::pin(sleep(LINGER)));
        if timer.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Ok(()));
        }
        let mut waste = [std::mem::MaybeUninit::uninit(); PIECE_BYTES];
        while self.lingered < LINGER_BYTES_MAX {
            let mut waste = ReadBuf::uninit(&mut waste);
            match ready!(Pin::new(&mut self.io).poll_read(cx, &mut waste)) {
                Ok(()) if !waste.filled().is_empty() => self.lingered += waste.filled().len(),
                Ok(()) | Err(_) => break,
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl Held {
    /// Moves good bytes into `buf`; `false` if there are none.
    fn give(&mut self, buf: &mut ReadBuf<'_>) -> bool {
        let ready = &self.bytes[self.given..self.good];
        if ready.is_empty() {
            return false;
        }
        let taken = ready.len().min(buf.remaining());
        buf.put_slice(&ready[..taken]);
        self.given += taken;
        if self.given == self.bytes.len() {
            // Gives the memory back: most connections never need it again.
            *self = Self::default();
        } else if self.given == self.good {
            self.bytes.drain(..self.good);
            (self.given, self.good) = (0, 0);
        }
        true
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for ScreenedIo<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.read_screened(cx, buf)
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncWrite for ScreenedIo<T> {
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

    /// Says that nothing more is sent, then waits a little for a client that is still sending.
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.linger.is_none() {
            ready!(Pin::new(&mut self.io).poll_shutdown(cx))?;
        }
        match self.phase {
            Phase::Tunnel => return Poll::Ready(Ok(())),
            Phase::Screening if self.screen.expects_head() => return Poll::Ready(Ok(())),
            Phase::Awaiting if self.held.bytes.is_empty() => return Poll::Ready(Ok(())),
            Phase::Screening | Phase::Awaiting | Phase::StandIn(_) | Phase::Broken(_) => {}
        }
        self.poll_linger(cx)
    }
}

#[cfg(test)]
mod tests;
