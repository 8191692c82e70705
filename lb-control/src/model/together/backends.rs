//! Backends that cannot be a backend of both services, or of any.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    net::{IpAddr, SocketAddr},
};

use super::Census;
use crate::model::{BackendError, Desired, Mode, Ports, Protocol, Service, address::place};

/// The rules that backends of the services named in `changed` break, or that others now break because of them.
pub fn errors(census: &Census, after: &Desired, changed: &[String]) -> Vec<BackendError> {
    let named = |name: &str| after.services.get(name);
    let new: Vec<&Service> = changed.iter().filter_map(|name| named(name)).collect();
    let names: HashSet<&str> = changed.iter().map(String::as_str).collect();
    let is_new = |name: &str| names.contains(name);
    let old = census.concerned(&new).into_iter().filter(|name| !is_new(name)).filter_map(named);
    let mut senders = Senders::default();
    let mut errors = Vec::new();
    // Unchanged services first: where two claim a backend, the changed one is told.
    for service in old.chain(new.iter().copied()) {
        for at in service.backends.keys() {
            let owner = match service.mode {
                Mode::Nat => senders.claim(at, service),
                Mode::FullNat | Mode::DsrL2 | Mode::DsrIpip | Mode::DsrGue => None,
            };
            let rule = if let Some(owner) = owner {
                let at = place(at);
                format!("{at} is a backend of service {owner}: the two could not tell its replies apart")
            } else if let Some(vip) =
                census.owner(at.ip()).filter(|vip| is_new(vip) || is_new(&service.name)).and_then(named)
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
