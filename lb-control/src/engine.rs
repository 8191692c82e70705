//! The maps' single writer: applies plans, and lets slots come to rest.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use anyhow::{Context as _, Result};
use lb_common::{
    Address, BackendId, BackendState, Counters, FlowKey, NextHop, Port, ServiceKey, Slot, SlotState,
    hash::flow_hash,
};

use crate::{
    datapath::{Change, Datapath},
    plan::{Installed, InstalledService, Shortage, plan},
    settle::{self, Fate},
    target::Target,
};

/// A freed id rests for so many seconds before it is given out: a packet is under way for microseconds.
const FREE_AFTER_SECONDS: u32 = 2;
/// A sweep reads every remembered flow; the next one waits a second for each of so many.
const FLOWS_PER_SWEEP_SECOND: usize = 100_000;

/// Seconds of the monotonic clock, as the program counts them: the coarse one, which never runs ahead of it.
pub fn monotonic_seconds() -> u32 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a valid timespec; CLOCK_MONOTONIC_COARSE always exists.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC_COARSE, &mut time) };
    time.tv_sec as u32
}

/// What an order did.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Applied {
    /// Changes of the maps.
    pub changes: usize,
    /// Slots that got another owner.
    pub slots_moved: usize,
    /// What did not fit.
    pub shortages: Vec<Shortage>,
}

/// What a sweep did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Settled {
    /// Flows that are remembered after it.
    pub flows: usize,
    /// Flows that it forgot.
    pub forgotten: usize,
    /// Slots that went on to pinned or settled.
    pub slots_advanced: usize,
    /// Backend ids that it freed.
    pub freed: usize,
}

/// A service as it is installed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ServiceReport {
    /// Its number.
    pub id: u32,
    /// Slots of its table.
    pub slots: u32,
    /// Of these, by state.
    pub settled: u32,
    /// See [`SlotState::Moving`].
    pub moving: u32,
    /// See [`SlotState::Pinned`].
    pub pinned: u32,
    /// What was counted.
    pub counters: Counters,
}

/// A backend as it is installed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BackendReport {
    /// Its number.
    pub id: BackendId,
    /// What is sent to it.
    pub state: BackendState,
    /// Slots that it owns.
    pub slots: u32,
    /// Slots that name it as `current` or `previous` and that have not settled.
    pub slots_unsettled: u32,
    /// Remembered flows of its, as of the last sweep.
    pub tracked_flows: u32,
    /// The way to it.
    pub next_hop: Option<NextHop>,
    /// What was counted.
    pub counters: Counters,
}

/// The flow table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlowReport {
    /// How many there is room for.
    pub capacity: u32,
    /// How many are remembered, as of the last sweep.
    pub entries: u32,
    /// How often a flow was refused while this controller looked, or before it took over unsettled slots.
    pub refused: u64,
}

/// A datapath and the picture of what is installed in it.
pub struct Engine<D> {
    datapath: D,
    installed: Installed,
    /// By service number: refusals counted so far, and the second in which their number last grew.
    refusals: HashMap<u32, (u64, u32)>,
    refused_total: u64,
    tracked: HashMap<BackendId, u32>,
    retired_since: HashMap<BackendId, u32>,
    flows: usize,
    swept_at: Option<u32>,
}

impl<D: Datapath> Engine<D> {
    /// Takes over what is installed: tables, slot states and backends stay as they are.
    pub fn adopt(datapath: D) -> Result<Self> {
        let contents = datapath.contents().context("reading what is installed")?;
        let installed = Installed::adopt(contents, datapath.capacity())?;
        let engine = Self {
            datapath,
            installed,
            refusals: HashMap::new(),
            refused_total: 0,
            tracked: HashMap::new(),
            retired_since: HashMap::new(),
            flows: 0,
            swept_at: None,
        };
        Ok(engine)
    }

    /// Installs `target`. After an error what is installed is read again, so that the next call goes on from there.
    pub fn apply(&mut self, target: &Target, now_seconds: u32) -> Result<Applied> {
        let plan = plan(&mut self.installed, target, now_seconds);
        for change in &plan.changes {
            if let Err(error) = self.datapath.apply(change) {
                let contents =
                    self.datapath.contents().context("reading what is installed after an error")?;
                self.installed = Installed::adopt(contents, self.datapath.capacity())?;
                return Err(error.context(format!("applying {}", describe(change))));
            }
        }
        Ok(Applied { changes: plan.changes.len(), slots_moved: plan.slots_moved, shortages: plan.shortages })
    }

    /// Forgets flows that no longer matter, moves slots towards rest and frees ids. To be called every
    /// second; it sweeps when there is something to do.
    pub fn settle(&mut self, now_seconds: u32) -> Result<Settled> {
        let wait = 1 + (self.flows / FLOWS_PER_SWEEP_SECOND) as u32;
        let unsettled: Vec<ServiceKey> = self
            .installed
            .services
            .iter()
            .filter(|(_, service)| service.slots.iter().any(|slot| slot.state() != SlotState::Settled))
            .map(|(&key, _)| key)
            .collect();
        let retired = self.retired();
        let first = self.swept_at.is_none();
        let idle = unsettled.is_empty() && self.flows == 0 && retired.is_empty();
        if !first && (idle || now_seconds.wrapping_sub(self.swept_at.unwrap_or(0)) < wait) {
            return Ok(Settled { flows: self.flows, ..Settled::default() });
        }
        self.swept_at = Some(now_seconds);
        let sweep = self.sweep_flows(now_seconds)?;
        // After the sweep, which takes its time: a flow that was refused meanwhile must keep its slot moving.
        self.note_refusals(&unsettled, now_seconds)?;
        let mut settled = Settled { flows: self.flows, forgotten: sweep.forgotten, ..Settled::default() };
        for key in unsettled {
            settled.slots_advanced += self.rest(key, sweep.kept_pinned.get(&key), now_seconds)?;
        }
        settled.freed = self.free(retired, now_seconds)?;
        Ok(settled)
    }

    /// Gives the datapath back, as a controller that ends leaves it.
    pub fn into_datapath(self) -> D {
        self.datapath
    }

    /// The datapath.
    pub fn datapath(&self) -> &D {
        &self.datapath
    }

    /// The datapath, for what is not a change of tables: attaching.
    pub fn datapath_mut(&mut self) -> &mut D {
        &mut self.datapath
    }

    /// The picture of what is installed.
    pub fn installed(&self) -> &Installed {
        &self.installed
    }

    /// A service, if it is installed.
    pub fn service(&self, key: &ServiceKey) -> Result<Option<ServiceReport>> {
        let Some(service) = self.installed.services.get(key) else { return Ok(None) };
        let count = |state| service.slots.iter().filter(|slot| slot.state() == state).count() as u32;
        Ok(Some(ServiceReport {
            id: service.entry.id,
            slots: service.entry.slots(),
            settled: count(SlotState::Settled),
            moving: count(SlotState::Moving),
            pinned: count(SlotState::Pinned),
            counters: self.datapath.service_counters(service.entry.id)?,
        }))
    }

    /// A backend of a service, if it is installed; also one that was removed and whose id is not free yet.
    pub fn backend(&self, key: &ServiceKey, address: Address, port: Port) -> Result<Option<BackendReport>> {
        let Some(service) = self.installed.services.get(key) else { return Ok(None) };
        let Some(&id) = service.backends.get(&(address, port)) else { return Ok(None) };
        let Some(backend) = self.installed.backends.get(&id) else { return Ok(None) };
        let names = |slot: &&Slot| slot.current() == id || slot.previous() == id;
        Ok(Some(BackendReport {
            id,
            state: BackendState::from_word(backend.state),
            slots: service.slots.iter().filter(|slot| slot.current() == id).count() as u32,
            slots_unsettled: service
                .slots
                .iter()
                .filter(names)
                .filter(|slot| slot.state() != SlotState::Settled)
                .count() as u32,
            tracked_flows: self.tracked.get(&id).copied().unwrap_or(0),
            next_hop: NextHop::from_word(backend.next_hop),
            counters: self.datapath.backend_counters(id)?,
        }))
    }

    /// How often each reason was the outcome, by its number.
    pub fn reasons(&self) -> Result<Vec<u64>> {
        self.datapath.reason_counters()
    }

    /// The flow table, as of the last sweep.
    pub fn flows(&self) -> FlowReport {
        FlowReport {
            capacity: self.installed.capacity().flows,
            entries: self.flows as u32,
            refused: self.refused_total,
        }
    }

    fn note_refusals(&mut self, unsettled: &[ServiceKey], now_seconds: u32) -> Result<()> {
        for key in unsettled {
            let id = self.installed.services[key].entry.id;
            let count = self.datapath.service_counters(id)?.refused_flows;
            // Refusals of before a take-over may be of this second.
            let (known, since) = self.refusals.entry(id).or_insert((0, now_seconds));
            if count != *known {
                // A number that is given out again counts from zero.
                self.refused_total += count.saturating_sub(*known);
                (*known, *since) = (count, now_seconds);
            }
        }
        Ok(())
    }

    fn sweep_flows(&mut self, now_seconds: u32) -> Result<Sweep> {
        let flows = self.datapath.flows()?;
        let keys = self.datapath.hash_keys();
        let filling_up = flows.len() as u64 * 4 >= self.installed.capacity().flows as u64 * 3;
        let mut sweep = Sweep::default();
        let mut doomed = Vec::new();
        self.tracked.clear();
        for (tuple, flow) in flows {
            let key = service_key(&tuple);
            let fate = match self.installed.services.get(&key) {
                None => Fate::Delete,
                Some(service) => {
                    let index = service.entry.slot_index(flow_hash(keys, &tuple)) - service.entry.slots_start;
                    let slot = service.slots[index as usize];
                    let serves = self.installed.serves(flow.backend());
                    let fate = settle::fate(
                        slot,
                        flow,
                        serves,
                        service.entry.flow_idle_seconds,
                        now_seconds,
                        filling_up,
                    );
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
            self.datapath.apply(&Change::DeleteFlows(doomed)).context("forgetting flows")?;
        }
        Ok(sweep)
    }

    /// Moves a service's slots towards rest; returns how many went on.
    fn rest(
        &mut self,
        key: ServiceKey,
        kept_pinned: Option<&BTreeSet<u32>>,
        now_seconds: u32,
    ) -> Result<usize> {
        let service = &self.installed.services[&key];
        let refused_ago = match self.refusals.get(&service.entry.id) {
            Some(&(count, since)) if count > 0 => now_seconds.wrapping_sub(since),
            _ => u32::MAX,
        };
        let rested: Vec<Slot> = service
            .slots
            .iter()
            .enumerate()
            .map(|(index, &slot)| {
                let kept = kept_pinned.is_some_and(|slots| slots.contains(&(index as u32)));
                settle::rest(slot, kept, service.entry.flow_idle_seconds, now_seconds, refused_ago)
            })
            .collect();
        let advanced = rested.iter().zip(&service.slots).filter(|(new, old)| new != old).count();
        if advanced > 0 {
            let change = Change::WriteSlots(service.entry.slots_start, rested);
            self.datapath.apply(&change)?;
            self.installed.record(&change, now_seconds);
        }
        Ok(advanced)
    }

    /// Backends that nobody wants any more and that are not freed yet.
    fn retired(&self) -> BTreeSet<BackendId> {
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
    fn free(&mut self, retired: BTreeSet<BackendId>, now_seconds: u32) -> Result<usize> {
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
            for change in replies.into_iter().map(Change::DeleteReply).chain([Change::FreeBackend(id)]) {
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

#[derive(Default)]
struct Sweep {
    kept: usize,
    forgotten: usize,
    /// Pinned slots, relative to the region, that a remembered flow keeps from settling.
    kept_pinned: BTreeMap<ServiceKey, BTreeSet<u32>>,
}

fn service_key(tuple: &FlowKey) -> ServiceKey {
    ServiceKey { address: tuple.vip, port: tuple.vip_port, protocol: tuple.protocol, width: 0 }
}

fn describe(change: &Change) -> String {
    match change {
        Change::WriteSlots(start, slots) => format!("WriteSlots({start}, {} slots)", slots.len()),
        Change::DeleteFlows(flows) => format!("DeleteFlows({} flows)", flows.len()),
        other => format!("{other:?}"),
    }
}
