//! Rules between services: what no service can break by itself. Pure.

mod addresses;
mod backends;
mod full_nat;

use lb_common::limits;

use super::{Desired, Refusal, Service};
use crate::maglev;

pub use full_nat::check_full_nat;

/// The names of the services that differ, in order.
pub fn changed_services(before: &Desired, after: &Desired) -> Vec<String> {
    before.services.differences(&after.services).into_iter().map(str::to_owned).collect()
}

/// Checks the services named in `changed`, which differ from `before`, against all others, and their number and that of
/// the backends against the capacities of the maps.
pub fn check_together(before: &Desired, after: &Desired, changed: &[String]) -> Result<(), Refusal> {
    for service in changed.iter().filter_map(|name| after.services.get(name)) {
        addresses::are_free(after, service)?;
        addresses::agree_on_fragments(after, service)?;
    }
    capacities(after)?;
    if !backends::are_claimed(before, after, changed) {
        return Ok(());
    }
    let errors = backends::errors(after, changed);
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

fn capacities(after: &Desired) -> Result<(), Refusal> {
    let services = after.services.len();
    if services > limits::SERVICES as usize {
        let rule = format!("at most {} services", limits::SERVICES);
        return Err(Refusal::Capacity { field: "name", rule });
    }
    addresses::fit(after)?;
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

#[cfg(test)]
mod tests;
