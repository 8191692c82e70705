//! Weighted Maglev tables. Pure.
//!
//! Eisenbud et al., "Maglev: A Fast and Reliable Software Network Load Balancer", NSDI 2016, 3.4, with two
//! changes: the size is a power of two and the permutation's skip is odd, which makes every permutation
//! a full cycle and lets a table that doubles nest in the old one; and a backend's turns are in proportion
//! to its weight, with the highest weight taking one in every round.

use lb_common::{Address, BackendId, Port, limits};

/// A backend that wants slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Who gets them.
    pub id: BackendId,
    /// What its permutation derives from, the same on every node and after every restart.
    pub identity: u64,
    /// Its share relative to the others'; not zero.
    pub weight: u32,
}

/// The identity of an (address, port).
pub fn identity(address: Address, port: Port) -> u64 {
    let words = address.words();
    let halves = [words[0] as u64 | (words[1] as u64) << 32, words[2] as u64 | (words[3] as u64) << 32];
    mix(mix(mix(halves[0] ^ 0x5851_f42d_4c95_7f2d) ^ halves[1]) ^ port.number() as u64)
}

/// How many slots suit so many backends: 100 each, within the limits, a power of two.
pub fn slots_for(backends: usize) -> u32 {
    let wanted = backends.saturating_mul(100).min(limits::TABLE_SLOTS_MAX as usize) as u32;
    wanted.next_power_of_two().clamp(limits::TABLE_SLOTS_MIN, limits::TABLE_SLOTS_MAX)
}

/// The owner of each of `slots` slots, a power of two; all [`BackendId::NONE`] without candidates.
pub fn build(candidates: &[Candidate], slots: u32) -> Vec<BackendId> {
    let mut table = vec![BackendId::NONE; slots as usize];
    let Some(weight_max) = candidates.iter().map(|candidate| candidate.weight as u64).max() else {
        return table;
    };
    let mask = slots - 1;
    let mut turns: Vec<Turn> = candidates
        .iter()
        .map(|candidate| {
            let hash = mix(candidate.identity);
            Turn {
                candidate: *candidate,
                position: hash as u32 & mask,
                skip: (hash >> 32) as u32 | 1,
                threshold: 0,
            }
        })
        .collect();
    turns.sort_by_key(|turn| turn.candidate.identity);

    let mut free = Free::all(slots);
    let mut round = 1u64;
    loop {
        for turn in &mut turns {
            if round * turn.candidate.weight as u64 <= turn.threshold {
                continue;
            }
            turn.threshold += weight_max;
            turn.position = free.take(turn.position, turn.skip);
            table[turn.position as usize] = turn.candidate.id;
            if free.left == 0 {
                return table;
            }
        }
        round += 1;
    }
}

struct Turn {
    candidate: Candidate,
    position: u32,
    skip: u32,
    /// A turn is due once the rounds times the weight exceed this.
    threshold: u64,
}

/// With no more free slots than this, each is asked when the permutation comes to it. To walk there takes as many steps
/// as there are slots for each free one: the last 256 of 131,072 would take half of all steps.
const FEW: u32 = 256;

/// Slots that nobody owns yet.
struct Free {
    /// A bit for each slot: 16 KiB for the largest table stay in the fastest cache.
    bits: Vec<u64>,
    left: u32,
    /// All that are left, once they are few.
    few: Vec<u32>,
    mask: u32,
}

impl Free {
    fn all(slots: u32) -> Self {
        let bits = vec![u64::MAX; (slots as usize).div_ceil(u64::BITS as usize)];
        Self { bits, left: slots, few: Vec::new(), mask: slots - 1 }
    }

    /// Takes the first free slot of those that a permutation has from `position` on; there must be one.
    fn take(&mut self, position: u32, skip: u32) -> u32 {
        self.left -= 1;
        if self.left >= FEW {
            return self.walk(position, skip);
        }
        if self.few.is_empty() {
            let is_free = |slot: &u32| self.bits[(slot / u64::BITS) as usize] & bit(*slot) != 0;
            self.few = (0..=self.mask).filter(is_free).collect();
        }
        self.jump(position, skip)
    }

    fn walk(&mut self, mut position: u32, skip: u32) -> u32 {
        loop {
            let word = &mut self.bits[(position / u64::BITS) as usize];
            if *word & bit(position) != 0 {
                *word ^= bit(position);
                return position;
            }
            position = position.wrapping_add(skip) & self.mask;
        }
    }

    /// The permutation comes to `position + n * skip` after n steps, so to a slot after `(slot - position) / skip`.
    fn jump(&mut self, position: u32, skip: u32) -> u32 {
        let inverse = inverse(skip);
        let steps = |slot: u32| slot.wrapping_sub(position).wrapping_mul(inverse) & self.mask;
        let steps = self.few.iter().map(|slot| steps(*slot)).min().unwrap_or(0);
        let nearest = position.wrapping_add(steps.wrapping_mul(skip)) & self.mask;
        self.few.retain(|slot| *slot != nearest);
        nearest
    }
}

const fn bit(slot: u32) -> u64 {
    1 << (slot % u64::BITS)
}

/// The inverse of an odd number modulo 2^32 by Newton's method: it begins with three bits that are right, and each step
/// doubles them.
const fn inverse(odd: u32) -> u32 {
    let (mut inverse, mut right) = (odd, 3);
    while right < u32::BITS {
        inverse = inverse.wrapping_mul(2u32.wrapping_sub(odd.wrapping_mul(inverse)));
        right *= 2;
    }
    inverse
}

/// The finaliser of SplitMix64.
fn mix(word: u64) -> u64 {
    let word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidates(count: u32, weight: impl Fn(u32) -> u32) -> Vec<Candidate> {
        (1..=count)
            .map(|id| {
                let address = Address::from_ipv4([10, 0, (id >> 8) as u8, id as u8]);
                Candidate {
                    id: BackendId(id),
                    identity: identity(address, Port::new(80)),
                    weight: weight(id),
                }
            })
            .collect()
    }

    fn shares(table: &[BackendId], count: u32) -> Vec<u32> {
        let mut shares = vec![0; count as usize + 1];
        for id in table {
            shares[id.0 as usize] += 1;
        }
        shares
    }

    #[test]
    fn shares_follow_weights() {
        let table = build(&candidates(10, |id| id), 16_384);
        for (id, &share) in shares(&table, 10).iter().enumerate().skip(1) {
            let ideal = 16_384.0 * id as f64 / 55.0;
            assert!((share as f64 - ideal).abs() <= 0.02 * ideal + 2.0, "backend {id}: {share} of {ideal}");
        }
    }

    /// The definition, slot by slot: nodes of different versions must build the same tables.
    fn by_the_definition(candidates: &[Candidate], slots: u32) -> Vec<BackendId> {
        let mut sorted = candidates.to_vec();
        sorted.sort_by_key(|candidate| candidate.identity);
        let weight_max = sorted.iter().map(|candidate| u64::from(candidate.weight)).max().expect("some");
        let (mut table, mut steps) = (vec![BackendId::NONE; slots as usize], vec![0; sorted.len()]);
        let mut turns = vec![0; sorted.len()];
        for round in 1.. {
            for (index, candidate) in sorted.iter().enumerate() {
                if round * u64::from(candidate.weight) <= turns[index] * weight_max {
                    continue;
                }
                turns[index] += 1;
                let hash = mix(candidate.identity);
                let skip = (hash >> 32) as u32 | 1;
                let slot = loop {
                    let slot = (hash as u32).wrapping_add(skip.wrapping_mul(steps[index])) % slots;
                    if table[slot as usize] == BackendId::NONE {
                        break slot;
                    }
                    steps[index] += 1;
                };
                table[slot as usize] = candidate.id;
                if !table.contains(&BackendId::NONE) {
                    return table;
                }
            }
        }
        unreachable!("rounds do not end")
    }

    #[test]
    fn tables_are_those_of_the_definition() {
        for (count, slots) in [(1, 64), (3, 256), (3, 512), (7, 1_024), (100, 4_096), (300, 2_048)] {
            for weights in [1, 2, 9] {
                let candidates = candidates(count, |id| 1 + id % weights);
                assert!(
                    build(&candidates, slots) == by_the_definition(&candidates, slots),
                    "{count} {slots} {weights}"
                );
            }
        }
    }

    #[test]
    fn odd_numbers_have_inverses() {
        for odd in [1, 3, 0x9e37_79b9, u32::MAX, 0x8000_0001] {
            assert_eq!(odd.wrapping_mul(inverse(odd)), 1, "{odd}");
        }
    }

    #[test]
    fn equal_weights_differ_by_one_slot() {
        let table = build(&candidates(100, |_| 7), 16_384);
        let shares = shares(&table, 100);
        assert_eq!(shares[0], 0);
        assert!(shares[1..].iter().max().unwrap() - shares[1..].iter().min().unwrap() <= 1);
    }

    #[test]
    fn the_order_of_candidates_does_not_matter() {
        let mut backwards = candidates(50, |id| 1 + id % 3);
        let forwards = build(&backwards, 8_192);
        backwards.reverse();
        assert_eq!(build(&backwards, 8_192), forwards);
    }

    /// Removing one of 100 moves its own slots and little else: the table is 1.54 times the ideal at 65,536.
    #[test]
    fn removing_one_disturbs_little() {
        let all = candidates(100, |_| 1);
        let (before, after) = (build(&all, 65_536), build(&all[1..], 65_536));
        let moved = before.iter().zip(&after).filter(|(old, new)| old != new).count();
        assert!((655..1_400).contains(&moved), "{moved} slots moved");
    }

    #[test]
    fn nobody_owns_everything_of_nobody() {
        assert!(build(&[], 1_024).iter().all(|&id| id == BackendId::NONE));
        assert!(build(&candidates(1, |_| 1), 1_024).iter().all(|&id| id == BackendId(1)));
    }

    #[test]
    fn sizes_fit_the_service() {
        for (backends, slots) in
            [(0, 1_024), (3, 1_024), (11, 2_048), (100, 16_384), (1_000, 131_072), (50_000, 131_072)]
        {
            assert_eq!(slots_for(backends), slots);
        }
    }
}
