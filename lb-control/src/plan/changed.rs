//! What of a target is not planned yet. Pure.
//!
//! Invariant: a service that is left out is the same as when it was planned last, and nothing of it changed since.

use std::collections::HashMap;

use lb_common::ServiceKey;

use super::Installed;
use crate::target::{Shared, Target, TargetService};

/// What to plan.
pub struct Changed {
    /// Services by their place in the target.
    indexes: Vec<usize>,
    /// Whether virtual addresses, networks, or which services there are may differ.
    pub addresses: bool,
}

impl Changed {
    /// What `target` has that was not planned before, or was touched since.
    pub fn of(installed: &Installed, target: &Target) -> Self {
        let (before, now) = (&installed.planned, &target.services);
        let is_untouched = |service: &Shared<TargetService>| !installed.touched.contains(&service.key);
        let aligned = before.len() == now.len()
            && before.iter().zip(now).all(|(old, new)| Shared::is_same(old, new) || old.key == new.key);
        if aligned {
            let pairs = before.iter().zip(now).enumerate();
            let differing: Vec<(usize, bool)> = pairs
                .filter(|(_, (old, new))| !(old == new && is_untouched(new)))
                .map(|(index, (old, new))| (index, has_other_head(old, new)))
                .collect();
            let addresses = !installed.addresses_are_planned(&target.pool)
                || differing.iter().any(|(_, other_head)| *other_head);
            return Self { indexes: differing.into_iter().map(|(index, _)| index).collect(), addresses };
        }
        let before: HashMap<ServiceKey, &Shared<TargetService>> =
            before.iter().map(|service| (service.key, service)).collect();
        let differs = |new: &Shared<TargetService>| {
            before.get(&new.key).is_none_or(|old| *old != new) || !is_untouched(new)
        };
        let indexes = now.iter().enumerate().filter(|(_, new)| differs(new)).map(|(index, _)| index);
        Self { indexes: indexes.collect(), addresses: true }
    }

    /// The services to plan.
    pub fn services<'t>(&self, target: &'t Target) -> impl Iterator<Item = &'t TargetService> {
        self.indexes.iter().filter_map(|index| target.services.get(*index)).map(|service| &**service)
    }
}

/// Whether two services are found in different ways.
fn has_other_head(old: &TargetService, new: &TargetService) -> bool {
    let head = |service: &TargetService| {
        (service.key, service.last_port, service.fragments, service.answer_arp, service.answer_echo)
    };
    head(old) != head(new)
}
