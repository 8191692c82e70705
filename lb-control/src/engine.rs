//! The maps' single writer: applies plans, and lets slots come to rest.

mod connections;
mod drain;
mod draining;
mod dry_run;
mod reports;
mod response;
mod sweep;
#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, HashMap};

use anyhow::{Context as _, Result};
use lb_common::{BackendId, Features, Flow, FlowKey, ServiceKey, Slot, Tracking};

use self::sweep::Tallies;
pub use self::{
    drain::{DrainEnd, DrainReport},
    dry_run::{DryRun, ServiceDryRun},
    reports::{BackendReport, FlowReport, ServiceReport, TotalsReport, TranslationReport},
    response::ResponseTime,
};
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

/// Microseconds of the monotonic clock, as the program counts them.
pub fn monotonic_micros() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a valid timespec; CLOCK_MONOTONIC always exists.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut time) };
    time.tv_sec as u64 * 1_000_000 + time.tv_nsec as u64 / 1_000
}

/// What an order did.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Applied {
    /// Changes of the maps.
    pub changes: usize,
    /// Slots that got another owner.
    pub slots_moved: usize,
    /// Flows that it cut, with the backends that it took away, as far as they were known.
    pub flows_cut: u64,
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
    /// What the last sweep counted.
    tallies: Tallies,
    /// Remembered flows that it gave up and that are not forgotten yet.
    doomed: Vec<(FlowKey, Flow)>,
    /// So many of them are forgotten in a second, at one to three microseconds each: orders wait meanwhile.
    forgotten_at_once: usize,
    /// By how much live connections seemed off in the last sweep.
    drifts: HashMap<BackendId, i64>,
    /// How often live connections were corrected.
    corrections: u64,
    drains: HashMap<BackendId, DrainReport>,
    /// What a service tracks, and the second since when; `None` since it was made, or taken over.
    tracking: HashMap<ServiceKey, (Tracking, Option<u32>)>,
    slots_moved: u64,
    flows_cut: u64,
    retired_since: HashMap<BackendId, u32>,
    swept_at: Option<u32>,
}

impl<D: Datapath> Engine<D> {
    /// Takes over what is installed: tables, slot states and backends stay as they are.
    pub fn adopt(datapath: D) -> Result<Self> {
        let contents = datapath.contents().context("reading what is installed")?;
        let installed = Installed::adopt(contents, datapath.capacity())?;
        let services = installed.services.iter();
        let tracking = services.map(|(&key, service)| (key, (service.entry.tracking(), None))).collect();
        let engine = Self {
            datapath,
            installed,
            tracking,
            refusals: HashMap::new(),
            refused_total: 0,
            tallies: Tallies::default(),
            doomed: Vec::new(),
            forgotten_at_once: 0,
            drifts: HashMap::new(),
            corrections: 0,
            drains: HashMap::new(),
            slots_moved: 0,
            flows_cut: 0,
            retired_since: HashMap::new(),
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
                // What asks for it is looked at again.
                self.installed.forget_planned();
                refused = Some(error);
                continue;
            }
            let contents = self.datapath.contents().context("reading what is installed after an error")?;
            self.installed = Installed::adopt(contents, self.datapath.capacity())?;
            return Err(error);
        }
        let flows_cut = self.note_applied(&plan.changes, now_seconds);
        self.slots_moved += plan.slots_moved as u64;
        self.flows_cut += flows_cut;
        match refused {
            Some(error) => Err(error),
            None => Ok(Applied {
                changes: plan.changes.len(),
                slots_moved: plan.slots_moved,
                flows_cut,
                shortages: plan.shortages,
            }),
        }
    }

    /// Forgets flows that no longer matter, moves slots towards rest and frees ids. To be called every
    /// second; it sweeps when there is something to do.
    pub fn settle(&mut self, now_seconds: u32) -> Result<Settled> {
        let wait = self.seconds_between_sweeps();
        let unsettled: Vec<ServiceKey> = self.installed.unsettled().iter().copied().collect();
        let retired = self.installed.retired().clone();
        let first = self.swept_at.is_none();
        let remembers = first || !unsettled.is_empty() || !retired.is_empty() || self.remembers();
        let translates = first || self.tallies.translations > 0 || self.translates(&retired);
        let idle = !remembers && !translates;
        if !first && (idle || now_seconds.wrapping_sub(self.swept_at.unwrap_or(0)) < wait) {
            let forgotten = self.forget_some()?;
            return Ok(Settled { flows: self.tallies.flows, forgotten, ..Settled::default() });
        }
        self.swept_at = Some(now_seconds);
        let sweep = self.sweep(remembers, translates, now_seconds)?;
        // After the sweep, which takes its time: a flow that was refused meanwhile must keep its slot moving.
        self.note_refusals(&unsettled, sweep.filling_up, now_seconds)?;
        // Before slots come to rest: what the sweep found was found while they moved.
        self.note_drains(now_seconds)?;
        let mut settled =
            Settled { flows: self.tallies.flows, forgotten: sweep.forgotten, ..Settled::default() };
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
        self.installed.translates()
            || !retired.is_empty() && self.installed.features.contains(Features::FULL_NAT)
    }

    /// Whether there may be remembered flows that no sweep has seen.
    fn remembers(&self) -> bool {
        self.tallies.flows + self.tallies.affinities > 0
            || !self.installed.tracking().is_empty()
            || !self.installed.draining().is_empty()
    }

    /// `filling_up`: flows of settled slots may be refused too, where every flow is tracked.
    fn note_refusals(&mut self, unsettled: &[ServiceKey], filling_up: bool, now_seconds: u32) -> Result<()> {
        let tracking = self.installed.tracking().iter().filter(|_| filling_up);
        let keys = tracking.chain(unsettled);
        let ids: BTreeSet<u32> = keys.map(|key| self.installed.services[key].entry.id).collect();
        for id in ids {
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

    /// Seconds since a flow of a service was refused last.
    fn refused_seconds_ago(&self, service: u32, now_seconds: u32) -> u32 {
        match self.refusals.get(&service) {
            Some(&(count, since)) if count > 0 => now_seconds.wrapping_sub(since),
            _ => u32::MAX,
        }
    }

    /// Moves a service's slots towards rest; returns how many went on.
    fn rest(
        &mut self,
        key: ServiceKey,
        kept_pinned: Option<&BTreeSet<u32>>,
        now_seconds: u32,
    ) -> Result<usize> {
        let service = &self.installed.services[&key];
        let refused_ago = self.refused_seconds_ago(service.entry.id, now_seconds);
        let rested: Vec<Slot> = service
            .slots
            .iter()
            .enumerate()
            .map(|(index, &slot)| {
                let kept = kept_pinned.is_some_and(|slots| slots.contains(&(index as u32)));
                settle::rest(slot, kept, service.entry.flow_idle_seconds, now_seconds, refused_ago)
            })
            .collect();
        let advanced = rested.iter().zip(service.slots.iter()).filter(|(new, old)| new != old).count();
        if advanced > 0 {
            let change = Change::WriteSlots(service.entry.slots_start, rested.into());
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
