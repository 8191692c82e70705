//! The addresses that the program answers for, and the networks of services of several ports or addresses.

use std::collections::{BTreeMap, BTreeSet};

use lb_common::{Address, FragmentPolicy, PortRange, Protocol, ServiceKey, VirtualAddress, Wide, WideKey};

use super::{Planner, Shortage};
use crate::{
    datapath::Change,
    target::{Shared, Target, TargetService},
};

/// [`ServiceKey::width`] of a service of several ports at one address.
const ONE_ADDRESS: u8 = 129;

impl Planner<'_> {
    /// Removes addresses that are not wanted.
    pub fn delete_virtual_addresses(&mut self, wanted: &BTreeMap<Address, VirtualAddress>) {
        let known = self.installed.virtual_addresses.keys();
        let gone: Vec<Address> = known.filter(|address| !wanted.contains_key(address)).copied().collect();
        for address in gone {
            self.change(Change::DeleteVirtualAddress(address));
        }
    }

    /// Adds and replaces addresses.
    pub fn put_virtual_addresses(&mut self, wanted: impl IntoIterator<Item = (Address, VirtualAddress)>) {
        for (address, entry) in wanted {
            if self.installed.virtual_addresses.get(&address) != Some(&entry) {
                self.change(Change::PutVirtualAddress(address, entry));
            }
        }
    }

    /// Has services that are not `wanted` found no more by a network.
    pub fn narrow(&mut self, wanted: &BTreeSet<ServiceKey>) {
        for ((key, bits), wide) in self.installed.wide.clone() {
            let mut kept = Wide { ranges: Default::default(), ..wide };
            let still = wide.ranges.into_iter().filter(|range| {
                range.last != 0
                    && wide.service_key(range.first).is_some_and(|service| wanted.contains(&service))
            });
            kept.ranges.iter_mut().zip(still).for_each(|(place, range)| *place = range);
            if kept.ranges[0].last == 0 {
                self.change(Change::DeleteWide(key, bits));
            } else if kept != wide {
                self.change(Change::PutWide(key, bits, kept));
            }
        }
    }

    /// Has the installed ones of `services` found by their networks.
    pub fn widen(&mut self, services: &[Shared<TargetService>]) {
        let mut networks: BTreeMap<(WideKey, u8), Vec<&TargetService>> = BTreeMap::new();
        for service in services {
            if let Some(bits) = service.key.width.checked_sub(1)
                && self.installed.services.contains_key(&service.key)
            {
                let key = WideKey::new(service.key.protocol, service.key.address);
                networks.entry((key, bits)).or_default().push(service);
            }
        }
        for ((key, bits), mut sharing) in networks {
            sharing.sort_by_key(|service| service.key.port.number());
            if let Some(service) = sharing.get(Wide::RANGES) {
                self.plan.shortages.push(Shortage::Ranges { address: service.key });
            }
            let wide = wide(&sharing);
            if self.installed.wide.get(&(key, bits)) != Some(&wide) {
                self.change(Change::PutWide(key, bits, wide));
            }
        }
    }
}

/// The entry of services that share a network, at least one, by their first ports; those beyond its room are left out.
fn wide(sharing: &[&TargetService]) -> Wide {
    let key = sharing[0].key;
    let mut wide = Wide {
        network: key.address,
        protocol: key.protocol,
        width: key.width,
        fragments: sharing.iter().map(|service| service.fragments.byte()).max().unwrap_or_default(),
        ..Wide::default()
    };
    for (place, service) in wide.ranges.iter_mut().zip(sharing) {
        *place = PortRange { first: service.key.port.number(), last: service.last_port };
    }
    wide
}

/// Every address that a service uses, and those of the pool, which answer for themselves. An address answers if one
/// of its services says so. A prefix of addresses is routed here, and answers for none.
pub fn virtual_addresses(target: &Target) -> BTreeMap<Address, VirtualAddress> {
    let mut addresses: BTreeMap<Address, VirtualAddress> = BTreeMap::new();
    for &address in &target.pool {
        addresses.entry(address).or_default().answer_arp = 1;
    }
    for service in target.services.iter().filter(|service| matches!(service.key.width, 0 | ONE_ADDRESS)) {
        let entry = addresses.entry(service.key.address).or_default();
        entry.services += 1;
        entry.answer_arp |= service.answer_arp as u8;
        entry.answer_echo |= service.answer_echo as u8;
        let protocol = match Protocol::from_number(service.key.protocol) {
            Some(Protocol::Tcp) => 0,
            Some(Protocol::Udp) => 1,
            None => continue,
        };
        // Wide services are found with their policy by their network.
        if service.key.width != 0 {
            continue;
        }
        // Of services that differ, the one that drops less decides: a fragment does not tell whose it is.
        let policy = &mut entry.fragments[protocol];
        *policy = (*policy).max(service.fragments.byte());
        if service.fragments == FragmentPolicy::ByAddress {
            entry.by_address[protocol] = service.key.port;
        }
    }
    addresses
}
