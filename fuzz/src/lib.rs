//! Tables that the targets of the packet path share: a service of every mode and family, and a QUIC service.

use lb_common::{
    Address, BackendState, Features, FragmentPolicy, HashKeys, Interface, Mac, Mode, NextHop, Port, Protocol,
    QuicScheme, ServiceKey, ServiceSettings, Settings, Tracking,
};
use lb_control::{
    datapath::{Capacity, memory::MemoryDatapath},
    engine::Engine,
    target::{Target, TargetBackend, TargetService},
};

const MODES: [Mode; 5] = [Mode::Nat, Mode::FullNat, Mode::DsrL2, Mode::DsrIpip, Mode::DsrGue];

fn address(v6: bool, kind: u8, number: u8) -> Address {
    if v6 {
        let first = u32::from_ne_bytes([0x20, 0x01, 0x0d, 0xb8]);
        Address::from_words([
            first,
            u32::from_ne_bytes([0, kind, 0, 0]),
            0,
            u32::from_ne_bytes([0, 0, 0, number]),
        ])
    } else {
        Address::from_ipv4([203, 0, kind, number])
    }
}

fn service(v6: bool, protocol: Protocol, mode: Mode, number: u8) -> TargetService {
    let mut settings = ServiceSettings::new(mode, Tracking::OnChange, 60);
    settings.mss = 1_400;
    if protocol == Protocol::Udp {
        settings.quic = QuicScheme::QuicLb;
        settings.quic_server_id_len = 1;
    }
    let backends = (1..=2).map(|index| TargetBackend {
max_connections: 0,         server_id: Some(index.into()),
        address: address(v6, number + 10, index),
        port: Port::new(80),
        weight: 1,
        share: 1,
        resets: false,
        state: BackendState::Up,
        next_hop: Some(NextHop { mac: Mac::new([2, 0, 0, 0, number, index]), interface: (index % 2).into() }),
    });
    TargetService {
        key: ServiceKey {
            address: address(v6, 1, number),
            port: Port::new(80),
            protocol: protocol as u8,
            width: 0,
        },
        last_port: 0,
        settings,
        fragments: FragmentPolicy::Pass,
        answer_arp: true,
        answer_echo: true,
        backends: backends.collect(),
    }
}

/// The tables, as a controller installs them.
pub fn tables() -> MemoryDatapath {
    let capacity = Capacity { slots: 32 * 1_024, flows: 64, translations: 64, backends: 256, services: 64 };
    let keys = HashKeys([1, 2]);
    let mut services = Vec::new();
    for v6 in [false, true] {
        for (number, mode) in (1..).zip(MODES) {
            for protocol in [Protocol::Tcp, Protocol::Udp] {
                services.push(service(v6, protocol, mode, number));
            }
        }
    }
    let interface = |mac, ifindex, mtu| Interface { mac: Mac::new(mac).word(), ifindex, mtu };
    let target = Target {
        services: services.into_iter().map(Into::into).collect(),
        interfaces: vec![
            (0, interface([2, 0, 0, 0, 0, 1], 1, 1_500)),
            (1, interface([2, 0, 0, 0, 0, 2], 77, 600)),
        ],
        pool: vec![address(false, 2, 1), address(true, 2, 1)],
        program: Settings {
            hash_keys: keys,
            tunnel_ipv4: address(false, 3, 0),
            tunnel_ipv6: address(true, 3, 0),
            pool_first_port: 20_000,
            pool_ports: 64,
            pool_ipv4: 1,
            pool_ipv6: 1,
            answers_per_second: u32::MAX,
            ..Settings::default()
        },
        ..Target::default()
    };
    let mut engine = Engine::adopt(MemoryDatapath::new(capacity, keys)).expect("empty tables");
    engine.apply(&target, 1).expect("memory refuses nothing");
    let mut tables = engine.into_datapath();
    tables.features = Features::ALL;
    tables
}

/// Takes a frame through the path: it ends, in one counted reason, and is not longer than what is put in front.
pub fn run(tables: &MemoryDatapath, frame: &[u8]) {
    use lb_control::datapath::Datapath as _;
    const PUT_IN_FRONT_MOST: usize = 48;
    let sum = || tables.reason_counters().expect("memory").iter().sum::<u64>();
    let before = sum();
    let mut bytes = frame.to_vec();
    tables.process(&mut bytes);
    assert_eq!(sum(), before + 1, "one packet, one reason");
    assert!(bytes.len() <= frame.len() + PUT_IN_FRONT_MOST, "{} bytes became {}", frame.len(), bytes.len());
}
