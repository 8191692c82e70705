//! Rules between services: what no service can break by itself. Pure.

use std::{
    collections::{HashMap, HashSet},
    net::{IpAddr, SocketAddr},
};

use lb_common::limits;

use super::{Desired, Mode, Protocol, ProtocolName, Refusal, Service};
use crate::{maglev, model::refusal::BackendError};

/// The names of the services that differ, in order.
pub fn changed_services(before: &Desired, after: &Desired) -> Vec<String> {
    let gone = before.services.keys().filter(|name| !after.services.contains_key(*name));
    let new_or_other =
        after.services.iter().filter(|(name, service)| before.services.get(*name) != Some(service));
    gone.chain(new_or_other.map(|(name, _)| name)).cloned().collect()
}

/// Checks the services named in `changed` against all others, and their number and that of the backends
/// against the capacities of the maps.
pub fn check_together(after: &Desired, changed: &[String]) -> Result<(), Refusal> {
    for service in changed.iter().filter_map(|name| after.services.get(name)) {
        virtual_address_is_free(after, service)?;
    }
    capacities(after)?;
    let errors = backend_errors(after, changed);
    if errors.is_empty() { Ok(()) } else { Err(Refusal::Backends(errors)) }
}

/// Checks that the tables of all services fit in so many slots.
pub fn check_slots(after: &Desired, slots: u32) -> Result<(), Refusal> {
    // As the planner counts: backends that take no new flows need no slots.
    let table = |service: &Service| {
        maglev::slots_for(service.backends.values().filter(|backend| backend.weight > 0).count())
    };
    let wanted: u64 = after.services.values().map(table).map(u64::from).sum();
    if wanted > u64::from(slots) {
        let rule = format!("the tables of all services would take {wanted} slots of {slots}");
        return Err(Refusal::Capacity { field: "backends", rule });
    }
    Ok(())
}

fn virtual_address_is_free(after: &Desired, service: &Service) -> Result<(), Refusal> {
    let same = |other: &&Service| {
        other.name != service.name
            && (other.address, other.port, other.protocol)
                == (service.address, service.port, service.protocol)
    };
    match after.services.values().find(same) {
        None => Ok(()),
        Some(owner) => Err(Refusal::VirtualAddressTaken {
            owner: owner.name.clone(),
            address: SocketAddr::new(service.address, service.port),
            protocol: ProtocolName::from(service.protocol).text(),
        }),
    }
}

fn backend_errors(after: &Desired, changed: &[String]) -> Vec<BackendError> {
    let changed: HashSet<&str> = changed.iter().map(String::as_str).collect();
    let vips: HashMap<IpAddr, &str> =
        after.services.values().map(|service| (service.address, service.name.as_str())).collect();
    let mut owners: HashMap<(SocketAddr, Protocol), &str> = HashMap::new();
    let mut errors = Vec::new();
    // Unchanged services first: where two claim a backend, the changed one is told.
    let (new, old): (Vec<_>, Vec<_>) =
        after.services.values().partition(|service| changed.contains(service.name.as_str()));
    let is_new = |name: &str| changed.contains(name);
    for service in old.into_iter().chain(new) {
        for at in service.backends.keys() {
            let owner = match service.mode {
                Mode::Nat => *owners.entry((*at, service.protocol)).or_insert(&service.name),
                Mode::FullNat | Mode::DsrL2 | Mode::DsrIpip | Mode::DsrGue => &service.name,
            };
            let rule = if owner != service.name {
                format!("{at} is a backend of service {owner}: the two could not tell its replies apart")
            } else if let Some(vip) = vips.get(&at.ip()).filter(|vip| is_new(vip) || is_new(&service.name)) {
                format!("{} is the virtual address of service {vip}", at.ip())
            } else {
                continue;
            };
            errors.push(BackendError { service: service.name.clone(), backend: *at, field: "address", rule });
        }
    }
    errors
}

fn capacities(after: &Desired) -> Result<(), Refusal> {
    let services = after.services.len();
    if services > limits::SERVICES as usize {
        let rule = format!("at most {} services", limits::SERVICES);
        return Err(Refusal::Capacity { field: "name", rule });
    }
    let counts = || after.services.values().map(|service| service.backends.len());
    // Id 0 names no backend.
    if counts().sum::<usize>() >= limits::BACKENDS as usize {
        let rule = format!("at most {} backends in all services together", limits::BACKENDS - 1);
        return Err(Refusal::Capacity { field: "backends", rule });
    }
    if let Some(most) = counts().max().filter(|most| *most > BACKENDS_OF_SERVICE_MAX) {
        let rule = format!("at most {BACKENDS_OF_SERVICE_MAX} backends in one service; here {most}");
        return Err(Refusal::Capacity { field: "backends", rule });
    }
    Ok(())
}

/// 32 slots each in the largest table; with fewer, shares stray from the weights by more than a tenth.
const BACKENDS_OF_SERVICE_MAX: usize = (limits::TABLE_SLOTS_MAX / 32) as usize;
