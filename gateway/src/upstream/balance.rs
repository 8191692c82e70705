//! Which instance a request goes to: among those that are well, or, when none is, among those that were merely
//! left out for their failures.

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering::Relaxed},
};

use super::{
    Caller, Head, affinity,
    attempts::Tried,
    endpoint::{Endpoint, Health},
};
use crate::{clock::now_ns, config::balance::BalanceDocument};

/// The rule, and where it stands.
#[derive(Debug)]
pub struct Balance {
    rule: BalanceDocument,
    cursor: AtomicU32,
}

impl Balance {
    /// Begins at the first instance.
    pub fn new(rule: BalanceDocument) -> Self {
        Self { rule, cursor: AtomicU32::new(0) }
    }

    /// The next instance, one that was not tried if there is one; none when health checks say that none is well.
    pub(super) fn pick(
        &self,
        endpoints: &[Arc<Endpoint>],
        tried: &Tried,
        key: Option<u64>,
    ) -> Option<Arc<Endpoint>> {
        let other = |endpoint: &Endpoint| !tried.contains(endpoint);
        self.choose(endpoints, key, |endpoint| is_well(endpoint) && other(endpoint))
            .or_else(|| {
                self.choose(endpoints, key, |endpoint| endpoint.health() != Health::Down && other(endpoint))
            })
            .or_else(|| self.choose(endpoints, key, |endpoint| endpoint.health() != Health::Down))
            .cloned()
    }

    /// The key that a request's instance is chosen by, where that is the rule and the request has one.
    pub(super) fn key(&self, caller: &Caller<'_>, head: &Head) -> Option<u64> {
        match &self.rule {
            BalanceDocument::ConsistentHash(rule) => rule.key.of(caller, head),
            BalanceDocument::RoundRobin | BalanceDocument::LeastRequest => None,
        }
    }

    fn choose<'e>(
        &self,
        endpoints: &'e [Arc<Endpoint>],
        key: Option<u64>,
        usable: impl Fn(&Endpoint) -> bool,
    ) -> Option<&'e Arc<Endpoint>> {
        let count = endpoints.len();
        if count == 0 {
            return None;
        }
        if let (Some(key), BalanceDocument::ConsistentHash(rule)) = (key, &self.rule) {
            return best_fit(endpoints, key, rule.load.0, usable);
        }
        let turn = self.cursor.fetch_add(1, Relaxed);
        let next = |from: usize| {
            let (head, tail) = endpoints.split_at(from);
            tail.iter().chain(head).find(|endpoint| usable(endpoint))
        };
        match &self.rule {
            BalanceDocument::RoundRobin | BalanceDocument::ConsistentHash(_) => next(turn as usize % count),
            BalanceDocument::LeastRequest => {
                // Two places from one scrambled number: no generator of random numbers need be asked.
                let scrambled = (u64::from(turn) + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
                let first = next((scrambled >> 32) as usize % count)?;
                let others = endpoints.iter().filter(|endpoint| endpoint.id != first.id && usable(endpoint));
                let second = others.clone().nth((scrambled >> 16) as usize % others.count().max(1));
                match second {
                    Some(second) if second.in_flight() < first.in_flight() => Some(second),
                    _ => Some(first),
                }
            }
        }
    }
}

/// The instance that fits the key best, of those that have less than `load` times the mean of the requests in flight.
fn best_fit(
    endpoints: &[Arc<Endpoint>],
    key: u64,
    load: f64,
    usable: impl Fn(&Endpoint) -> bool,
) -> Option<&Arc<Endpoint>> {
    let usable = || endpoints.iter().filter(|endpoint| usable(endpoint));
    let (count, in_flight) =
        usable().fold((0_u32, 0_u32), |(count, sum), endpoint| (count + 1, sum + endpoint.in_flight()));
    // This request counts as well, so that there is always one with room.
    let most = (load * f64::from(in_flight + 1) / f64::from(count)).ceil() as u32;
    usable()
        .filter(|endpoint| endpoint.in_flight() < most)
        .max_by_key(|endpoint| affinity::score(key, endpoint.hash))
}

fn is_well(endpoint: &Endpoint) -> bool {
    endpoint.health() != Health::Down && !(endpoint.may_be_ejected() && endpoint.is_ejected(now_ns()))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{
        config::{
            balance::{ConsistentHashDocument, Load},
            connect::Address,
        },
        upstream::{Ejection, affinity::Key},
    };

    fn endpoints(count: u16) -> Vec<Arc<Endpoint>> {
        let at = |port| Address::Tcp(([127, 0, 0, 1], port).into());
        (1..=count).map(|port| Arc::new(Endpoint::new(at(port)))).collect()
    }

    fn ports(balance: &Balance, endpoints: &[Arc<Endpoint>], picks: usize) -> Vec<u16> {
        (0..picks)
            .filter_map(|_| balance.pick(endpoints, &Tried::default(), None))
            .filter_map(|endpoint| match &endpoint.address {
                Address::Tcp(address) => Some(address.port()),
                Address::Unix(_) => None,
            })
            .collect()
    }

    #[test]
    fn round_robin_goes_round_and_leaves_out_those_that_are_down() {
        let endpoints = endpoints(3);
        let balance = Balance::new(BalanceDocument::RoundRobin);
        assert_eq!(ports(&balance, &endpoints, 4), [1, 2, 3, 1]);
        endpoints[1].set_health(Health::Down);
        assert!(!ports(&balance, &endpoints, 30).contains(&2));
    }

    #[test]
    fn when_all_are_left_out_all_are_used_but_those_that_are_down() {
        let endpoints = endpoints(2);
        let ejection = Ejection { failures: 1, duration: Duration::from_secs(60) };
        endpoints.iter().for_each(|endpoint| endpoint.failed(&ejection));
        let balance = Balance::new(BalanceDocument::RoundRobin);
        assert_eq!(ports(&balance, &endpoints, 10).len(), 10);
        endpoints.iter().for_each(|endpoint| endpoint.set_health(Health::Down));
        assert!(balance.pick(&endpoints, &Tried::default(), None).is_none());
    }

    #[test]
    fn a_second_try_goes_elsewhere_if_there_is_an_elsewhere() {
        let balance = Balance::new(BalanceDocument::RoundRobin);
        let two = endpoints(2);
        for _ in 0..10 {
            let mut tried = Tried::default();
            tried.add(&two[0]);
            assert_eq!(balance.pick(&two, &tried, None).map(|endpoint| endpoint.id), Some(two[1].id));
        }
        let one = endpoints(1);
        let mut tried = Tried::default();
        tried.add(&one[0]);
        assert_eq!(balance.pick(&one, &tried, None).map(|endpoint| endpoint.id), Some(one[0].id));
    }

    #[test]
    fn least_request_prefers_the_idle() {
        let endpoints = endpoints(2);
        let _busy: Vec<_> = (0..100).map(|_| endpoints[0].begin()).collect();
        let balance = Balance::new(BalanceDocument::LeastRequest);
        assert!(ports(&balance, &endpoints, 100).iter().all(|port| *port == 2));
    }

    fn by_hash(load: f64) -> Balance {
        let rule = ConsistentHashDocument { key: Key::Path, load: Load(load) };
        Balance::new(BalanceDocument::ConsistentHash(rule))
    }

    fn owner(balance: &Balance, endpoints: &[Arc<Endpoint>], key: u32) -> u64 {
        let key = affinity::hash(&key.to_be_bytes());
        balance.pick(endpoints, &Tried::default(), Some(key)).expect("one").id
    }

    #[test]
    fn keys_are_spread_and_only_those_of_a_lost_instance_move() {
        let (balance, endpoints) = (by_hash(1.25), endpoints(10));
        let before: Vec<_> = (0..20_000).map(|key| owner(&balance, &endpoints, key)).collect();
        for endpoint in &endpoints {
            let share = before.iter().filter(|owner| **owner == endpoint.id).count();
            assert!((1_800..=2_200).contains(&share), "{share} of a mean of 2000");
        }
        endpoints[3].set_health(Health::Down);
        for (key, before) in (0..).zip(before) {
            let after = owner(&balance, &endpoints, key);
            assert!(after == before || before == endpoints[3].id);
        }
    }

    #[test]
    fn a_key_that_everybody_asks_for_overflows_to_the_next() {
        let (balance, endpoints) = (by_hash(1.25), endpoints(4));
        let key = Some(affinity::hash(b"popular"));
        let _in_flight: Vec<_> = (0..400)
            .map(|_| balance.pick(&endpoints, &Tried::default(), key).expect("one").begin())
            .collect();
        let most = endpoints.iter().map(|endpoint| endpoint.in_flight()).max();
        assert_eq!(most, Some(125), "1.25 times the mean");
    }
}
