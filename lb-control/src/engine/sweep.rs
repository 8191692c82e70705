//! The sweep: flows that no longer matter are forgotten, ids that nothing names are freed.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use anyhow::{Context as _, Result};
use lb_common::{Address, BackendId, FlowKey, FlowState, ServiceKey, Translation, hash::flow_hash};

use super::{Engine, FREE_AFTER_SECONDS};
use crate::{
    datapath::{Change, Datapath, TranslatedFlow},
    plan::InstalledService,
    settle::{self, Fate},
};

/// What a sweep of the remembered flows found.
#[derive(Default)]
pub struct Sweep {
    kept: usize,
    /// How many it forgot.
    pub forgotten: usize,
    /// Pinned slots, relative to the region, that a remembered flow keeps from settling.
    pub kept_pinned: BTreeMap<ServiceKey, BTreeSet<u32>>,
}

impl<D: Datapath> Engine<D> {
    /// Reads the remembered flows and forgets those that no longer matter.
    ///
    /// The service of a flow is its backend's: a tuple alone does not tell which of several ports or addresses it
    /// was found by.
    pub(super) fn sweep_flows(&mut self, now_seconds: u32) -> Result<Sweep> {
        let flows = self.datapath.flows()?;
        let keys = self.datapath.hash_keys();
        let filling_up = flows.len() as u64 * 4 >= self.installed.capacity().flows as u64 * 3;
        let mut sweep = Sweep::default();
        let mut doomed = Vec::new();
        for (tuple, flow) in flows {
            let owner = self.installed.backends.get(&flow.backend());
            let fate = match owner.and_then(|backend| self.installed.service_of(backend.service)) {
                None => Fate::Delete,
                Some((key, service)) => {
                    let index = service.entry.slot_index(flow_hash(keys, &tuple)) - service.entry.slots_start;
                    let slot = service.slots[index as usize];
                    let serves = self.installed.serves(flow.backend());
                    let idle_max = service.entry.flow_idle_seconds;
                    let fate = settle::fate(slot, flow, serves, idle_max, now_seconds, filling_up);
                    if fate == Fate::KeepPinned {
                        sweep.kept_pinned.entry(key).or_default().insert(index);
                    }
                    fate
                }
            };
            match fate {
                Fate::Delete => doomed.push((tuple, flow)),
                Fate::Keep | Fate::KeepPinned => {
                    sweep.kept += 1;
                    *self.tracked.entry(flow.backend()).or_default() += 1;
                }
            }
        }
        sweep.forgotten = doomed.len();
        self.flows = sweep.kept;
        if !doomed.is_empty() {
            // Room is made by what is half open before anything else is touched.
            doomed.sort_by_key(|(_, flow)| flow.state() != FlowState::Opening);
            self.datapath.apply(&Change::DeleteFlows(doomed)).context("forgetting flows")?;
        }
        Ok(sweep)
    }

    /// Reads the translated flows and forgets those that are over; returns how many.
    pub(super) fn sweep_translations(&mut self, now_seconds: u32) -> Result<usize> {
        let seen: HashMap<FlowKey, Translation> = self.datapath.translations()?.into_iter().collect();
        let mut doomed = Vec::new();
        self.translations = 0;
        for (&key, &translation) in &seen {
            let Some(flow) = self.translated_flow(&seen, key, translation) else { continue };
            if self.is_over(&flow, now_seconds) {
                doomed.push(flow);
            } else {
                self.translations += 1 + usize::from(flow.second.is_some());
                *self.tracked.entry(translation.flow.backend()).or_default() += 1;
            }
        }
        let forgotten = doomed.len();
        if forgotten > 0 {
            self.datapath
                .apply(&Change::DeleteTranslations(doomed))
                .context("forgetting translated flows")?;
        }
        Ok(forgotten)
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

    fn is_from_client(&self, (key, translation): &(FlowKey, Translation)) -> bool {
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

    /// Backends that nobody wants any more and that are not freed yet.
    pub(super) fn retired(&self) -> BTreeSet<BackendId> {
        let mut wanted: BTreeSet<BackendId> = BTreeSet::new();
        for service in self.installed.services.values() {
            match &service.built {
                Some(built) => wanted.extend(&built.wanted),
                // After a take-over nothing is known of what is desired.
                None => wanted.extend(service.backends.values()),
            }
        }
        self.installed.backends.keys().filter(|id| !wanted.contains(id)).copied().collect()
    }

    /// Frees the ids of retired backends that no slot and no remembered flow names.
    pub(super) fn free(&mut self, retired: BTreeSet<BackendId>, now_seconds: u32) -> Result<usize> {
        self.retired_since.retain(|id, _| retired.contains(id));
        let mut freed = 0;
        for id in retired {
            let since = *self.retired_since.entry(id).or_insert(now_seconds);
            let rested = now_seconds.wrapping_sub(since) >= FREE_AFTER_SECONDS;
            if !rested || self.tracked.contains_key(&id) || self.is_named(id) {
                continue;
            }
            let replies: Vec<ServiceKey> = self
                .installed
                .replies
                .iter()
                .filter(|(_, reply)| reply.backend == id.0)
                .map(|(&key, _)| key)
                .collect();
            let names = self.installed.quic_servers.iter().filter(|(_, server)| **server == id);
            let names: Vec<Change> = names.map(|(&key, _)| Change::DeleteQuicServer(key)).collect();
            let replies = replies.into_iter().map(Change::DeleteReply);
            for change in names.into_iter().chain(replies).chain([Change::FreeBackend(id)]) {
                self.datapath.apply(&change)?;
                self.installed.record(&change, now_seconds);
            }
            freed += 1;
        }
        Ok(freed)
    }

    fn is_named(&self, id: BackendId) -> bool {
        let names = |service: &InstalledService| {
            service.slots.iter().any(|slot| slot.current() == id || slot.previous() == id)
        };
        let owner = self.installed.backends.get(&id).map(|backend| backend.service);
        self.installed.services.values().any(|service| Some(service.entry.id) == owner && names(service))
    }
}

/// Whether an address is one of a service's.
fn covers(service: &ServiceKey, address: Address) -> bool {
    address.network(service.width.checked_sub(1).unwrap_or(128)) == service.address
}
