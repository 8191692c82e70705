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

    let mut left = slots;
    let mut round = 1u64;
    loop {
        for turn in &mut turns {
            if round * turn.candidate.weight as u64 <= turn.threshold {
                continue;
            }
            turn.threshold += weight_max;
            while table[turn.position as usize] != BackendId::NONE {
                turn.position = turn.position.wrapping_add(turn.skip) & mask;
            }
            table[turn.position as usize] = turn.candidate.id;
            left -= 1;
            if left == 0 {
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
