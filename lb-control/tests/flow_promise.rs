//! The flow promise as a property, over the shipped planner, settling and packet code:
//!
//! *as long as a backend serves, every packet of a flow that is never idle longer than the flow timeout
//! reaches the same backend, through any sequence of adding, draining, removing others, re-weighting, flapping,
//! growth of the table, a full flow table, spoofed SYNs and restarts of the controller.*

use std::collections::BTreeMap;

use lb_common::{
    Address, BackendState, FragmentPolicy, HashKeys, Interface, Mac, Mode, NextHop, Port, Protocol, Reason,
    ServiceKey, ServiceSettings, Tracking,
};
use lb_control::{
    datapath::{Capacity, memory::MemoryDatapath},
    engine::Engine,
    target::{Target, TargetBackend, TargetService},
};
use proptest::prelude::*;

const IDLE_SECONDS: u32 = 30;
const VIP: [u8; 4] = [10, 0, 0, 1];

/// What an operator, the health checks or fate may do.
#[derive(Clone, Debug)]
enum Event {
    Add,
    AddMany,
    Remove(usize),
    Drain(usize),
    Undrain(usize),
    Fail(usize),
    Recover(usize),
    Weigh(usize, u32),
    RestartController,
    Pass(u32),
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let which = 0..64usize;
    let event = prop_oneof![
        3 => Just(Event::Add),
        1 => Just(Event::AddMany),
        1 => which.clone().prop_map(Event::Remove),
        3 => which.clone().prop_map(Event::Drain),
        3 => which.clone().prop_map(Event::Undrain),
        3 => which.clone().prop_map(Event::Fail),
        4 => which.clone().prop_map(Event::Recover),
        3 => (which, 0..5u32).prop_map(|(which, weight)| Event::Weigh(which, weight)),
        1 => Just(Event::RestartController),
        12 => (1..8u32).prop_map(Event::Pass),
        4 => (20..70u32).prop_map(Event::Pass),
    ];
    prop::collection::vec(event, 1..120)
}

struct Backend {
    weight: u32,
    draining: bool,
    failed: bool,
}

struct Flow {
    port: u16,
    client: u32,
    /// The backend that is promised: of its first packet, or of the first one after that stopped serving.
    backend: Option<u32>,
    next_packet: u32,
    gap: u32,
    end: u32,
    /// A lost SYN-ACK: the SYN comes again after a second.
    syn_again: bool,
}

struct Simulation {
    engine: Option<Engine<MemoryDatapath>>,
    backends: BTreeMap<u32, Backend>,
    next_backend: u32,
    flows: Vec<Flow>,
    now: u32,
    random: u64,
    spoofed_per_second: u32,
    protocol: Protocol,
    packets: u64,
}

impl Simulation {
    fn new(seed: u64, protocol: Protocol, flow_capacity: u32, spoofed_per_second: u32) -> Self {
        let capacity =
            Capacity { slots: 65_536, flows: flow_capacity, translations: 0, backends: 512, services: 4 };
        let datapath = MemoryDatapath::new(capacity, HashKeys([seed | 1, !seed]));
        let mut simulation = Self {
            engine: Some(Engine::adopt(datapath).expect("empty tables can be adopted")),
            backends: BTreeMap::new(),
            next_backend: 1,
            flows: Vec::new(),
            now: 1_000,
            random: seed,
            spoofed_per_second,
            protocol,
            packets: 0,
        };
        for _ in 0..6 {
            simulation.add();
        }
        simulation.publish();
        simulation
    }

    fn random(&mut self, below: u32) -> u32 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let word = (self.random ^ (self.random >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        ((word ^ (word >> 31)) >> 33) as u32 % below
    }

    fn add(&mut self) {
        if self.backends.len() < 48 {
            self.backends.insert(self.next_backend, Backend { weight: 2, draining: false, failed: false });
            self.next_backend += 1;
        }
    }

    fn apply(&mut self, event: &Event) {
        let pick = |which: &usize, backends: &BTreeMap<u32, Backend>| {
            backends.keys().nth(which % backends.len().max(1)).copied()
        };
        match event {
            Event::Add => self.add(),
            Event::AddMany => (0..12).for_each(|_| self.add()),
            Event::Remove(which) => {
                if let Some(id) = pick(which, &self.backends) {
                    self.backends.remove(&id);
                }
            }
            Event::RestartController => {
                let datapath = self.engine.take().expect("there is always one").into_datapath();
                self.engine = Some(Engine::adopt(datapath).expect("what is installed can be adopted"));
            }
            Event::Pass(seconds) => return (0..*seconds).for_each(|_| self.second()),
            Event::Drain(which)
            | Event::Undrain(which)
            | Event::Fail(which)
            | Event::Recover(which)
            | Event::Weigh(which, _) => {
                if let Some(id) = pick(which, &self.backends) {
                    let backend = self.backends.get_mut(&id).expect("just picked");
                    match event {
                        Event::Drain(_) => backend.draining = true,
                        Event::Undrain(_) => backend.draining = false,
                        Event::Fail(_) => backend.failed = true,
                        Event::Recover(_) => backend.failed = false,
                        Event::Weigh(_, weight) => backend.weight = *weight,
                        _ => unreachable!("matched above"),
                    }
                }
            }
        }
        // Flows of a backend that stopped serving go elsewhere, wherever that is.
        for flow in &mut self.flows {
            if flow.backend.is_some_and(|id| self.backends.get(&id).is_none_or(|backend| backend.failed)) {
                flow.backend = None;
            }
        }
        self.publish();
    }

    fn publish(&mut self) {
        let backends = self
            .backends
            .iter()
            .map(|(&id, backend)| TargetBackend {
                max_connections: 0,
                server_id: None,
                address: backend_address(id),
                port: Port::new(8_080),
                weight: backend.weight,
                share: backend.weight,
                resets: false,
                state: match (backend.failed, backend.draining) {
                    (true, _) => BackendState::Down,
                    (false, true) => BackendState::Draining,
                    (false, false) => BackendState::Up,
                },
                next_hop: Some(NextHop { mac: Mac::new([2, 0, 0, 0, 1, id as u8]), interface: 0 }),
            })
            .collect();
        let target = Target {
            services: vec![
                TargetService {
                    key: ServiceKey {
                        address: Address::from_ipv4(VIP),
                        port: Port::new(80),
                        protocol: self.protocol as u8,
                        width: 0,
                    },
                    last_port: 0,
                    settings: ServiceSettings::new(Mode::Nat, Tracking::OnChange, IDLE_SECONDS),
                    fragments: FragmentPolicy::Drop,
                    answer_echo: false,
                    answer_arp: true,
                    backends,
                }
                .into(),
            ],
            interfaces: vec![(
                0,
                Interface { mac: Mac::new([2, 0, 0, 0, 0, 1]).word(), ifindex: 1, mtu: 1_500 },
            )],
            locals: vec![],
            ..Target::default()
        };
        let applied = self
            .engine
            .as_mut()
            .expect("there is always one")
            .apply(&target, self.now)
            .expect("memory does not fail");
        assert!(applied.shortages.is_empty(), "{:?}", applied.shortages);
    }

    /// One second: the sweep, spoofed SYNs, new flows, packets of old ones.
    fn second(&mut self) {
        self.now += 1;
        let engine = self.engine.as_mut().expect("there is always one");
        engine.datapath().now_seconds.set(self.now);
        engine.settle(self.now).expect("memory does not fail");
        for _ in 0..self.spoofed_per_second {
            let (client, port) = (0xc633_0000 | self.random(65_536), 1_024 + self.random(60_000) as u16);
            self.send(client, port, Tcp::Syn);
        }
        for _ in 0..3 {
            // Few tuples, so that clients reuse those of flows that ended.
            let (client, port) = (0x0a63_0000 | self.random(16), 1_024 + self.random(64) as u16);
            if self.flows.iter().any(|flow| (flow.client, flow.port) == (client, port)) {
                continue;
            }
            let backend = self.send(client, port, Tcp::Syn);
            let gap = if self.random(5) == 0 { IDLE_SECONDS } else { 1 + self.random(10) };
            let syn_again = self.random(4) == 0;
            let next_packet = self.now + if syn_again { 1 + self.random(2) } else { 1 + self.random(gap) };
            let end = self.now + 2 + self.random(6 * IDLE_SECONDS);
            self.flows.push(Flow { port, client, backend, next_packet, gap, end, syn_again });
        }
        for index in 0..self.flows.len() {
            if self.flows[index].next_packet == self.now {
                self.packet(index);
            }
        }
        let now = self.now;
        self.flows.retain(|flow| flow.end > now || flow.next_packet > now);
    }

    fn packet(&mut self, index: usize) {
        let flow = &self.flows[index];
        let kind = match (flow.syn_again, flow.end <= self.now) {
            (true, _) => Tcp::Syn,
            (false, true) => Tcp::Fin,
            (false, false) => Tcp::Ack,
        };
        let (client, port, expected) = (flow.client, flow.port, flow.backend);
        let backend = self.send(client, port, kind);
        // Not promised: a SYN that the full table refused went to the old owner, and its retransmission, should
        // there be room by then, opens the flow at the new one.
        let is_syn = matches!((self.protocol, kind), (Protocol::Tcp, Tcp::Syn));
        let reopened = self.spoofed_per_second > 0 && is_syn;
        if reopened || expected.is_none() {
            // Resteered away from a backend that failed, the flow is promised its new one.
            self.flows[index].backend = backend;
        } else if let Some(expected) = expected {
            assert_eq!(
                backend,
                Some(expected),
                "second {}: a packet ({kind:?}) of a flow left its backend",
                self.now
            );
        }
        let wait = 1 + self.random(self.flows[index].gap);
        let flow = &mut self.flows[index];
        flow.syn_again = false;
        if flow.end > self.now {
            flow.next_packet = self.now + wait;
        }
    }

    /// The backend that a client's packet is sent to.
    fn send(&mut self, client: u32, port: u16, kind: Tcp) -> Option<u32> {
        self.packets += 1;
        let mut packet = match self.protocol {
            Protocol::Tcp => tcp(client, port, kind).to_vec(),
            Protocol::Udp => udp(client, port).to_vec(),
        };
        let verdict = self.engine.as_ref().expect("there is always one").datapath().process(&mut packet);
        match verdict.reason {
            Reason::Forwarded => Some(packet[33] as u32 | (packet[32] as u32) << 8),
            Reason::NoBackend => None,
            other => panic!("{other:?}"),
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum Tcp {
    Syn,
    Ack,
    Fin,
}

fn backend_address(id: u32) -> Address {
    Address::from_ipv4([10, 1, (id >> 8) as u8, id as u8])
}

fn tcp(client: u32, port: u16, kind: Tcp) -> [u8; 54] {
    let mut packet = [0; 54];
    packet[12..14].copy_from_slice(&[8, 0]);
    packet[14..18].copy_from_slice(&[0x45, 0, 0, 40]);
    packet[22] = 64;
    packet[23] = 6;
    packet[26..30].copy_from_slice(&client.to_be_bytes());
    packet[30..34].copy_from_slice(&VIP);
    packet[34..36].copy_from_slice(&port.to_be_bytes());
    packet[36..38].copy_from_slice(&80u16.to_be_bytes());
    packet[46] = 0x50;
    packet[47] = match kind {
        Tcp::Syn => 0x02,
        Tcp::Ack => 0x10,
        Tcp::Fin => 0x11,
    };
    packet
}

/// The same as a datagram.
fn udp(client: u32, port: u16) -> [u8; 54] {
    let mut packet = tcp(client, port, Tcp::Ack);
    packet[23] = 17;
    packet[38..40].copy_from_slice(&20u16.to_be_bytes());
    packet
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 160, max_shrink_iters: 4_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_flow_stays_with_its_backend(events in events(), seed in any::<u64>()) {
        let mut simulation = Simulation::new(seed, Protocol::Tcp, 100_000, 0);
        events.iter().for_each(|event| simulation.apply(event));
    }

    #[test]
    fn a_flow_stays_with_its_backend_while_the_table_is_full(events in events(), seed in any::<u64>()) {
        let mut simulation = Simulation::new(seed, Protocol::Tcp, 40, 6);
        events.iter().for_each(|event| simulation.apply(event));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, max_shrink_iters: 4_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn datagrams_stay_with_their_backend(events in events(), seed in any::<u64>()) {
        let mut simulation = Simulation::new(seed, Protocol::Udp, 100_000, 0);
        events.iter().for_each(|event| simulation.apply(event));
    }

    #[test]
    fn datagrams_stay_with_their_backend_while_the_table_is_full(events in events(), seed in any::<u64>()) {
        let mut simulation = Simulation::new(seed, Protocol::Udp, 40, 6);
        events.iter().for_each(|event| simulation.apply(event));
    }
}

/// Nothing stays behind: after the churn every slot settles, no flow is remembered and no id is lost.
#[test]
fn everything_comes_to_rest() {
    let mut simulation = Simulation::new(7, Protocol::Tcp, 100_000, 0);
    for round in 0..40 {
        simulation.apply(&Event::AddMany);
        simulation.apply(&Event::Pass(3));
        simulation.apply(&Event::Remove(round));
        simulation.apply(&Event::Drain(round * 7));
        simulation.apply(&Event::Fail(round * 5));
        simulation.apply(&Event::Pass(5));
        simulation.apply(&Event::Recover(round * 5));
    }
    simulation.flows.clear();
    for _ in 0..4 * IDLE_SECONDS {
        simulation.now += 1;
        let engine = simulation.engine.as_mut().expect("there is always one");
        engine.datapath().now_seconds.set(simulation.now);
        engine.settle(simulation.now).expect("memory does not fail");
    }
    let engine = simulation.engine.as_ref().expect("there is always one");
    assert_eq!(engine.datapath().flow_count(), 0);
    assert_eq!(engine.installed().backends.len(), simulation.backends.len());
    for service in engine.installed().services.values() {
        assert!(service.slots.iter().all(|slot| slot.state() == lb_common::SlotState::Settled));
    }
    assert!(simulation.packets > 500, "the simulation sent {} packets", simulation.packets);
}
