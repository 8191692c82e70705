//! [`Packet`] over an XDP context: the only raw pointers into a packet.

use aya_ebpf::{
    EbpfContext as _,
    helpers::generated::{bpf_xdp_adjust_head, bpf_xdp_adjust_tail, bpf_xdp_get_buff_len},
    programs::XdpContext,
};
use lb_ebpf::packet::{Packet, Word};

/// The first buffer of a packet.
pub struct XdpPacket<'c> {
    ctx: &'c XdpContext,
    data: usize,
    data_end: usize,
}

impl<'c> XdpPacket<'c> {
    #[inline(always)]
    pub fn new(ctx: &'c XdpContext) -> Self {
        Self { ctx, data: ctx.data(), data_end: ctx.data_end() }
    }

    /// A pointer to a `T` at `offset` within the packet. The comparison is the one that the verifier looks for.
    #[inline(always)]
    fn at<T>(&self, offset: usize) -> Option<*mut T> {
        let start = self.data + offset;
        if start + size_of::<T>() > self.data_end { None } else { Some(start as *mut T) }
    }

    /// Moves the front; pointers made before it are void.
    #[inline(always)]
    fn adjust_head(&mut self, delta: i32) -> Option<()> {
        // SAFETY: a plain helper call on the program's own context.
        let moved = unsafe { bpf_xdp_adjust_head(self.ctx.as_ptr().cast(), delta) } == 0;
        (self.data, self.data_end) = (self.ctx.data(), self.ctx.data_end());
        moved.then_some(())
    }
}

impl Packet for XdpPacket<'_> {
    #[inline(always)]
    fn len(&self) -> usize {
        self.data_end - self.data
    }

    #[inline(always)]
    fn total_len(&self) -> usize {
        // SAFETY: a plain helper call on the program's own context.
        unsafe { bpf_xdp_get_buff_len(self.ctx.as_ptr().cast()) as usize }
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

    #[inline(always)]
    fn grow_head(&mut self, bytes: usize) -> Option<()> {
        self.adjust_head(-(bytes as i32))
    }

    #[inline(always)]
    fn shrink_head(&mut self, bytes: usize) -> Option<()> {
        self.adjust_head(bytes as i32)
    }

    #[inline(always)]
    fn truncate(&mut self, len: usize) -> Option<()> {
        let delta = len as i32 - self.total_len() as i32;
        // SAFETY: as in `adjust_head`.
        let cut = delta <= 0 && unsafe { bpf_xdp_adjust_tail(self.ctx.as_ptr().cast(), delta) } == 0;
        (self.data, self.data_end) = (self.ctx.data(), self.ctx.data_end());
        cut.then_some(())
    }
}
