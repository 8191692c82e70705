//! The maps' single writer: applies plans, and lets slots come to rest.

mod reports;
mod sweep;

use std::collections::{BTreeSet, HashMap};

use anyhow::{Context as _, Result};
use lb_common::{BackendId, Features, Mode, ServiceKey, Slot, SlotState};

pub use self::reports::{BackendReport, FlowReport, ServiceReport, TranslationReport};
use self::sweep::Sweep;
use crate::{
    datapath::{Change, Datapath},
    plan::{Installed, Shortage, plan},
    settle,
    target::Target,
};

/// A freed id rests for so many seconds before it is given out: a packet is under way for microseconds.
const FREE_AFTER_SECONDS: u32 = 2;
/// A sweep reads every remembered and translated flow; the next one waits a second for each of so many entries.
const ENTRIES_PER_SWEEP_SECOND: usize = 100_000;

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
    /// Flows that it forgot, remembered and translated ones.
    pub forgotten: usize,
    /// Slots that went on to pinned or settled.
    pub slots_advanced: usize,
    /// Backend ids that it freed.
    pub freed: usize,
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
    /// Directions of translated flows.
    translations: usize,
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
            translations: 0,
            swept_at: None,
        };
        Ok(engine)
    }

    /// Installs `target`. After an error what is installed is read again, so that the next call goes on from there. A
    /// program that cannot be had keeps nothing else from being installed: what packets meet already must not wait.
    pub fn apply(&mut self, target: &Target, now_seconds: u32) -> Result<Applied> {
        let enabled = self.installed.features;
        let plan = plan(&mut self.installed, target, now_seconds);
        let mut refused = None;
        for change in &plan.changes {
            let Err(error) = self.datapath.apply(change) else { continue };
            let error = error.context(format!("applying {}", describe(change)));
            if let Change::Enable(_) = change {
                self.installed.features = enabled;
                refused = Some(error);
                continue;
            }
            let contents = self.datapath.contents().context("reading what is installed after an error")?;
            self.installed = Installed::adopt(contents, self.datapath.capacity())?;
            return Err(error);
        }
        match refused {
            Some(error) => Err(error),
            None => Ok(Applied {
                changes: plan.changes.len(),
                slots_moved: plan.slots_moved,
                shortages: plan.shortages,
            }),
        }
    }

    /// Forgets flows that no longer matter, moves slots towards rest and frees ids. To be called every
    /// second; it sweeps when there is something to do.
    pub fn settle(&mut self, now_seconds: u32) -> Result<Settled> {
        let wait = 1 + ((self.flows + self.translations) / ENTRIES_PER_SWEEP_SECOND) as u32;
        let unsettled: Vec<ServiceKey> = self
            .installed
            .services
            .iter()
            .filter(|(_, service)| service.slots.iter().any(|slot| slot.state() != SlotState::Settled))
            .map(|(&key, _)| key)
            .collect();
        let retired = self.retired();
        let first = self.swept_at.is_none();
        let remembers = first || !unsettled.is_empty() || self.flows > 0 || !retired.is_empty();
        let translates = first || self.translations > 0 || self.translates(&retired);
        let idle = !remembers && !translates;
        if !first && (idle || now_seconds.wrapping_sub(self.swept_at.unwrap_or(0)) < wait) {
            return Ok(Settled { flows: self.flows, ..Settled::default() });
        }
        self.swept_at = Some(now_seconds);
        self.tracked.clear();
        let sweep = if remembers { self.sweep_flows(now_seconds)? } else { Sweep::default() };
        let forgotten = sweep.forgotten + if translates { self.sweep_translations(now_seconds)? } else { 0 };
        // After the sweep, which takes its time: a flow that was refused meanwhile must keep its slot moving.
        self.note_refusals(&unsettled, now_seconds)?;
        let mut settled = Settled { flows: self.flows, forgotten, ..Settled::default() };
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

    /// Whether there may be translated flows that no sweep has seen.
    fn translates(&self, retired: &BTreeSet<BackendId>) -> bool {
        let is_translated = |mode| mode == Mode::FullNat;
        let mut services = self.installed.services.values();
        services.any(|service| is_translated(service.entry.mode()))
            || !retired.is_empty() && self.installed.features.contains(Features::FULL_NAT)
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
}

fn describe(change: &Change) -> String {
    match change {
        Change::WriteSlots(start, slots) => format!("WriteSlots({start}, {} slots)", slots.len()),
        Change::DeleteFlows(flows) => format!("DeleteFlows({} flows)", flows.len()),
        Change::DeleteTranslations(flows) => format!("DeleteTranslations({} flows)", flows.len()),
        other => format!("{other:?}"),
    }
}
