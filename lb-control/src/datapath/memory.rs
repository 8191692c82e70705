//! Tables in plain memory, over which the shipped packet code runs: for tests and simulations.

mod tables;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;

use anyhow::Result;
use lb_common::{
    Address, Answers, Backend, BackendId, Counters, Features, Flow, FlowKey, FragmentKey, FragmentWay,
    HashKeys, Interface, Load, NextHop, QuicKey, Reply, Service, ServiceKey, Settings, Slot, Translation,
    VirtualAddress, Wide, WideKey, limits,
};
use lb_ebpf::{
    packet::Buffer,
    pipeline::{Verdict, process},
};

pub use tables::Place;

use super::{Capacity, Change, Contents, Datapath};

/// The maps, and the clock.
pub struct MemoryDatapath {
    pub(crate) capacity: Capacity,
    /// Hash keys, tunnels, the pool of `full-nat` and limits.
    pub settings: Settings,
    /// What the program is loaded for.
    pub features: Features,
    /// Services of several ports or addresses, by network and its bits.
    pub wide: HashMap<(WideKey, u8), Wide>,
    /// Backends by the server id in connection ids.
    pub quic_servers: HashMap<QuicKey, BackendId>,
    /// Addresses of `full-nat`.
    pub pool: Vec<Address>,
    /// What `full-nat` remembers.
    pub translations: RefCell<HashMap<FlowKey, Translation>>,
    /// Where first fragments went.
    pub fragments: RefCell<HashMap<FragmentKey, FragmentWay>>,
    /// The second of the last ICMP error, and how many were sent in it.
    pub answers: Cell<Answers>,
    pub(crate) services: HashMap<ServiceKey, Service>,
    pub(crate) slots: Vec<Slot>,
    pub(crate) backends: Vec<Backend>,
    pub(crate) replies: HashMap<ServiceKey, Reply>,
    pub(crate) interfaces: HashMap<u16, Interface>,
    pub(crate) locals: Vec<Address>,
    pub(crate) virtual_addresses: HashMap<Address, VirtualAddress>,
    /// Remembered flows.
    pub flows: RefCell<HashMap<FlowKey, Flow>>,
    pub(crate) service_counters: RefCell<HashMap<u32, Counters>>,
    pub(crate) backend_counters: RefCell<HashMap<BackendId, Counters>>,
    pub(crate) reasons: RefCell<Vec<u64>>,
    /// How busy backends are, by id.
    pub loads: RefCell<HashMap<BackendId, Load>>,
    /// Turns of round robin, by service number.
    pub turns: RefCell<HashMap<u32, u32>>,
    /// Seconds that packets see.
    pub now_seconds: Cell<u32>,
    /// Microseconds after these seconds.
    pub micros: Cell<u64>,
    /// What one program leaves for the next.
    pub handed_over: Cell<u64>,
    /// The next number that packets see as random.
    pub random: Cell<u32>,
}

impl MemoryDatapath {
    /// Empty tables of these sizes.
    pub fn new(capacity: Capacity, hash_keys: HashKeys) -> Self {
        Self {
            capacity,
            settings: Settings { hash_keys, ..Settings::default() },
            features: Features::ALL,
            wide: HashMap::new(),
            quic_servers: HashMap::new(),
            pool: vec![Address::default(); 2 * limits::POOL_ADDRESSES as usize],
            translations: RefCell::default(),
            fragments: RefCell::default(),
            answers: Cell::new(Answers::default()),
            random: Cell::new(1),
            handed_over: Cell::new(0),
            services: HashMap::new(),
            slots: vec![Slot::default(); capacity.slots as usize],
            backends: vec![Backend::default(); capacity.backends as usize],
            replies: HashMap::new(),
            interfaces: HashMap::new(),
            locals: Vec::new(),
            virtual_addresses: HashMap::new(),
            flows: RefCell::default(),
            service_counters: RefCell::default(),
            backend_counters: RefCell::default(),
            reasons: RefCell::new(vec![0; lb_common::Reason::ALL.len()]),
            loads: RefCell::default(),
            turns: RefCell::default(),
            now_seconds: Cell::new(0),
            micros: Cell::new(0),
        }
    }

    /// How many flows are remembered.
    pub fn flow_count(&self) -> usize {
        self.flows.borrow().len()
    }
}

impl Datapath for MemoryDatapath {
    fn apply(&mut self, change: &Change) -> Result<()> {
        match change {
            Change::Enable(features) => self.features = *features,
            Change::PutSettings(settings) => self.settings = *settings,
            Change::PutPool(index, address) => self.pool[*index as usize] = *address,
            Change::PutWide(key, bits, wide) => {
                self.wide.insert((*key, *bits), *wide);
            }
            Change::DeleteWide(key, bits) => {
                self.wide.remove(&(*key, *bits));
            }
            Change::PutQuicServer(key, id) => {
                self.quic_servers.insert(*key, *id);
            }
            Change::DeleteQuicServer(key) => {
                self.quic_servers.remove(key);
            }
            Change::PutInterface(index, interface) => {
                self.interfaces.insert(*index, *interface);
            }
            Change::DeleteInterface(index) => {
                self.interfaces.remove(index);
            }
            Change::PutLocal(address) => self.locals.push(*address),
            Change::DeleteLocal(address) => self.locals.retain(|other| other != address),
            Change::PutBackend(id, backend) => {
                self.backends[id.0 as usize] = *backend;
                self.backend_counters.borrow_mut().remove(id);
                self.loads.borrow_mut().remove(id);
            }
            Change::SetBackendState(id, state) => self.backends[id.0 as usize].state = state.word(),
            Change::SetShare(id, weight, max_connections) => {
                let backend = &mut self.backends[id.0 as usize];
                (backend.weight, backend.max_connections) = (*weight, *max_connections);
            }
            Change::SetNextHop(id, hop) => {
                self.backends[id.0 as usize].next_hop = hop.map_or(0, NextHop::word)
            }
            Change::FreeBackend(id) => {
                self.backends[id.0 as usize] = Backend::default();
                self.loads.borrow_mut().remove(id);
            }
            Change::PutReply(key, reply) => {
                self.replies.insert(*key, *reply);
            }
            Change::DeleteReply(key) => {
                self.replies.remove(key);
            }
            Change::WriteSlots(start, slots) => {
                self.slots[*start as usize..][..slots.len()].copy_from_slice(slots);
            }
            Change::PutService(key, service) => {
                if self.services.insert(*key, *service).is_none() {
                    self.service_counters.borrow_mut().remove(&service.id);
                }
            }
            Change::DeleteService(key) => {
                self.services.remove(key);
            }
            Change::PutVirtualAddress(address, entry) => {
                self.virtual_addresses.insert(*address, *entry);
            }
            Change::DeleteVirtualAddress(address) => {
                self.virtual_addresses.remove(address);
            }
            Change::DeleteFlows(flows) => {
                let mut table = self.flows.borrow_mut();
                for (key, seen) in flows {
                    if table.get(key) == Some(seen) {
                        table.remove(key);
                        self.uncount(*seen);
                    }
                }
            }
            Change::DeleteTranslations(flows) => {
                let mut table = self.translations.borrow_mut();
                for flow in flows {
                    let directions = std::iter::once(&flow.first).chain(&flow.second);
                    if directions.clone().all(|(key, seen)| table.get(key) == Some(seen)) {
                        for (key, translation) in directions {
                            table.remove(key);
                            self.uncount(translation.flow);
                        }
                    }
                }
            }
        }
        Ok(())
    }

    fn contents(&self) -> Result<Contents> {
        let slots = |service: &Service| {
            self.slots[service.slots_start as usize..][..service.slots() as usize].to_vec()
        };
        Ok(Contents {
            services: self.services.iter().map(|(&key, service)| (key, *service, slots(service))).collect(),
            backends: (0u32..)
                .zip(&self.backends)
                .filter(|(_, backend)| **backend != Backend::default())
                .map(|(id, backend)| (BackendId(id), *backend))
                .collect(),
            replies: self.replies.iter().map(|(&key, &reply)| (key, reply)).collect(),
            interfaces: self.interfaces.iter().map(|(&index, &interface)| (index, interface)).collect(),
            locals: self.locals.clone(),
            virtual_addresses: self.virtual_addresses.iter().map(|(&a, &entry)| (a, entry)).collect(),
            features: self.features,
            settings: self.settings,
            pool: (0..)
                .zip(self.pool.iter().copied())
                .filter(|(_, address)| *address != Address::default())
                .collect(),
            wide: self.wide.iter().map(|(&(key, bits), &wide)| (key, bits, wide)).collect(),
            quic_servers: self.quic_servers.iter().map(|(&key, &id)| (key, id)).collect(),
        })
    }

    fn flows(&self) -> Result<Vec<(FlowKey, Flow)>> {
        Ok(self.flows.borrow().iter().map(|(&key, &flow)| (key, flow)).collect())
    }

    fn translations(&self) -> Result<Vec<(FlowKey, Translation)>> {
        Ok(self.translations.borrow().iter().map(|(&key, &translation)| (key, translation)).collect())
    }

    fn service_counters(&self, id: u32) -> Result<Counters> {
        Ok(self.service_counters.borrow().get(&id).copied().unwrap_or_default())
    }

    fn backend_counters(&self, id: BackendId) -> Result<Counters> {
        Ok(self.backend_counters.borrow().get(&id).copied().unwrap_or_default())
    }

    fn backend_load(&self, id: BackendId) -> Load {
        self.loads.borrow().get(&id).copied().unwrap_or_default()
    }

    fn adjust_connections(&self, id: BackendId, addend: i64) {
        let mut loads = self.loads.borrow_mut();
        let load = loads.entry(id).or_default();
        load.connections = load.connections.wrapping_add_signed(addend);
    }

    fn put_response(&self, id: BackendId, response: u64) {
        self.loads.borrow_mut().entry(id).or_default().response = response;
    }

    fn reason_counters(&self) -> Result<Vec<u64>> {
        Ok(self.reasons.borrow().clone())
    }

    fn hash_keys(&self) -> HashKeys {
        self.settings.hash_keys
    }

    fn capacity(&self) -> Capacity {
        self.capacity
    }
}

impl MemoryDatapath {
    fn uncount(&self, flow: Flow) {
        if flow.is_counted() {
            self.adjust_connections(flow.backend(), -1);
        }
    }

    /// Takes a packet through the shipped path and counts the reason; the frame becomes what it leaves as.
    pub fn process(&self, frame: &mut Vec<u8>) -> Verdict {
        let mut packet = Buffer::new(frame);
        let verdict = process(&mut packet, self);
        frame.clear();
        frame.extend_from_slice(packet.frame());
        self.reasons.borrow_mut()[verdict.reason as usize] += 1;
        verdict
    }
}
