//! The instances of one priority: which of them is next.

use std::sync::Arc;

use super::{Instance, is_well};
use crate::{
    clock::now_ns,
    config::balance::BalanceDocument,
    upstream::{Endpoint, affinity, schedule::Schedule},
};

/// Instances of one priority, and where their turns stand.
#[derive(Debug)]
pub struct Level {
    instances: Box<[Instance]>,
    /// Of all weights.
    weight: u32,
    schedule: Schedule,
}

impl Level {
    /// Begins at the first instance.
    pub fn new(instances: Vec<Instance>) -> Self {
        let weights: Vec<_> = instances.iter().map(|instance| instance.weight).collect();
        Self { instances: instances.into(), weight: weights.iter().sum(), schedule: Schedule::new(&weights) }
    }

    /// Whether at least so many percent are well, by weight.
    pub fn is_well_enough(&self, percent: u8) -> bool {
        let well = self.instances.iter().filter(|instance| is_well(&instance.endpoint));
        let weight: u32 = well.map(|instance| instance.weight).sum();
        u64::from(weight) * 100 >= u64::from(self.weight) * u64::from(percent)
    }

    /// The next by `rule`, of those that are `usable`.
    pub fn choose(
        &self,
        rule: &BalanceDocument,
        key: Option<u64>,
        usable: impl Fn(&Endpoint) -> bool,
    ) -> Option<&Arc<Endpoint>> {
        let usable = |index: usize| usable(&self.instances[index].endpoint);
        let chosen = match (rule, key) {
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
