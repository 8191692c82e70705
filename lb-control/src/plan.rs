//! Turns (target, installed) into changes in an order in which no packet meets a gap. Pure.
//!
//! Interfaces before next hops, backends and replies before the slots that name them, slots before the
//! service that points at them, the service before its virtual address; and the other way round on the
//! way out. A backend goes down after the slots have left it.

mod installed;

use std::collections::{BTreeMap, BTreeSet};

use lb_common::{
    Address, Backend, BackendId, BackendState, Interface, Mode, NextHop, Reply, Service, ServiceKey, Slot,
    VirtualAddress,
};

pub use installed::{BuiltFor, Installed, InstalledService};

use crate::{
    datapath::Change,
    maglev::{self, Candidate},
    settle,
    target::{Target, TargetBackend, TargetService},
};

/// Why a target does not fit. What does fit is installed all the same.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Shortage {
    /// No region is free for a service's table.
    #[error("no {slots} slots are free for the service at {address:?}; raise the slot table's size")]
    Slots {
        /// Of the service.
        address: ServiceKey,
        /// How many were asked for.
        slots: u32,
    },
    /// All ids are in use.
    #[error("no backend id is free; raise the backend table's size")]
    Backends,
    /// All service numbers are in use.
    #[error("no service number is free; raise the service table's size")]
    Services,
}

/// An ordered list of changes.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// To be applied one after the other.
    pub changes: Vec<Change>,
    /// How many slots get another owner.
    pub slots_moved: usize,
    /// What did not fit.
    pub shortages: Vec<Shortage>,
}

/// Plans the way from `installed` to `target`.
pub fn plan(installed: &mut Installed, target: &Target, now_seconds: u32) -> Plan {
    let mut planner = Planner { installed, now_seconds, plan: Plan::default() };
    planner.interfaces_and_locals(target);
    let wanted: BTreeSet<ServiceKey> = target.services.iter().map(|service| service.key).collect();
    let gone: Vec<ServiceKey> =
        planner.installed.services.keys().filter(|key| !wanted.contains(key)).copied().collect();
    let addresses = virtual_addresses(&target.services);
    planner.delete_virtual_addresses(&addresses);
    for key in gone {
        planner.delete_service(key);
    }
    for service in &target.services {
        if let Err(shortage) = planner.service(service) {
            planner.plan.shortages.push(shortage);
        }
    }
    planner.put_virtual_addresses(&addresses);
    planner.delete_interfaces(target);
    planner.plan
}

struct Planner<'i> {
    installed: &'i mut Installed,
    now_seconds: u32,
    plan: Plan,
}

impl Planner<'_> {
    /// Adds a change to the plan and to the picture of what will be installed.
    fn change(&mut self, change: Change) {
        self.installed.record(&change, self.now_seconds);
        self.plan.changes.push(change);
    }

    fn interfaces_and_locals(&mut self, target: &Target) {
        for &(index, interface) in &target.interfaces {
            if self.installed.interfaces.get(&index) != Some(&interface) {
                self.change(Change::PutInterface(index, interface));
            }
        }
        let wanted: BTreeSet<Address> = target.locals.iter().copied().collect();
        for &address in wanted.difference(&self.installed.locals.clone()) {
            self.change(Change::PutLocal(address));
        }
        for &address in self.installed.locals.clone().difference(&wanted) {
            self.change(Change::DeleteLocal(address));
        }
    }

    /// Takes away next hops through interfaces that are gone, then the interfaces.
    fn delete_interfaces(&mut self, target: &Target) {
        let wanted: BTreeSet<u16> = target.interfaces.iter().map(|&(index, _)| index).collect();
        let gone: BTreeMap<u16, Interface> = self
            .installed
            .interfaces
            .iter()
            .filter(|(index, _)| !wanted.contains(index))
            .map(|(&i, &e)| (i, e))
            .collect();
        if gone.is_empty() {
            return;
        }
        let stranded: Vec<BackendId> = self
            .installed
            .backends
            .iter()
            .filter(|(_, backend)| {
                NextHop::from_word(backend.next_hop).is_some_and(|hop| gone.contains_key(&hop.interface))
            })
            .map(|(&id, _)| id)
            .collect();
        for id in stranded {
            self.change(Change::SetNextHop(id, None));
        }
        for &index in gone.keys() {
            self.change(Change::DeleteInterface(index));
        }
    }

    fn delete_virtual_addresses(&mut self, wanted: &BTreeMap<Address, VirtualAddress>) {
        let gone: Vec<Address> = self
            .installed
            .virtual_addresses
            .keys()
            .filter(|address| !wanted.contains_key(address))
            .copied()
            .collect();
        for address in gone {
            self.change(Change::DeleteVirtualAddress(address));
        }
    }

    fn put_virtual_addresses(&mut self, wanted: &BTreeMap<Address, VirtualAddress>) {
        for (&address, &entry) in wanted {
            if self.installed.virtual_addresses.get(&address) != Some(&entry) {
                self.change(Change::PutVirtualAddress(address, entry));
            }
        }
    }

    fn delete_service(&mut self, key: ServiceKey) {
        let backends: Vec<BackendId> = self.installed.services[&key].backends.values().copied().collect();
        self.change(Change::DeleteService(key));
        for id in backends {
            self.set_state(id, BackendState::Down);
        }
    }

    fn service(&mut self, target: &TargetService) -> Result<(), Shortage> {
        let is_new = !self.installed.services.contains_key(&target.key);
        let service_id = match self.installed.services.get(&target.key) {
            Some(service) => service.entry.id,
            None => self.installed.free_service_id().ok_or(Shortage::Services)?,
        };
        // Backends of a service that is not installed yet are known by the ids given out below.
        let mut ids: BTreeMap<(Address, lb_common::Port), BackendId> = self
            .installed
            .services
            .get(&target.key)
            .map(|service| service.backends.clone())
            .unwrap_or_default();
        let mut shortage = None;
        for backend in &target.backends {
            let known = ids.get(&(backend.address, backend.port)).copied();
            let id = match known {
                Some(id) => {
                    self.known_backend(id, backend);
                    Ok(id)
                }
                None => self.new_backend(service_id, backend),
            };
            match id {
                Ok(id) => {
                    ids.insert((backend.address, backend.port), id);
                    self.reply(target, backend, id);
                }
                Err(error) => shortage = Some(error),
            }
        }
        let wanted: BTreeMap<BackendId, &TargetBackend> = target
            .backends
            .iter()
            .filter_map(|backend| Some((*ids.get(&(backend.address, backend.port))?, backend)))
            .collect();
        let table = self.table(target, service_id, is_new, &wanted);
        for &id in ids.values() {
            let down = wanted.get(&id).is_none_or(|backend| backend.state == BackendState::Down);
            if down {
                self.set_state(id, BackendState::Down);
            }
        }
        table.and(shortage.map_or(Ok(()), Err))
    }

    fn new_backend(&mut self, service: u32, target: &TargetBackend) -> Result<BackendId, Shortage> {
        let id = self.installed.free_backend_id().ok_or(Shortage::Backends)?;
        let entry = Backend {
            address: target.address,
            next_hop: target.next_hop.map_or(0, NextHop::word),
            service,
            state: target.state.word(),
            port: target.port,
            ..Backend::default()
        };
        self.change(Change::PutBackend(id, entry));
        Ok(id)
    }

    /// Brings what may change of a known backend up to date; going down waits for the slots.
    fn known_backend(&mut self, id: BackendId, target: &TargetBackend) {
        if target.state != BackendState::Down {
            self.set_state(id, target.state);
        }
        // An unresolved neighbour leaves the last known one in place: it is refreshed, not forgotten.
        if let Some(hop) = target.next_hop
            && self.installed.backends[&id].next_hop != hop.word()
        {
            self.change(Change::SetNextHop(id, Some(hop)));
        }
    }

    fn reply(&mut self, target: &TargetService, backend: &TargetBackend, id: BackendId) {
        let key = ServiceKey {
            address: backend.address,
            port: backend.port,
            protocol: target.key.protocol,
            width: 0,
        };
        if target.settings.mode != Mode::Nat {
            // Deleted and made anew in another mode between two plans.
            if self.installed.replies.get(&key).is_some_and(|reply| reply.backend == id.0) {
                self.change(Change::DeleteReply(key));
            }
            return;
        }
        let service = self.installed.backends[&id].service;
        let reply = Reply::new(target.key.address, target.key.port, id, service, target.settings.mss);
        if self.installed.replies.get(&key) != Some(&reply) {
            self.change(Change::PutReply(key, reply));
        }
    }

    fn set_state(&mut self, id: BackendId, state: BackendState) {
        if self.installed.backends.get(&id).is_some_and(|backend| backend.state != state.word()) {
            self.change(Change::SetBackendState(id, state));
        }
    }

    /// Builds the table where its backends changed, and points the service at it.
    fn table(
        &mut self,
        target: &TargetService,
        service_id: u32,
        is_new: bool,
        wanted: &BTreeMap<BackendId, &TargetBackend>,
    ) -> Result<(), Shortage> {
        let candidates: Vec<Candidate> = wanted
            .iter()
            .filter(|(_, backend)| backend.state == BackendState::Up && backend.weight > 0)
            .map(|(&id, backend)| Candidate {
                id,
                identity: maglev::identity(backend.address, backend.port),
                weight: backend.weight,
            })
            .collect();
        let serving: BTreeSet<BackendId> = wanted
            .iter()
            .filter(|(_, backend)| backend.state != BackendState::Down)
            .map(|(&id, _)| id)
            .collect();
        let built = BuiltFor { candidates, serving, wanted: wanted.keys().copied().collect() };
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
            None => (None, Vec::new()),
        };
        let (start, slots, shortage) = self.region(target.key, region, suitable)?;
        let owners = maglev::build(&built.candidates, slots);
        let new_slots = if is_new {
            owners.iter().map(|&owner| Slot::settled(owner)).collect()
        } else {
            settle::change_owners(&old_slots, &owners, |id| built.serving.contains(&id), self.now_seconds)
        };
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

/// Every address that a service uses; it answers ARP if one of them says so.
fn virtual_addresses(services: &[TargetService]) -> BTreeMap<Address, VirtualAddress> {
    let mut addresses: BTreeMap<Address, VirtualAddress> = BTreeMap::new();
    for service in services {
        let entry = addresses.entry(service.key.address).or_default();
        entry.services += 1;
        entry.answer_arp |= service.answer_arp as u8;
        entry.answer_echo |= service.answer_echo as u8;
    }
    addresses
}
