//! What should be installed, out of orders, health, ways and addresses. Pure.

use std::net::IpAddr;

use lb_common::{Settings, limits::LOCALS};

use crate::{
    desired::target_service,
    model::{Desired, address},
    netlink::Snapshot,
    next_hops::Resolved,
    target::Target,
};

/// The target at `now_unix` seconds.
pub fn target(desired: &Desired, resolved: &Resolved, snapshot: &Snapshot, now_unix: u64) -> Target {
    let next_hop = |address: IpAddr| resolved.ways.get(&address).and_then(|way| way.ok());
    Target {
        services: desired
            .services
            .values()
            .map(|service| target_service(service, now_unix, next_hop))
            .collect(),
        interfaces: resolved.interfaces.clone(),
        locals: locals(snapshot),
        program: Settings::default(),
        pool: Vec::new(),
    }
}

/// The host's own addresses that a backend could answer to; no more than the map takes.
fn locals(snapshot: &Snapshot) -> Vec<lb_common::Address> {
    let mut addresses: Vec<IpAddr> = snapshot.addresses.iter().map(|(_, address)| *address).collect();
    addresses.retain(|address| !address.is_loopback());
    addresses.sort_unstable();
    addresses.dedup();
    if addresses.len() > LOCALS as usize {
        tracing::warn!(
            "the host has {} addresses; only {LOCALS} of them are known to the program",
            addresses.len()
        );
        addresses.truncate(LOCALS as usize);
    }
    addresses.into_iter().map(address::to_map).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_addresses_are_told_once_and_without_the_loopback() {
        let mut snapshot = Snapshot::default();
        for (interface, address) in [(1, [127, 0, 0, 1]), (3, [10, 0, 0, 1]), (4, [10, 0, 0, 1])] {
            snapshot.addresses.insert((interface, address.into()));
        }
        let target = target(&Desired::default(), &Resolved::default(), &snapshot, 0);
        assert_eq!(target.locals, [lb_common::Address::from_ipv4([10, 0, 0, 1])]);
    }
}
