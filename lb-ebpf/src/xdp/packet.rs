//! [`Packet`] over an XDP context: the only raw pointers into a packet.

use aya_ebpf::programs::XdpContext;
use lb_ebpf::packet::{Packet, Word};

/// The linear part of a packet.
pub struct XdpPacket {
    data: usize,
    data_end: usize,
}

impl XdpPacket {
    #[inline(always)]
    pub fn new(ctx: &XdpContext) -> Self {
        Self { data: ctx.data(), data_end: ctx.data_end() }
    }

    /// A pointer to a `T` at `offset` within the packet. The comparison is the one that the verifier looks for.
    #[inline(always)]
    fn at<T>(&self, offset: usize) -> Option<*mut T> {
        let start = self.data + offset;
        if start + size_of::<T>() > self.data_end { None } else { Some(start as *mut T) }
    }
}

impl Packet for XdpPacket {
    #[inline(always)]
    fn len(&self) -> usize {
        self.data_end - self.data
    }

    #[inline(always)]
    fn load<T: Word>(&self, offset: usize) -> Option<T> {
        // SAFETY: `at` checked the bounds; every `Word` is valid for all bit patterns. BPF loads need no
        // alignment on the architectures that the object is built for, and the verifier checks that too.
        self.at::<T>(offset).map(|pointer| unsafe { *pointer })
    }

    #[inline(always)]
    fn store<T: Word>(&mut self, offset: usize, value: T) -> Option<()> {
        // SAFETY: as in `load`; nothing else refers to the packet while the program runs.
        self.at::<T>(offset).map(|pointer| unsafe { *pointer = value })
    }
}
