//! What the planner's changes are applied to: the kernel's maps ([`bpf`]), or plain memory ([`memory`]) in
//! which the same packet code runs for tests and simulations. [`decap`] is another program's, on backends.

pub mod bpf;
pub mod decap;
pub mod memory;

use anyhow::Result;
use lb_common::{
    Address, Backend, BackendId, BackendState, Counters, Flow, FlowKey, HashKeys, Interface, NextHop, Reply,
    Service, ServiceKey, Slot, VirtualAddress,
};

/// One step from what is installed to what is desired. Packets see each word of it whole, and what points at
/// several words only after these.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// Fills or replaces an egress interface.
    PutInterface(u16, Interface),
    /// Empties one that no next hop names any more.
    DeleteInterface(u16),
    /// Adds one of the balancer's own addresses.
    PutLocal(Address),
    /// Removes one.
    DeleteLocal(Address),
    /// Fills the entry of an id that nothing names yet, with its counters at zero.
    PutBackend(BackendId, Backend),
    /// Whether, and which, flows are sent to it.
    SetBackendState(BackendId, BackendState),
    /// The way to it.
    SetNextHop(BackendId, Option<NextHop>),
    /// Empties the entry of an id that nothing names any more.
    FreeBackend(BackendId),
    /// What a `nat` backend's replies are given for their source.
    PutReply(ServiceKey, Reply),
    /// Removes it.
    DeleteReply(ServiceKey),
    /// Writes slots from this index on.
    WriteSlots(u32, Vec<Slot>),
    /// Points a service at its region; new services begin with their counters at zero.
    PutService(ServiceKey, Service),
    /// Removes a service; its region rests.
    DeleteService(ServiceKey),
    /// Adds or replaces a virtual address.
    PutVirtualAddress(Address, VirtualAddress),
    /// Removes one.
    DeleteVirtualAddress(Address),
    /// Forgets flows, each only while it still is what was seen.
    DeleteFlows(Vec<(FlowKey, Flow)>),
}

/// All that is installed, as the maps say.
#[derive(Clone, Debug, Default)]
pub struct Contents {
    /// With the slots of their regions.
    pub services: Vec<(ServiceKey, Service, Vec<Slot>)>,
    /// Entries in use.
    pub backends: Vec<(BackendId, Backend)>,
    /// Sources of replies.
    pub replies: Vec<(ServiceKey, Reply)>,
    /// Entries in use.
    pub interfaces: Vec<(u16, Interface)>,
    /// The balancer's own addresses.
    pub locals: Vec<Address>,
    /// Virtual addresses.
    pub virtual_addresses: Vec<(Address, VirtualAddress)>,
}

/// A place where packets meet the tables. There is one writer.
pub trait Datapath {
    /// Applies one change; an error says that it did not happen.
    fn apply(&mut self, change: &Change) -> Result<()>;
    /// What is installed; read when a controller takes over and after a change that failed.
    fn contents(&self) -> Result<Contents>;
    /// Every remembered flow.
    fn flows(&self) -> Result<Vec<(FlowKey, Flow)>>;
    /// Counters of a service, summed over CPUs.
    fn service_counters(&self, id: u32) -> Result<Counters>;
    /// Counters of a backend, summed over CPUs.
    fn backend_counters(&self, id: BackendId) -> Result<Counters>;
    /// How often each [`lb_common::Reason`] was the outcome, by its number.
    fn reason_counters(&self) -> Result<Vec<u64>>;
    /// Keys of the flow hash.
    fn hash_keys(&self) -> HashKeys;
    /// How many slots, flows and backends there is room for.
    fn capacity(&self) -> Capacity;
}

/// Sizes of the tables as they were created.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacity {
    /// Slots of all services together.
    pub slots: u32,
    /// Remembered flows.
    pub flows: u32,
    /// Directions of translated flows.
    pub translations: u32,
    /// Backend ids, id 0 included.
    pub backends: u32,
    /// Services.
    pub services: u32,
}
