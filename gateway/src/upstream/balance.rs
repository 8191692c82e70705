//! Which instance a request goes to: among those that are well, or, when none is, among those that were merely
//! left out for their failures.

use std::sync::Arc;

use super::{
    Caller, Head, affinity,
    attempts::Tried,
    endpoint::{Endpoint, Health},
    schedule::Schedule,
};
use crate::{clock::now_ns, config::balance::BalanceDocument};

/// The rule, whom it chooses from, and where it stands.
#[derive(Debug)]
pub struct Balance {
    rule: BalanceDocument,
    instances: Box<[Instance]>,
    /// Of all weights.
    weight: u32,
    schedule: Schedule,
}

/// An instance, and its part of the requests.
#[derive(Clone, Debug)]
pub struct Instance {
    /// The instance.
    pub endpoint: Arc<Endpoint>,
    /// Its part, in proportion to the others'. At least 1.
    pub weight: u32,
}

impl Balance {
    /// Begins at the first instance.
    pub fn new(rule: BalanceDocument, instances: Vec<Instance>) -> Self {
        let weights: Vec<_> = instances.iter().map(|instance| instance.weight).collect();
        Self {
            rule,
            instances: instances.into(),
            weight: weights.iter().sum(),
            schedule: Schedule::new(&weights),
        }
    }

    /// The next instance, one that was not tried if there is one; none when health checks say that none is well.
    pub(super) fn pick(&self, tried: &Tried, key: Option<u64>) -> Option<Arc<Endpoint>> {
        let other = |endpoint: &Endpoint| !tried.contains(endpoint);
        self.choose(key, |endpoint| is_well(endpoint) && other(endpoint))
            .or_else(|| self.choose(key, |endpoint| endpoint.health() != Health::Down && other(endpoint)))
            .or_else(|| self.choose(key, |endpoint| endpoint.health() != Health::Down))
            .cloned()
    }

    /// The key that a request's instance is chosen by, where that is the rule and the request has one.
    pub(super) fn key(&self, caller: &Caller<'_>, head: &Head) -> Option<u64> {
        match &self.rule {
            BalanceDocument::ConsistentHash(rule) => rule.key.of(caller, head),
            BalanceDocument::RoundRobin | BalanceDocument::LeastRequest | BalanceDocument::PeakEwma => None,
        }
    }

    /// Whether it asks how long answers take.
    pub(super) fn is_timed(&self) -> bool {
        self.rule == BalanceDocument::PeakEwma
    }

    fn choose(&self, key: Option<u64>, usable: impl Fn(&Endpoint) -> bool) -> Option<&Arc<Endpoint>> {
        let usable = |index: usize| usable(&self.instances[index].endpoint);
        let chosen = match (&self.rule, key) {
            (BalanceDocument::ConsistentHash(rule), Some(key)) => self.best_fit(key, rule.load.0, usable),
            (BalanceDocument::RoundRobin | BalanceDocument::ConsistentHash(_), _) => {
                self.schedule.next(usable)
            }
            (BalanceDocument::LeastRequest, _) => {
                self.better_of_two(usable, |endpoint| f64::from(endpoint.in_flight()))
            }
            (BalanceDocument::PeakEwma, _) => {
                let now = now_ns();
                self.better_of_two(usable, |endpoint| endpoint.expected_wait(now))
            }
        };
        chosen.map(|index| &self.instances[index].endpoint)
    }

    /// The one of two with less load for its weight. Mitzenmacher, "The Power of Two Choices in
    /// Randomized Load Balancing", 2001.
    fn better_of_two(
        &self,
        usable: impl Fn(usize) -> bool,
        load: impl Fn(&Endpoint) -> f64,
    ) -> Option<usize> {
        let first = self.schedule.draw(&usable)?;
        let second = self.schedule.draw(|index| index != first && usable(index));
        let load = |index: usize| {
            let instance = &self.instances[index];
            load(&instance.endpoint) / f64::from(instance.weight)
        };
        second.filter(|second| load(*second) < load(first)).or(Some(first))
    }

    /// The instance that fits the key best, of those that have less than `load` times their part of the requests in
    /// flight.
    fn best_fit(&self, key: u64, load: f64, usable: impl Fn(usize) -> bool) -> Option<usize> {
        let usable = || (0..).zip(&self.instances).filter(|(index, _)| usable(*index));
        let (weights, in_flight) = usable().fold((0_u32, 0_u32), |(weights, sum), (_, instance)| {
            (weights + instance.weight, sum + instance.endpoint.in_flight())
        });
        // This request counts as well, so that there is always one with room.
        let mean = load * f64::from(in_flight + 1) / f64::from(weights);
        let with_room = usable().filter(|(_, instance)| {
            f64::from(instance.endpoint.in_flight()) < (mean * f64::from(instance.weight)).ceil()
        });
        let score = |instance: &Instance| affinity::score(key, instance.endpoint.hash);
        let best = match self.weight as usize == self.instances.len() {
            true => with_room.max_by_key(|(_, instance)| score(instance)),
            false => with_room.max_by(|(_, a), (_, b)| {
                let weighted = |one: &Instance| affinity::weighted(score(one), one.weight);
                weighted(a).total_cmp(&weighted(b))
            }),
        };
        best.map(|(index, _)| index)
    }
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

    fn weighing(weights: &[u32]) -> Vec<Instance> {
        let at = |port| Address::Tcp(([127, 0, 0, 1], port).into());
        (1..)
            .zip(weights)
            .map(|(port, weight)| Instance { endpoint: Arc::new(Endpoint::new(at(port))), weight: *weight })
            .collect()
    }

    /// The rule for instances of these weights, and the instances.
    fn stage(rule: BalanceDocument, weights: &[u32]) -> (Balance, Vec<Arc<Endpoint>>) {
        let instances = weighing(weights);
        let endpoints = instances.iter().map(|instance| instance.endpoint.clone()).collect();
        (Balance::new(rule, instances), endpoints)
    }

    fn ports(balance: &Balance, picks: usize) -> Vec<u16> {
        (0..picks)
            .filter_map(|_| balance.pick(&Tried::default(), None))
            .filter_map(|endpoint| match &endpoint.address {
                Address::Tcp(address) => Some(address.port()),
                Address::Unix(_) => None,
            })
            .collect()
    }

    /// The most requests of an instance for its weight, of the mean of all.
    fn max_over_mean(endpoints: &[Arc<Endpoint>], weights: &[u32], counts: impl Fn(&Endpoint) -> u32) -> f64 {
        let per_weight =
            endpoints.iter().zip(weights).map(|(one, weight)| f64::from(counts(one)) / f64::from(*weight));
        let mean = f64::from(endpoints.iter().map(|one| counts(one)).sum::<u32>())
            / f64::from(weights.iter().sum::<u32>());
        per_weight.fold(0.0, f64::max) / mean
    }

    #[test]
    fn round_robin_goes_round_and_leaves_out_those_that_are_down() {
        let (balance, endpoints) = stage(BalanceDocument::RoundRobin, &[1, 1, 1]);
        assert_eq!(ports(&balance, 4), [1, 2, 3, 1]);
        endpoints[1].set_health(Health::Down);
        assert!(!ports(&balance, 30).contains(&2));
    }

    #[test]
    fn every_rule_keeps_to_the_weights() {
        let weights = [1, 2, 3, 10];
        let by_path = ConsistentHashDocument { key: Key::Path, load: Load(1.25) };
        for (rule, most) in [
            (BalanceDocument::RoundRobin, 1.001),
            (BalanceDocument::LeastRequest, 1.01),
            (BalanceDocument::ConsistentHash(by_path), 1.251),
        ] {
            let (balance, endpoints) = stage(rule.clone(), &weights);
            let _in_flight: Vec<_> = (0..16_000_u32)
                .map(|key| balance.pick(&Tried::default(), Some(affinity::hash(&key.to_be_bytes()))))
                .map(|endpoint| endpoint.expect("one").begin())
                .collect();
            let spread = max_over_mean(&endpoints, &weights, Endpoint::in_flight);
            assert!(spread <= most, "{rule:?}: {spread}");
        }
    }

    #[test]
    fn when_all_are_left_out_all_are_used_but_those_that_are_down() {
        let (balance, endpoints) = stage(BalanceDocument::RoundRobin, &[1, 1]);
        let ejection = Ejection { failures: 1, duration: Duration::from_secs(60) };
        endpoints.iter().for_each(|endpoint| endpoint.failed(&ejection));
        assert_eq!(ports(&balance, 10).len(), 10);
        endpoints.iter().for_each(|endpoint| endpoint.set_health(Health::Down));
        assert!(balance.pick(&Tried::default(), None).is_none());
    }

    #[test]
    fn a_second_try_goes_elsewhere_if_there_is_an_elsewhere() {
        let second = |weights: &[u32]| {
            let (balance, endpoints) = stage(BalanceDocument::RoundRobin, weights);
            let mut tried = Tried::default();
            tried.add(&endpoints[0]);
            let position = |picked: Arc<Endpoint>| endpoints.iter().position(|one| one.id == picked.id);
            (0..10).map(|_| balance.pick(&tried, None).and_then(position)).collect::<Vec<_>>()
        };
        assert_eq!(second(&[1, 1]), [Some(1); 10]);
        assert_eq!(second(&[1]), [Some(0); 10]);
    }

    #[test]
    fn least_request_prefers_the_idle() {
        let (balance, endpoints) = stage(BalanceDocument::LeastRequest, &[1, 1]);
        let _busy: Vec<_> = (0..100).map(|_| endpoints[0].begin()).collect();
        assert!(ports(&balance, 100).iter().all(|port| *port == 2));
    }

    #[test]
    fn peak_ewma_sends_the_slow_less_in_proportion_to_its_slowness() {
        let (balance, endpoints) = stage(BalanceDocument::PeakEwma, &[1, 1, 1, 1]);
        // The last takes nine times as long: as much in flight as all would have waits a ninth of it there.
        let now = now_ns();
        endpoints.iter().for_each(|endpoint| endpoint.latency.took(10_000_000, now));
        endpoints[3].latency.took(90_000_000, now);
        let in_flight: Vec<_> =
            (0..2_800).map(|_| balance.pick(&Tried::default(), None).expect("one").begin()).collect();
        let counts: Vec<_> = endpoints.iter().map(|endpoint| endpoint.in_flight()).collect();
        let spread = max_over_mean(&endpoints[..3], &[1; 3], Endpoint::in_flight);
        assert!(spread < 1.02, "{counts:?}");
        assert!((90..=110).contains(&counts[3]), "{counts:?}");
        drop(in_flight);
    }

    #[test]
    fn peak_ewma_spreads_among_equals_of_which_nothing_is_known() {
        let (balance, endpoints) = stage(BalanceDocument::PeakEwma, &[1; 8]);
        let _in_flight: Vec<_> =
            (0..8_000).map(|_| balance.pick(&Tried::default(), None).expect("one").begin()).collect();
        let spread = max_over_mean(&endpoints, &[1; 8], Endpoint::in_flight);
        assert!(spread < 1.02, "{spread}");
    }

    fn by_hash(load: f64, weights: &[u32]) -> (Balance, Vec<Arc<Endpoint>>) {
        let rule = ConsistentHashDocument { key: Key::Path, load: Load(load) };
        stage(BalanceDocument::ConsistentHash(rule), weights)
    }

    fn owner(balance: &Balance, key: u32) -> u64 {
        let key = affinity::hash(&key.to_be_bytes());
        balance.pick(&Tried::default(), Some(key)).expect("one").id
    }

    #[test]
    fn keys_are_spread_and_only_those_of_a_lost_instance_move() {
        for weights in [[1; 10], [1, 1, 1, 1, 1, 2, 2, 2, 4, 5]] {
            let (balance, endpoints) = by_hash(1.25, &weights);
            let before: Vec<_> = (0..40_000).map(|key| owner(&balance, key)).collect();
            let share =
                |endpoint: &Endpoint| before.iter().filter(|owner| **owner == endpoint.id).count() as u32;
            let spread = max_over_mean(&endpoints, &weights, share);
            assert!(spread < 1.06, "{spread}");
            endpoints[3].set_health(Health::Down);
            for (key, before) in (0..).zip(&before) {
                let after = owner(&balance, key);
                assert!(after == *before || *before == endpoints[3].id);
            }
        }
    }

    #[test]
    fn a_key_that_everybody_asks_for_overflows_to_the_next() {
        let (balance, endpoints) = by_hash(1.25, &[1; 4]);
        let key = Some(affinity::hash(b"popular"));
        let _in_flight: Vec<_> =
            (0..400).map(|_| balance.pick(&Tried::default(), key).expect("one").begin()).collect();
        let most = endpoints.iter().map(|endpoint| endpoint.in_flight()).max();
        assert_eq!(most, Some(125), "1.25 times the mean");
    }
}
