//! Random configurations: services of every mode and family, their tables in every state, and what is remembered.

use std::collections::{BTreeMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Context as _, Result};
use lb_common::{
    BackendId, BackendState, Features, Flow, FlowState, FragmentPolicy, HashKeys, Interface, Mac, Mode,
    NextHop, Port, Protocol, QuicScheme, ServiceKey, ServiceSettings, Settings, Slot, SlotState, Tracking,
    hash::{flow_hash, tag},
};
use lb_control::{
    datapath::{Capacity, Change, Datapath as _, memory::MemoryDatapath},
    engine::Engine,
    target::{Target, TargetBackend, TargetService},
};

use super::random::Random;
use super::world::{Backend, Service, World, address, flow_key, ip_addr};

/// Room for slots: every service has the smallest table.
pub const SLOTS: u32 = 16 * 1_024;
/// Room for remembered flows: soon full.
pub const FLOWS: u32 = 128;
/// Room for directions of translated flows.
pub const TRANSLATIONS: u32 = 128;
/// Room for backends.
pub const BACKENDS: u32 = 256;
/// Packets come in by the first interface: the kernel's test runs come from `lo`.
pub const INGRESS: u32 = 1;
/// Its address.
pub const INGRESS_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
/// The balancer's own addresses.
pub const LOCALS: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 1))];

/// A configuration as it is installed, and tuples that packets should have.
pub struct Scene {
    /// What the oracle knows.
    pub world: World,
    /// The tables that it stands in.
    pub host: Engine<MemoryDatapath>,
    /// Tuples of clients: address, port, and the index of the service.
    pub tuples: Vec<(IpAddr, u16, usize)>,
}

/// An address of a client, a backend or a virtual one by its number.
pub fn client(v6: bool, number: u16) -> IpAddr {
    host(v6, 0xc, 18, number)
}

fn backend(v6: bool, service: u16, number: u16) -> IpAddr {
    host(v6, 0xb, 19, service << 8 | number)
}

fn host(v6: bool, subnet: u16, second: u8, number: u16) -> IpAddr {
    if v6 {
        IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0x18, subnet, number, 0x77, 0, number))
    } else {
        IpAddr::V4(Ipv4Addr::new(198, second, (number >> 8) as u8, number as u8))
    }
}

fn vip(v6: bool, number: u16) -> IpAddr {
    if v6 {
        IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0xf, 0, 0, number, 0xf, 1))
    } else {
        IpAddr::V4(Ipv4Addr::new(203, 0, 113, number as u8))
    }
}

/// Hash keys and tunnels.
fn settings(random: &mut Random) -> Settings {
    Settings {
        hash_keys: HashKeys([random.word(), random.word()]),
        tunnel_ipv4: address(IpAddr::V4(Ipv4Addr::new(172, 16, 0, 0))),
        tunnel_ipv6: address(IpAddr::V6(Ipv6Addr::new(0x100, 0, 0, 0, 0, 0, 0, 0))),
        tunnel_ipv4_hosts: 0xffffu32.to_be(),
        tunnel_ipv6_hosts: u32::MAX,
        gue_port: Port::new(*random.pick(&[6_080, 9_886])),
        answers_per_second: *random.pick(&[0, 3, 1_000_000]),
        pool_first_port: 20_000,
        pool_ports: *random.pick(&[1, 3, 40, 2_000]),
        pool_ipv4: random.between(0, 2) as u8,
        pool_ipv6: random.between(0, 2) as u8,
        ..Settings::default()
    }
}

/// An address of the pool.
fn pool_address(v6: bool, number: u16) -> IpAddr {
    if v6 {
        IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0xf, 1, 0, 0, 0, number))
    } else {
        IpAddr::V4(Ipv4Addr::new(203, 0, 113, 200 + number as u8))
    }
}

fn target(random: &mut Random, program: Settings) -> Target {
    let mut keys = HashSet::new();
    let mut services = Vec::new();
    for number in 0..random.between(2, 8) as u16 {
        let v6 = random.one_in(2);
        let protocol = *random.pick(&[Protocol::Tcp, Protocol::Udp]);
        let address_number = random.between(1, 3) as u16;
        let key = ServiceKey {
            address: address(vip(v6, address_number)),
            port: Port::new(*random.pick(&[53, 80, 443, 4_433])),
            protocol: protocol as u8,
            width: 0,
        };
        if keys.insert(key) {
            services.push(service(random, key, v6, number));
        }
    }
    widen(random, &mut services);
    agree(&mut services);
    let interface = |random: &mut Random, mac, ifindex| Interface {
        mac: Mac::new(mac).word(),
        ifindex,
        mtu: *random.pick(&[576, 1_280, 1_500, 1_500, 9_000]),
    };
    Target {
        services,
        interfaces: vec![
            (0, interface(random, INGRESS_MAC, INGRESS)),
            (1, interface(random, [2, 0, 0, 0, 0, 2], 77)),
            (5, interface(random, [2, 0, 0, 0, 0, 3], 78)),
        ],
        locals: LOCALS.map(address).to_vec(),
        pool: (0..program.pool_ipv4)
            .map(|number| pool_address(false, number.into()))
            .chain((0..program.pool_ipv6).map(|number| pool_address(true, number.into())))
            .map(address)
            .collect(),
        program,
    }
}

/// Has services of one address and protocol treat fragments alike; who goes by addresses is alone. So orders are checked.
fn agree(services: &mut [TargetService]) {
    let place = |service: &TargetService| {
        let width = if service.key.width == 0 { 129 } else { service.key.width };
        (service.key.address, service.key.protocol, width)
    };
    let shared = |address: lb_common::Address| {
        // One of the two that several may have.
        if address.words()[3].to_be() & 1 == 0 { FragmentPolicy::Drop } else { FragmentPolicy::Pass }
    };
    for index in 0..services.len() {
        let others = services.iter().filter(|other| place(other) == place(&services[index]));
        let policy = match (others.count(), services[index].fragments) {
            (1, policy) => policy,
            _ => shared(services[index].key.address),
        };
        let service = &mut services[index];
        service.fragments = policy;
        service.settings.by_address = policy == FragmentPolicy::ByAddress;
        if service.settings.by_address {
            service.settings.quic = QuicScheme::None;
        }
    }
}

/// Makes some services several ports or addresses wide.
fn widen(random: &mut Random, services: &mut [TargetService]) {
    let mut networks = HashSet::new();
    for service in services {
        if !random.one_in(4) {
            continue;
        }
        let keeps = service.settings.mode.keeps_destination();
        let bits = if keeps && random.one_in(2) { 126 } else { 128 };
        let mut key = service.key;
        key.address = key.address.network(bits);
        key.width = bits + 1;
        // One service of a protocol in a network.
        if !networks.insert((key.address, key.width, key.protocol)) {
            continue;
        }
        service.last_port = key.port.number() + random.between(0, 30) as u16;
        service.key = key;
        for backend in &mut service.backends {
            backend.port = Port::new(0);
        }
    }
}

fn service(random: &mut Random, key: ServiceKey, v6: bool, number: u16) -> TargetService {
    let modes =
        [Mode::Nat, Mode::Nat, Mode::FullNat, Mode::FullNat, Mode::DsrL2, Mode::DsrIpip, Mode::DsrGue];
    let mode = *random.pick(&modes);
    let tracking = if random.one_in(6) { Tracking::Connectionless } else { Tracking::OnChange };
    let fragments = *random.pick(&[FragmentPolicy::Drop, FragmentPolicy::Pass, FragmentPolicy::ByAddress]);
    let mut settings = ServiceSettings::new(mode, tracking, *random.pick(&[30, 60, 300]));
    let fragments = if mode == Mode::FullNat && fragments == FragmentPolicy::ByAddress {
        FragmentPolicy::Drop
    } else {
        fragments
    };
    settings.by_address = fragments == FragmentPolicy::ByAddress;
    settings.mss = *random.pick(&[0, 0, 536, 1_400]);
    if key.protocol == Protocol::Udp as u8 && random.one_in(2) {
        settings.quic = *random.pick(&[QuicScheme::QuicLb, QuicScheme::KatranV1, QuicScheme::KatranV2]);
        settings.quic_server_id_len =
            if settings.quic == QuicScheme::QuicLb { random.between(1, 8) as u8 } else { 0 };
        settings.quic_config = random.below(7) as u8;
    }
    let rewrites = matches!(mode, Mode::Nat | Mode::FullNat);
    let port = if rewrites { Port::new(*random.pick(&[8_080, 80, 9_999])) } else { key.port };
    let count = *random.pick(&[0, 1, 2, 2, 3, 5]);
    let backends = (1..=count)
        .map(|index| {
            let family = if matches!(mode, Mode::DsrIpip | Mode::DsrGue) { random.one_in(2) } else { v6 };
            let hop = NextHop {
                mac: Mac::new([2, 1, 0, 0, number as u8, index as u8]),
                interface: if random.one_in(30) { 9 } else { *random.pick(&[0, 0, 1, 5, 5]) },
            };
            TargetBackend {
                server_id: (!random.one_in(4)).then_some(u64::from(index)),
                address: address(backend(family, number, index)),
                port,
                weight: 1,
                state: *random.pick(&[
                    BackendState::Up,
                    BackendState::Up,
                    BackendState::Up,
                    BackendState::Draining,
                    BackendState::Down,
                ]),
                next_hop: (!random.one_in(8)).then_some(hop),
            }
        })
        .collect();
    TargetService {
        key,
        last_port: 0,
        settings,
        fragments,
        answer_arp: random.one_in(2),
        answer_echo: random.one_in(2),
        backends,
    }
}

impl Scene {
    /// A configuration from a seed, at a second of the monotonic clock.
    pub fn new(random: &mut Random, now: u32) -> Result<Self> {
        let capacity = Capacity {
            slots: SLOTS,
            flows: FLOWS,
            translations: TRANSLATIONS,
            backends: BACKENDS,
            services: lb_common::limits::SERVICES,
        };
        let settings = settings(random);
        let mut host = Engine::adopt(MemoryDatapath::new(capacity, settings.hash_keys))?;
        let target = target(random, settings);
        let applied = host.apply(&target, now)?;
        anyhow::ensure!(applied.shortages.is_empty(), "{:?}", applied.shortages);
        host.datapath_mut().features = Features::ALL;
        host.datapath().now_seconds.set(now);
        let mut scene = Self { world: World::default(), host, tuples: Vec::new() };
        scene.world = scene.known(&target, settings, now)?;
        scene.unsettle(random)?;
        scene.choose_tuples(random);
        scene.remember(random);
        Ok(scene)
    }

    fn known(&self, target: &Target, settings: Settings, now: u32) -> Result<World> {
        let installed = self.host.installed();
        let mut world = World {
            ingress: INGRESS,
            now,
            settings,
            backend_ids: BACKENDS,
            interfaces: target.interfaces.iter().copied().collect(),
            locals: LOCALS.to_vec(),
            pool: target.pool.iter().copied().map(ip_addr).collect(),
            flows_max: FLOWS as usize,
            translations_max: TRANSLATIONS as usize,
            ..World::default()
        };
        for (index, wanted) in target.services.iter().enumerate() {
            let known = installed.services.get(&wanted.key).context("a service was not installed")?;
            let key = wanted.key;
            if key.width == 0 {
                world.exact.insert((ip_addr(key.address), key.port.number(), key.protocol), index);
            }
            for backend in &wanted.backends {
                let id = known.backends.get(&(backend.address, backend.port)).context("no id")?;
                let entry = Backend {
                    address: ip_addr(backend.address),
                    port: backend.port.number(),
                    service: known.entry.id,
                    state: backend.state,
                    next_hop: backend.next_hop,
                };
                world.backends.insert(id.0, entry);
                if let Some(server) = backend.server_id
                    && wanted.settings.quic != QuicScheme::None
                {
                    world.quic_servers.insert((known.entry.id, server), id.0);
                }
            }
            world.services.push(Service {
                key,
                last_port: wanted.last_port,
                id: known.entry.id,
                settings: wanted.settings,
                slots: known.slots.clone(),
                fragments: wanted.fragments,
                answers_arp: wanted.answer_arp,
                answers_echo: wanted.answer_echo,
            });
        }
        Ok(world)
    }

    /// Puts every slot into some state.
    fn unsettle(&mut self, random: &mut Random) -> Result<()> {
        let now = self.world.now;
        let all: Vec<u32> = sorted(self.world.backends.keys().copied());
        for index in 0..self.world.services.len() {
            let id = self.world.services[index].id;
            let own = |world: &World| -> Vec<u32> {
                sorted(world.backends.iter().filter(|(_, entry)| entry.service == id).map(|(&id, _)| id))
            };
            let own = own(&self.world);
            let calm = random.one_in(4);
            let mut slots = self.world.services[index].slots.clone();
            for slot in &mut slots {
                if calm {
                    continue;
                }
                let of = |random: &mut Random, beyond: u32| match random.below(12) {
                    0 => 0,
                    1 => beyond,
                    _ if own.is_empty() => 0,
                    _ => *random.pick(&own),
                };
                let current = of(random, 0xf_ffff);
                let previous = if all.is_empty() { 0 } else { *random.pick(&all) };
                let previous = if random.one_in(4) { previous } else { of(random, 0xf_fffe) };
                let state = *random.pick(&[SlotState::Settled, SlotState::Moving, SlotState::Pinned]);
                let ago = *random.pick(&[0, 1, 2, 3, 4, 5, 30, 400]);
                *slot = Slot::new(BackendId(current), BackendId(previous), state, now.wrapping_sub(ago));
            }
            let start = self.host.installed().services[&self.world.services[index].key].entry.slots_start;
            self.host.datapath_mut().apply(&Change::WriteSlots(start, slots.clone()))?;
            self.world.services[index].slots = slots;
        }
        Ok(())
    }

    fn choose_tuples(&mut self, random: &mut Random) {
        for _ in 0..200 {
            let index = random.below(self.world.services.len());
            let service = &self.world.services[index];
            let v6 = !service.key.address.is_ipv4();
            let own: BTreeMap<u32, IpAddr> = self
                .world
                .backends
                .iter()
                .filter(|(_, entry)| entry.service == service.id && entry.address.is_ipv6() == v6)
                .map(|(&id, entry)| (id, entry.address))
                .collect();
            let own: Vec<IpAddr> = own.into_values().collect();
            // A backend may be a client of its own service.
            let source = match random.below(12) {
                0 if !own.is_empty() => *random.pick(&own),
                _ => client(v6, random.between(1, 400) as u16),
            };
            self.tuples.push((source, random.between(1_024, 65_535) as u16, index));
        }
    }

    /// The tuple as the flow table has it.
    pub fn key(&self, tuple: (IpAddr, u16, usize)) -> lb_common::FlowKey {
        let service = &self.world.services[tuple.2];
        let vip = ip_addr(service.key.address);
        if service.settings.by_address {
            return flow_key(tuple.0, 0, vip, 0, service.key.protocol);
        }
        flow_key(tuple.0, tuple.1, vip, service.key.port.number(), service.key.protocol)
    }

    fn remember(&mut self, random: &mut Random) {
        let count = *random.pick(&[0, 20, FLOWS as usize - 3, FLOWS as usize]);
        let ids: Vec<u32> = sorted(self.world.backends.keys().copied());
        for tuple in self.tuples.clone() {
            if self.world.flows.len() >= count || ids.is_empty() {
                break;
            }
            let key = self.key(tuple);
            let service = &self.world.services[tuple.2];
            let own: Vec<u32> =
                ids.iter().copied().filter(|id| self.world.backends[id].service == service.id).collect();
            let backend =
                if own.is_empty() || random.one_in(8) { *random.pick(&ids) } else { *random.pick(&own) };
            let own_tag = tag(flow_hash(self.world.settings.hash_keys, &key));
            let flow_tag = if random.one_in(12) { !own_tag } else { own_tag };
            let state = *random.pick(&[
                FlowState::Opening,
                FlowState::Established,
                FlowState::Established,
                FlowState::Closing,
                FlowState::Reset,
            ]);
            let idle = service.settings.flow_idle_seconds;
            let ago = *random.pick(&[0, 0, 1, 5, 9, 10, 11, 59, 60, 61, 119, 121, idle, idle + 1, idle + 50]);
            let seen = self.world.now.wrapping_sub(ago);
            self.world.flows.insert(key, Flow::new(BackendId(backend), flow_tag, seen, state));
        }
        *self.host.datapath().flows.borrow_mut() = self.world.flows.clone();
    }
}

/// Maps have no order; seeds must.
fn sorted(numbers: impl Iterator<Item = u32>) -> Vec<u32> {
    let mut numbers: Vec<u32> = numbers.collect();
    numbers.sort_unstable();
    numbers
}
