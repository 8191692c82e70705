//! Virtual addresses and ports of several services.
//!
//! An exact (address, port) wins over a wide service, and the longest prefix over shorter ones; so only services
//! of the same network and of the same kind can be in each other's way.

use std::collections::HashMap;

use lb_common::{Wide, limits};

use crate::model::{
    Desired, FragmentPolicy, FragmentsName, Network, Protocol, ProtocolName, Refusal, Service,
};

/// No other service has the address and any of the ports.
pub fn are_free(after: &Desired, service: &Service) -> Result<(), Refusal> {
    let taken = neighbours(after, service)
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
pub fn agree_on_fragments(after: &Desired, service: &Service) -> Result<(), Refusal> {
    let text = |service: &Service| FragmentsName::from(service.fragments).text();
    let at = |other: &Service| {
        format!("service {} has {} {}", other.name, other.address, ProtocolName::from(other.protocol).text())
    };
    let is_alone = |one: &Service| one.fragments == FragmentPolicy::ByAddress;
    for other in neighbours(after, service) {
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

/// The wide services fit in their map.
pub fn fit(after: &Desired) -> Result<(), Refusal> {
    let mut ranges: HashMap<(Protocol, Network), usize> = HashMap::new();
    for service in after.services.values().filter(|service| service.is_wide()) {
        *ranges.entry((service.protocol, service.address)).or_default() += 1;
    }
    if let Some(((protocol, network), _)) = ranges.iter().find(|(_, count)| **count > Wide::RANGES) {
        let protocol = ProtocolName::from(*protocol).text();
        let rule = format!("at most {} ranges of ports of {network} {protocol}", Wide::RANGES);
        return Err(Refusal::Capacity { field: "ports", rule });
    }
    if ranges.len() > limits::WIDE as usize {
        let rule = format!("at most {} networks, and addresses with ranges of ports", limits::WIDE);
        return Err(Refusal::Capacity { field: "address", rule });
    }
    Ok(())
}

/// The other services of the same protocol and address or network.
fn neighbours<'a>(after: &'a Desired, service: &'a Service) -> impl Iterator<Item = &'a Service> {
    after.services.values().filter(move |other| {
        other.name != service.name && (other.protocol, other.address) == (service.protocol, service.address)
    })
}
