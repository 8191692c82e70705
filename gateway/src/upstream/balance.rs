//! Which instance a request goes to: among those that are well, or, when none is, among those that were merely
//! left out for their failures.

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering::Relaxed},
};

use super::{
    attempts::Tried,
    endpoint::{Endpoint, Health},
};
use crate::{clock::now_ns, config::upstream::BalanceDocument};

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
    pub(super) fn pick(&self, endpoints: &[Arc<Endpoint>], tried: &Tried) -> Option<Arc<Endpoint>> {
        let other = |endpoint: &Endpoint| !tried.contains(endpoint);
        self.choose(endpoints, |endpoint| is_well(endpoint) && other(endpoint))
            .or_else(|| {
                self.choose(endpoints, |endpoint| endpoint.health() != Health::Down && other(endpoint))
            })
            .or_else(|| self.choose(endpoints, |endpoint| endpoint.health() != Health::Down))
            .cloned()
    }

    fn choose<'e>(
        &self,
        endpoints: &'e [Arc<Endpoint>],
        usable: impl Fn(&Endpoint) -> bool,
    ) -> Option<&'e Arc<Endpoint>> {
        let count = endpoints.len();
        if count == 0 {
            return None;
        }
        let turn = self.cursor.fetch_add(1, Relaxed);
        let next = |from: usize| {
            let (head, tail) = endpoints.split_at(from);
            tail.iter().chain(head).find(|endpoint| usable(endpoint))
        };
        match self.rule {
            BalanceDocument::RoundRobin => next(turn as usize % count),
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

fn is_well(endpoint: &Endpoint) -> bool {
    endpoint.health() != Health::Down && !(endpoint.may_be_ejected() && endpoint.is_ejected(now_ns()))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::upstream::Ejection;

    fn endpoints(count: u16) -> Vec<Arc<Endpoint>> {
        (1..=count).map(|port| Arc::new(Endpoint::new(([127, 0, 0, 1], port).into()))).collect()
    }

    fn ports(balance: &Balance, endpoints: &[Arc<Endpoint>], picks: usize) -> Vec<u16> {
        (0..picks)
            .filter_map(|_| {
                balance.pick(endpoints, &Tried::default()).map(|endpoint| endpoint.address.port())
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
        assert!(balance.pick(&endpoints, &Tried::default()).is_none());
    }

    #[test]
    fn a_second_try_goes_elsewhere_if_there_is_an_elsewhere() {
        let balance = Balance::new(BalanceDocument::RoundRobin);
        let two = endpoints(2);
        for _ in 0..10 {
            let mut tried = Tried::default();
            tried.add(&two[0]);
            assert_eq!(balance.pick(&two, &tried).map(|endpoint| endpoint.id), Some(two[1].id));
        }
        let one = endpoints(1);
        let mut tried = Tried::default();
        tried.add(&one[0]);
        assert_eq!(balance.pick(&one, &tried).map(|endpoint| endpoint.id), Some(one[0].id));
    }

    #[test]
    fn least_request_prefers_the_idle() {
        let endpoints = endpoints(2);
        let _busy: Vec<_> = (0..100).map(|_| endpoints[0].begin()).collect();
        let balance = Balance::new(BalanceDocument::LeastRequest);
        assert!(ports(&balance, &endpoints, 100).iter().all(|port| *port == 2));
    }
}
