//! Targets, empty tables, and the kinds of changes.

use std::collections::BTreeSet;

use lb_common::{
    Address, BackendState, FragmentPolicy, HashKeys, Interface, Mac, Mode, NextHop, Port, ServiceKey,
    ServiceSettings, Tracking,
};
use lb_control::{
    datapath::{Capacity, Change, memory::MemoryDatapath},
    engine::Engine,
    plan::Installed,
    target::{Target, TargetBackend, TargetService},
};

/// Of every test's tables.
pub const CAPACITY: Capacity =
    Capacity { slots: 262_144, flows: 200_000, translations: 1_024, backends: 1_024, services: 16 };

/// A service of 10.0.0.1.
pub fn key(port: u16) -> ServiceKey {
    ServiceKey { address: Address::from_ipv4([10, 0, 0, 1]), port: Port::new(port), protocol: 6, width: 0 }
}

/// 10.1.x.y:8080.
pub fn backend(id: u32, state: BackendState) -> TargetBackend {
    TargetBackend {
        max_connections: 0,
        server_id: None,
        address: Address::from_ipv4([10, 1, (id >> 8) as u8, id as u8]),
        port: Port::new(8_080),
        weight: 1,
        share: 1,
        resets: false,
        state,
        next_hop: Some(NextHop { mac: Mac::new([2, 0, 0, 0, (id >> 8) as u8, id as u8]), interface: 0 }),
    }
}

/// Mode `nat`, with these backends.
pub fn service(port: u16, backends: impl IntoIterator<Item = u32>) -> TargetService {
    TargetService {
        key: key(port),
        last_port: 0,
        settings: ServiceSettings::new(Mode::Nat, Tracking::OnChange, 60),
        fragments: FragmentPolicy::Drop,
        answer_echo: false,
        answer_arp: true,
        backends: backends.into_iter().map(|id| backend(id, BackendState::Up)).collect(),
    }
}

/// These services, one interface, one address of the balancer.
pub fn target(services: Vec<TargetService>) -> Target {
    Target {
        services: services.into_iter().map(Into::into).collect(),
        interfaces: vec![(0, Interface { mac: Mac::new([2, 0, 0, 0, 0, 1]).word(), ifindex: 1, mtu: 1_500 })],
        locals: vec![Address::from_ipv4([10, 0, 0, 254])],
        ..Target::default()
    }
}

/// Empty tables.
pub fn nothing_installed() -> Installed {
    Installed::adopt(Default::default(), CAPACITY).expect("nothing overlaps")
}

/// Over memory.
pub fn engine() -> Engine<MemoryDatapath> {
    Engine::adopt(MemoryDatapath::new(CAPACITY, HashKeys([3, 5]))).expect("nothing overlaps")
}

/// The kinds of changes, each once, in the order of their first appearance.
pub fn kinds(changes: &[Change]) -> Vec<&'static str> {
    let mut seen = BTreeSet::new();
    changes
        .iter()
        .map(|change| match change {
            Change::Enable(..) => "features",
            Change::PutSettings(..) => "settings",
            Change::PutPool(..) => "pool",
            Change::PutWide(..) => "wide",
            Change::DeleteWide(..) => "-wide",
            Change::PutQuicServer(..) => "quic",
            Change::DeleteQuicServer(..) => "-quic",
            Change::PutInterface(..) => "interface",
            Change::DeleteInterface(..) => "-interface",
            Change::PutLocal(..) => "local",
            Change::DeleteLocal(..) => "-local",
            Change::PutBackend(..) => "backend",
            Change::SetBackendState(_, BackendState::Down) => "down",
            Change::SetBackendState(..) => "state",
            Change::SetShare(..) => "share",
            Change::SetNextHop(..) => "next hop",
            Change::FreeBackend(..) => "-backend",
            Change::PutReply(..) => "reply",
            Change::DeleteReply(..) => "-reply",
            Change::WriteSlots(..) => "slots",
            Change::PutService(..) => "service",
            Change::DeleteService(..) => "-service",
            Change::PutVirtualAddress(..) => "vip",
            Change::DeleteVirtualAddress(..) => "-vip",
            Change::DeleteFlows(..) => "-flows",
            Change::DeleteTranslations(..) => "-translations",
        })
        .filter(|kind| seen.insert(*kind))
        .collect()
}
