//! Map names and capacities, once, with their arithmetic. A capacity is a default that the controller may
//! lower or raise when it creates the map; the layout version names the pin directory.

/// Raised whenever a struct of this crate, a map's type or the meaning of a field changes.
pub const LAYOUT_VERSION: u32 = 3;

/// Services (address, port, protocol). A hash entry takes about 100 bytes: 1.6 MiB.
pub const SERVICES: u32 = 16_384;
/// Backend ids; id 0 is "none". 64 bytes each: 8 MiB, and 32 bytes of counters per CPU: 4 MiB.
pub const BACKENDS: u32 = 131_072;
/// Slots of all services together: 8 bytes each, 128 MiB; 16,384 services of ten backends each.
pub const SLOTS: u32 = 16_777_216;
/// Remembered flows. Key 40, value 16, 48 of the kernel's and 16 for hash buckets: 120 MiB, allocated up front.
pub const FLOWS: u32 = 1_048_576;
/// Sources of `nat` replies: a backend of a `nat` service has one.
pub const REPLIES: u32 = BACKENDS;
/// Interfaces that packets may leave through; the index fits the 16 bits of [`crate::NextHop`].
pub const INTERFACES: u32 = 64;
/// Distinct virtual addresses.
pub const VIPS: u32 = SERVICES;
/// Addresses of the balancer itself.
pub const LOCALS: u32 = 1_024;

/// Translated flows of `full-nat`, two entries each. Key 40, value 64, 64 of the kernel's: 168 bytes, 84 MiB.
pub const TRANSLATIONS: u32 = 524_288;
/// Packets of which a first fragment was seen lately; the oldest makes room. Key 40, value 56, 80 of the kernel's: 11 MiB.
pub const FRAGMENTS: u32 = 65_536;
/// How many slots are tried for a new flow of a service that tracks every flow.
pub const TRIES: u8 = 8;

/// Networks of wide services.
pub const WIDE: u32 = 4_096;
/// Servers named by QUIC connection ids.
pub const QUIC_SERVERS: u32 = BACKENDS;
/// Addresses of one family in the pool of `full-nat`; a power of two.
pub const POOL_ADDRESSES: u32 = 16;
/// Programs after the first.
pub const PROGRAMS: u32 = 8;

/// Networks of outer sources that a backend takes packets from; the tunnel sources of so many balancers.
pub const DECAP_SOURCES: u32 = 16;

/// Sockets of the balancer's own host that mean a service; the oldest makes room. Key 32, value 20, 64 of the
/// kernel's: 8 MiB.
pub const PEERS: u32 = 65_536;

/// A TCP flow of which nothing but SYNs was seen is forgotten after so long: the server gives up after five
/// retries, 63 s, but the client's ACK comes within a round trip.
pub const OPENING_SECONDS: u32 = 60;
/// After a FIN: what nf_conntrack grants the wait for the other side's.
pub const CLOSING_SECONDS: u32 = 120;
/// After a RST nothing is due.
pub const RESET_SECONDS: u32 = 10;
/// The first fragment of a packet is remembered for so long: the reassembly timeout of Linux.
pub const FRAGMENT_SECONDS: u32 = 30;

/// The smallest and the largest table of one service; powers of two.
pub const TABLE_SLOTS_MIN: u32 = 1_024;
/// See [`TABLE_SLOTS_MIN`]: 650 slots for each of 200 backends, 131 for each of 1,000.
pub const TABLE_SLOTS_MAX: u32 = 131_072;

/// For so long after a slot moved, a SYN may be the retransmission of one that the old owner answered:
/// the initial retransmission timeout is 1 s and doubles (RFC 6298), so two retries fall within 3 s.
pub const SYN_RETRANSMIT_SECONDS: u32 = 3;

/// Names of the maps as the object spells them.
pub mod maps {
    #![allow(missing_docs)]
    pub const SERVICES: &str = "SERVICES";
    pub const SLOTS: &str = "SLOTS";
    pub const BACKENDS: &str = "BACKENDS";
    pub const REPLIES: &str = "REPLIES";
    pub const INTERFACES: &str = "INTERFACES";
    pub const VIPS: &str = "VIPS";
    pub const LOCALS: &str = "LOCALS";
    pub const FLOWS: &str = "FLOWS";
    pub const SERVICE_COUNTERS: &str = "SERVICE_COUNTERS";
    pub const BACKEND_COUNTERS: &str = "BACKEND_COUNTERS";
    pub const REASON_COUNTERS: &str = "REASON_COUNTERS";
    pub const SETTINGS: &str = "SETTINGS";
    pub const TRANSLATIONS: &str = "TRANSLATIONS";
    pub const FRAGMENTS: &str = "FRAGMENTS";
    pub const WIDE: &str = "WIDE";
    pub const QUIC_SERVERS: &str = "QUIC_SERVERS";
    pub const POOL: &str = "POOL";
    pub const LOADS: &str = "LOADS";
    pub const TURNS: &str = "TURNS";
    pub const ANSWERS: &str = "ANSWERS";
    pub const PROGRAMS: &str = "PROGRAMS";
    /// Every map, in the order in which they are pinned.
    pub const ALL: [&str; 21] = [
        SERVICES,
        SLOTS,
        BACKENDS,
        REPLIES,
        INTERFACES,
        VIPS,
        LOCALS,
        FLOWS,
        SERVICE_COUNTERS,
        BACKEND_COUNTERS,
        REASON_COUNTERS,
        SETTINGS,
        TRANSLATIONS,
        FRAGMENTS,
        WIDE,
        QUIC_SERVERS,
        POOL,
        LOADS,
        TURNS,
        ANSWERS,
        PROGRAMS,
    ];
}
