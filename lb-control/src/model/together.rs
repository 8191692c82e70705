//! Rules between services: what no service can break by itself. Pure.

mod addresses;
mod backends;
mod census;
mod full_nat;

use lb_common::limits;

use super::{Desired, Refusal};

pub use census::Census;
pub use full_nat::check_full_nat;

/// The names of the services that differ, in order.
pub fn changed_services(before: &Desired, after: &Desired) -> Vec<String> {
    before.services.differences(&after.services).into_iter().map(str::to_owned).collect()
}

/// Checks the services named in `changed`, which differ from `before`, against all others, and their number and that of
/// the backends against the capacities of the maps. `census` is of `after`.
pub fn check_together(
    census: &Census,
    before: &Desired,
    after: &Desired,
    changed: &[String],
) -> Result<(), Refusal> {
    for service in changed.iter().filter_map(|name| after.services.get(name)) {
        addresses::are_free(census, after, service)?;
        addresses::agree_on_fragments(census, after, service)?;
        addresses::fit(census, service)?;
    }
    capacities(census, after, changed)?;
    if !backends::are_claimed(before, after, changed) {
        return Ok(());
    }
    let errors = backends::errors(census, after, changed);
    if errors.is_empty() { Ok(()) } else { Err(Refusal::Backends(errors)) }
}

/// Checks that the tables of all services fit in so many slots.
pub fn check_slots(census: &Census, slots: u32) -> Result<(), Refusal> {
    let wanted = census.slots();
    if wanted > u64::from(slots) {
        let rule = format!("the tables of all services would take {wanted} slots of {slots}");
        return Err(Refusal::Capacity { field: "backends", rule });
    }
    Ok(())
}

fn capacities(census: &Census, after: &Desired, changed: &[String]) -> Result<(), Refusal> {
    let services = after.services.len();
    if services > limits::SERVICES as usize {
        let rule = format!("at most {} services", limits::SERVICES);
        return Err(Refusal::Capacity { field: "name", rule });
    }
    // Id 0 names no backend.
    if census.backends() >= limits::BACKENDS as usize {
        let rule = format!("at most {} backends in all services together", limits::BACKENDS - 1);
        return Err(Refusal::Capacity { field: "backends", rule });
    }
    let counts = changed.iter().filter_map(|name| after.services.get(name)).map(|one| one.backends.len());
    if let Some(most) = counts.max().filter(|most| *most > BACKENDS_OF_SERVICE_MAX) {
        let rule = format!("at most {BACKENDS_OF_SERVICE_MAX} backends in one service; here {most}");
        return Err(Refusal::Capacity { field: "backends", rule });
    }
    Ok(())
}

/// 32 slots each in the largest table; with fewer, shares stray from the weights by more than a tenth.
const BACKENDS_OF_SERVICE_MAX: usize = (limits::TABLE_SLOTS_MAX / 32) as usize;

#[cfg(test)]
mod tests;
