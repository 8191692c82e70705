//! Pure. When a token that names an unknown key may have a key set fetched.
//!
//! Fetches are numbered from 1 and never overlap. While one is under way, tokens wait for it. After its end, well or
//! not, tokens start no other for [`COOLDOWN_NS`]: requests that came before it are answered by it, and forged tokens
//! cannot turn the gateway against the issuer. A key counts as absent for [`ABSENT_FOR_NS`] only if a fetch that
//! began after the token came, and ended well, did not bring it.

use std::collections::VecDeque;

/// From the end of a fetch to the next one that a token may start, ns.
pub const COOLDOWN_NS: u64 = 5_000_000_000;

/// How long a key that was looked for in vain is not looked for again, ns.
pub const ABSENT_FOR_NS: u64 = 60_000_000_000;

/// Names of keys looked for in vain that are remembered.
pub const ABSENT_MAX: usize = 256;

/// The state of one set's fetches.
#[derive(Debug, Default)]
pub struct Demand {
    /// Keys that are absent, and since when, ns.
    absent: VecDeque<(String, u64)>,
    /// The number of the fetch that began last.
    begun: u64,
    /// The number of the last fetch that ended well.
    succeeded: u64,
    under_way: bool,
    /// A token asked for a fetch that has not begun.
    wanted: bool,
    ended_ns: Option<u64>,
}

impl Demand {
    /// A token names the key `id`, which is not in the set. The number of the last fetch that has begun, if a fetch
    /// is to be waited for: the one under way, or one that is wanted now.
    pub fn ask(&mut self, id: &str, now_ns: u64) -> Option<u64> {
        self.absent.retain(|(_, since_ns)| now_ns.saturating_sub(*since_ns) < ABSENT_FOR_NS);
        let cools = self.ended_ns.is_some_and(|ended_ns| now_ns.saturating_sub(ended_ns) < COOLDOWN_NS);
        if self.is_absent(id) || (cools && !self.under_way) {
            return None;
        }
        self.wanted |= !self.under_way;
        Some(self.begun)
    }

    /// Whether a token waits for a fetch that has not begun.
    pub fn is_wanted(&self) -> bool {
        self.wanted
    }

    /// A fetch begins.
    pub fn begin(&mut self) {
        self.begun += 1;
        self.under_way = true;
        self.wanted = false;
    }

    /// The fetch ends.
    pub fn end(&mut self, well: bool, now_ns: u64) {
        self.under_way = false;
        self.ended_ns = Some(now_ns);
        if well {
            self.succeeded = self.begun;
        }
    }

    /// The key `id`, asked for when `asked` was the last fetch begun, is not in the set after the wait.
    pub fn not_found(&mut self, id: &str, asked: u64, now_ns: u64) {
        if self.succeeded <= asked || self.is_absent(id) {
            return;
        }
        if self.absent.len() == ABSENT_MAX {
            self.absent.pop_front();
        }
        self.absent.push_back((id.to_owned(), now_ns));
    }

    fn is_absent(&self, id: &str) -> bool {
        self.absent.iter().any(|(known, _)| known == id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fetch_under_way_serves_all_and_leaves_none_wanted() {
        let mut demand = Demand::default();
        assert_eq!(demand.ask("a", 0), Some(0));
        assert!(demand.is_wanted());
        demand.begin();
        for id in ["a", "b", "c"] {
            assert_eq!(demand.ask(id, 1), Some(1));
        }
        assert!(!demand.is_wanted(), "they wait for the one that is under way");
        demand.end(true, 2);
        assert_eq!(demand.ask("d", 2 + COOLDOWN_NS - 1), None);
        assert!(!demand.is_wanted());
        assert_eq!(demand.ask("d", 2 + COOLDOWN_NS), Some(1));
        assert!(demand.is_wanted());
    }

    #[test]
    fn only_a_good_fetch_after_the_token_shows_a_key_absent() {
        for (well, under_way, absent) in
            [(true, false, true), (false, false, false), (true, true, false), (false, true, false)]
        {
            let mut demand = Demand::default();
            if under_way {
                demand.begin();
            }
            let asked = demand.ask("a", 0).unwrap();
            if !under_way {
                demand.begin();
            }
            demand.end(well, 1);
            demand.not_found("a", asked, 1);
            let cooled = 1 + COOLDOWN_NS;
            assert_eq!(demand.ask("a", cooled).is_none(), absent, "well {well}, under way {under_way}");
            assert!(demand.ask("b", cooled).is_some());
            assert!(demand.ask("a", 1 + ABSENT_FOR_NS).is_some(), "not for ever");
        }
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut demand = Demand::default();
        demand.begin();
        demand.end(true, 0);
        for id in 0..2 * ABSENT_MAX {
            demand.not_found(&id.to_string(), 0, 0);
        }
        assert_eq!(demand.absent.len(), ABSENT_MAX);
    }
}
