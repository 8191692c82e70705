//! What an order would do to slots and flows, without doing it.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use anyhow::Result;
use lb_common::{Backend, BackendId, Flow, FlowKey, Mode, ServiceKey, hash::flow_hash};

use super::Engine;
use crate::{
    datapath::{Contents, Datapath},
    plan::{Installed, InstalledService, Shortage, is_affected, plan},
    settle,
    target::Target,
};

/// What a target would do.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DryRun {
    /// Services whose table would change, or who serves in it, by their keys. New ones have nothing to be moved.
    pub services: Vec<ServiceDryRun>,
    /// What would not fit.
    pub shortages: Vec<Shortage>,
}

/// What a target would do to one service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServiceDryRun {
    /// Which.
    pub service: ServiceKey,
    /// Slots that would get another owner; all, where the service would go.
    pub slots_moved: u32,
    /// Live flows that are known in these slots. They stay where they are while their backend serves.
    pub live_flows: u64,
    /// Live flows that are known of backends that would serve no more.
    pub flows_cut: u64,
    /// Whether these are all of its flows; else they are those that were remembered after earlier changes.
    pub exact: bool,
}

impl<D: Datapath> Engine<D> {
    /// Plans the way to `target` on a copy of the services that it affects.
    pub fn dry_run(&self, target: &Target, now_seconds: u32) -> Result<DryRun> {
        let wanted: BTreeSet<ServiceKey> = target.services.iter().map(|service| service.key).collect();
        let gone = self.installed.services.keys().filter(|key| !wanted.contains(key)).copied();
        let services: Vec<_> =
            target.services.iter().filter(|service| is_affected(&self.installed, service)).cloned().collect();
        let affected: BTreeSet<ServiceKey> = services.iter().map(|service| service.key).chain(gone).collect();
        if affected.is_empty() {
            return Ok(DryRun::default());
        }
        let mut after = self.copy_of(&affected)?;
        let target = Target {
            services,
            interfaces: target.interfaces.clone(),
            locals: target.locals.clone(),
            program: target.program,
            pool: target.pool.clone(),
        };
        let planned = plan(&mut after, &target, now_seconds);
        let known = affected.iter().filter_map(|key| self.installed.services.get_key_value(key));
        let mut outcomes: BTreeMap<u32, Outcome<'_>> = known
            .map(|(key, service)| (service.entry.id, Outcome::new(*key, service, &self.installed, &after)))
            .collect();
        self.count_flows(&mut outcomes, now_seconds)?;
        let report = |outcome: Outcome<'_>| ServiceDryRun {
            exact: outcome.touches_nothing()
                || self.knows_all(&outcome.report.service, outcome.before, now_seconds),
            ..outcome.report
        };
        Ok(DryRun { services: outcomes.into_values().map(report).collect(), shortages: planned.shortages })
    }

    /// The picture of what is installed with these services and their backends only.
    fn copy_of(&self, services: &BTreeSet<ServiceKey>) -> Result<Installed> {
        let kept: Vec<_> =
            services.iter().filter_map(|key| self.installed.services.get_key_value(key)).collect();
        let numbers: BTreeSet<u32> = kept.iter().map(|(_, service)| service.entry.id).collect();
        let backends = self.installed.backends.iter();
        let contents = Contents {
            services: kept
                .iter()
                .map(|(key, service)| (**key, service.entry, service.slots.to_vec()))
                .collect(),
            backends: backends
                .filter(|(_, backend)| numbers.contains(&backend.service))
                .map(|(&id, backend)| (id, *backend))
                .collect(),
            features: self.installed.features,
            settings: self.installed.settings,
            ..Contents::default()
        };
        let mut copy = Installed::adopt(contents, self.installed.capacity())?;
        copy.regions = self.installed.regions.clone();
        copy.drained = self.installed.drained.clone();
        for (key, service) in kept {
            if let Some(copied) = copy.services.get_mut(key) {
                copied.built = service.built.clone();
            }
        }
        Ok(copy)
    }

    fn count_flows(&self, outcomes: &mut BTreeMap<u32, Outcome<'_>>, now_seconds: u32) -> Result<()> {
        let keys = self.datapath.hash_keys();
        let owners: HashMap<BackendId, u32> =
            self.installed.backends.iter().map(|(&id, backend)| (id, backend.service)).collect();
        let mut note = |key: &FlowKey, flow: Flow| {
            let outcome = owners.get(&flow.backend()).and_then(|service| outcomes.get_mut(service));
            if let Some(outcome) = outcome
                && settle::is_live(flow, outcome.before.entry.flow_idle_seconds, now_seconds)
            {
                outcome.note(flow_hash(keys, &outcome.before.entry.slot_key(key)), flow.backend());
            }
        };
        for (key, flow) in self.datapath.flows()?.iter().filter(|(key, _)| key.is_flow()) {
            note(key, *flow);
        }
        let mut services = self.installed.services.values();
        if services.any(|service| service.entry.mode() == Mode::FullNat) {
            for direction in self.datapath.translations()?.iter().filter(|one| self.is_from_client(one)) {
                note(&direction.0, direction.1.flow);
            }
        }
        Ok(())
    }
}

/// A service before and after.
struct Outcome<'i> {
    before: &'i InstalledService,
    /// By slots of the table after.
    moved: Vec<bool>,
    ending: BTreeSet<BackendId>,
    report: ServiceDryRun,
}

impl<'i> Outcome<'i> {
    fn new(key: ServiceKey, before: &'i InstalledService, installed: &Installed, after: &Installed) -> Self {
        let old = &before.slots;
        let moved: Vec<bool> = match after.services.get(&key) {
            None => vec![true; old.len()],
            Some(new) => {
                let nested = |index: usize| old[index * old.len() / new.slots.len()];
                let slots = new.slots.iter().enumerate();
                slots.map(|(index, slot)| slot.current() != nested(index).current()).collect()
            }
        };
        let serves =
            |picture: &Installed, id: &BackendId| picture.backends.get(id).is_some_and(Backend::serves);
        let ends = |id: &BackendId| serves(installed, id) && !serves(after, id);
        let report = ServiceDryRun {
            service: key,
            slots_moved: moved.iter().filter(|moved| **moved).count() as u32,
            live_flows: 0,
            flows_cut: 0,
            exact: false,
        };
        Self { before, moved, ending: before.backends.values().copied().filter(ends).collect(), report }
    }

    fn note(&mut self, hash: u64, backend: BackendId) {
        // The upper half of the hash is a fraction of the table, whatever its size.
        let index = ((hash >> 32) as usize * self.moved.len()) >> 32;
        self.report.live_flows += u64::from(self.moved[index]);
        self.report.flows_cut += u64::from(self.ending.contains(&backend));
    }

    fn touches_nothing(&self) -> bool {
        self.report.slots_moved == 0 && self.ending.is_empty()
    }
}
