//! Backends that cannot be a backend of both services, or of any.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    net::{IpAddr, SocketAddr},
};

use crate::model::{BackendError, Desired, Mode, Network, Ports, Protocol, Service, address::place};

/// The rules that backends of the services named in `changed` break, or that others now break because of them.
pub fn errors(after: &Desired, changed: &[String]) -> Vec<BackendError> {
    let changed: HashSet<&str> = changed.iter().map(String::as_str).collect();
    let vips = VirtualAddresses::of(after);
    let mut senders = Senders::default();
    let mut errors = Vec::new();
    // Unchanged services first: where two claim a backend, the changed one is told.
    let is_new = |name: &str| changed.contains(name);
    let claims = Claims::of(after.services.values().filter(|service| is_new(&service.name)));
    let (new, old): (Vec<_>, Vec<_>) = after
        .services
        .values()
        .filter(|service| is_new(&service.name) || claims.concern(service))
        .partition(|service| is_new(&service.name));
    for service in old.into_iter().chain(new) {
        for at in service.backends.keys() {
            let owner = match service.mode {
                Mode::Nat => senders.claim(at, service),
                Mode::FullNat | Mode::DsrL2 | Mode::DsrIpip | Mode::DsrGue => None,
            };
            let rule = if let Some(owner) = owner {
                let at = place(at);
                format!("{at} is a backend of service {owner}: the two could not tell its replies apart")
            } else if let Some(vip) =
                vips.owner(at.ip()).filter(|vip| is_new(&vip.name) || is_new(&service.name))
            {
                match vip.address.is_host() {
                    true => format!("{} is the virtual address of service {}", at.ip(), vip.name),
                    false => format!(
                        "{} is in {}, the virtual addresses of service {}",
                        at.ip(),
                        vip.address,
                        vip.name
                    ),
                }
            } else {
                continue;
            };
            errors.push(BackendError { service: service.name.clone(), backend: *at, field: "address", rule });
        }
    }
    errors
}

/// Whether changed services have a backend, or an address, that they had not before.
pub fn are_claimed(before: &Desired, after: &Desired, changed: &[String]) -> bool {
    changed.iter().filter_map(|name| after.services.get(name)).any(|service| {
        let Some(old) = before.services.get(&service.name) else { return true };
        let entrance = |of: &Service| (of.mode, of.protocol, of.address, of.ports);
        entrance(old) != entrance(service) || service.backends.keys().any(|at| !old.backends.contains_key(at))
    })
}

/// What changed services claim, so that others are looked at only where that concerns them.
struct Claims {
    /// Of their backends.
    hosts: HashSet<IpAddr>,
    /// Their own.
    addresses: HashSet<Network>,
    bits: BTreeSet<u8>,
}

impl Claims {
    fn of<'a>(services: impl Iterator<Item = &'a Service> + Clone) -> Self {
        let hosts = services.clone().flat_map(|service| service.backends.keys()).map(|at| at.ip()).collect();
        let addresses: HashSet<Network> = services.map(|service| service.address).collect();
        let bits = addresses.iter().map(|network| network.bits).collect();
        Self { hosts, addresses, bits }
    }

    fn concern(&self, service: &Service) -> bool {
        service.backends.keys().any(|at| {
            let address = at.ip();
            let within = |bits: &u8| {
                *bits <= Network::bits_max(address)
                    && self.addresses.contains(&Network { address, bits: *bits }.trimmed())
            };
            self.hosts.contains(&address) || self.bits.iter().any(within)
        })
    }
}

/// Services by their addresses.
struct VirtualAddresses<'a> {
    owners: HashMap<Network, &'a Service>,
    bits: BTreeSet<u8>,
}

impl<'a> VirtualAddresses<'a> {
    fn of(desired: &'a Desired) -> Self {
        let owners: HashMap<_, _> =
            desired.services.values().map(|service| (service.address, service)).collect();
        let bits = owners.keys().map(|network| network.bits).collect();
        Self { owners, bits }
    }

    fn owner(&self, address: IpAddr) -> Option<&'a Service> {
        let most = Network::bits_max(address);
        let mut networks = self
            .bits
            .iter()
            .rev()
            .filter(|bits| **bits <= most)
            .map(|bits| Network { address, bits: *bits }.trimmed());
        networks.find_map(|network| self.owners.get(&network).copied())
    }
}

/// Sources of `nat` replies, as the program tells them apart: exactly by port, or for one range of an address.
#[derive(Default)]
struct Senders<'a> {
    exact: BTreeMap<(Protocol, SocketAddr), &'a str>,
    ranges: HashMap<(Protocol, IpAddr), &'a Service>,
}

impl<'a> Senders<'a> {
    /// Claims a backend for `service`, or names the service that has it.
    fn claim(&mut self, at: &SocketAddr, service: &'a Service) -> Option<&'a str> {
        let (protocol, address, name) = (service.protocol, at.ip(), service.name.as_str());
        let sent = match at.port() {
            0 => service.ports,
            port => Ports::one(port),
        };
        let range = self.ranges.get(&(protocol, address));
        let of_range = range.filter(|other| at.port() == 0 || other.ports.overlap(&sent));
        let within = |port| (protocol, SocketAddr::new(address, port));
        let mut exact = self.exact.range(within(sent.first)..=within(sent.last));
        let owner = of_range.map(|other| other.name.as_str()).or(exact.next().map(|(_, other)| *other));
        if owner.is_none() && at.port() == 0 {
            self.ranges.insert((protocol, address), service);
        } else if owner.is_none() {
            self.exact.insert((protocol, *at), name);
        }
        owner
    }
}
