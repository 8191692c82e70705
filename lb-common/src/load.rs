//! How busy a backend is, as the program sees it.

/// Live connections and response time of a backend, two words that are each read and written whole.
///
/// The response time is smoothed by a moving average that rises fast and falls slowly, and that halves with every
/// [`HALF_LIFE_MICROS`] without a sample: who gets no flows any more is tried again.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Load {
    /// Remembered flows that are neither ended nor ending, of services that track every flow.
    pub connections: u64,
    /// Microseconds in the low half; in the high one when they were last measured, in units of 1,024 microseconds of the
    /// monotonic clock. Zero: never.
    pub response: u64,
}

/// After so long without a sample a response time counts half: 2^20 microseconds.
pub const HALF_LIFE_MICROS: u64 = 1 << HALF_LIFE_SHIFT;
const HALF_LIFE_SHIFT: u32 = 20;
const UNIT_SHIFT: u32 = 10;

impl Load {
    /// The smoothed response time at `now` microseconds of the monotonic clock, in microseconds; 0: not known.
    #[inline(always)]
    pub const fn response_micros(self, now: u64) -> u32 {
        let known = self.response as u32;
        let units = ((now >> UNIT_SHIFT) as u32).wrapping_sub((self.response >> 32) as u32);
        // Another CPU's clock may be ahead by a moment.
        if units > u32::MAX / 2 {
            return known;
        }
        let halves = units >> (HALF_LIFE_SHIFT - UNIT_SHIFT);
        if halves > 31 {
            return 0;
        }
        let left = known >> halves;
        let part = units & ((1 << (HALF_LIFE_SHIFT - UNIT_SHIFT)) - 1);
        left - ((left as u64 * part as u64) >> (HALF_LIFE_SHIFT - UNIT_SHIFT + 1)) as u32
    }

    /// The word after a sample of so many microseconds: half of the way up, an eighth of the way down.
    #[inline(always)]
    pub const fn after_sample(self, sample: u32, now: u64) -> u64 {
        let known = self.response_micros(now);
        let smoothed = if known == 0 {
            sample
        } else if sample > known {
            known + (sample - known) / 2
        } else {
            known - (known - sample) / 8
        };
        let smoothed = if smoothed == 0 { 1 } else { smoothed };
        smoothed as u64 | ((now >> UNIT_SHIFT) as u32 as u64) << 32
    }
}

const _: () = assert!(size_of::<Load>() == 16);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rises_fast_falls_slowly_and_halves_without_samples() {
        let at = |load: Load, sample, now| Load { response: load.after_sample(sample, now), ..load };
        let start = 7_000_000;
        let load = at(Load::default(), 1_000, start);
        assert_eq!(load.response_micros(start), 1_000);
        let risen = at(load, 9_000, start);
        assert_eq!(risen.response_micros(start), 5_000);
        let fallen = at(risen, 1_000, start);
        assert_eq!(fallen.response_micros(start), 4_500);
        assert_eq!(fallen.response_micros(start + HALF_LIFE_MICROS) / 10, 225);
        assert_eq!(
            fallen.response_micros(start + 3 * HALF_LIFE_MICROS / 2) / 10,
            168,
            "in between it is a line"
        );
        assert_eq!(fallen.response_micros(start + 40 * HALF_LIFE_MICROS), 0);
        assert_eq!(fallen.response_micros(start - 5_000), 4_500, "another clock is behind");
        assert_ne!(at(Load::default(), 0, start).response_micros(start), 0, "too fast to measure is known");
    }
}
