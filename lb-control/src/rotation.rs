//! Tables for round robin: each backend stands in the sequence as often, and as evenly, as its weight says. Pure.
//!
//! The `k`-th turn of a backend (from 0) may come in the `k`-th of the equal parts that its turns divide the period
//! into, and must: it is released at `k · W / w` and due at `(k + 1) · W / w`, where `w` is its weight and `W` the sum of
//! all. Of the turns that are released, the one that is due first comes next. That is the earliest deadline first, which
//! meets every deadline where the load is 1 (Liu and Layland, J. ACM 1973), and the windows are those of proportionate
//! fairness (Baruah et al., Algorithmica 1996): after any number of turns every backend has had its share of them to
//! within less than one, and after `W` turns exactly its weight.

use std::{cmp::Reverse, collections::BinaryHeap};

use lb_common::BackendId;

use crate::maglev::Candidate;

/// The owner of each of `slots` slots, in the order of the turns; all [`BackendId::NONE`] without candidates.
///
/// Takes time in proportion to the slots and the logarithm of the candidates.
pub fn build(candidates: &[Candidate], slots: u32) -> Vec<BackendId> {
    let total: u64 = candidates.iter().map(|candidate| u64::from(candidate.weight)).sum();
    let mut candidates: Vec<&Candidate> =
        candidates.iter().filter(|candidate| candidate.weight > 0).collect();
    // Among equals the order is that of the identities, the same on every node and after every restart.
    candidates.sort_by_key(|candidate| candidate.identity);
    let mut ready = BinaryHeap::new();
    let mut waiting = BinaryHeap::new();
    for (index, candidate) in candidates.iter().enumerate() {
        ready.push(Reverse(Turn::new(candidate, index, 0, total)));
    }
    let mut table = Vec::with_capacity(slots as usize);
    for now in 0..u64::from(slots) {
        while let Some(Reverse((release, Reverse(turn)))) = waiting.pop() {
            if release > now {
                waiting.push(Reverse((release, Reverse(turn))));
                break;
            }
            ready.push(Reverse(turn));
        }
        let Some(Reverse(turn)) = ready.pop() else {
            table.push(BackendId::NONE);
            continue;
        };
        let candidate = candidates[turn.candidate];
        table.push(candidate.id);
        let next = Turn::new(candidate, turn.candidate, turn.number + 1, total);
        let release = next.number * total / u64::from(candidate.weight);
        waiting.push(Reverse((release, Reverse(next))));
    }
    table
}

/// A turn that a backend waits for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Turn {
    /// It comes before this one.
    due: u64,
    /// Index among the candidates.
    candidate: usize,
    number: u64,
}

impl Turn {
    fn new(candidate: &Candidate, index: usize, number: u64, total: u64) -> Self {
        let due = ((number + 1) * total).div_ceil(u64::from(candidate.weight));
        Self { due, candidate: index, number }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn candidates(weights: &[u32]) -> Vec<Candidate> {
        (1..)
            .zip(weights)
            .map(|(id, &weight)| Candidate { id: BackendId(id), identity: u64::from(id), weight })
            .collect()
    }

    fn sequence(weights: &[u32], slots: u32) -> String {
        build(&candidates(weights), slots).iter().map(|id| char::from(b'a' - 1 + id.0 as u8)).collect()
    }

    #[test]
    fn turns_alternate() {
        for (weights, expected) in [
            (&[1, 1, 1][..], "abcabcab"),
            (&[2, 1], "aabaabaa"),
            (&[5, 1, 1], "aaabaacaaabaac"),
            (&[3, 3], "abababab"),
            (&[7], "aaaa"),
            // The heavy one has every other turn, and the light ones share the rest.
            (&[4, 1, 1, 1, 1], "abacadaeabacadae"),
            (&[0, 2, 0, 1], "bbdbbd"),
        ] {
            assert_eq!(sequence(weights, expected.len() as u32), expected, "{weights:?}");
        }
    }

    #[test]
    fn nobody_owns_everything_of_nobody() {
        assert_eq!(build(&[], 4), [BackendId::NONE; 4]);
        assert_eq!(build(&candidates(&[0]), 2), [BackendId::NONE; 2]);
    }

    #[test]
    fn the_order_of_candidates_does_not_matter() {
        let mut all = candidates(&[3, 1, 4, 1, 5]);
        let table = build(&all, 1_024);
        all.reverse();
        assert_eq!(build(&all, 1_024), table);
    }

    proptest! {
        /// In any beginning everyone has had its share to within less than a turn, and in a period exactly its weight.
        #[test]
        fn shares_are_even_at_any_time(weights in prop::collection::vec(1..=200u32, 1..20)) {
            let total: u64 = weights.iter().map(|&weight| u64::from(weight)).sum();
            let table = build(&candidates(&weights), 2 * total as u32);
            let mut turns = vec![0u64; weights.len()];
            for (now, id) in (1..).zip(&table) {
                turns[id.0 as usize - 1] += 1;
                for (&had, &weight) in turns.iter().zip(&weights) {
                    let off = (had * total).abs_diff(now * u64::from(weight));
                    prop_assert!(off < total, "after {now} turns: {had} of weight {weight} in {total}");
                    prop_assert!(now % total != 0 || off == 0);
                }
            }
        }
    }
}
