//! Two counts over the last ten slots of time, shared by all workers: how many, and how many of them went a certain way.
//! Each slot is one word, so that its counts and its time change together.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

const SLOTS: u64 = 10;
/// Each slot's word: 16 bits of its time, 24 of each count. 2^16 slots of 100 ms go round in 109 minutes; a slot that was
/// left alone for exactly that long is taken for a fresh one.
const COUNT_BITS: u32 = 24;
const COUNT_MAX: u64 = (1 << COUNT_BITS) - 1;

/// Counts of the last while.
#[derive(Debug)]
pub struct Window {
    slot_ns: u64,
    slots: [AtomicU64; SLOTS as usize],
}

/// What was counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// All.
    pub all: u64,
    /// Those that went the certain way.
    pub marked: u64,
}

impl Window {
    /// Of the last `length`, within a tenth.
    pub fn new(length: Duration) -> Self {
        let length = u64::try_from(length.as_nanos()).unwrap_or(u64::MAX);
        Self { slot_ns: (length / SLOTS).max(1), slots: Default::default() }
    }

    /// Counts at `now_ns`. A slot that is full stays full.
    pub fn add(&self, counts: Counts, now_ns: u64) {
        self.change(now_ns, |slot| Counts {
            all: (slot.all + counts.all).min(COUNT_MAX),
            marked: (slot.marked + counts.marked).min(COUNT_MAX),
        });
    }

    /// Takes back what was counted at the same `now_ns`.
    pub fn take_back(&self, counts: Counts, now_ns: u64) {
        self.change(now_ns, |slot| Counts {
            all: slot.all.saturating_sub(counts.all),
            marked: slot.marked.saturating_sub(counts.marked),
        });
    }

    /// The sum at `now_ns`.
    pub fn sum(&self, now_ns: u64) -> Counts {
        let now = now_ns / self.slot_ns;
        let slots = self.slots.iter().map(|slot| slot.load(Relaxed));
        slots.filter(|word| (now as u16).wrapping_sub(time_of(*word)) < SLOTS as u16).map(counts_of).fold(
            Counts::default(),
            |sum, slot| Counts { all: sum.all + slot.all, marked: sum.marked + slot.marked },
        )
    }

    /// Forgets everything.
    pub fn clear(&self) {
        self.slots.iter().for_each(|slot| slot.store(0, Relaxed));
    }

    fn change(&self, now_ns: u64, change: impl Fn(Counts) -> Counts) {
        let now = now_ns / self.slot_ns;
        let _ = self.slots[(now % SLOTS) as usize].fetch_update(Relaxed, Relaxed, |word| {
            let before = if time_of(word) == now as u16 { counts_of(word) } else { Counts::default() };
            Some(word_of(now as u16, change(before)))
        });
    }
}

fn time_of(word: u64) -> u16 {
    (word >> (2 * COUNT_BITS)) as u16
}

fn counts_of(word: u64) -> Counts {
    Counts { all: word & COUNT_MAX, marked: (word >> COUNT_BITS) & COUNT_MAX }
}

fn word_of(time: u16, counts: Counts) -> u64 {
    u64::from(time) << (2 * COUNT_BITS) | counts.marked << COUNT_BITS | counts.all
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn what_is_older_than_the_window_is_forgotten() {
        let window = Window::new(Duration::from_secs(10));
        for second in 0..30 {
            window.add(Counts { all: 2, marked: 1 }, second * SECOND);
        }
        assert_eq!(window.sum(29 * SECOND), Counts { all: 20, marked: 10 });
        assert_eq!(window.sum(34 * SECOND), Counts { all: 10, marked: 5 });
        assert_eq!(window.sum(39 * SECOND), Counts::default());
    }

    #[test]
    fn what_is_taken_back_was_never_there() {
        let window = Window::new(Duration::from_secs(10));
        window.add(Counts { all: 5, marked: 2 }, SECOND);
        window.take_back(Counts { all: 0, marked: 2 }, SECOND);
        assert_eq!(window.sum(SECOND), Counts { all: 5, marked: 0 });
    }

    #[test]
    fn all_cores_count_into_one_window() {
        let window = Window::new(Duration::from_secs(10));
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..10_000).for_each(|_| window.add(Counts { all: 1, marked: 1 }, SECOND)));
            }
        });
        assert_eq!(window.sum(SECOND), Counts { all: 40_000, marked: 40_000 });
    }
}
