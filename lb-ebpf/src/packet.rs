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

/// A packet from its Ethernet header on. `None` says that the access would leave the packet.
pub trait Packet {
    /// Bytes in all.
    fn len(&self) -> usize;
    /// Whether there are none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Reads at a byte offset.
    fn load<T: Word>(&self, offset: usize) -> Option<T>;
    /// Writes at a byte offset.
    fn store<T: Word>(&mut self, offset: usize, value: T) -> Option<()>;
}

impl Packet for [u8] {
    fn len(&self) -> usize {
        <[u8]>::len(self)
    }
    fn load<T: Word>(&self, offset: usize) -> Option<T> {
        T::read(self.get(offset..)?)
    }
    fn store<T: Word>(&mut self, offset: usize, value: T) -> Option<()> {
        value.write(self.get_mut(offset..)?)
    }
}
