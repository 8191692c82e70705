//! Tables in plain memory, over which the shipped packet code runs: for tests and simulations.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;

use anyhow::Result;
use lb_common::{
    Address, Backend, BackendId, Counters, Flow, FlowKey, HashKeys, Interface, Mac, NextHop, Reply, Service,
    ServiceKey, Slot, VirtualAddress,
};
use lb_ebpf::{
    pipeline::{Verdict, process},
    tables::{Refused, Route, RouteQuery, Tables, Tally},
};

use super::{Capacity, Change, Contents, Datapath};

/// The maps, and the clock.
pub struct MemoryDatapath {
    pub(crate) capacity: Capacity,
    pub(crate) hash_keys: HashKeys,
    pub(crate) services: HashMap<ServiceKey, Service>,
    pub(crate) slots: Vec<Slot>,
    pub(crate) backends: Vec<Backend>,
    pub(crate) replies: HashMap<ServiceKey, Reply>,
    pub(crate) interfaces: HashMap<u16, Interface>,
    pub(crate) locals: Vec<Address>,
    pub(crate) virtual_addresses: HashMap<Address, VirtualAddress>,
    pub(crate) flows: RefCell<HashMap<FlowKey, Flow>>,
    pub(crate) service_counters: RefCell<HashMap<u32, Counters>>,
    pub(crate) backend_counters: RefCell<HashMap<BackendId, Counters>>,
    pub(crate) reasons: RefCell<Vec<u64>>,
    /// Seconds that packets see.
    pub now_seconds: Cell<u32>,
}

impl MemoryDatapath {
    /// Empty tables of these sizes.
    pub fn new(capacity: Capacity, hash_keys: HashKeys) -> Self {
        Self {
            capacity,
            hash_keys,
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
        self.hash_keys
    }

    fn capacity(&self) -> Capacity {
        self.capacity
    }
}

/// One packet's view of the tables.
impl Tables for MemoryDatapath {
    type Place = FlowKey;

    fn ingress_ifindex(&self) -> u32 {
        1
    }

    fn now_seconds(&self) -> u32 {
        self.now_seconds.get()
    }

    fn hash_keys(&self) -> HashKeys {
        self.hash_keys
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

    fn flow(&self, key: &FlowKey) -> Option<(Flow, FlowKey)> {
        self.flows.borrow().get(key).map(|&flow| (flow, *key))
    }

    fn remember(&self, key: &FlowKey, flow: Flow) -> std::result::Result<(), Refused> {
        let mut flows = self.flows.borrow_mut();
        if flows.len() >= self.capacity.flows as usize && !flows.contains_key(key) {
            return Err(Refused);
        }
        flows.insert(*key, flow);
        Ok(())
    }

    fn refresh(&self, key: FlowKey, flow: Flow) {
        if let Some(known) = self.flows.borrow_mut().get_mut(&key) {
            *known = flow;
        }
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

impl MemoryDatapath {
    /// Takes a packet through the shipped path and counts the reason.
    pub fn process(&self, packet: &mut [u8]) -> Verdict {
        let verdict = process(packet, self);
        self.reasons.borrow_mut()[verdict.reason as usize] += 1;
        verdict
    }
}
