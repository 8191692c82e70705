//! Random orders: what a controller would be told to install. Pure.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use lb_common::{
    Algorithm, BackendState, FragmentPolicy, HashKeys, Interface, Mac, Mode, NextHop, Port, Protocol,
    QuicScheme, ServiceKey, ServiceSettings, Settings, Tracking,
};
use lb_control::target::{Target, TargetBackend, TargetService};

use super::random::Random;
use super::scene::{INGRESS, INGRESS_MAC, LOCALS};
use super::world::address;

fn backend(v6: bool, service: u16, number: u16) -> IpAddr {
    host(v6, 0xb, 19, service << 8 | number)
}

/// A host's address: the subnet of its family, and its number there.
pub fn host(v6: bool, subnet: u16, second: u8, number: u16) -> IpAddr {
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

/// Hash keys, tunnels and the pool.
pub fn settings(random: &mut Random) -> Settings {
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

/// What to install, with these settings.
pub fn target(random: &mut Random, program: Settings) -> Target {
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
        services: services.into_iter().map(Into::into).collect(),
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
    if random.one_in(3) {
        settings.algorithm = Algorithm::SourceHash;
        settings.client_bits = *random.pick(if v6 { &[56, 64, 128] } else { &[112, 120, 128] });
    }
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
                max_connections: 0,
                server_id: (!random.one_in(4)).then_some(u64::from(index)),
                address: address(backend(family, number, index)),
                port,
                weight: 1,
                share: 1,
                resets: false,
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
