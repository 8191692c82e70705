//! Bytes both ways between two streams: with backpressure, each direction closed on its own, and an end to silence.
//!
//! An idle tunnel holds no buffer: what is read stands in one of its thread's until it is written, and only what the
//! other end does not take at once is kept, at most [`READ_BYTES`] for each direction.

use std::{
    cell::RefCell,
    future::{Future as _, poll_fn},
    io,
    pin::{Pin, pin},
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, sleep},
};

/// Bytes read at once.
const READ_BYTES: usize = 16 << 10;

thread_local! {
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; READ_BYTES].into());
}

/// How a tunnel ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Both ends closed it.
    Closed,
    /// A stream failed.
    Broken,
    /// Nothing moved for too long.
    Idle,
}

/// Bytes that were carried.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moved {
    /// From the client.
    pub received: u64,
    /// To the client.
    pub sent: u64,
}

/// Carries bytes until both directions are closed, one fails, or neither moves a byte for `idle`.
pub async fn both_ways<C, U>(mut client: C, mut upstream: U, idle: Duration) -> (Moved, End)
where
    C: AsyncRead + AsyncWrite + Unpin,
    U: AsyncRead + AsyncWrite + Unpin,
{
    let (mut received, mut sent) = (Direction::default(), Direction::default());
    let mut timer = pin!(sleep(idle));
    let mut last = (Instant::now(), 0);
    let end = poll_fn(|cx| {
        let there = received.poll(cx, &mut client, &mut upstream);
        let back = sent.poll(cx, &mut upstream, &mut client);
        match (there, back) {
            (Poll::Ready(Err(_)), _) | (_, Poll::Ready(Err(_))) => return Poll::Ready(End::Broken),
            (Poll::Ready(Ok(())), Poll::Ready(Ok(()))) => return Poll::Ready(End::Closed),
            (Poll::Pending, _) | (_, Poll::Pending) => {}
        }
        let moved = received.bytes + sent.bytes;
        if moved != last.1 {
            last = (Instant::now(), moved);
        }
        // The timer is set anew only when it is over: most tunnels move again and again before.
        while timer.as_mut().poll(cx).is_ready() {
            if last.0.elapsed() >= idle {
                return Poll::Ready(End::Idle);
            }
            timer.as_mut().reset(last.0 + idle);
        }
        Poll::Pending
    })
    .await;
    (Moved { received: received.bytes, sent: sent.bytes }, end)
}

/// One direction.
#[derive(Default)]
struct Direction {
    /// Read and not taken yet, from `given` on.
    held: Vec<u8>,
    given: usize,
    bytes: u64,
    unflushed: bool,
    state: State,
}

#[derive(Clone, Copy, Default)]
enum State {
    #[default]
    Open,
    /// Nothing more comes; the other end is to be told.
    Ended,
    Closed,
}

impl Direction {
    /// Ready when it is closed.
    fn poll<F, T>(&mut self, cx: &mut Context<'_>, from: &mut F, to: &mut T) -> Poll<io::Result<()>>
    where
        F: AsyncRead + Unpin,
        T: AsyncWrite + Unpin,
    {
        loop {
            while self.given < self.held.len() {
                let written = ready!(Pin::new(&mut *to).poll_write(cx, &self.held[self.given..]))?;
                self.wrote(written)?;
                self.given += written;
            }
            // Gives the memory back: most tunnels never need it again.
            (self.held, self.given) = (Vec::new(), 0);
            match self.state {
                State::Open => match self.read(cx, from, to) {
                    Poll::Ready(read) => read?,
                    Poll::Pending => {
                        if std::mem::take(&mut self.unflushed)
                            && Pin::new(&mut *to).poll_flush(cx)?.is_pending()
                        {
                            self.unflushed = true;
                        }
                        return Poll::Pending;
                    }
                },
                State::Ended => {
                    ready!(Pin::new(&mut *to).poll_shutdown(cx))?;
                    self.state = State::Closed;
                }
                State::Closed => return Poll::Ready(Ok(())),
            }
        }
    }

    /// Reads once, and writes as much of it as is taken.
    fn read<F, T>(&mut self, cx: &mut Context<'_>, from: &mut F, to: &mut T) -> Poll<io::Result<()>>
    where
        F: AsyncRead + Unpin,
        T: AsyncWrite + Unpin,
    {
        SCRATCH.with_borrow_mut(|scratch| {
            let mut buf = ReadBuf::new(scratch);
            ready!(Pin::new(from).poll_read(cx, &mut buf))?;
            let mut fresh = buf.filled();
            if fresh.is_empty() {
                self.state = State::Ended;
            }
            while !fresh.is_empty() {
                match Pin::new(&mut *to).poll_write(cx, fresh) {
                    Poll::Ready(written) => {
                        let written = written?;
                        self.wrote(written)?;
                        fresh = &fresh[written..];
                    }
                    Poll::Pending => {
                        self.held.extend_from_slice(fresh);
                        break;
                    }
                }
            }
            Poll::Ready(Ok(()))
        })
    }

    fn wrote(&mut self, bytes: usize) -> io::Result<()> {
        if bytes == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        self.bytes += bytes as u64;
        self.unflushed = true;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex, split};

    use super::*;

    const LONG: Duration = Duration::from_secs(3600);

    #[tokio::test]
    async fn more_than_the_streams_hold_arrives_in_order() {
        // A reader that takes 7 bytes at once: nearly every write is cut.
        let ((client, inner), (outer, service)) = (duplex(7), duplex(7));
        let carried = tokio::spawn(both_ways(inner, outer, LONG));
        let bytes: Vec<u8> = (0..100_000u32).map(|at| at as u8).collect();
        let (mut service_reads, mut service_writes) = split(service);
        let echoing = tokio::spawn(async move {
            tokio::io::copy(&mut service_reads, &mut service_writes).await.unwrap();
            service_writes.shutdown().await.unwrap();
        });
        let (mut reads, mut writes) = split(client);
        let sent = bytes.clone();
        let sending = tokio::spawn(async move {
            writes.write_all(&sent).await.unwrap();
            writes.shutdown().await.unwrap();
        });
        let mut got = Vec::new();
        reads.read_to_end(&mut got).await.unwrap();
        assert_eq!(got, bytes);
        sending.await.unwrap();
        echoing.await.unwrap();
        let moved = Moved { received: 100_000, sent: 100_000 };
        assert_eq!(carried.await.unwrap(), (moved, End::Closed));
    }

    #[tokio::test]
    async fn one_direction_lives_on_when_the_other_is_closed() {
        let ((mut client, inner), (outer, mut service)) = (duplex(64), duplex(64));
        let carried = tokio::spawn(both_ways(inner, outer, LONG));
        client.write_all(b"all").await.unwrap();
        client.shutdown().await.unwrap();
        let mut got = Vec::new();
        service.read_to_end(&mut got).await.unwrap();
        assert_eq!(got, b"all");
        service.write_all(b"later").await.unwrap();
        drop(service);
        let mut got = Vec::new();
        client.read_to_end(&mut got).await.unwrap();
        assert_eq!(got, b"later");
        assert_eq!(carried.await.unwrap(), (Moved { received: 3, sent: 5 }, End::Closed));
    }

    #[tokio::test]
    async fn silence_ends_it() {
        let ((mut client, inner), (outer, _service)) = (duplex(64), duplex(64));
        client.write_all(b".").await.unwrap();
        let ended = both_ways(inner, outer, Duration::from_millis(20)).await;
        assert_eq!(ended, (Moved { received: 1, sent: 0 }, End::Idle));
    }
}
