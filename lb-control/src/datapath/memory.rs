//! Tables in plain memory, over which the shipped packet code runs: for tests and simulations.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;

use anyhow::Result;
use lb_common::{
    Address, Backend, BackendId, Counters, Features, Flow, FlowKey, FragmentKey, FragmentWay, HashKeys,
    Interface, Mac, NextHop, Protocol, QuicKey, Reply, Service, ServiceKey, Settings, Slot, Translation,
    VirtualAddress, Wide, WideKey, limits,
};
use lb_ebpf::{
    packet::Buffer,
    pipeline::{Verdict, process},
    tables::{NotAdded, Refused, Route, RouteQuery, Tables, Tally},
};

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
    pub answers: Cell<(u32, u32)>,
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
    /// Seconds that packets see.
    pub now_seconds: Cell<u32>,
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
            answers: Cell::new((0, 0)),
            random: Cell::new(1),
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
            now_seconds: Cell::new(0),
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
            }
            Change::SetBackendState(id, state) => self.backends[id.0 as usize].state = state.word(),
            Change::SetNextHop(id, hop) => {
                self.backends[id.0 as usize].next_hop = hop.map_or(0, NextHop::word)
            }
            Change::FreeBackend(id) => self.backends[id.0 as usize] = Backend::default(),
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
        })
    }

    fn flows(&self) -> Result<Vec<(FlowKey, Flow)>> {
        Ok(self.flows.borrow().iter().map(|(&key, &flow)| (key, flow)).collect())
    }

    fn service_counters(&self, id: u32) -> Result<Counters> {
        Ok(self.service_counters.borrow().get(&id).copied().unwrap_or_default())
    }

    fn backend_counters(&self, id: BackendId) -> Result<Counters> {
        Ok(self.backend_counters.borrow().get(&id).copied().unwrap_or_default())
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

/// One packet's view of the tables.
impl Tables for MemoryDatapath {
    type Place = Place;

    fn launder(&self, word: u64) -> u64 {
        word
    }

    fn features(&self) -> Features {
        self.features
    }

    fn ingress_ifindex(&self) -> u32 {
        1
    }

    fn now_seconds(&self) -> u32 {
        self.now_seconds.get()
    }

    fn random(&self) -> u32 {
        let random = self.random.get();
        self.random.set(random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223));
        random
    }

    fn settings(&self) -> Option<&Settings> {
        Some(&self.settings)
    }

    fn wide(&self, protocol: Protocol, address: &Address) -> Option<&Wide> {
        (0..=128).rev().find_map(|bits| {
            let network = address.network(bits);
            self.wide.get(&(WideKey::new(protocol as u8, network), bits))
        })
    }

    fn service(&self, key: &ServiceKey) -> Option<&Service> {
        self.services.get(key)
    }

    fn slot(&self, index: u32) -> Option<Slot> {
        self.slots.get(index as usize).copied()
    }

    fn backend(&self, id: BackendId) -> Option<&Backend> {
        self.backends.get(id.0 as usize)
    }

    fn reply(&self, source: &ServiceKey) -> Option<&Reply> {
        self.replies.get(source)
    }

    fn is_local(&self, address: &Address) -> bool {
        self.locals.contains(address)
    }

    fn virtual_address(&self, address: &Address) -> Option<VirtualAddress> {
        self.virtual_addresses.get(address).copied()
    }

    fn interface(&self, index: u16) -> Option<Interface> {
        self.interfaces.get(&index).copied()
    }

    fn flow(&self, key: &FlowKey) -> Option<(Flow, Place)> {
        self.flows.borrow().get(key).map(|&flow| (flow, Place::Flow(*key)))
    }

    fn remember(&self, key: &FlowKey, flow: Flow) -> std::result::Result<(), Refused> {
        let mut flows = self.flows.borrow_mut();
        if flows.len() >= self.capacity.flows as usize && !flows.contains_key(key) {
            return Err(Refused);
        }
        flows.insert(*key, flow);
        Ok(())
    }

    fn refresh(&self, place: Place, flow: Flow) {
        match place {
            Place::Flow(key) => {
                if let Some(known) = self.flows.borrow_mut().get_mut(&key) {
                    *known = flow;
                }
            }
            Place::Translation(key) => {
                if let Some(known) = self.translations.borrow_mut().get_mut(&key) {
                    known.flow = flow;
                }
            }
        }
    }

    fn translation(&self, key: &FlowKey) -> Option<(Translation, Place)> {
        self.translations.borrow().get(key).map(|&translation| (translation, Place::Translation(*key)))
    }

    fn add_translation(&self, key: &FlowKey, translation: &Translation) -> std::result::Result<(), NotAdded> {
        let mut translations = self.translations.borrow_mut();
        if translations.contains_key(key) {
            return Err(NotAdded::Taken);
        }
        if translations.len() >= self.capacity.translations as usize {
            return Err(NotAdded::Full);
        }
        translations.insert(*key, *translation);
        Ok(())
    }

    fn remove_translation(&self, key: &FlowKey) {
        self.translations.borrow_mut().remove(key);
    }

    fn pool_address(&self, index: u32) -> Option<Address> {
        self.pool.get(index as usize).copied()
    }

    fn fragment_way(&self, key: &FragmentKey) -> Option<FragmentWay> {
        self.fragments.borrow().get(key).copied()
    }

    fn remember_fragment(&self, key: &FragmentKey, way: &FragmentWay) {
        self.fragments.borrow_mut().insert(*key, *way);
    }

    fn quic_server(&self, key: &QuicKey) -> Option<BackendId> {
        self.quic_servers.get(key).copied()
    }

    fn may_answer(&self) -> bool {
        let (second, sent) = self.answers.get();
        let sent = if second == self.now_seconds.get() { sent + 1 } else { 1 };
        self.answers.set((self.now_seconds.get(), sent));
        sent <= self.settings.answers_per_second
    }

    /// There are no routes in memory: backends have next hops, and clients are neighbours of all.
    fn route(&self, _: &RouteQuery) -> Route {
        Route::Found {
            ifindex: 1,
            source: Mac::new([2, 0, 0, 0, 0, 1]),
            destination: Mac::new([2, 0, 0, 0, 0, 2]),
        }
    }

    fn count(&self, service: u32, backend: BackendId, tally: Tally) {
        let add = |counters: &mut Counters| {
            counters.packets += 1;
            counters.bytes += tally.bytes;
            counters.new_flows += tally.new_flow as u64;
            counters.refused_flows += tally.refused as u64;
        };
        add(self.service_counters.borrow_mut().entry(service).or_default());
        add(self.backend_counters.borrow_mut().entry(backend).or_default());
    }
}

/// Where a flow stands.
#[derive(Clone, Copy)]
pub enum Place {
    /// Among the remembered flows.
    Flow(FlowKey),
    /// Among the translated ones.
    Translation(FlowKey),
}

impl MemoryDatapath {
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
