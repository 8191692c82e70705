//! Regions of the slot array: a buddy allocator over powers of two, pure. A freed region rests for a while,
//! because a packet that is under way may still hold the service's old entry.

use std::collections::{BTreeMap, BTreeSet};

use lb_common::limits::TABLE_SLOTS_MIN;

/// For so many seconds a freed region is not given out again; a packet is under way for microseconds.
const REST_SECONDS: u32 = 2;

/// The free and the resting parts of an array of slots.
#[derive(Clone, Debug)]
pub struct Regions {
    /// By size in slots: the starts of free regions.
    free: BTreeMap<u32, BTreeSet<u32>>,
    /// (second of the release, start, slots), oldest first.
    resting: Vec<(u32, u32, u32)>,
    capacity: u32,
}

impl Regions {
    /// All of `capacity` slots, free.
    pub fn new(capacity: u32) -> Self {
        let mut regions = Self { free: BTreeMap::new(), resting: Vec::new(), capacity };
        let mut start = 0;
        while capacity - start >= TABLE_SLOTS_MIN {
            // The largest power of two that fits and that `start` is aligned to.
            let fits = 1 << (capacity - start).ilog2();
            let slots = if start == 0 { fits } else { fits.min(1 << start.trailing_zeros()) };
            regions.free.entry(slots).or_default().insert(start);
            start += slots;
        }
        regions
    }

    /// Takes a region of `slots`, a power of two; `None` where no such region is free.
    pub fn allocate(&mut self, slots: u32, now_seconds: u32) -> Option<u32> {
        let rested =
            self.resting.partition_point(|&(since, ..)| now_seconds.wrapping_sub(since) >= REST_SECONDS);
        for (_, start, slots) in self.resting.drain(..rested).collect::<Vec<_>>() {
            self.merge(start, slots);
        }
        let size = *self.free.range(slots..).find(|(_, starts)| !starts.is_empty())?.0;
        let start = self.free.get_mut(&size)?.pop_first()?;
        self.split(start, size, start, slots);
        Some(start)
    }

    /// Takes exactly this region, which an earlier controller allocated. False where it is not free.
    pub fn claim(&mut self, start: u32, slots: u32) -> bool {
        let holder = self.free.range(slots..).find_map(|(&size, starts)| {
            starts.contains(&(start & !(size - 1))).then_some((start & !(size - 1), size))
        });
        let Some((holder, size)) = holder else { return false };
        self.free.entry(size).or_default().remove(&holder);
        self.split(holder, size, start, slots);
        true
    }

    /// Gives a region back; it rests before it is given out again.
    pub fn release(&mut self, start: u32, slots: u32, now_seconds: u32) {
        self.resting.push((now_seconds, start, slots));
    }

    /// How many slots there are in all.
    pub fn capacity(&self) -> u32 {
        self.capacity
    }

    /// Frees all of `holder` but the part at `start`.
    fn split(&mut self, mut holder: u32, mut size: u32, start: u32, slots: u32) {
        while size > slots {
            size /= 2;
            let (keep, give) =
                if start >= holder + size { (holder + size, holder) } else { (holder, holder + size) };
            self.free.entry(size).or_default().insert(give);
            holder = keep;
        }
    }

    fn merge(&mut self, mut start: u32, mut slots: u32) {
        while self.free.get_mut(&slots).is_some_and(|starts| starts.remove(&(start ^ slots))) {
            start &= !slots;
            slots *= 2;
        }
        self.free.entry(slots).or_default().insert(start);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn regions_do_not_overlap_and_come_back_after_a_rest() {
        let mut regions = Regions::new(8_192);
        let mut taken: Vec<(u32, u32)> = [1_024, 2_048, 1_024, 4_096]
            .iter()
            .map(|&slots| (regions.allocate(slots, 0).expect("fits"), slots))
            .collect();
        assert_eq!(regions.allocate(1_024, 0), None);
        taken.sort();
        assert!(taken.windows(2).all(|pair| pair[0].0 + pair[0].1 <= pair[1].0));
        for (start, slots) in taken {
            regions.release(start, slots, 10);
        }
        assert_eq!(regions.allocate(1_024, 11), None, "still resting");
        assert_eq!(regions.allocate(8_192, 12), Some(0), "merged");
    }

    #[test]
    fn a_claimed_region_is_not_given_out() {
        let mut regions = Regions::new(4_096);
        assert!(regions.claim(2_048, 1_024));
        assert!(!regions.claim(2_048, 1_024));
        assert!(!regions.claim(0, 4_096));
        let rest: Vec<_> = std::iter::from_fn(|| regions.allocate(1_024, 0)).collect();
        assert_eq!(rest.len(), 3);
        assert!(!rest.contains(&2_048));
    }

    #[test]
    fn a_capacity_that_is_no_power_of_two_is_used_whole() {
        let mut regions = Regions::new(7 * 1_024);
        assert_eq!(std::iter::from_fn(|| regions.allocate(1_024, 0)).count(), 7);
    }
}
