//! The lookups that a packet needs, and what it leaves behind.

use lb_common::{
    Address, Backend, BackendId, Features, Flow, FlowKey, FragmentKey, FragmentWay, Interface, Load, Mac,
    Owed, Protocol, QuicKey, Reply, Service, ServiceKey, Settings, Slot, Translation, VirtualAddress, Wide,
};

use crate::track::choose::{Chosen, Terms};

/// The table is full: the flow is not remembered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Refused;

/// What is asked of the kernel's routes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RouteQuery {
    /// Source of the packet as it leaves.
    pub source: Address,
    /// Where it goes.
    pub destination: Address,
    /// Bytes of the IP packet.
    pub length: u32,
    /// IP protocol number.
    pub protocol: u8,
}

/// The kernel's answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Route {
    /// Hand the packet to `destination` through `ifindex`.
    Found {
        /// The egress interface.
        ifindex: u32,
        /// Its address.
        source: Mac,
        /// The neighbour's.
        destination: Mac,
    },
    /// There is a way, but the neighbour's address is unknown.
    NeighbourUnknown,
    /// The packet is larger than the way takes: so many bytes of IP.
    TooBig(u32),
    /// No way.
    None,
}

/// What one forwarded packet adds to the counters of its service and backend.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Tally {
    /// Bytes from the IP header on.
    pub bytes: u64,
    /// Whether it opened a flow.
    pub new_flow: bool,
    /// Whether its flow was refused by the full table.
    pub refused: bool,
    /// Whether it went past a backend that takes no more connections.
    pub overflowed: bool,
}

/// Why a translation was not added.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NotAdded {
    /// Its key is taken.
    Taken,
    /// The table is full.
    Full,
}

/// The maps as one packet sees them. References are to live memory: fields that change while a packet is
/// under way are single words.
pub trait Tables {
    /// Where a remembered flow stands, so that it is noted as seen without a second lookup.
    type Place: Copy;
    /// The same word, of which neither compiler nor verifier knows anything any more: where many ways meet, the rest is
    /// then verified once and not once for each way.
    fn launder(&self, word: u64) -> u64;
    /// What the program was loaded for.
    fn features(&self) -> Features;
    /// The interface that the packet came in by.
    fn ingress_ifindex(&self) -> u32;
    /// Seconds of the monotonic clock.
    fn now_seconds(&self) -> u32;
    /// Microseconds of the monotonic clock.
    fn now_micros(&self) -> u64;
    /// A number that nobody foresees.
    fn random(&self) -> u32;
    /// Settings of the program as a whole.
    fn settings(&self) -> Option<&Settings>;
    /// The service at exactly this (address, port, protocol).
    fn service(&self, key: &ServiceKey) -> Option<&Service>;
    /// The services of several ports at the longest prefix of this address.
    fn wide(&self, protocol: Protocol, address: &Address) -> Option<&Wide>;
    /// One slot.
    fn slot(&self, index: u32) -> Option<Slot>;
    /// One backend.
    fn backend(&self, id: BackendId) -> Option<&Backend>;
    /// What a backend's replies are given for their source.
    fn reply(&self, source: &ServiceKey) -> Option<&Reply>;
    /// Whether the address is the balancer's own.
    fn is_local(&self, address: &Address) -> bool;
    /// The virtual address, if it is one.
    fn virtual_address(&self, address: &Address) -> Option<VirtualAddress>;
    /// One egress interface.
    fn interface(&self, index: u16) -> Option<Interface>;
    /// What is remembered of a flow.
    fn flow(&self, key: &FlowKey) -> Option<(Flow, Self::Place)>;
    /// Remembers a flow, or replaces what is remembered of it.
    fn remember(&self, key: &FlowKey, flow: Flow) -> Result<(), Refused>;
    /// Writes what changes with a packet of a remembered or translated flow, all but its owner, if it still is what was
    /// seen; of CPUs that try at once, one succeeds. Returns whether it was.
    fn refresh(&self, place: Self::Place, seen: Flow, flow: Flow) -> bool;
    /// How busy a backend is.
    fn load(&self, id: BackendId) -> Option<Load>;
    /// One live connection of a backend more, or one less.
    fn count_connection(&self, id: BackendId, more: bool);
    /// Writes [`Load::response`].
    fn note_response(&self, id: BackendId, response: u64);
    /// Leaves a word for the program that goes on with the packet.
    fn hand_over(&self, word: u64);
    /// The word that the program before has left.
    fn handed_over(&self) -> u64;
    /// [`crate::track::choose::choose`].
    fn choose(&self, terms: Terms, hash: u64, full: bool) -> Chosen;
    /// A number that is one higher at every call for the service, on whichever CPU.
    fn next_turn(&self, service: u32) -> u32;
    /// One direction of a translated flow. The flow's two words are read whole, and stand at the place.
    fn translation(&self, key: &FlowKey) -> Option<(Translation, Self::Place)>;
    /// Adds one where its key is free: of two packets that try at once, one succeeds.
    fn add_translation(&self, key: &FlowKey, translation: &Translation) -> Result<(), NotAdded>;
    /// Takes back what this packet added.
    fn remove_translation(&self, key: &FlowKey);
    /// An address of the `full-nat` pool.
    fn pool_address(&self, index: u32) -> Option<Address>;
    /// Where the first fragment of a packet went.
    fn fragment_way(&self, key: &FragmentKey) -> Option<FragmentWay>;
    /// Remembers where it goes.
    fn remember_fragment(&self, key: &FragmentKey, way: &FragmentWay);
    /// The backend that a QUIC connection id names.
    fn quic_server(&self, key: &QuicKey) -> Option<BackendId>;
    /// Whether another ICMP error of the kind may be sent in this second; counts it.
    fn may_answer(&self, owed: Owed) -> bool;
    /// Asks the kernel for the way.
    fn route(&self, query: &RouteQuery) -> Route;
    /// Counts a forwarded packet.
    fn count(&self, service: u32, backend: BackendId, tally: Tally);
}
