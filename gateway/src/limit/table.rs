//! A bounded table from keys to theoretical arrival times, shared by all cores and exact.
//!
//! A key is known by 64 bits of a hash that is seeded at random when the table is made, so clients can
//! neither aim at another's entry nor fill one bucket. (Two of 65,536 live keys are the same to the table with a
//! probability of 10^-10; they would share a limit.) The hash names two buckets of eight slots in one shard.
//!
//! * A known key costs a look at two cache lines and one compare-and-swap; no lock.
//! * A new key takes its shard's lock, so that no key ever has two entries, and takes a slot whose arrival time
//!   lies in the past: such an entry says "full bucket", which is what an unknown key has anyway.
//! * **A live entry is never evicted**: an evicted client would have a full bucket again. Where all sixteen
//!   slots are live, the key uses the one overflow cell, which all such keys share: a flood of new keys gets one
//!   bucket in all, not one each. [`Table::overflowed`] counts.
//!
//! Invariant: the arrival time in a slot only ever grows, also from one owner to the next. A compare-and-swap
//! that succeeds therefore proves that the slot had the same owner all the while.
//!
//! Memory: 16 bytes a slot and three slots for two keys of capacity, 1.5 MiB for the default of 65,536 keys.

use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::gcra::{Rate, Verdict};

/// Keys for which a table has room unless its rule says otherwise.
pub const CAPACITY_DEFAULT: usize = 65_536;

/// Arrival times by key, for one rate.
#[derive(Debug)]
pub struct Table {
    rate: Rate,
    seed: RandomState,
    shards: Box<[Shard]>,
    /// The arrival time of all keys that find no slot.
    overflow: AtomicU64,
    overflowed: AtomicU64,
    /// How long an arrival time must have passed, ticks, before its slot is another's.
    grace: u64,
}

impl Table {
    /// An empty table with room for about `capacity` keys at once.
    pub fn new(rate: Rate, capacity: usize) -> Self {
        let buckets = (capacity * 3).div_ceil(2 * SLOTS).max(2);
        let shards = (buckets / BUCKETS_PER_SHARD_MIN).clamp(1, SHARDS_MAX);
        Self {
            rate,
            seed: RandomState::new(),
            shards: (0..shards).map(|_| Shard::new(buckets.div_ceil(shards))).collect(),
            overflow: AtomicU64::new(0),
            overflowed: AtomicU64::new(0),
            grace: rate.span(GRACE),
        }
    }

    /// The rate that all keys of this table have.
    pub fn rate(&self) -> &Rate {
        &self.rate
    }

    /// Takes `cost` from the key's bucket at `now_ns` (monotonic), if it holds as much.
    pub fn take(&self, key: &[u8], now_ns: u64, cost: u32) -> Verdict {
        let request = Request { rate: &self.rate, now: self.rate.ticks(now_ns), cost };
        let hash = self.seed.hash_one(key).max(1);
        let shard = &self.shards[scale(hash, self.shards.len())];
        if let Some(verdict) = shard.take_known(hash, &request) {
            return verdict;
        }
        let worthless = request.now.saturating_sub(self.grace);
        shard.take_new(hash, &request, worthless).unwrap_or_else(|| {
            self.overflowed.fetch_add(1, Ordering::Relaxed);
            request.take_from(&self.overflow)
        })
    }

    /// How many requests were decided by the overflow cell, since the table was made.
    pub fn overflowed(&self) -> u64 {
        self.overflowed.load(Ordering::Relaxed)
    }

    /// The memory of the table, bytes.
    pub fn bytes(&self) -> usize {
        self.shards.iter().map(|shard| size_of_val(&*shard.buckets)).sum::<usize>()
            + size_of_val(&*self.shards)
    }
}

/// One request, in ticks.
pub(super) struct Request<'rate> {
    pub(super) rate: &'rate Rate,
    pub(super) now: u64,
    pub(super) cost: u32,
}

impl Request<'_> {
    /// Decides by a cell that has no owner.
    pub(super) fn take_from(&self, cell: &AtomicU64) -> Verdict {
        let mut tat = cell.load(Ordering::Relaxed);
        loop {
            let verdict = self.rate.decide(tat, self.now, self.cost);
            let Verdict::Admit { tat: next, .. } = verdict else { return verdict };
            match cell.compare_exchange_weak(tat, next, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return verdict,
                Err(other) => tat = other,
            }
        }
    }
}

/// Slots of a bucket: one cache line of tags, one of arrival times.
const SLOTS: usize = 8;

/// More shards make two new keys wait for each other less often; fewer even out how full they are.
const SHARDS_MAX: usize = 64;
const BUCKETS_PER_SHARD_MIN: usize = 64;

/// Threads read the clock and then come here, some later than others: a slot is another's only when even a
/// late one would find its arrival time in the past.
const GRACE: Duration = Duration::from_millis(100);

/// The arrival time of a slot that is changing its owner. No clock gets there (`gcra.rs`, `TICKS_PER_NS_MAX`).
const CHANGING: u64 = u64::MAX;

#[derive(Debug)]
struct Shard {
    buckets: Box<[Bucket]>,
    /// Held by who gives a slot to a new key.
    owners: Mutex<()>,
}

/// A tag is the key's hash, 0 for none; an arrival time is in ticks, 0 for none.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Bucket {
    tags: [AtomicU64; SLOTS],
    tats: [AtomicU64; SLOTS],
}

/// What became of a look at a slot.
enum Seen {
    Decided(Verdict),
    /// The slot has another owner by now.
    Lost,
}

impl Shard {
    fn new(buckets: usize) -> Self {
        Self { buckets: (0..buckets.max(2)).map(|_| Bucket::default()).collect(), owners: Mutex::new(()) }
    }

    /// The two buckets where the key may be, from bits that the choice of the shard did not use.
    fn homes(&self, hash: u64) -> [&Bucket; 2] {
        let count = self.buckets.len();
        let first = scale(hash << 16, count);
        let step = 1 + scale(hash << 40, count - 1);
        [&self.buckets[first], &self.buckets[(first + step) % count]]
    }

    /// Decides for a key that has a slot.
    fn take_known(&self, hash: u64, request: &Request<'_>) -> Option<Verdict> {
        for bucket in self.homes(hash) {
            for slot in 0..SLOTS {
                if bucket.tags[slot].load(Ordering::Relaxed) != hash {
                    continue;
                }
                if let Seen::Decided(verdict) = bucket.take(slot, hash, request) {
                    return Some(verdict);
                }
            }
        }
        None
    }

    /// Gives a slot to a new key and decides; nothing if all slots are live.
    fn take_new(&self, hash: u64, request: &Request<'_>, worthless: u64) -> Option<Verdict> {
        let _owners = self.owners.lock().unwrap_or_else(PoisonError::into_inner);
        // Another thread may have been here for the same key while this one waited.
        if let Some(verdict) = self.take_known(hash, request) {
            return Some(verdict);
        }
        let verdict = request.rate.decide(0, request.now, request.cost);
        let Verdict::Admit { tat: next, .. } = verdict else { return Some(verdict) };
        let [first, second] = self.homes(hash);
        // The emptier of two buckets: this is what lets the table fill to two thirds without overflow.
        let (first, second) =
            if first.free(worthless) >= second.free(worthless) { (first, second) } else { (second, first) };
        [first, second].into_iter().any(|bucket| bucket.claim(hash, next, worthless)).then_some(verdict)
    }
}

impl Bucket {
    /// Decides by a slot, as long as it is the key's.
    fn take(&self, slot: usize, hash: u64, request: &Request<'_>) -> Seen {
        let cell = &self.tats[slot];
        loop {
            // Acquire: the tag read next is not older than this arrival time's owner.
            let tat = cell.load(Ordering::Acquire);
            if tat == CHANGING {
                std::hint::spin_loop();
                continue;
            }
            if self.tags[slot].load(Ordering::Relaxed) != hash {
                return Seen::Lost;
            }
            let verdict = request.rate.decide(tat, request.now, request.cost);
            let Verdict::Admit { tat: next, .. } = verdict else { return Seen::Decided(verdict) };
            if cell.compare_exchange_weak(tat, next, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
                return Seen::Decided(verdict);
            }
        }
    }

    fn free(&self, worthless: u64) -> usize {
        self.tats.iter().filter(|cell| is_free(cell.load(Ordering::Relaxed), worthless)).count()
    }

    /// Makes a worthless slot the key's. The caller holds the shard's lock.
    fn claim(&self, hash: u64, next: u64, worthless: u64) -> bool {
        for (tag, cell) in self.tags.iter().zip(&self.tats) {
            let tat = cell.load(Ordering::Relaxed);
            // `next` is in the future of a worthless time, but the clock of a late thread is not to be trusted.
            if !is_free(tat, worthless) || tat >= next {
                continue;
            }
            // Fails if the owner came back this instant.
            if cell.compare_exchange(tat, CHANGING, Ordering::Acquire, Ordering::Relaxed).is_ok() {
                tag.store(hash, Ordering::Relaxed);
                cell.store(next, Ordering::Release);
                return true;
            }
        }
        false
    }
}

fn is_free(tat: u64, worthless: u64) -> bool {
    tat == 0 || tat < worthless
}

/// Where a hash falls among `count` places: its top bits, without a division.
fn scale(hash: u64, count: usize) -> usize {
    // The product's high half is below `count`, so it fits.
    ((u128::from(hash) * count as u128) >> 64) as usize
}

#[cfg(test)]
mod tests;
