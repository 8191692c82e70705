//! Which instance a request goes to: of the first priority of which enough are well, among those that are well; when none
//! is anywhere, among those that were merely left out for their failures.

mod level;
mod slow_start;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use super::{
    Caller, Head,
    attempts::Tried,
    endpoint::{Endpoint, Health},
};
use crate::{clock::now_ns, config::balance::BalanceDocument};
use level::Level;
use slow_start::SlowStart;

/// The rule, whom it chooses from, and where it stands.
#[derive(Debug)]
pub struct Balance {
    rule: BalanceDocument,
    /// How many percent of a level must be well, or the next has its requests.
    failover_percent: u8,
    slow_start: Option<SlowStart>,
    /// By priority.
    levels: Box<[Level]>,
}

/// An instance, and its part of the requests.
#[derive(Clone, Debug)]
pub struct Instance {
    /// The instance.
    pub endpoint: Arc<Endpoint>,
    /// Its part, in proportion to the others'. At least 1.
    pub weight: u32,
    /// Its level; 0 comes first.
    pub priority: u8,
}

impl Balance {
    /// Begins at the first instance. One that comes back has all its requests after `slow_start`.
    pub fn new(
        rule: BalanceDocument,
        failover_percent: u8,
        slow_start: Option<Duration>,
        instances: Vec<Instance>,
    ) -> Self {
        let mut levels: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for instance in instances {
            levels.entry(instance.priority).or_default().push(instance);
        }
        let levels = levels.into_values().map(Level::new).collect();
        Self { rule, failover_percent, slow_start: slow_start.map(SlowStart::of), levels }
    }

    /// The next instance, one that was not tried if there is one; none when health checks say that none is well.
    pub(super) fn pick(&self, tried: &Tried, key: Option<u64>) -> Option<Arc<Endpoint>> {
        let other = |endpoint: &Endpoint| !tried.contains(endpoint);
        let well = |endpoint: &Endpoint| is_well(endpoint) && other(endpoint);
        let first = |usable: &dyn Fn(&Endpoint) -> bool| {
            self.levels.iter().find_map(|level| level.choose(&self.rule, key, usable))
        };
        let preferred = self.preferred();
        let warm = self.slow_start.as_ref().and_then(|slow_start| {
            let draw = slow_start.draw(key);
            preferred?.choose(&self.rule, key, |endpoint| well(endpoint) && draw.admits(endpoint))
        });
        warm.or_else(|| preferred?.choose(&self.rule, key, well))
            .or_else(|| first(&well))
            .or_else(|| first(&|endpoint| endpoint.health() != Health::Down && other(endpoint)))
            .or_else(|| first(&|endpoint| endpoint.health() != Health::Down))
            .cloned()
    }

    /// The first level of which enough are well.
    fn preferred(&self) -> Option<&Level> {
        match &*self.levels {
            [only] => Some(only),
            levels => levels.iter().find(|level| level.is_well_enough(self.failover_percent)),
        }
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
}

fn is_well(endpoint: &Endpoint) -> bool {
    endpoint.health() != Health::Down && !(endpoint.may_be_ejected() && endpoint.is_ejected(now_ns()))
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, time::Duration};

    use super::*;
    use crate::{
        config::{
            balance::{ConsistentHashDocument, Load},
            connect::Address,
        },
        upstream::{
            Ejection,
            affinity::{self, Key},
        },
    };

    fn weighing(weights: &[u32]) -> Vec<Instance> {
        let at = |port| Address::Tcp(([127, 0, 0, 1], port).into());
        (1..)
            .zip(weights)
            .map(|(port, weight)| {
                let endpoint = Arc::new(Endpoint::new(at(port), None));
                Instance { endpoint, weight: *weight, priority: 0 }
            })
            .collect()
    }

    /// The rule for instances of these weights, and the instances.
    fn stage(rule: BalanceDocument, weights: &[u32]) -> (Balance, Vec<Arc<Endpoint>>) {
        let instances = weighing(weights);
        let endpoints = instances.iter().map(|instance| instance.endpoint.clone()).collect();
        (Balance::new(rule, 50, None, instances), endpoints)
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
    fn a_level_of_which_too_few_are_well_hands_on_to_the_next() {
        for rule in [BalanceDocument::RoundRobin, BalanceDocument::LeastRequest, BalanceDocument::PeakEwma] {
            let mut instances = weighing(&[1; 6]);
            // Written in any order: 1 to 4 are the first level, 5 and 6 the second.
            instances.iter_mut().skip(4).for_each(|instance| instance.priority = 7);
            instances.reverse();
            let endpoints: Vec<_> = instances.iter().rev().map(|one| one.endpoint.clone()).collect();
            let balance = Balance::new(rule, 50, None, instances);
            let chosen = || ports(&balance, 100).into_iter().collect::<BTreeSet<_>>();
            assert_eq!(chosen(), BTreeSet::from([1, 2, 3, 4]));
            endpoints[..2].iter().for_each(|endpoint| endpoint.set_health(Health::Down));
            assert_eq!(chosen(), BTreeSet::from([3, 4]), "half is enough");
            endpoints[2].set_health(Health::Down);
            assert_eq!(chosen(), BTreeSet::from([5, 6]));
            let mut tried = Tried::default();
            endpoints[4..].iter().for_each(|endpoint| tried.add(endpoint));
            let again = balance.pick(&tried, None).map(|endpoint| endpoint.id);
            assert_eq!(again, Some(endpoints[3].id), "a second try takes what is well anywhere");
            endpoints[4..].iter().for_each(|endpoint| endpoint.set_health(Health::Down));
            assert_eq!(chosen(), BTreeSet::from([4]), "too few are more than none");
            endpoints[0].set_health(Health::Up);
            assert_eq!(chosen(), BTreeSet::from([1, 4]));
        }
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
    fn one_that_comes_back_has_its_part_little_by_little() {
        let by_path = ConsistentHashDocument { key: Key::Path, load: Load(10.0) };
        for rule in [BalanceDocument::RoundRobin, BalanceDocument::ConsistentHash(by_path)] {
            let counts = |slow_start, returns: usize| {
                let instances = weighing(&[1; 4]);
                let endpoints: Vec<_> = instances.iter().map(|one| one.endpoint.clone()).collect();
                let balance = Balance::new(rule.clone(), 50, Some(slow_start), instances);
                endpoints[..returns].iter().for_each(|endpoint| {
                    endpoint.set_health(Health::Down);
                    endpoint.set_health(Health::Up);
                });
                (0..8_000).for_each(|key| drop(of_key(&balance, key).begin()));
                endpoints[0].requests_total()
            };
            let (day, instant) = (Duration::from_secs(86_400), Duration::from_nanos(1));
            assert!((100..400).contains(&counts(day, 1)), "a tenth: {}", counts(day, 1));
            assert!((1_800..2_200).contains(&counts(instant, 1)), "all of it");
            assert!((1_700..2_300).contains(&counts(day, 4)), "nobody has less than the others");
        }
    }

    fn of_key(balance: &Balance, key: u32) -> Arc<Endpoint> {
        let key = Some(affinity::hash(&key.to_be_bytes()));
        balance.pick(&Tried::default(), key).expect("one")
    }

    #[test]
    fn when_all_are_left_out_all_are_used_but_those_that_are_down() {
        let (balance, endpoints) = stage(BalanceDocument::RoundRobin, &[1, 1]);
        let ejection = Ejection { failures: 1, duration: Duration::from_secs(60), ..Ejection::default() };
        endpoints.iter().for_each(|endpoint| endpoint.failed(&ejection, &[]));
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
        of_key(balance, key).id
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
