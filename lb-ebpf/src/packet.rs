//! Bounds-checked access to a packet's bytes.

/// Fixed-size plain words that can be read from and written to a packet at any offset, in memory order: a
/// `u16` or `u32` is the native word over the packet's bytes, so network order needs `to_be`/`from_be`.
pub trait Word: Copy {
    /// Reads from the beginning of `bytes`, which holds at least its size.
    fn read(bytes: &[u8]) -> Option<Self>;
    /// Writes to the beginning of `bytes`.
    fn write(self, bytes: &mut [u8]) -> Option<()>;
}

macro_rules! words {
    ($($type:ty),*) => {$(
        impl Word for $type {
            #[inline(always)]
            fn read(bytes: &[u8]) -> Option<Self> {
                Some(Self::from_ne_bytes(*bytes.first_chunk()?))
            }
            #[inline(always)]
            fn write(self, bytes: &mut [u8]) -> Option<()> {
                *bytes.first_chunk_mut()? = self.to_ne_bytes();
                Some(())
            }
        }
    )*};
}
words!(u8, u16, u32);

impl<const N: usize> Word for [u32; N] {
    #[inline(always)]
    fn read(bytes: &[u8]) -> Option<Self> {
        let mut words = [0; N];
        for (word, chunk) in words.iter_mut().zip(bytes.get(..4 * N)?.chunks_exact(4)) {
            *word = u32::read(chunk)?;
        }
        Some(words)
    }
    #[inline(always)]
    fn write(self, bytes: &mut [u8]) -> Option<()> {
        for (word, chunk) in self.iter().zip(bytes.get_mut(..4 * N)?.chunks_exact_mut(4)) {
            word.write(chunk)?;
        }
        Some(())
    }
}

/// A packet from its Ethernet header on. `None` says that the access would leave the packet, or that there is no
/// room for the change.
pub trait Packet {
    /// Bytes that can be read and written: all of a packet that fits one buffer, else the first buffer's.
    fn len(&self) -> usize;
    /// Whether there are none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Bytes in all buffers together.
    fn total_len(&self) -> usize;
    /// Reads at a byte offset.
    fn load<T: Word>(&self, offset: usize) -> Option<T>;
    /// Writes at a byte offset.
    fn store<T: Word>(&mut self, offset: usize, value: T) -> Option<()>;
    /// Puts so many bytes in front; what was at offset 0 is now at `bytes`. Their content is undefined.
    fn grow_head(&mut self, bytes: usize) -> Option<()>;
    /// Takes so many bytes off the front.
    fn shrink_head(&mut self, bytes: usize) -> Option<()>;
    /// Cuts the packet to `len` bytes in all; it is at least as long.
    fn truncate(&mut self, len: usize) -> Option<()>;
}

/// A packet in plain memory, with the room in front that XDP gives one.
#[cfg(any(test, feature = "host"))]
pub struct Buffer {
    bytes: Vec<u8>,
    start: usize,
}

#[cfg(any(test, feature = "host"))]
impl Buffer {
    /// `XDP_PACKET_HEADROOM`.
    pub const HEADROOM: usize = 256;

    /// A copy of `frame` with headroom.
    pub fn new(frame: &[u8]) -> Self {
        let mut bytes = vec![0xa5; Self::HEADROOM];
        bytes.extend_from_slice(frame);
        Self { bytes, start: Self::HEADROOM }
    }

    /// The packet.
    pub fn frame(&self) -> &[u8] {
        &self.bytes[self.start..]
    }
}

#[cfg(any(test, feature = "host"))]
impl Packet for Buffer {
    fn len(&self) -> usize {
        self.bytes.len() - self.start
    }
    fn total_len(&self) -> usize {
        self.len()
    }
    fn load<T: Word>(&self, offset: usize) -> Option<T> {
        T::read(self.frame().get(offset..)?)
    }
    fn store<T: Word>(&mut self, offset: usize, value: T) -> Option<()> {
        value.write(self.bytes[self.start..].get_mut(offset..)?)
    }
    fn grow_head(&mut self, bytes: usize) -> Option<()> {
        self.start = self.start.checked_sub(bytes)?;
        Some(())
    }
    fn shrink_head(&mut self, bytes: usize) -> Option<()> {
        // As the kernel: an Ethernet header must remain.
        (bytes + 14 <= self.len()).then(|| self.start += bytes)
    }
    fn truncate(&mut self, len: usize) -> Option<()> {
        (14..=self.len()).contains(&len).then(|| self.bytes.truncate(self.start + len))
    }
}
