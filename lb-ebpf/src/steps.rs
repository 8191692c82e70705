//! Loops that stay loops, with an end that the verifier sees.
//!
//! The compiler writes a loop of a few steps out, which makes programs long, or counts it in another way, down to zero
//! from a number that it does not tell; kernels such as 6.1 then follow it for ever. Here the counter is hidden from the
//! compiler, and is a constant in every step to the verifier.

use core::hint::black_box;

/// The numbers below `count`.
#[inline(always)]
pub fn steps(count: u8) -> Steps {
    Steps { next: 0, count: count as u64 }
}

/// See [`steps`].
pub struct Steps {
    next: u64,
    count: u64,
}

impl Iterator for Steps {
    type Item = u64;

    #[inline(always)]
    fn next(&mut self) -> Option<u64> {
        let at = black_box(self.next);
        if at >= self.count {
            return None;
        }
        self.next = at + 1;
        Some(at)
    }
}
