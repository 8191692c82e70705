//! Validated services and backends: what a client of the API may ask for. No IO.

pub mod address;
mod arrival;
mod network;
mod object;
mod refusal;
mod services;
mod spec;
mod together;

use std::{collections::BTreeMap, net::SocketAddr};

pub use arrival::note_arrivals;
pub use lb_common::{Algorithm, FragmentPolicy, Mode, Protocol, Tracking};
pub use network::{Network, NoNetwork, NoPorts, Ports};
pub use object::Object;
pub use refusal::{BackendError, FieldError, Refusal};
pub use services::Services;
pub use spec::{
    AlgorithmName, BackendSpec, FragmentsName, HealthCheckSpec, HealthName, ModeName, OnDeadlineName,
    OnFailureName, ProbeName, ProtocolName, QuicSpec, SchemeName, ServerIdSpec, ServiceSpec, TrackingName,
    address_rule,
};
pub use together::{Census, changed_services, check_full_nat, check_slots, check_together};

/// All that is desired, under one generation number that grows with every accepted order or health change.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Desired {
    /// Grows by one with every change.
    pub generation: u64,
    /// By name.
    pub services: Services,
}

/// A service: its virtual addresses and ports, a protocol, and its backends.
#[derive(Clone, Debug, PartialEq)]
pub struct Service {
    /// 1 to 63 of `a-z 0-9 -`, unique.
    pub name: String,
    /// The virtual address, or a network of them.
    pub address: Network,
    /// The virtual port, or a range of them.
    pub ports: Ports,
    /// TCP or UDP.
    pub protocol: Protocol,
    /// How packets get to its backends.
    pub mode: Mode,
    /// How a backend is chosen for a new flow.
    pub algorithm: Algorithm,
    /// What is remembered of its flows; UDP only: nothing, every packet goes where the table says.
    pub tracking: Tracking,
    /// How many bits of a client's address count, of its own family's 32 or 128: in [`Algorithm::SourceHash`], and for
    /// affinity.
    pub client_prefix: u8,
    /// A client's network keeps to its backend until it sent nothing for so long; 0: it does not.
    pub affinity_seconds: u32,
    /// So long a backend that returns, or that is added, takes to get its whole share; 0 to 3,600.
    pub slow_start_seconds: u32,
    /// Health is ignored while less than this share of the backends, by weight, is healthy; 0 to 100, 0: never.
    pub panic_threshold_percent: u8,
    /// The next group of backends joins while fewer than this are healthy; at least 1.
    pub min_active_backends: u32,
    /// 1 to 86,400; default 300 for TCP, 60 for UDP.
    pub flow_idle_seconds: u32,
    /// What happens to fragments of which no first one was seen.
    pub fragments: FragmentPolicy,
    /// Whether the balancer answers ARP and neighbour solicitations for the address; default yes for one address.
    pub answer_arp: bool,
    /// Whether the balancer answers echo requests to the address.
    pub answer_echo: bool,
    /// TCP: the largest segment, in bytes, that a SYN may announce.
    pub mss: Option<u16>,
    /// UDP: how QUIC connection ids name their backend.
    pub quic: Option<Quic>,
    /// What happens to the flows of a backend that fails.
    pub on_failure: OnFailure,
    /// How backends are checked; without it they are taken for healthy.
    pub health_check: Option<HealthCheck>,
    /// By (address, port); port 0 where the service has several, which packets keep.
    pub backends: BTreeMap<SocketAddr, Backend>,
}

impl Service {
    /// Where it has backends and the other has none.
    pub fn backends_beside<'a>(&'a self, other: Option<&'a Self>) -> impl Iterator<Item = &'a SocketAddr> {
        let is_other = move |at: &&SocketAddr| other.is_none_or(|other| !other.backends.contains_key(*at));
        self.backends.keys().filter(is_other)
    }

    /// Nothing is remembered of its flows.
    pub fn is_connectionless(&self) -> bool {
        self.tracking == Tracking::Connectionless
    }

    /// Whether it has several addresses or ports.
    pub fn is_wide(&self) -> bool {
        !self.address.is_host() || self.ports.single().is_none()
    }

    /// Addresses and ports as people write them: `10.0.0.1:80`, `[2001:db8::/64]:any`.
    pub fn entrance(&self) -> String {
        let (address, ports) = (self.address, self.ports);
        if address.address.is_ipv4() { format!("{address}:{ports}") } else { format!("[{address}]:{ports}") }
    }
}

/// How QUIC connection ids name their backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quic {
    /// draft-ietf-quic-load-balancers, in the clear.
    QuicLb {
        /// 0 to 6: the configuration that the ids begin with.
        config_id: u8,
        /// 1 to 8 bytes.
        server_id_length: u8,
    },
    /// 16 bits of server id.
    KatranV1,
    /// 24 bits of server id.
    KatranV2,
}

/// What happens to the flows of a backend that fails its checks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum OnFailure {
    /// They go to other backends, where TCP connections end in a reset that clients see at once.
    #[default]
    Resteer,
    /// They stay; the backend gets no new ones.
    Keep,
}

/// One backend.
#[derive(Clone, Debug, PartialEq)]
pub struct Backend {
    /// 0 to 1,000; 0 takes no new flows.
    pub weight: u32,
    /// So many live connections it takes; 0: any number.
    pub max_connections: u32,
    /// Its group: those of a higher number join when too few of the lower ones are healthy. 0 to 15.
    pub priority: u8,
    /// Of the last group, which serves only when no other backend is healthy.
    pub fallback: bool,
    /// Its id in QUIC connection ids: the bytes as a big-endian number.
    pub server_id: Option<u64>,
    /// Set by a drain.
    pub draining: Option<Drain>,
    /// As the checks see it.
    pub health: Health,
    /// When it last returned, or was added to a service at work, in seconds of the Unix clock: a slow start begins then.
    /// Not stored.
    pub up_since_unix: Option<u64>,
}

/// An ordered drain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drain {
    /// When it began, in seconds of the Unix clock.
    pub since_unix_seconds: u64,
    /// When remaining flows are cut, in seconds of the Unix clock; `None`: never.
    pub deadline_unix_seconds: Option<u64>,
    /// How they are cut.
    pub on_deadline: OnDeadline,
}

/// How the flows are cut that a drain's deadline leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum OnDeadline {
    /// They go to other backends, which know nothing of them.
    #[default]
    Resteer,
    /// TCP: the next packet from either end is answered with a reset.
    Reset,
}

/// A backend as its health checks see it. Unknown is not down: until a first verdict a backend serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Health {
    /// Not checked yet, or without a check.
    #[default]
    Unknown,
    /// `rise` checks in a row succeeded.
    Up,
    /// `fall` checks in a row failed.
    Down,
}

/// How backends are checked.
#[derive(Clone, Debug, PartialEq)]
pub struct HealthCheck {
    /// What a check does.
    pub probe: Probe,
    /// Between the beginnings of two checks, in milliseconds; 100 to 3,600,000.
    pub interval_ms: u32,
    /// A check without an answer for so long has failed, in milliseconds; at most the interval.
    pub timeout_ms: u32,
    /// Successes in a row that make a backend healthy; 1 to 100.
    pub rise: u32,
    /// Failures in a row that make it unhealthy; 1 to 100.
    pub fall: u32,
    /// The port to check where it is not the backend's own.
    pub port: Option<u16>,
}

/// What a check does.
#[derive(Clone, Debug, PartialEq)]
pub enum Probe {
    /// Opens a connection and closes it.
    Tcp,
    /// Sends a GET and compares the status.
    Http {
        /// Begins with `/`.
        path: String,
        /// The Host header; the backend's address by default.
        host: Option<String>,
        /// Accepted status codes; default 200 to 399.
        status: (u16, u16),
    },
}
