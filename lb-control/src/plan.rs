//! Turns (target, installed) into changes in an order in which no packet meets a gap. Pure.
//!
//! What the program has to do before all else; interfaces before next hops; the pool before those who use it;
//! backends, their replies and their QUIC names before the slots that name them, slots before the service that
//! points at them, the service before the network and the virtual address by which it is found; and the other way
//! round on the way out. A backend goes down after the slots have left it.

mod addresses;
mod changed;
mod installed;
mod numbers;
mod program;
mod service;
mod table;

use std::collections::{BTreeMap, BTreeSet};

use lb_common::{Address, BackendId, BackendState, Interface, NextHop, ServiceKey, VirtualAddress};

use changed::Changed;
pub use installed::{BuiltFor, Installed, InstalledService};
pub use table::is_affected;

use crate::{datapath::Change, target::Target};

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
    /// Too many services of several ports share a network.
    #[error(
        "more than {} services of one protocol share the network of {address:?}",
        lb_common::Wide::RANGES
    )]
    Ranges {
        /// The first that is left out.
        address: ServiceKey,
    },
}

/// An ordered list of changes.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// To be applied one after the other.
    pub changes: Vec<Change>,
    /// How many services were looked at.
    pub services: usize,
    /// How many slots get another owner.
    pub slots_moved: usize,
    /// What did not fit.
    pub shortages: Vec<Shortage>,
}

/// Plans the way from `installed` to `target`. What was planned before and is the same is not looked at again.
pub fn plan(installed: &mut Installed, target: &Target, now_seconds: u32) -> Plan {
    let changed = Changed::of(installed, target);
    let mut planner = Planner { installed, now_seconds, plan: Plan::default() };
    planner.enable(target, &changed);
    planner.interfaces_and_locals(target);
    planner.settings_and_pool(target);
    let addresses = changed.addresses.then(|| planner.take_away(target));
    let mut left_out = BTreeSet::new();
    for service in changed.services(target) {
        planner.plan.services += 1;
        if let Err(shortage) = planner.service(service) {
            planner.plan.shortages.push(shortage);
            left_out.insert(service.key);
        }
    }
    if let Some(addresses) = addresses {
        planner.widen(&target.services);
        planner.put_virtual_addresses(addresses);
    }
    planner.delete_interfaces(target);
    let plan = planner.plan;
    installed.note_planned(target, left_out, plan.shortages.is_empty());
    plan
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

    /// Takes services and addresses away that are not in the target; returns the addresses that are.
    fn take_away(&mut self, target: &Target) -> BTreeMap<Address, VirtualAddress> {
        let wanted: BTreeSet<ServiceKey> = target.services.iter().map(|service| service.key).collect();
        let known = self.installed.services.keys();
        let gone: Vec<ServiceKey> = known.filter(|key| !wanted.contains(key)).copied().collect();
        let addresses = addresses::virtual_addresses(target);
        self.delete_virtual_addresses(&addresses);
        self.narrow(&wanted);
        for key in gone {
            self.delete_service(key);
        }
        let of_the_pool = addresses.iter().filter(|(_, entry)| entry.services == 0);
        self.put_virtual_addresses(of_the_pool.map(|(&address, &entry)| (address, entry)));
        addresses
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

    fn set_state(&mut self, id: BackendId, state: BackendState) {
        if self.installed.backends.get(&id).is_some_and(|backend| backend.state != state.word()) {
            self.change(Change::SetBackendState(id, state));
        }
    }
}
