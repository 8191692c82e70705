//! What the planner's changes are applied to: the kernel's maps ([`bpf`]), or plain memory ([`memory`]) in
//! which the same packet code runs for tests and simulations. [`decap`] is another program's, on backends, and
//! [`socket`] others', of the balancer's own sockets.

pub mod bpf;
pub mod decap;
pub mod memory;
pub mod socket;

use std::sync::Arc;

use anyhow::Result;
use lb_common::{
    Address, Backend, BackendId, BackendState, Counters, Features, Flow, FlowKey, HashKeys, Interface, Load,
    NextHop, QuicKey, Reply, Service, ServiceKey, Settings, Slot, Translation, VirtualAddress, Wide, WideKey,
};

/// One step from what is installed to what is desired. Packets see each word of it whole, and what points at
/// several words only after these.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// Has the program do all of this; what it does already is among it.
    Enable(Features),
    /// Settings of the program as a whole; the hash keys are those of the maps.
    PutSettings(Settings),
    /// An address of the pool of `full-nat` by its index in `POOL`.
    PutPool(u32, Address),
    /// Fills or replaces an egress interface.
    PutInterface(u16, Interface),
    /// Empties one that no next hop names any more.
    DeleteInterface(u16),
    /// Adds one of the balancer's own addresses.
    PutLocal(Address),
    /// Removes one.
    DeleteLocal(Address),
    /// Fills the entry of an id that nothing names yet, with its counters and its load at zero.
    PutBackend(BackendId, Backend),
    /// Whether, and which, flows are sent to it.
    SetBackendState(BackendId, BackendState),
    /// Its weight and the most live connections that it takes.
    SetShare(BackendId, u16, u32),
    /// The way to it.
    SetNextHop(BackendId, Option<NextHop>),
    /// Empties the entry of an id that nothing names any more.
    FreeBackend(BackendId),
    /// What a `nat` backend's replies are given for their source.
    PutReply(ServiceKey, Reply),
    /// Removes it.
    DeleteReply(ServiceKey),
    /// Writes the slots of a region, which begins at this index.
    WriteSlots(u32, Arc<Vec<Slot>>),
    /// Points a service at its region; new services begin with their counters at zero.
    PutService(ServiceKey, Service),
    /// Removes a service; its region rests.
    DeleteService(ServiceKey),
    /// Has these services of several ports or addresses found; the number is the bits of the network's prefix.
    PutWide(WideKey, u8, Wide),
    /// Has them found no more.
    DeleteWide(WideKey, u8),
    /// Names a backend by a server id of its service.
    PutQuicServer(QuicKey, BackendId),
    /// Takes the name away.
    DeleteQuicServer(QuicKey),
    /// Adds or replaces a virtual address.
    PutVirtualAddress(Address, VirtualAddress),
    /// Removes one.
    DeleteVirtualAddress(Address),
    /// Forgets flows, each only while it still is what was seen; those that were counted are their backends' live
    /// connections no more. One that changes in the very moment is put back.
    DeleteFlows(Vec<(FlowKey, Flow)>),
    /// Forgets translated flows, each only while both directions still are what was seen; counts follow likewise.
    DeleteTranslations(Vec<TranslatedFlow>),
}

/// A flow of `full-nat` by its directions.
#[derive(Clone, Debug, PartialEq)]
pub struct TranslatedFlow {
    /// The client's; the backend's where the client's is missing.
    pub first: (FlowKey, Translation),
    /// The backend's; none where a direction is missing.
    pub second: Option<(FlowKey, Translation)>,
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
    /// What the program does.
    pub features: Features,
    /// Settings of the program as a whole.
    pub settings: Settings,
    /// The pool of `full-nat`, indexes without an address left out.
    pub pool: Vec<(u32, Address)>,
    /// Services of several ports or addresses: by network and the bits of its prefix.
    pub wide: Vec<(WideKey, u8, Wide)>,
    /// Backends by the server ids of their services.
    pub quic_servers: Vec<(QuicKey, BackendId)>,
}

/// A place where packets meet the tables. There is one writer.
pub trait Datapath {
    /// Applies one change; an error says that it did not happen.
    fn apply(&mut self, change: &Change) -> Result<()>;
    /// What is installed; read when a controller takes over and after a change that failed.
    fn contents(&self) -> Result<Contents>;
    /// Every remembered flow.
    fn flows(&self) -> Result<Vec<(FlowKey, Flow)>>;
    /// Every direction of every translated flow, each under the tuple that arrives.
    fn translations(&self) -> Result<Vec<(FlowKey, Translation)>>;
    /// Counters of a service, summed over CPUs.
    fn service_counters(&self, id: u32) -> Result<Counters>;
    /// Counters of a backend, summed over CPUs.
    fn backend_counters(&self, id: BackendId) -> Result<Counters>;
    /// Live connections and response time of a backend.
    fn backend_load(&self, id: BackendId) -> Load;
    /// Adds to a backend's live connections, in one step with what packets add.
    fn adjust_connections(&self, id: BackendId, addend: i64);
    /// Notes a backend's response time, as [`Load::response`] says it.
    fn put_response(&self, id: BackendId, response: u64);
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
