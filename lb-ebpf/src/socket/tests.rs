//! Sockets over tables in plain memory.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeSet,
};

use lb_common::{BackendState, Mode, PortRange, ServiceSettings, Tracking};

use super::*;

const SLOTS: u32 = 1_024;

/// One exact service, one of several ports, and their backends.
struct World {
    wide: Wide,
    backends: Vec<Backend>,
    /// Owner of each slot.
    owners: Vec<u32>,
    random: Cell<u32>,
    cookie: Cell<u64>,
    peers: RefCell<Vec<(Peer, Endpoint)>>,
    service: Service,
}

fn v4(last: u8) -> Address {
    Address::from_ipv4([10, 0, 0, last])
}

fn v6(last: u8) -> Address {
    Address::from_words([0xfd, 0, 0, u32::from_ne_bytes([0, 0, 0, last])])
}

fn at(address: Address, port: u16) -> Endpoint {
    Endpoint::new(address, Port::new(port))
}

impl World {
    /// Slots belong to the backends in turn.
    fn new(backends: &[(Endpoint, BackendState)]) -> Self {
        let entry = |(at, state): &(Endpoint, BackendState)| Backend {
            address: at.address,
            port: at.port,
            state: state.word(),
            ..Backend::default()
        };
        let count = backends.len() as u32;
        let settings = ServiceSettings::new(Mode::Nat, Tracking::OnChange, 300);
        let mut wide = Wide { network: v4(0).network(120), protocol: 6, width: 121, ..Wide::default() };
        wide.ranges[0] = PortRange { first: 8_000, last: 8_999 };
        Self {
            wide,
            backends: std::iter::once(Backend::default()).chain(backends.iter().map(entry)).collect(),
            owners: (0..SLOTS).map(|slot| if count == 0 { 0 } else { 1 + slot % count }).collect(),
            random: Cell::new(0),
            cookie: Cell::new(1),
            peers: RefCell::default(),
            service: Service::new(1, 0, SLOTS, settings),
        }
    }

    fn all_owned_by(mut self, backend: u32) -> Self {
        self.owners.fill(backend);
        self
    }

    /// Every destination that a thousand sockets are turned to.
    fn turns(&self, protocol: Protocol, to: Endpoint, reach: Reach) -> Vec<Turn> {
        let one = |number: u32| {
            self.random.set(number.wrapping_mul(2_654_435_761));
            self.cookie.set(u64::from(number));
            turn(self, protocol, &to, reach)
        };
        (1..=1_000).map(one).collect()
    }
}

impl Tables for World {
    fn service(&self, key: &ServiceKey) -> Option<&Service> {
        let exact = |port| ServiceKey { address: v4(100), port, protocol: key.protocol, width: 0 };
        let wide = self.wide.service_key(8_000).expect("in the range");
        (*key == exact(Port::new(80)) || *key == wide).then_some(&self.service)
    }
    fn wide(&self, protocol: Protocol, address: &Address) -> Option<&Wide> {
        (protocol == Protocol::Tcp && address.network(120) == self.wide.network).then_some(&self.wide)
    }
    fn slot(&self, index: u32) -> Option<Slot> {
        self.owners.get(index as usize).map(|owner| Slot::settled(BackendId(*owner)))
    }
    fn backend(&self, id: BackendId) -> Option<&Backend> {
        self.backends.get(id.0 as usize)
    }
    fn random(&self) -> u32 {
        self.random.get()
    }
    fn cookie(&self) -> u64 {
        self.cookie.get()
    }
    fn remember(&self, peer: &Peer, service: &Endpoint) {
        self.peers.borrow_mut().push((*peer, *service));
    }
    fn recall(&self, peer: &Peer) -> Option<Endpoint> {
        let peers = self.peers.borrow();
        peers.iter().rev().find(|(known, _)| known == peer).map(|(_, service)| *service)
    }
}

const UP: BackendState = BackendState::Up;
const DOWN: BackendState = BackendState::Down;

#[test]
fn what_is_no_service_stays() {
    let world = World::new(&[(at(v4(1), 8080), UP)]);
    for (protocol, to) in [
        (Protocol::Tcp, at(v4(100), 81)),
        (Protocol::Tcp, at(Address::from_ipv4([10, 0, 1, 100]), 80)),
        (Protocol::Tcp, at(v4(7), 7_999)),
        (Protocol::Udp, at(v4(7), 8_000)),
        (Protocol::Tcp, at(v6(100), 80)),
    ] {
        assert_eq!(turn(&world, protocol, &to, Reach::Both), Turn::Stay, "{protocol:?} {to:?}");
    }
    assert!(world.peers.borrow().is_empty());
}

#[test]
fn sockets_spread_over_backends_that_serve() {
    let world = World::new(&[
        (at(v4(1), 8080), UP),
        (at(v4(2), 8080), BackendState::Draining),
        (at(v4(3), 8080), DOWN),
        (at(v4(4), 9090), UP),
    ]);
    for protocol in [Protocol::Tcp, Protocol::Udp] {
        let turns = world.turns(protocol, at(v4(100), 80), Reach::Ipv4);
        for (backend, least) in [(at(v4(1), 8080), 200), (at(v4(2), 8080), 200), (at(v4(4), 9090), 200)] {
            let count = turns.iter().filter(|turn| **turn == Turn::To(backend)).count();
            assert!(count >= least, "{protocol:?}: {backend:?} {count} times");
        }
        assert!(!turns.contains(&Turn::To(at(v4(3), 8080))), "{protocol:?}: one that is down");
        assert!(turns.iter().filter(|turn| **turn == Turn::Nobody).count() < 5, "{protocol:?}");
    }
}

#[test]
fn a_service_without_backends_refuses() {
    for world in [
        World::new(&[]),
        World::new(&[(at(v4(3), 8080), DOWN)]),
        World::new(&[(at(v4(1), 8080), UP)]).all_owned_by(0),
        World::new(&[(at(v4(1), 8080), UP)]).all_owned_by(9),
    ] {
        assert_eq!(turn(&world, Protocol::Tcp, &at(v4(100), 80), Reach::Ipv4), Turn::Nobody);
        assert!(world.peers.borrow().is_empty());
    }
}

#[test]
fn datagrams_of_one_socket_stay_and_connections_do_not() {
    let world = World::new(&[(at(v4(1), 80), UP), (at(v4(2), 80), UP)]);
    let to = at(v4(100), 80);
    let different = |protocol: Protocol| {
        let one = |number: u32| {
            world.random.set(number << 12);
            format!("{:?}", turn(&world, protocol, &to, Reach::Ipv4))
        };
        (0..100).map(one).collect::<BTreeSet<_>>().len()
    };
    world.cookie.set(77);
    assert_eq!((different(Protocol::Udp), different(Protocol::Tcp)), (1, 2));
}

#[test]
fn services_of_several_ports_keep_the_port() {
    let world = World::new(&[(at(v4(1), 0), UP)]);
    let turned = turn(&world, Protocol::Tcp, &at(v4(7), 8_123), Reach::Ipv4);
    assert_eq!(turned, Turn::To(at(v4(1), 8_123)));
}

#[test]
fn a_socket_is_turned_to_what_it_can_reach() {
    let world = World::new(&[(at(v4(1), 80), UP), (at(v6(1), 80), UP)]);
    for (reach, v4_too, v6_too) in
        [(Reach::Ipv4, true, false), (Reach::Ipv6, false, true), (Reach::Both, true, true)]
    {
        let turns = world.turns(Protocol::Tcp, at(v4(100), 80), reach);
        assert_eq!(turns.contains(&Turn::To(at(v4(1), 80))), v4_too, "{reach:?}");
        assert_eq!(turns.contains(&Turn::To(at(v6(1), 80))), v6_too, "{reach:?}");
    }
}

#[test]
fn only_the_socket_that_meant_a_service_sees_it() {
    let world = World::new(&[(at(v4(1), 8080), UP)]);
    let (service, backend) = (at(v4(100), 80), at(v4(1), 8080));
    world.cookie.set(5);
    assert_eq!(meant(&world, Protocol::Udp, &backend), None, "before it sent anything");
    turn(&world, Protocol::Udp, &service, Reach::Ipv4);
    assert_eq!(meant(&world, Protocol::Udp, &backend), Some(service));
    assert_eq!(meant(&world, Protocol::Tcp, &backend), None, "by another protocol");
    assert_eq!(meant(&world, Protocol::Udp, &at(v4(1), 8081)), None, "from another port");
    world.cookie.set(6);
    assert_eq!(meant(&world, Protocol::Udp, &backend), None, "another socket");
}
