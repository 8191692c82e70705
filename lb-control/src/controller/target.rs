//! What should be installed, out of orders, health, ways and addresses. Pure; time is an argument.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use lb_common::{Address, Port, Settings, limits::LOCALS};

use super::needs::Needs;
use crate::{
    config::{Packets, Tunnel},
    desired::{CUT_SECONDS, target_service},
    model::{Backend, Desired, Network, Service, Services, address},
    netlink::Snapshot,
    next_hops::{Resolved, Unresolved},
    target::{Shared, Target, TargetService},
};

/// So long a new backend's way is waited for before it is installed without one.
pub const WAY_WITHIN: Duration = Duration::from_millis(100);

/// Makes targets of one desired state after another. What did not change is shared with the target before, so that a
/// change costs what it touches.
pub struct Targets {
    packets: Packets,
    followed: Services,
    /// By name.
    entries: BTreeMap<String, Entry>,
    /// Names of services with backends at an address, and how many.
    hosts: BTreeMap<IpAddr, BTreeMap<Arc<str>, usize>>,
    /// Addresses whose way is not known yet, and until when it is waited for.
    waiting: BTreeMap<IpAddr, Instant>,
    ways: Arc<Resolved>,
}

struct Entry {
    service: Arc<Service>,
    /// None where the service is new and waits for a way.
    target: Option<Shared<TargetService>>,
    needs: Needs,
    is_stale: bool,
    /// It changes as time goes by.
    is_timed: bool,
}

/// What became of the addresses of backends.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Hosts {
    /// They have backends since.
    pub came: Vec<IpAddr>,
    /// They have none since.
    pub went: Vec<IpAddr>,
}

/// A target and what belongs to it.
pub struct Wanted {
    /// What should be installed.
    pub target: Target,
    /// What it needs of the interfaces.
    pub needs: Needs,
    /// Services are left as they were, because a new backend's way is waited for: until then at the latest.
    pub held_until: Option<Instant>,
}

impl Targets {
    /// Nothing is desired yet.
    pub fn new(packets: Packets) -> Self {
        Self {
            packets,
            followed: Services::default(),
            entries: BTreeMap::new(),
            hosts: BTreeMap::new(),
            waiting: BTreeMap::new(),
            ways: Arc::default(),
        }
    }

    /// Takes in what is desired now. The ways of new addresses are waited for until `wait_until`.
    pub fn follow(&mut self, desired: &Desired, wait_until: Instant) -> Hosts {
        let mut hosts = Hosts::default();
        let before = std::mem::replace(&mut self.followed, desired.services.clone());
        for name in before.differences(&desired.services) {
            let known = self.entries.remove(name);
            let (old, now) = (before.get(name), desired.services.get_shared(name));
            // First in, then out: who stays is neither new nor gone.
            if let Some(service) = now {
                self.enter(name, service, old, &mut hosts);
            }
            if let Some(service) = old {
                self.leave(name, service, now.map(Arc::as_ref), &mut hosts);
            }
            if let Some(service) = now {
                let entry = Entry::new(service.clone(), known.and_then(|known| known.target));
                self.entries.insert(name.to_owned(), entry);
            }
        }
        self.waiting.extend(hosts.came.iter().map(|address| (*address, wait_until)));
        hosts
    }

    /// The target with these ways. Services with a backend whose way is waited for stay as they were.
    pub fn target(
        &mut self,
        ways: &Arc<Resolved>,
        snapshot: &Snapshot,
        now: Instant,
        now_unix: u64,
    ) -> Wanted {
        for host in self.take_ways(ways) {
            for name in self.hosts.get(&host).into_iter().flat_map(BTreeMap::keys) {
                if let Some(entry) = self.entries.get_mut(name.as_ref()) {
                    entry.is_stale = true;
                }
            }
        }
        self.waiting.retain(|address, until| *until > now && !is_answered(ways, address));
        let next_hop = |address: IpAddr| ways.ways.get(&address).and_then(|way| way.ok());
        let mut needs = Needs::of_pool(&self.packets.full_nat.addresses);
        let mut held_until: Option<Instant> = None;
        let mut services = Vec::with_capacity(self.entries.len());
        for entry in self.entries.values_mut() {
            if entry.is_stale || entry.is_timed {
                let until = match self.waiting.is_empty() {
                    true => None,
                    false => entry.service.backends.keys().filter_map(|at| self.waiting.get(&at.ip())).max(),
                };
                match until {
                    Some(until) => held_until = Some(held_until.map_or(*until, |other| other.min(*until))),
                    None => entry.build(now_unix, next_hop),
                }
            }
            if let Some(target) = &entry.target {
                needs = needs.and(entry.needs);
                services.push(target.clone());
            }
        }
        let program = program(&self.packets);
        let target = Target {
            services,
            interfaces: ways.interfaces.clone(),
            locals: locals(snapshot),
            program,
            pool: self.packets.full_nat.addresses.iter().copied().map(address::to_map).collect(),
        };
        Wanted { target, needs, held_until }
    }

    /// Whether the way to every new backend is known, or known not to be.
    pub fn is_answered(&self, ways: &Resolved) -> bool {
        self.waiting.keys().all(|address| is_answered(ways, address))
    }

    /// Addresses whose ways differ from those before.
    fn take_ways(&mut self, ways: &Arc<Resolved>) -> Vec<IpAddr> {
        if Arc::ptr_eq(&self.ways, ways) {
            return Vec::new();
        }
        let before = std::mem::replace(&mut self.ways, ways.clone());
        let differs = |address: &&IpAddr| before.ways.get(address) != ways.ways.get(address);
        let gone = before.ways.keys().filter(|address| !ways.ways.contains_key(address));
        ways.ways.keys().filter(differs).chain(gone).copied().collect()
    }

    /// `old` is what the service was, if it was there.
    fn enter(&mut self, name: &str, service: &Service, old: Option<&Service>, hosts: &mut Hosts) {
        let name: Arc<str> = name.into();
        for at in service.backends_beside(old) {
            let names = self.hosts.entry(at.ip()).or_default();
            if names.is_empty() {
                hosts.came.push(at.ip());
            }
            *names.entry(name.clone()).or_default() += 1;
        }
    }

    /// `new` is what the service becomes, if it stays.
    fn leave(&mut self, name: &str, service: &Service, new: Option<&Service>, hosts: &mut Hosts) {
        for at in service.backends_beside(new) {
            let Some(names) = self.hosts.get_mut(&at.ip()) else { continue };
            let Some(backends) = names.get_mut(name) else { continue };
            *backends -= 1;
            if *backends == 0 {
                names.remove(name);
            }
            if names.is_empty() {
                self.hosts.remove(&at.ip());
                self.waiting.remove(&at.ip());
                hosts.went.push(at.ip());
            }
        }
    }
}

impl Entry {
    fn new(service: Arc<Service>, target: Option<Shared<TargetService>>) -> Self {
        Self { service, target, needs: Needs::default(), is_stale: true, is_timed: false }
    }

    fn build(&mut self, now_unix: u64, next_hop: impl Fn(IpAddr) -> Option<lb_common::NextHop>) {
        let built = target_service(&self.service, now_unix, next_hop);
        self.needs = Needs::of(&built);
        self.is_timed = is_timed(&self.service, now_unix);
        self.is_stale = false;
        // One that is the same stays the same in memory.
        if self.target.as_deref() != Some(&built) {
            self.target = Some(built.into());
        }
    }
}

/// Whether time alone may change what is installed of a service: a drain ends, or a slow start goes on.
fn is_timed(service: &Service, now_unix: u64) -> bool {
    let starts_slowly = |backend: &Backend| {
        let until = |since: u64| since + u64::from(service.slow_start_seconds);
        service.slow_start_seconds > 0 && backend.up_since_unix.is_some_and(|since| until(since) >= now_unix)
    };
    let drains = |backend: &Backend| {
        let deadline = backend.draining.and_then(|drain| drain.deadline_unix_seconds);
        deadline.is_some_and(|deadline| deadline + CUT_SECONDS >= now_unix)
    };
    service.backends.values().any(|backend| starts_slowly(backend) || drains(backend))
}

fn is_answered(ways: &Resolved, address: &IpAddr) -> bool {
    !matches!(ways.ways.get(address), None | Some(Err(Unresolved::NotAsked | Unresolved::Asking)))
}

/// All of the target at `now_unix` seconds, where none was before.
pub fn target(
    desired: &Desired,
    packets: &Packets,
    resolved: &Resolved,
    snapshot: &Snapshot,
    now_unix: u64,
) -> Target {
    let next_hop = |address: IpAddr| resolved.ways.get(&address).and_then(|way| way.ok());
    Target {
        services: desired
            .services
            .values()
            .map(|service| target_service(service, now_unix, next_hop).into())
            .collect(),
        interfaces: resolved.interfaces.clone(),
        locals: locals(snapshot),
        program: program(packets),
        pool: packets.full_nat.addresses.iter().copied().map(address::to_map).collect(),
    }
}

fn program(packets: &Packets) -> Settings {
    let Tunnel { source_ipv4, source_ipv6, gue_port } = packets.tunnel;
    let (pool, ports) = (&packets.full_nat.addresses, packets.full_nat.ports);
    let ipv6 = pool.iter().filter(|address| address.is_ipv6()).count();
    Settings {
        tunnel_ipv4: address::to_map(source_ipv4.address),
        tunnel_ipv6: address::to_map(source_ipv6.address),
        tunnel_ipv4_hosts: host_bits(source_ipv4),
        tunnel_ipv6_hosts: host_bits(source_ipv6),
        gue_port: Port::new(gue_port),
        pool_first_port: ports.first,
        // Port 0 is none: they are 65,535 at most.
        pool_ports: ports.last - ports.first + 1,
        pool_ipv4: (pool.len() - ipv6) as u8,
        pool_ipv6: ipv6 as u8,
        answers_per_second: packets.icmp_errors_per_second,
        ..Settings::default()
    }
}

/// The host bits among the last 32 of an address, as a native word over the packet's bytes.
fn host_bits(network: Network) -> u32 {
    let hosts = u32::from(128 - network.mapped_bits()).min(32);
    u32::MAX.checked_shr(32 - hosts).unwrap_or(0).to_be()
}

/// The host's own addresses that a backend could answer to, which is reached by others than link-local ones; no more
/// than the map takes.
fn locals(snapshot: &Snapshot) -> Vec<Address> {
    let mut addresses: Vec<IpAddr> = snapshot.addresses.iter().map(|(_, address)| *address).collect();
    addresses.retain(|address| match address {
        IpAddr::V4(v4) => !v4.is_loopback(),
        IpAddr::V6(v6) => !v6.is_loopback() && !v6.is_unicast_link_local(),
    });
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
mod tests;
