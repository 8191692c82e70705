//! What rules between services ask of all of them, kept as services change: an order pays for what it touches. Pure.
//!
//! Invariant: it says of the state that it followed last what a look at every service of it would say.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    net::IpAddr,
    sync::Arc,
};

use crate::{
    maglev,
    model::{Desired, Network, Protocol, Service, Services},
};

/// Services by what they claim, and sums over all of them.
#[derive(Debug, Default)]
pub struct Census {
    services: Services,
    backends: usize,
    slots: u64,
    /// Names of services by their own address.
    addresses: BTreeMap<Network, BTreeSet<Arc<str>>>,
    /// How many of the addresses have a prefix of so many bits.
    prefixes: BTreeMap<u8, usize>,
    /// How many wide services share a network.
    wide: BTreeMap<(Protocol, Network), usize>,
    /// Names of services with backends at an address, and how many.
    hosts: BTreeMap<IpAddr, BTreeMap<Arc<str>, usize>>,
}

impl Census {
    /// Of one state.
    pub fn of(desired: &Desired) -> Self {
        let mut census = Self::default();
        census.follow(desired);
        census
    }

    /// Goes over to another state, whichever it is.
    pub fn follow(&mut self, desired: &Desired) {
        let before = std::mem::replace(&mut self.services, desired.services.clone());
        for name in before.differences(&desired.services) {
            let shared: Arc<str> = name.into();
            let (old, new) = (before.get(name), desired.services.get(name));
            new.into_iter().for_each(|service| self.enter(&shared, service, old));
            old.into_iter().for_each(|service| self.leave(&shared, service, new));
        }
    }

    /// Backends of all services.
    pub fn backends(&self) -> usize {
        self.backends
    }

    /// Slots that the tables of all services take.
    pub fn slots(&self) -> u64 {
        self.slots
    }

    /// Networks of wide services.
    pub fn wide_networks(&self) -> usize {
        self.wide.len()
    }

    /// How many wide services share a network.
    pub fn wide_services(&self, protocol: Protocol, network: Network) -> usize {
        self.wide.get(&(protocol, network)).copied().unwrap_or(0)
    }

    /// Names of services of exactly this address or network, in order.
    pub fn at(&self, network: Network) -> impl Iterator<Item = &str> {
        self.addresses.get(&network).into_iter().flatten().map(AsRef::as_ref)
    }

    /// The name of the service whose address this is, or whose network it is in: the longest prefix wins.
    pub fn owner(&self, address: IpAddr) -> Option<&str> {
        let most = Network::bits_max(address);
        let prefixes = self.prefixes.keys().rev().filter(|bits| **bits <= most);
        let mut networks = prefixes.map(|bits| Network { address, bits: *bits }.trimmed());
        let names = networks.find_map(|network| self.addresses.get(&network))?;
        names.last().map(AsRef::as_ref)
    }

    /// Names of services with a backend at a host of these services' backends, or within their addresses or networks.
    pub fn concerned(&self, services: &[&Service]) -> BTreeSet<&str> {
        let hosts: HashSet<IpAddr> =
            services.iter().flat_map(|service| service.backends.keys()).map(|at| at.ip()).collect();
        let networks: HashSet<Network> = services.iter().map(|service| service.address).collect();
        let beside = hosts.iter().filter_map(|host| self.hosts.get(host));
        let within = networks.iter().flat_map(|network| {
            let hosts = self.hosts.range(network.trimmed().address..);
            hosts.take_while(|(host, _)| network.contains(**host)).map(|(_, names)| names)
        });
        beside.chain(within).flat_map(BTreeMap::keys).map(AsRef::as_ref).collect()
    }

    /// `old` is what the service was, if it was there.
    fn enter(&mut self, name: &Arc<str>, service: &Service, old: Option<&Service>) {
        self.backends += service.backends.len();
        self.slots += slots(service);
        if old.is_none_or(|old| old.address != service.address) {
            let names = self.addresses.entry(service.address).or_default();
            if names.is_empty() {
                *self.prefixes.entry(service.address.bits).or_default() += 1;
            }
            names.insert(name.clone());
        }
        if service.is_wide() {
            *self.wide.entry((service.protocol, service.address)).or_default() += 1;
        }
        for at in service.backends_beside(old) {
            *self.hosts.entry(at.ip()).or_default().entry(name.clone()).or_default() += 1;
        }
    }

    /// `new` is what the service becomes, if it stays.
    fn leave(&mut self, name: &Arc<str>, service: &Service, new: Option<&Service>) {
        self.backends -= service.backends.len();
        self.slots -= slots(service);
        if new.is_none_or(|new| new.address != service.address)
            && let Some(names) = self.addresses.get_mut(&service.address)
        {
            names.remove(name);
            if names.is_empty() {
                self.addresses.remove(&service.address);
                take_one(&mut self.prefixes, &service.address.bits);
            }
        }
        if service.is_wide() {
            take_one(&mut self.wide, &(service.protocol, service.address));
        }
        for at in service.backends_beside(new) {
            let Some(names) = self.hosts.get_mut(&at.ip()) else { continue };
            take_one(names, name);
            if names.is_empty() {
                self.hosts.remove(&at.ip());
            }
        }
    }
}

/// As the planner counts: backends that take no new flows need no slots.
fn slots(service: &Service) -> u64 {
    maglev::slots_for(service.backends.values().filter(|backend| backend.weight > 0).count()).into()
}

/// Takes one of so many away; none is no entry.
fn take_one<K: Ord>(counts: &mut BTreeMap<K, usize>, key: &K) {
    if let Some(count) = counts.get_mut(key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::model::ServiceSpec;

    fn desired(services: &[Value]) -> Desired {
        let made = services.iter().map(|spec| {
            let spec: ServiceSpec = serde_json::from_value(spec.clone()).expect("it is a service");
            (spec.name.clone(), Service::new(&spec).expect("it keeps the rules"))
        });
        Desired { generation: 1, services: made.collect() }
    }

    /// All that it says.
    fn said(census: &Census) -> String {
        let Census { backends, slots, addresses, prefixes, wide, hosts, .. } = census;
        format!("{backends} {slots} {addresses:?} {prefixes:?} {wide:?} {hosts:?}")
    }

    #[test]
    fn it_follows_from_any_state_to_any_other() {
        let at = |host: u8, port: u16| json!({ "address": format!("10.0.0.{host}"), "port": port });
        let one = |name: &str, address: &str, backends: Value| json!({ "name": name, "address": address, "port": 80, "backends": backends });
        let wide = |name: &str, ports: &str| {
            json!({ "name": name, "address": "192.0.2.0/24", "ports": ports, "mode": "dsr-ipip",
                    "backends": [{ "address": "10.0.0.9" }] })
        };
        let many: Vec<Value> = (0..30).map(|host| at(host, 1)).collect();
        let states = [
            desired(&[]),
            desired(&[one("a", "192.0.2.1", json!([at(1, 1), at(1, 2), at(2, 1)]))]),
            desired(&[one("a", "192.0.2.1", json!([at(1, 2), at(3, 1)])), wide("w", "1-9")]),
            desired(&[one("a", "192.0.2.2", json!([at(1, 2)])), wide("w", "1-9"), wide("x", "10-19")]),
            desired(&[one("b", "192.0.2.2", many.into()), wide("x", "10-19")]),
        ];
        let mut census = Census::default();
        for to in states.iter().flat_map(|one| states.iter().flat_map(move |two| [one, two])) {
            census.follow(to);
            assert_eq!(said(&census), said(&Census::of(to)));
        }
        let of = |index: usize| Census::of(&states[index]);
        assert_eq!((of(1).backends(), of(4).backends(), of(4).slots()), (3, 31, 4_096 + 1_024));
        let address = |text: &str| text.parse().expect("an address");
        let named = of(3);
        for (host, owner) in [("192.0.2.2", Some("a")), ("192.0.2.3", Some("x")), ("192.0.3.1", None)] {
            assert_eq!(named.owner(address(host)), owner, "{host}");
        }
        let network = "192.0.2.0/24".parse().expect("a network");
        assert_eq!(named.at(network).collect::<Vec<_>>(), ["w", "x"]);
        assert_eq!((named.wide_services(Protocol::Tcp, network), named.wide_networks()), (2, 1));
        let concerned = of(2);
        for (index, names) in [(1, vec!["a"]), (2, vec!["a", "w"])] {
            let services: Vec<&Service> = states[index].services.values().collect();
            assert!(concerned.concerned(&services).into_iter().eq(names), "{index}");
        }
    }
}
