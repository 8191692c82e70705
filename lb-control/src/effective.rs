//! How long orders take until packets go by them: from an order's arrival, its checks and its way into the store among
//! it, to the last write of the tables for it.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// Upper bounds of the buckets, in seconds.
pub const BOUNDS: [f64; 14] =
    [0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05, 0.1, 0.25, 1.0, 10.0];
/// So many orders are followed at once; others are counted.
const WAITING_MAX: usize = 4_096;

/// Orders that are not effective yet, and how long others took.
#[derive(Default)]
pub struct Effective {
    waiting: Mutex<VecDeque<(u64, Instant)>>,
    seen: Mutex<Histogram>,
}

/// How many orders took how long.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Histogram {
    /// By [`BOUNDS`], each bucket alone; slower ones are in `count` only.
    pub buckets: [u64; BOUNDS.len()],
    /// How many.
    pub count: u64,
    /// All together.
    pub sum: Duration,
    /// Orders that were not followed, because too many waited.
    pub left_out: u64,
}

impl Effective {
    /// An order that came at `since` is accepted as this generation.
    pub fn accepted(&self, generation: u64, since: Instant) {
        let mut waiting = lock(&self.waiting);
        if waiting.len() < WAITING_MAX {
            waiting.push_back((generation, since));
        } else {
            lock(&self.seen).left_out += 1;
        }
    }

    /// Everything up to `generation` stands in the tables since `at`.
    pub fn installed(&self, generation: u64, at: Instant) {
        let mut waiting = lock(&self.waiting);
        let mut seen = lock(&self.seen);
        while let Some((_, since)) = waiting.pop_front_if(|(accepted, _)| *accepted <= generation) {
            seen.note(at.saturating_duration_since(since));
        }
    }

    /// What was seen so far.
    pub fn histogram(&self) -> Histogram {
        *lock(&self.seen)
    }
}

impl Histogram {
    fn note(&mut self, time: Duration) {
        let bucket = BOUNDS.iter().position(|bound| time.as_secs_f64() <= *bound);
        if let Some(bucket) = bucket {
            self.buckets[bucket] += 1;
        }
        self.count += 1;
        self.sum += time;
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_counts_once_its_generation_is_installed() {
        let effective = Effective::default();
        let start = Instant::now();
        let after = |ms| start + Duration::from_millis(ms);
        effective.accepted(2, start);
        effective.accepted(3, after(5));
        effective.installed(1, after(6));
        assert_eq!(effective.histogram().count, 0);
        effective.installed(2, after(8));
        effective.installed(7, after(60_000));
        effective.installed(8, after(60_001));
        let seen = effective.histogram();
        assert_eq!((seen.count, seen.sum), (2, Duration::from_millis(8 + 59_995)));
        assert_eq!(seen.buckets.iter().sum::<u64>(), 1, "the slow one is in no bucket");
        assert_eq!(seen.buckets[5], 1, "8 ms are more than 7.5 and at most 10");
    }

    #[test]
    fn orders_that_are_never_installed_take_bounded_room() {
        let effective = Effective::default();
        let start = Instant::now();
        (0..WAITING_MAX as u64 + 3).for_each(|generation| effective.accepted(generation, start));
        assert_eq!(effective.histogram().left_out, 3);
    }
}
