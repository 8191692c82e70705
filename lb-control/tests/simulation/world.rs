//! A balancer with one service: the engine over plain memory, what is desired of it, and packets through the shipped path.

use std::collections::BTreeMap;

use lb_common::{
    Address, BackendId, BackendState, FlowKey, FragmentPolicy, HashKeys, Interface, Mac, Mode, NextHop, Port,
    Protocol, Reason, ServiceKey, ServiceSettings, Slot, SlotState, Tracking, hash::flow_hash,
};
use lb_control::{
    datapath::{Capacity, memory::MemoryDatapath},
    engine::{Applied, Engine},
    plan::InstalledService,
    target::{Target, TargetBackend, TargetService},
};
use lb_ebpf::{packet::Buffer, pipeline::process};

use crate::random::Random;

pub const VIP: [u8; 4] = [10, 0, 0, 1];
/// Of the services that are simulated.
pub const IDLE_SECONDS: u32 = 30;

/// What is desired of a backend, and whether it is healthy.
#[derive(Clone, Debug)]
pub struct Backend {
    pub weight: u32,
    /// Of its weight, so many hundredths decide how often it stands in the table: less than all while it starts.
    pub started: u32,
    pub draining: bool,
    pub failed: bool,
}

impl Backend {
    pub fn of_weight(weight: u32) -> Self {
        Self { weight, started: 100, draining: false, failed: false }
    }

    pub fn state(&self) -> BackendState {
        match (self.failed, self.draining) {
            (true, _) => BackendState::Down,
            (false, true) => BackendState::Draining,
            (false, false) => BackendState::Up,
        }
    }
}

/// Which packet a client sends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    Syn,
    /// In mid-flow; of UDP, every one.
    Data,
    Fin,
}

/// A balancer and its surroundings.
pub struct World {
    pub seed: u64,
    engine: Option<Engine<MemoryDatapath>>,
    /// By number, which is never given to another.
    pub backends: BTreeMap<u32, Backend>,
    pub settings: ServiceSettings,
    pub protocol: Protocol,
    pub now: u32,
    pub random: Random,
    pub packets: u64,
    /// Slots that got another owner.
    pub slots_moved: usize,
    last_backend: u32,
}

impl Drop for World {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("second {} of seed {}; SIMULATION_SEED={} repeats it", self.now, self.seed, self.seed);
        }
    }
}

impl World {
    /// A service that tracks on change, with so many backends of weight 100.
    pub fn new(seed: u64, backends: u32) -> Self {
        let settings = ServiceSettings::new(Mode::Nat, Tracking::OnChange, IDLE_SECONDS);
        Self::with(seed, backends, settings, 262_144)
    }

    pub fn with(seed: u64, backends: u32, settings: ServiceSettings, flow_capacity: u32) -> Self {
        let capacity =
            Capacity { slots: 1 << 19, flows: flow_capacity, translations: 0, backends: 4_096, services: 4 };
        let datapath = MemoryDatapath::new(capacity, HashKeys([seed | 1, !seed]));
        datapath.random.set(seed as u32);
        let mut world = Self {
            seed,
            engine: Some(Engine::adopt(datapath).expect("empty tables can be adopted")),
            backends: BTreeMap::new(),
            settings,
            protocol: Protocol::Tcp,
            now: 1_000,
            random: Random::new(seed),
            packets: 0,
            slots_moved: 0,
            last_backend: 0,
        };
        world.add(backends, 100);
        world.publish();
        world
    }

    pub fn add(&mut self, count: u32, weight: u32) {
        for _ in 0..count {
            self.last_backend += 1;
            self.backends.insert(self.last_backend, Backend::of_weight(weight));
        }
    }

    /// One of the backends.
    pub fn any(&mut self) -> Option<u32> {
        let count = self.backends.len() as u32;
        let which = if count == 0 { return None } else { self.random.below(count) };
        self.backends.keys().nth(which as usize).copied()
    }

    pub fn serves(&self, number: u32) -> bool {
        self.backends.get(&number).is_some_and(|backend| !backend.failed)
    }

    pub fn engine(&self) -> &Engine<MemoryDatapath> {
        self.engine.as_ref().expect("there is always one")
    }

    pub fn datapath(&self) -> &MemoryDatapath {
        self.engine().datapath()
    }

    pub fn flow_count(&self) -> usize {
        self.datapath().flow_count()
    }

    /// The service as it is installed.
    pub fn installed(&self) -> &InstalledService {
        &self.engine().installed().services[&self.key()]
    }

    pub fn count_slots(&self, state: SlotState) -> usize {
        self.installed().slots.iter().filter(|slot| slot.state() == state).count()
    }

    /// Of all slots, those in which flows are looked up.
    pub fn unsettled_share(&self) -> f64 {
        let slots = self.installed().slots.len();
        1.0 - self.count_slots(SlotState::Settled) as f64 / slots as f64
    }

    /// The slot of a client's flow.
    pub fn slot(&self, client: u32, port: u16) -> Slot {
        let service = self.installed();
        let key = self.flow_key(client, port);
        let hash = flow_hash(self.datapath().settings.hash_keys, &service.entry.slot_key(&key));
        service.slots[(service.entry.slot_index(hash) - service.entry.slots_start) as usize]
    }

    /// The number of the backend with this id; 0: none has it.
    pub fn number(&self, id: BackendId) -> u32 {
        let backend = self.engine().installed().backends.get(&id);
        backend.map_or(0, |backend| u32::from_be(backend.address.words()[3]) & 0xffff)
    }

    pub fn flow_key(&self, client: u32, port: u16) -> FlowKey {
        FlowKey {
            client: Address::from_ipv4(client.to_be_bytes()),
            vip: Address::from_ipv4(VIP),
            client_port: Port::new(port),
            vip_port: Port::new(80),
            protocol: self.protocol as u8,
            reserved: [0; 3],
        }
    }

    fn key(&self) -> ServiceKey {
        ServiceKey {
            address: Address::from_ipv4(VIP),
            port: Port::new(80),
            protocol: self.protocol as u8,
            width: 0,
        }
    }

    /// A controller that ends, and another that takes over what is installed.
    pub fn restart_controller(&mut self) {
        let datapath = self.engine.take().expect("there is always one").into_datapath();
        self.engine = Some(Engine::adopt(datapath).expect("what is installed can be adopted"));
    }

    /// Installs what is desired.
    pub fn publish(&mut self) -> Applied {
        let backends = self.backends.iter().map(|(&number, backend)| TargetBackend {
            address: backend_address(number),
            port: Port::new(8_080),
            server_id: None,
            weight: backend.weight,
            share: backend.weight * backend.started,
            max_connections: 0,
            state: backend.state(),
            resets: false,
            next_hop: Some(NextHop { mac: Mac::new([2, 0, 0, 1, 0, 1]), interface: 0 }),
        });
        let service = TargetService {
            key: self.key(),
            last_port: 0,
            settings: self.settings,
            fragments: FragmentPolicy::Drop,
            answer_echo: false,
            answer_arp: true,
            backends: backends.collect(),
        };
        let interface = Interface { mac: Mac::new([2, 0, 0, 0, 0, 1]).word(), ifindex: 1, mtu: 1_500 };
        let target =
            Target { services: vec![service.into()], interfaces: vec![(0, interface)], ..Target::default() };
        let engine = self.engine.as_mut().expect("there is always one");
        engine.datapath().now_seconds.set(self.now);
        let applied = engine.apply(&target, self.now).expect("memory does not fail");
        assert!(applied.shortages.is_empty(), "{:?}", applied.shortages);
        self.slots_moved += applied.slots_moved;
        applied
    }

    /// A second passes, and slots come closer to rest.
    pub fn second(&mut self) {
        self.pass(1);
    }

    /// So many seconds pass, at the end of which slots come closer to rest.
    pub fn pass(&mut self, seconds: u32) {
        self.now += seconds;
        let engine = self.engine.as_mut().expect("there is always one");
        engine.datapath().now_seconds.set(self.now);
        engine.settle(self.now).expect("memory does not fail");
    }

    /// Sends a client's packet; returns the number of the backend that it goes to, 0 where nobody takes it.
    pub fn send(&mut self, client: u32, port: u16, kind: Kind) -> u32 {
        self.packets += 1;
        let mut packet = Buffer::new(&frame((client.to_be_bytes(), port), (VIP, 80), self.protocol, kind));
        let verdict = process(&mut packet, self.datapath());
        match verdict.reason {
            Reason::Forwarded => {
                let frame = packet.frame();
                u32::from(frame[32]) << 8 | u32::from(frame[33])
            }
            Reason::NoBackend => 0,
            other => panic!("{other:?}"),
        }
    }

    /// Sends a backend's answer to a client.
    pub fn answer(&mut self, backend: u32, client: u32, port: u16, kind: Kind) {
        self.packets += 1;
        let from = ([10, 1, (backend >> 8) as u8, backend as u8], 8_080);
        let mut frame = frame(from, (client.to_be_bytes(), port), self.protocol, kind);
        if kind == Kind::Syn {
            frame[47] |= 0x10;
        }
        let verdict = process(&mut Buffer::new(&frame), self.datapath());
        assert_eq!(verdict.reason, Reason::Replied);
    }
}

fn backend_address(number: u32) -> Address {
    Address::from_ipv4([10, 1, (number >> 8) as u8, number as u8])
}

/// With four bytes of payload where it is neither SYN nor FIN.
fn frame(from: ([u8; 4], u16), to: ([u8; 4], u16), protocol: Protocol, kind: Kind) -> [u8; 58] {
    let mut frame = [0; 58];
    frame[12..14].copy_from_slice(&[8, 0]);
    frame[14..18].copy_from_slice(&[0x45, 0, 0, if kind == Kind::Data { 44 } else { 40 }]);
    frame[22] = 64;
    frame[23] = protocol as u8;
    frame[26..30].copy_from_slice(&from.0);
    frame[30..34].copy_from_slice(&to.0);
    frame[34..36].copy_from_slice(&from.1.to_be_bytes());
    frame[36..38].copy_from_slice(&to.1.to_be_bytes());
    if protocol == Protocol::Udp {
        frame[38..40].copy_from_slice(&20u16.to_be_bytes());
        return frame;
    }
    frame[46] = 0x50;
    frame[47] = match kind {
        Kind::Syn => 0x02,
        Kind::Data => 0x10,
        Kind::Fin => 0x11,
    };
    frame
}
