//! A service's slots and where they stand.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use lb_common::{Algorithm, BackendId, BackendState, Mode, Service, ServiceKey, Slot, Tracking};

use super::{BuiltFor, Installed, Planner, Shortage};
use crate::{
    datapath::Change,
    maglev::{self, Candidate},
    rotation, settle,
    target::{TargetBackend, TargetService},
};

impl Planner<'_> {
    /// Builds the table where its backends changed, and points the service at it.
    pub fn table(
        &mut self,
        target: &TargetService,
        service_id: u32,
        is_new: bool,
        wanted: &BTreeMap<BackendId, &TargetBackend>,
    ) -> Result<(), Shortage> {
        let built = built_for(self.installed, wanted);
        let weighty = wanted.values().filter(|backend| backend.weight > 0).count();
        let suitable = maglev::slots_for(weighty);

        let (region, old_slots) = match self.installed.services.get(&target.key) {
            Some(service) => {
                let unchanged = service.built.as_ref() == Some(&built) && suitable <= service.entry.slots();
                if unchanged
                    && self.entry(target, service_id, service.entry.slots_start, service.entry.slots())
                        == service.entry
                {
                    return Ok(());
                }
                (Some((service.entry.slots_start, service.entry.slots())), service.slots.clone())
            }
            None => (None, Arc::default()),
        };
        let (start, slots, shortage) = self.region(target.key, region, suitable)?;
        let owners = match target.settings.algorithm {
            Algorithm::RoundRobin => rotation::build(&built.candidates, slots),
            _ => maglev::build(&built.candidates, slots),
        };
        // Flows of `full-nat` are remembered by their translations: slots have nothing to wait for.
        let new_slots = if is_new || target.settings.mode == Mode::FullNat {
            owners.iter().map(|&owner| Slot::settled(owner)).collect()
        } else {
            let pinned = self.forgets(target).then(|| settle::pin(&old_slots));
            let old_slots = pinned.as_ref().unwrap_or(&old_slots);
            settle::change_owners(old_slots, &owners, membership(&built.serving), self.now_seconds)
        };
        let new_slots = Arc::new(new_slots);
        let moved = |(index, slot): &(usize, &Slot)| {
            old_slots[index * old_slots.len() / new_slots.len()].current() != slot.current()
        };
        if !is_new {
            self.plan.slots_moved += new_slots.iter().enumerate().filter(moved).count();
        }
        if is_new || region.is_some_and(|(old_start, _)| old_start != start) || new_slots != old_slots {
            self.change(Change::WriteSlots(start, new_slots.clone()));
        }
        let entry = self.entry(target, service_id, start, slots);
        if self.installed.services.get(&target.key).map(|service| service.entry) != Some(entry) {
            self.change(Change::PutService(target.key, entry));
        }
        self.installed.note_table(target.key, new_slots, built);
        shortage.map_or(Ok(()), Err)
    }

    /// Whether the service tracked every flow and is to do so no more.
    fn forgets(&self, target: &TargetService) -> bool {
        let tracks_all = |tracking| tracking == Tracking::EveryFlow;
        let installed = self.installed.services.get(&target.key);
        installed.is_some_and(|service| tracks_all(service.entry.tracking()))
            && !tracks_all(target.settings.tracking)
    }

    /// Where a table of at least `suitable` slots stands. One that finds no room to grow stays as large as it
    /// is, and the shortage is told: a smaller table is less even, but a table that is not kept sends packets
    /// to the dead.
    fn region(
        &mut self,
        address: ServiceKey,
        old: Option<(u32, u32)>,
        suitable: u32,
    ) -> Result<(u32, u32, Option<Shortage>), Shortage> {
        let shortage = Shortage::Slots { address, slots: suitable };
        match old {
            Some((start, slots)) if slots >= suitable => Ok((start, slots, None)),
            Some((start, slots)) => Ok(match self.installed.regions.allocate(suitable, self.now_seconds) {
                Some(grown) => (grown, suitable, None),
                None => (start, slots, Some(shortage)),
            }),
            None => {
                let start = self.installed.regions.allocate(suitable, self.now_seconds).ok_or(shortage)?;
                Ok((start, suitable, None))
            }
        }
    }

    fn entry(&self, target: &TargetService, id: u32, start: u32, slots: u32) -> Service {
        Service::new(id, start, slots, target.settings)
    }
}

/// Whether a service's table would change, or who serves in it.
pub fn is_affected(installed: &Installed, target: &TargetService) -> bool {
    let Some(service) = installed.services.get(&target.key) else { return true };
    let known = target.backends.iter().map(|backend| {
        let id = service.backends.get(&(backend.address, backend.port))?;
        Some((*id, backend))
    });
    let Some(wanted) = known.collect::<Option<BTreeMap<BackendId, &TargetBackend>>>() else { return true };
    service.entry.settings() != target.settings || service.built != Some(built_for(installed, &wanted))
}

/// Whether an id is one of `ids`, at the cost of one read: each slot of a table asks.
fn membership(ids: &BTreeSet<BackendId>) -> impl Fn(BackendId) -> bool {
    let mut members = vec![false; ids.last().map_or(0, |last| last.0 as usize + 1)];
    for id in ids {
        members[id.0 as usize] = true;
    }
    move |id| members.get(id.0 as usize).copied().unwrap_or(false)
}

/// What a table follows from.
fn built_for(installed: &Installed, wanted: &BTreeMap<BackendId, &TargetBackend>) -> BuiltFor {
    let states = wanted.iter().map(|(&id, backend)| (id, *backend, installed.state_of(id, backend)));
    let candidates = states
        .clone()
        .filter(|(_, backend, state)| *state == BackendState::Up && backend.weight > 0)
        .map(|(id, backend, _)| Candidate {
            id,
            identity: maglev::identity(backend.address, backend.port),
            weight: backend.share,
        });
    let candidates = candidates.collect();
    let serving: BTreeSet<BackendId> =
        states.filter(|(_, _, state)| *state != BackendState::Down).map(|(id, _, _)| id).collect();
    BuiltFor { candidates, serving, wanted: wanted.keys().copied().collect() }
}
