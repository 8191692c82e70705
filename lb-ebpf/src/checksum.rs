//! Internet checksums, updated incrementally (RFC 1624, equation 3: `HC' = ~(~HC + ~m + m')`).
//!
//! One's complement sums do not depend on byte order (RFC 1071, 2), so all words here are native.

/// A change of the words under a checksum: the sum of `~m + m'`, not yet folded.
#[derive(Clone, Copy, Default)]
pub struct Difference(u64);

impl Difference {
    /// Adds a 32-bit word that goes from `old` to `new`.
    #[inline(always)]
    #[must_use]
    pub const fn word32(self, old: u32, new: u32) -> Self {
        Self(self.0 + !old as u64 + new as u64)
    }

    /// Adds a 16-bit word that goes from `old` to `new`.
    #[inline(always)]
    #[must_use]
    pub const fn word16(self, old: u16, new: u16) -> Self {
        Self(self.0 + !old as u64 + new as u64)
    }

    /// Adds a 32-bit word that was not there.
    #[inline(always)]
    #[must_use]
    pub const fn plus32(self, new: u32) -> Self {
        Self(self.0 + new as u64)
    }

    /// Adds a 16-bit word that was not there.
    #[inline(always)]
    #[must_use]
    pub const fn plus16(self, new: u16) -> Self {
        Self(self.0 + new as u64)
    }

    /// Both changes.
    #[inline(always)]
    #[must_use]
    pub const fn plus(self, other: Self) -> Self {
        Self(self.0 + other.0)
    }

    /// The checksum over `words`, among which it counts as zero.
    #[inline(always)]
    pub fn full<const N: usize>(words: &[u32; N]) -> u16 {
        let mut sum = 0u64;
        for word in words {
            sum += *word as u64;
        }
        Self(sum).apply(0xffff)
    }

    /// The checksum after the change.
    #[inline(always)]
    pub const fn apply(self, checksum: u16) -> u16 {
        let sum = self.0 + !checksum as u64;
        let sum = (sum & 0xffff_ffff) + (sum >> 32);
        let sum = (sum & 0xffff) + (sum >> 16);
        let sum = (sum & 0xffff) + (sum >> 16);
        let sum = (sum & 0xffff) + (sum >> 16);
        !(sum as u16)
    }

    /// The UDP checksum after the change: zero says that there is none and stays, a sum of zero is sent as
    /// all ones (RFC 768).
    #[inline(always)]
    pub const fn apply_udp(self, checksum: u16) -> u16 {
        if checksum == 0 {
            return 0;
        }
        match self.apply(checksum) {
            0 => 0xffff,
            sum => sum,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn full(words: &[u16]) -> u16 {
        let mut sum: u32 = words.iter().map(|&word| word as u32).sum();
        while sum >> 16 != 0 {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        !(sum as u16)
    }

    /// Every pairing of edge words: the incremental result is the full one.
    #[test]
    fn incremental_equals_full() {
        let edges = [0u16, 1, 0x7fff, 0x8000, 0xfffe, 0xffff, 0x1234];
        for rest in edges {
            for old in edges {
                for new in edges {
                    for other in edges {
                        let before = full(&[0x4500, rest, old, other]);
                        let after = full(&[0x4500, rest, new, rest]);
                        let change = Difference::default().word16(old, new).word32(other as u32, rest as u32);
                        assert_eq!(change.apply(before), after, "{rest:x} {old:x} {new:x} {other:x}");
                    }
                }
            }
        }
    }

    #[test]
    fn udp_keeps_none_and_never_becomes_none() {
        assert_eq!(Difference::default().word16(1, 2).apply_udp(0), 0);
        for new in 0..=u16::MAX {
            assert_ne!(Difference::default().word16(7, new).apply_udp(0x1234), 0);
        }
    }
}
