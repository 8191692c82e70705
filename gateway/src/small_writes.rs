//! Small writes go out as one buffer. The kernel takes one buffer (send) for less than a list of them (writev), and
//! most heads and bodies are small; larger ones are not copied.

use std::{
    io,
    mem::MaybeUninit,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Up to here copying costs less than the list: a head and a small body.
const COPIED_BYTES_MAX: usize = 2048;

/// Writes a list of buffers, as one if they are small.
///
/// # Errors
/// The stream's.
pub fn poll_write_vectored<T: AsyncWrite + Unpin>(
    io: &mut T,
    cx: &mut Context<'_>,
    slices: &[io::IoSlice<'_>],
) -> Poll<io::Result<usize>> {
    if let [one] = slices {
        return Pin::new(io).poll_write(cx, one);
    }
    if slices.iter().map(|slice| slice.len()).sum::<usize>() > COPIED_BYTES_MAX {
        return Pin::new(io).poll_write_vectored(cx, slices);
    }
    let mut room = [MaybeUninit::uninit(); COPIED_BYTES_MAX];
    let mut whole = ReadBuf::uninit(&mut room);
    for slice in slices {
        whole.put_slice(slice);
    }
    Pin::new(io).poll_write(cx, whole.filled())
}

/// A stream whose small writes go out as one buffer.
#[derive(Debug)]
pub struct SmallWrites<T>(pub T);

impl<T: AsyncRead + Unpin> AsyncRead for SmallWrites<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for SmallWrites<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        poll_write_vectored(&mut self.0, cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Remembers what it was given.
    #[derive(Default)]
    struct Remembers {
        bytes: Vec<u8>,
        lists: usize,
    }

    impl AsyncWrite for Remembers {
        fn poll_write(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            self.bytes.extend_from_slice(bytes);
            Poll::Ready(Ok(bytes.len()))
        }

        fn poll_write_vectored(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            slices: &[io::IoSlice<'_>],
        ) -> Poll<io::Result<usize>> {
            self.lists += 1;
            slices.iter().for_each(|slice| self.bytes.extend_from_slice(slice));
            Poll::Ready(Ok(slices.iter().map(|slice| slice.len()).sum()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[test]
    fn only_large_writes_stay_lists() {
        for (lengths, lists) in [
            (&[][..], 0),
            (&[5], 0),
            (&[COPIED_BYTES_MAX + 1], 0),
            (&[300, 0, 700], 0),
            (&[1, COPIED_BYTES_MAX - 1], 0),
            (&[1, COPIED_BYTES_MAX], 1),
        ] {
            let parts: Vec<Vec<u8>> =
                (1u8..).zip(lengths).map(|(fill, &length)| vec![fill; length]).collect();
            let slices: Vec<_> = parts.iter().map(|part| io::IoSlice::new(part)).collect();
            let mut io = Remembers::default();
            let mut cx = Context::from_waker(std::task::Waker::noop());
            let written = poll_write_vectored(&mut io, &mut cx, &slices);
            assert!(
                matches!(written, Poll::Ready(Ok(count)) if count == parts.concat().len()),
                "{lengths:?}"
            );
            assert_eq!((io.bytes, io.lists), (parts.concat(), lists), "{lengths:?}");
        }
    }
}
