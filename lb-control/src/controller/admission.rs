//! The live world's say in an order: whether a new service's address is free of the host, and whether the kernel
//! has a way to each new backend.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    sync::mpsc,
    time::Duration,
};

use tokio::runtime::Handle;

use crate::{
    desired::Admission,
    model::{BackendError, Desired, FieldError, Mode, Network, Refusal, check_full_nat},
    netlink::{Netlink, Route, RouteAnswer, Snapshot},
};

/// The kernel answers in microseconds; an order does not wait longer than this for it.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);

/// Asks the kernel for routes.
pub struct RouteAdmission {
    netlink: Netlink,
    runtime: Handle,
}

impl RouteAdmission {
    /// Call it within a tokio runtime.
    pub fn new(netlink: Netlink) -> Self {
        Self { netlink, runtime: Handle::current() }
    }

    /// The kernel's answers, asked from wherever blocking is allowed. Without an answer an address is absent
    /// and gets the benefit of the doubt.
    fn routes(&self, addresses: Vec<IpAddr>) -> BTreeMap<IpAddr, RouteAnswer> {
        let (sender, answers) = mpsc::channel();
        let netlink = self.netlink.clone();
        self.runtime.spawn(async move {
            let mut routes = BTreeMap::new();
            for address in addresses {
                match netlink.route(address).await {
                    Ok(answer) => {
                        routes.insert(address, answer);
                    }
                    Err(error) => tracing::warn!(%address, %error, "cannot ask the kernel for a route"),
                }
            }
            let _ = sender.send(routes);
        });
        answers.recv_timeout(ANSWER_WITHIN).unwrap_or_default()
    }
}

impl Admission for RouteAdmission {
    fn check(&self, before: &Desired, after: &Desired, changed: &[String]) -> Result<(), Refusal> {
        let snapshot = self.netlink.snapshot();
        let new = changed.iter().filter_map(|name| after.services.get(name)).filter(|service| {
            before.services.get(&service.name).is_none_or(|old| old.address != service.address)
        });
        let refused: Vec<_> = new
            .filter_map(|service| own_address(service.address, &snapshot))
            .map(|rule| FieldError::new("address", rule))
            .collect();
        if !refused.is_empty() {
            return Err(Refusal::Invalid(refused));
        }
        let new = new_backends(before, after, changed);
        let mut addresses: Vec<IpAddr> = new.iter().map(|(_, _, at)| at.ip()).collect();
        addresses.sort_unstable();
        addresses.dedup();
        if addresses.is_empty() {
            return Ok(());
        }
        let routes = self.routes(addresses);
        let is_ethernet = |ifindex: u32| snapshot.links.get(&ifindex).is_none_or(|link| link.mac.is_some());
        let refused = new.into_iter().filter_map(|(service, mode, backend)| {
            let rule = rule(mode, backend.ip(), *routes.get(&backend.ip())?, is_ethernet)?;
            Some(BackendError { service: service.to_owned(), backend, field: "address", rule })
        });
        let refused: Vec<_> = refused.collect();
        if refused.is_empty() { Ok(()) } else { Err(Refusal::Backends(refused)) }
    }
}

/// The rule that a service's address or network breaks. Pure.
pub fn own_address(network: Network, snapshot: &Snapshot) -> Option<String> {
    let (ifindex, own) = snapshot.addresses.iter().find(|(_, own)| network.contains(*own))?;
    let interface = snapshot.links.get(ifindex).map_or("an interface", |link| link.name.as_str());
    Some(format!(
        "{own} is an address of the balancer itself, on {interface}; a virtual address must not be configured \
         on the balancer"
    ))
}

/// What is wrong with the balancer's addresses of `full-nat`: they are neither the host's, whose stack would answer
/// too, nor virtual, nor backends; and `full-nat` services of the store need them. Pure.
pub fn full_nat_addresses(pool: &[IpAddr], desired: &Desired, snapshot: &Snapshot) -> Option<String> {
    if let Some(own) = pool.iter().find(|own| snapshot.addresses.iter().any(|(_, address)| address == *own)) {
        return Some(format!("{own} is configured on this host: name addresses that nothing else has"));
    }
    desired.services.keys().find_map(|name| {
        let refusal = check_full_nat(desired, &[name.to_owned()], pool).err()?;
        Some(format!("service {name} of the store: {}", refusal.in_words()))
    })
}

/// Backends that an order adds, or whose service it gives another mode.
fn new_backends<'a>(
    before: &Desired,
    after: &'a Desired,
    changed: &[String],
) -> Vec<(&'a str, Mode, SocketAddr)> {
    let mut new = Vec::new();
    for service in changed.iter().filter_map(|name| after.services.get(name)) {
        let old = before.services.get(&service.name).filter(|old| old.mode == service.mode);
        for at in service.backends.keys() {
            if old.is_none_or(|old| !old.backends.contains_key(at)) {
                new.push((service.name.as_str(), service.mode, *at));
            }
        }
    }
    new
}

/// The rule that a backend breaks. Pure.
fn rule(
    mode: Mode,
    address: IpAddr,
    answer: RouteAnswer,
    is_ethernet: impl Fn(u32) -> bool,
) -> Option<String> {
    match (mode, answer) {
        (_, RouteAnswer::Unreachable) => Some(format!("no route leads to {address}")),
        (_, RouteAnswer::Local) => Some(format!(
            "{address} is an address of the balancer itself; a backend is reached over an interface"
        )),
        (_, RouteAnswer::Via(Route { ifindex, .. })) if !is_ethernet(ifindex) => {
            Some(format!("the route to {address} leads through an interface that is not Ethernet"))
        }
        (Mode::DsrL2, RouteAnswer::Via(Route { neighbour, .. })) if neighbour != address => Some(format!(
            "mode dsr-l2 reaches neighbours only, and {address} is behind the gateway {neighbour}"
        )),
        (_, RouteAnswer::Via(_)) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Service;

    #[test]
    fn a_virtual_address_is_not_the_hosts_own() {
        let mut snapshot = Snapshot::default();
        snapshot.addresses.extend([(1, [127, 0, 0, 1].into()), (3, [10, 0, 0, 1].into())]);
        for (network, own) in [
            ("10.0.0.1", true),
            ("10.0.0.2", false),
            ("127.0.0.1", true),
            ("10.0.0.0/24", true),
            ("10.0.1.0/24", false),
        ] {
            let said = own_address(network.parse().expect("a network"), &snapshot);
            assert_eq!(said.is_some(), own, "{network}: {said:?}");
        }
        let network = Network::host([10, 0, 0, 1].into());
        let said = own_address(network, &snapshot).unwrap_or_default();
        assert!(said.starts_with("10.0.0.1 is an address of the balancer itself"), "{said}");
    }

    #[test]
    fn addresses_of_full_nat_are_nobody_elses() {
        let mut snapshot = Snapshot::default();
        snapshot.addresses.insert((3, [10, 0, 0, 1].into()));
        let spec = serde_json::json!({
            "name": "far", "address": "10.0.0.5", "port": 80, "mode": "full-nat",
            "backends": [{ "address": "10.1.0.2" }],
        });
        let spec = serde_json::from_value(spec).expect("it is a service");
        let far = Service::new(&spec).expect("it keeps the rules");
        let desired = Desired { generation: 1, services: [("far".into(), far)].into() };
        for (pool, expected) in [
            (&["10.0.0.9"][..], ""),
            (&["10.0.0.9", "10.0.0.1"], "10.0.0.1 is configured on this host"),
            (&["10.0.0.5"], "service far of the store: address 10.0.0.5 is one of full_nat.addresses"),
            (&["10.0.0.9", "10.1.0.2"], "service far of the store: 10.1.0.2 is one of full_nat.addresses"),
            (&[], "service far of the store: mode full-nat sends from IPv4 addresses"),
            (&["fd00::9"], "service far of the store: mode full-nat sends from IPv4 addresses"),
        ] {
            let pool: Vec<IpAddr> = pool.iter().map(|text| text.parse().expect("an address")).collect();
            let said = full_nat_addresses(&pool, &desired, &snapshot).unwrap_or_default();
            assert!(said.starts_with(expected) && said.is_empty() == expected.is_empty(), "{pool:?}: {said}");
        }
    }

    #[test]
    fn a_backend_needs_a_way() {
        let address = IpAddr::from([10, 0, 0, 2]);
        let via =
            |ifindex, neighbour: [u8; 4]| RouteAnswer::Via(Route { ifindex, neighbour: neighbour.into() });
        for (mode, answer, expected) in [
            (Mode::Nat, RouteAnswer::Unreachable, Some("no route leads to 10.0.0.2")),
            (Mode::Nat, RouteAnswer::Local, Some("is an address of the balancer itself")),
            (Mode::Nat, via(3, [10, 0, 0, 2]), None),
            (Mode::Nat, via(3, [10, 9, 0, 1]), None),
            (Mode::Nat, via(1, [10, 0, 0, 2]), Some("not Ethernet")),
            (Mode::DsrL2, via(3, [10, 0, 0, 2]), None),
            (Mode::DsrL2, via(3, [10, 9, 0, 1]), Some("behind the gateway 10.9.0.1")),
        ] {
            let said = rule(mode, address, answer, |ifindex| ifindex != 1);
            assert_eq!(said.is_some(), expected.is_some(), "{mode:?} {answer:?}: {said:?}");
            if let (Some(said), Some(expected)) = (said, expected) {
                assert!(said.contains(expected), "{said}");
            }
        }
    }
}
