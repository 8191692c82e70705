//! The sweep: flows that no longer matter are forgotten, ids that nothing names are freed.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use anyhow::{Context as _, Result};
use lb_common::{
    Address, BackendId, Features, Flow, FlowKey, FlowState, Protocol, QuicKey, ServiceKey, Tracking,
    Translation, hash::flow_hash,
};

use super::{
    ENTRIES_PER_SWEEP_SECOND, Engine, FREE_AFTER_SECONDS,
    connections::{Drift, Found, drift},
};
use crate::{
    datapath::{Change, Datapath, TranslatedFlow},
    plan::{Installed, InstalledService},
    settle::{self, Fate},
};

/// What a sweep counted of one backend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Flows that stay remembered or translated.
    pub flows: u32,
    /// Of these, those that are open or opening.
    pub live: u32,
    /// Flows that count for its live connections; those that are forgotten now are among them.
    counted: u32,
}

/// What a sweep counted.
#[derive(Debug, Default)]
pub struct Tallies {
    by_id: Vec<Tally>,
    /// By service number: flows that keep a pinned slot from settling.
    pinned: HashMap<u32, u32>,
    /// Remembered flows.
    pub flows: usize,
    /// Directions of translated flows.
    pub translations: usize,
    /// Clients' networks whose backend is remembered.
    pub affinities: usize,
}

impl Tallies {
    /// Of a backend.
    pub fn of(&self, id: BackendId) -> Tally {
        self.by_id.get(id.0 as usize).copied().unwrap_or_default()
    }

    /// Flows that keep a pinned slot of a service from settling.
    pub fn pinned(&self, service: u32) -> u32 {
        self.pinned.get(&service).copied().unwrap_or(0)
    }

    fn of_mut(&mut self, id: BackendId) -> &mut Tally {
        let index = id.0 as usize;
        if index >= self.by_id.len() {
            self.by_id.resize(index + 1, Tally::default());
        }
        &mut self.by_id[index]
    }

    fn keep(&mut self, id: BackendId, live: bool) {
        let tally = self.of_mut(id);
        tally.flows += 1;
        tally.live += u32::from(live);
    }

    fn count(&mut self, flow: Flow, owned: bool) {
        // Who is not installed may be any word.
        if owned && flow.is_counted() {
            self.of_mut(flow.backend()).counted += 1;
        }
    }
}

/// What a sweep of the remembered and translated flows found.
#[derive(Default)]
pub struct Sweep {
    /// How many it forgot.
    pub forgotten: usize,
    /// Pinned slots, relative to the region, that a remembered flow keeps from settling.
    pub kept_pinned: BTreeMap<ServiceKey, BTreeSet<u32>>,
    /// Whether the table of remembered flows is three quarters full.
    pub filling_up: bool,
    tallies: Tallies,
    doomed: Vec<(FlowKey, Flow)>,
    doomed_translations: Vec<TranslatedFlow>,
}

/// Backends by their ids, and their services: looked up for every flow.
struct Owners<'i> {
    /// An index into `services`, and whether the backend serves.
    by_id: Vec<Option<(u32, bool)>>,
    services: Vec<(ServiceKey, &'i InstalledService)>,
}

impl<'i> Owners<'i> {
    fn new(installed: &'i Installed) -> Self {
        let services: Vec<_> = installed.services.iter().map(|(&key, service)| (key, service)).collect();
        let numbers: HashMap<u32, u32> =
            (0..).zip(&services).map(|(index, (_, service))| (service.entry.id, index)).collect();
        let last = installed.backends.keys().next_back().map_or(0, |id| id.0 as usize);
        let mut by_id = vec![None; last + 1];
        for (id, backend) in &installed.backends {
            let index = numbers.get(&backend.service);
            by_id[id.0 as usize] = index.map(|&index| (index, installed.serves(*id)));
        }
        Self { by_id, services }
    }

    fn of(&self, id: BackendId) -> Option<(ServiceKey, &'i InstalledService, bool)> {
        let (index, serves) = (*self.by_id.get(id.0 as usize)?)?;
        let (key, service) = self.services[index as usize];
        Some((key, service, serves))
    }
}

impl<D: Datapath> Engine<D> {
    /// How many seconds after a sweep the next one comes.
    pub(super) fn seconds_between_sweeps(&self) -> u32 {
        let entries = self.tallies.flows + self.tallies.translations + self.doomed.len();
        1 + (entries / ENTRIES_PER_SWEEP_SECOND) as u32
    }

    /// Forgets some of the remembered flows that the last sweep gave up; returns how many.
    ///
    /// A flow that is used meanwhile is another one by then, and stays. One that is not is told by the same rules by the
    /// next sweep, whatever became of its slot.
    pub(super) fn forget_some(&mut self) -> Result<usize> {
        if self.doomed.is_empty() {
            return Ok(0);
        }
        let rest = self.doomed.split_off(self.doomed.len().min(self.forgotten_at_once));
        let now = std::mem::replace(&mut self.doomed, rest);
        let forgotten = now.len();
        self.datapath.apply(&Change::DeleteFlows(now)).context("forgetting flows")?;
        Ok(forgotten)
    }

    /// Reads the flows, corrects live connections by them, and forgets those that no longer matter.
    pub(super) fn sweep(&mut self, remembers: bool, translates: bool, now_seconds: u32) -> Result<Sweep> {
        let before = self.connections();
        let mut sweep = Sweep::default();
        if remembers {
            self.read_flows(&mut sweep, now_seconds)?;
        }
        if translates {
            self.read_translations(&mut sweep, now_seconds)?;
        }
        self.tallies = std::mem::take(&mut sweep.tallies);
        self.correct_connections(&before);
        let doomed_translations = std::mem::take(&mut sweep.doomed_translations);
        self.doomed = std::mem::take(&mut sweep.doomed);
        // All of them until the next sweep.
        self.forgotten_at_once = self.doomed.len().div_ceil(self.seconds_between_sweeps() as usize);
        sweep.forgotten = self.forget_some()? + doomed_translations.len();
        if !doomed_translations.is_empty() {
            let change = Change::DeleteTranslations(doomed_translations);
            self.datapath.apply(&change).context("forgetting translated flows")?;
        }
        Ok(sweep)
    }

    /// Live connections of every backend, where any are counted.
    fn connections(&self) -> Vec<(BackendId, u64)> {
        let counts = [Features::TRACKED, Features::FULL_NAT];
        if !counts.iter().any(|feature| self.installed.features.contains(*feature)) {
            return Vec::new();
        }
        let ids = self.installed.backends.keys();
        ids.map(|&id| (id, self.datapath.backend_load(id).connections)).collect()
    }

    fn correct_connections(&mut self, before: &[(BackendId, u64)]) {
        let suspected = std::mem::take(&mut self.drifts);
        for &(id, before) in before {
            let after = self.datapath.backend_load(id).connections;
            let found = Found { before, after, flows: self.tallies.of(id).counted.into() };
            match drift(found, suspected.get(&id).copied()) {
                Drift::None => {}
                Drift::Suspected(off) => {
                    self.drifts.insert(id, off);
                }
                Drift::Proven(off) => {
                    self.datapath.adjust_connections(id, off);
                    self.corrections += 1;
                }
            }
        }
    }

    /// Reads the remembered flows.
    ///
    /// The service of a flow is its backend's: a tuple alone does not tell which of several ports or addresses it
    /// was found by.
    fn read_flows(&self, sweep: &mut Sweep, now_seconds: u32) -> Result<()> {
        let flows = self.datapath.flows()?;
        if flows.is_empty() {
            return Ok(());
        }
        let keys = self.datapath.hash_keys();
        let owners = Owners::new(&self.installed);
        sweep.filling_up = flows.len() as u64 * 4 >= u64::from(self.installed.capacity().flows) * 3;
        for (tuple, flow) in flows {
            let owner = owners.of(flow.backend());
            let Some((key, service, serves)) = owner else {
                sweep.doomed.push((tuple, flow));
                continue;
            };
            if !tuple.is_flow() {
                match settle::affinity_fate(flow, serves, service.entry.affinity_seconds, now_seconds) {
                    Fate::Delete => sweep.doomed.push((tuple, flow)),
                    Fate::Keep | Fate::KeepPinned => sweep.tallies.affinities += 1,
                }
                continue;
            }
            sweep.tallies.count(flow, true);
            let idle_max = service.entry.flow_idle_seconds;
            let fate = if service.entry.tracking() == Tracking::EveryFlow {
                settle::tracked_fate(flow, serves, idle_max, now_seconds)
            } else {
                let hash = flow_hash(keys, &service.entry.slot_key(&tuple));
                let index = service.entry.slot_index(hash) - service.entry.slots_start;
                let slot = service.slots[index as usize];
                let fate = settle::fate(slot, flow, serves, idle_max, now_seconds, sweep.filling_up);
                if fate == Fate::KeepPinned {
                    sweep.kept_pinned.entry(key).or_default().insert(index);
                    *sweep.tallies.pinned.entry(service.entry.id).or_default() += 1;
                }
                fate
            };
            match fate {
                Fate::Delete => sweep.doomed.push((tuple, flow)),
                Fate::Keep | Fate::KeepPinned => {
                    sweep.tallies.flows += 1;
                    sweep.tallies.keep(flow.backend(), settle::is_live(flow, idle_max, now_seconds));
                }
            }
        }
        // Room is made by what is half open before anything else is touched.
        sweep.doomed.sort_by_key(|(_, flow)| flow.state() != FlowState::Opening);
        Ok(())
    }

    /// Reads the translated flows.
    fn read_translations(&self, sweep: &mut Sweep, now_seconds: u32) -> Result<()> {
        let seen: HashMap<FlowKey, Translation> = self.datapath.translations()?.into_iter().collect();
        for (&key, &translation) in &seen {
            let Some(flow) = self.translated_flow(&seen, key, translation) else { continue };
            let directions = std::iter::once(&flow.first).chain(&flow.second);
            for (_, direction) in directions {
                let id = direction.flow.backend();
                sweep.tallies.count(direction.flow, self.installed.backends.contains_key(&id));
            }
            if self.is_over(&flow, now_seconds) {
                sweep.doomed_translations.push(flow);
                continue;
            }
            let second = flow.second.map(|(_, second)| second.flow);
            let live = !settle::translation_state(flow.first.1.flow, second).is_over();
            sweep.tallies.translations += 1 + usize::from(second.is_some());
            sweep.tallies.keep(translation.flow.backend(), live);
        }
        Ok(())
    }

    /// Both directions of a flow, the client's first; `None` for one of the two, so that each flow comes once.
    fn translated_flow(
        &self,
        seen: &HashMap<FlowKey, Translation>,
        key: FlowKey,
        translation: Translation,
    ) -> Option<TranslatedFlow> {
        let other_key = translation.opposite_key(key.protocol);
        // What stands there may be another flow's: a client's next one, which got another port.
        let other = seen.get(&other_key).filter(|other| other.opposite_key(key.protocol) == key);
        let (own, other) = ((key, translation), other.map(|other| (other_key, *other)));
        match other {
            None => Some(TranslatedFlow { first: own, second: None }),
            Some(_) if other_key < key => None,
            Some(other) if self.is_from_client(&own) => {
                Some(TranslatedFlow { first: own, second: Some(other) })
            }
            Some(other) => Some(TranslatedFlow { first: other, second: Some(own) }),
        }
    }

    pub(super) fn is_from_client(&self, (key, translation): &(FlowKey, Translation)) -> bool {
        let service = self.installed.service_of(translation.service);
        service.is_some_and(|(service, _)| covers(&service, key.vip))
    }

    fn is_over(&self, flow: &TranslatedFlow, now_seconds: u32) -> bool {
        let (_, first) = &flow.first;
        let backend = first.flow.backend();
        let owner = self.installed.backends.get(&backend).map(|backend| backend.service);
        let Some((_, service)) = self.installed.service_of(first.service) else { return true };
        owner != Some(first.service)
            || !self.installed.serves(backend)
            || settle::translation_is_over(
                first.flow,
                flow.second.map(|(_, second)| second.flow),
                service.entry.flow_idle_seconds,
                now_seconds,
            )
    }

    /// Frees the ids of retired backends that no slot and no remembered flow names.
    pub(super) fn free(&mut self, retired: BTreeSet<BackendId>, now_seconds: u32) -> Result<usize> {
        self.retired_since.retain(|id, _| retired.contains(id));
        let mut freed = 0;
        for id in retired {
            let since = *self.retired_since.entry(id).or_insert(now_seconds);
            let rested = now_seconds.wrapping_sub(since) >= FREE_AFTER_SECONDS;
            if !rested || self.tallies.of(id).flows > 0 || !self.doomed.is_empty() || self.is_named(id) {
                continue;
            }
            let (names, replies) = self.traces(id);
            let names = names.into_iter().map(Change::DeleteQuicServer);
            let replies = replies.into_iter().map(Change::DeleteReply);
            for change in names.chain(replies).chain([Change::FreeBackend(id)]) {
                self.datapath.apply(&change)?;
                self.installed.record(&change, now_seconds);
            }
            self.drains.remove(&id);
            self.drifts.remove(&id);
            freed += 1;
        }
        Ok(freed)
    }

    /// What still leads to a backend: its names, and its replies' source.
    fn traces(&self, id: BackendId) -> (Vec<QuicKey>, Vec<ServiceKey>) {
        let Some(backend) = self.installed.backends.get(&id) else { return Default::default() };
        let first = QuicKey { service: backend.service, ..QuicKey::default() };
        let names = self.installed.quic_servers.range(first..);
        let names = names.take_while(|(key, _)| key.service == backend.service);
        let names = names.filter(|(_, server)| **server == id).map(|(key, _)| *key);
        let reply = |protocol: Protocol| {
            let (address, port) = (backend.address, backend.port);
            ServiceKey { address, port, protocol: protocol as u8, width: 0 }
        };
        let replies = [Protocol::Tcp, Protocol::Udp].map(reply).into_iter();
        let is_its =
            |key: &ServiceKey| self.installed.replies.get(key).is_some_and(|one| one.backend == id.0);
        (names.collect(), replies.filter(is_its).collect())
    }

    fn is_named(&self, id: BackendId) -> bool {
        let owner = self.installed.backends.get(&id).map(|backend| backend.service);
        let Some((_, service)) = owner.and_then(|number| self.installed.service_of(number)) else {
            return false;
        };
        service.shares().name(id)
    }
}

/// Whether an address is one of a service's.
fn covers(service: &ServiceKey, address: Address) -> bool {
    address.network(service.width.checked_sub(1).unwrap_or(128)) == service.address
}
