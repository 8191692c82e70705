//! How long an instance takes to answer: an average that follows a peak at once and forgets it slowly (Finagle's peak
//! EWMA).

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// After so long, what is known weighs 1/e.
const MEMORY_MS: f64 = 10_000.0;

/// The average: 32 bits of a float of microseconds, and the millisecond in which it was so.
#[derive(Debug, Default)]
pub struct Latency(AtomicU64);

impl Latency {
    /// The average at `now_ns`, in microseconds; 0 where nothing is known or all is forgotten. What is not asked is
    /// forgotten, so that it is tried again.
    pub fn at(&self, now_ns: u64) -> f32 {
        let word = self.0.load(Relaxed);
        average_of(word) * memory(word, now_ns)
    }

    /// An answer took so long.
    pub fn took(&self, time_ns: u64, now_ns: u64) {
        let time = time_ns as f32 / 1e3;
        self.change(now_ns, |average, memory| match time > average {
            true => time,
            false => time * (1.0 - memory) + average * memory,
        });
    }

    /// None came in this time: it would have taken at least as long.
    pub fn took_longer_than(&self, time_ns: u64, now_ns: u64) {
        self.change(now_ns, |average, memory| (time_ns as f32 / 1e3).max(average * memory));
    }

    fn change(&self, now_ns: u64, average: impl Fn(f32, f32) -> f32) {
        let _ = self.0.fetch_update(Relaxed, Relaxed, |word| {
            let average = average(average_of(word), memory(word, now_ns));
            Some(u64::from(average.to_bits()) << 32 | u64::from(millisecond(now_ns)))
        });
    }
}

/// How much of what was known at a word's time is left.
fn memory(word: u64, now_ns: u64) -> f32 {
    // Another core may have been a moment later.
    let since = millisecond(now_ns).wrapping_sub(word as u32).cast_signed().max(0);
    (-f64::from(since) / MEMORY_MS).exp() as f32
}

fn average_of(word: u64) -> f32 {
    f32::from_bits((word >> 32) as u32)
}

/// Goes round in 49 days; what was left alone for more than half of that counts as just known.
fn millisecond(now_ns: u64) -> u32 {
    (now_ns / 1_000_000) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    #[test]
    fn a_peak_counts_at_once_and_is_forgotten_slowly() {
        let latency = Latency::default();
        assert_eq!(latency.at(0), 0.0);
        latency.took(MS, 0);
        latency.took(100 * MS, 1_000 * MS);
        assert_eq!(latency.at(1_000 * MS), 100_000.0);
        latency.took(MS, 2_000 * MS);
        let after_one = latency.at(2_000 * MS);
        assert!((90_000.0..91_000.0).contains(&after_one), "{after_one}");
        (2..=60).for_each(|second| latency.took(MS, second * 1_000 * MS));
        let settled = latency.at(60_000 * MS);
        assert!((1_000.0..2_000.0).contains(&settled), "{settled}");
        assert!(latency.at(120_000 * MS) < 10.0, "what is not asked is forgotten");
    }

    #[test]
    fn what_was_given_up_early_says_nothing_good() {
        let latency = Latency::default();
        latency.took(100 * MS, 0);
        latency.took_longer_than(MS, 0);
        assert_eq!(latency.at(0), 100_000.0);
        latency.took_longer_than(300 * MS, 0);
        assert_eq!(latency.at(0), 300_000.0);
    }
}
