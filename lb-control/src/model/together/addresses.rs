//! Virtual addresses and ports of several services.
//!
//! An exact (address, port) wins over a wide service, and the longest prefix over shorter ones; so only services
//! of the same network and of the same kind can be in each other's way.

use lb_common::{Wide, limits};

use super::Census;
use crate::model::{Desired, FragmentPolicy, FragmentsName, ProtocolName, Refusal, Service};

/// No other service has the address and any of the ports.
pub fn are_free(census: &Census, after: &Desired, service: &Service) -> Result<(), Refusal> {
    let taken = neighbours(census, after, service)
        .find(|other| other.is_wide() == service.is_wide() && other.ports.overlap(&service.ports));
    match taken {
        None => Ok(()),
        Some(owner) => Err(Refusal::VirtualAddressTaken {
            owner: owner.name.clone(),
            address: owner.entrance(),
            protocol: ProtocolName::from(owner.protocol).text(),
        }),
    }
}

/// Fragments have no ports: what becomes of them is decided for an address and protocol.
pub fn agree_on_fragments(census: &Census, after: &Desired, service: &Service) -> Result<(), Refusal> {
    let text = |service: &Service| FragmentsName::from(service.fragments).text();
    let at = |other: &Service| {
        format!("service {} has {} {}", other.name, other.address, ProtocolName::from(other.protocol).text())
    };
    let is_alone = |one: &Service| one.fragments == FragmentPolicy::ByAddress;
    for other in neighbours(census, after, service) {
        let rule = if is_alone(service) || is_alone(other) {
            format!("by-address is for the only service of an address and protocol: {} too", at(other))
        } else if other.fragments != service.fragments {
            let (theirs, ours) = (text(other), text(service));
            format!("must be {theirs} and not {ours}: fragments have no ports, and {} too", at(other))
        } else {
            continue;
        };
        return Err(Refusal::field("fragments", rule));
    }
    Ok(())
}

/// A wide service fits in its map, and among those of its network.
pub fn fit(census: &Census, service: &Service) -> Result<(), Refusal> {
    if !service.is_wide() {
        return Ok(());
    }
    if census.wide_services(service.protocol, service.address) > Wide::RANGES {
        let protocol = ProtocolName::from(service.protocol).text();
        let rule = format!("at most {} ranges of ports of {} {protocol}", Wide::RANGES, service.address);
        return Err(Refusal::Capacity { field: "ports", rule });
    }
    if census.wide_networks() > limits::WIDE as usize {
        let rule = format!("at most {} networks, and addresses with ranges of ports", limits::WIDE);
        return Err(Refusal::Capacity { field: "address", rule });
    }
    Ok(())
}

/// The other services of the same protocol and address or network.
fn neighbours<'a>(
    census: &'a Census,
    after: &'a Desired,
    service: &'a Service,
) -> impl Iterator<Item = &'a Service> {
    let others = census.at(service.address).filter(|name| *name != service.name);
    others.filter_map(|name| after.services.get(name)).filter(|other| other.protocol == service.protocol)
}
