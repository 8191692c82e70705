//! Validated services and backends: what a client of the API may ask for. No IO.

pub mod address;
mod object;
mod refusal;
mod spec;
mod together;

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};

pub use lb_common::{Mode, Protocol};
pub use object::Object;
pub use refusal::{BackendError, FieldError, Refusal};
pub use spec::{
    BackendSpec, HealthCheckSpec, HealthName, ModeName, OnFailureName, ProbeName, ProtocolName, ServiceSpec,
};
pub use together::{changed_services, check_slots, check_together};

/// All that is desired, under one generation number that grows with every accepted order or health change.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Desired {
    /// Grows by one with every change.
    pub generation: u64,
    /// By name.
    pub services: BTreeMap<String, Service>,
}

/// A service: one (address, port, protocol) and its backends.
#[derive(Clone, Debug, PartialEq)]
pub struct Service {
    /// 1 to 63 of `a-z 0-9 -`, unique.
    pub name: String,
    /// The virtual address.
    pub address: IpAddr,
    /// The virtual port.
    pub port: u16,
    /// TCP or UDP.
    pub protocol: Protocol,
    /// How packets get to its backends.
    pub mode: Mode,
    /// UDP only: nothing is remembered, every packet goes where the table says.
    pub connectionless: bool,
    /// 1 to 86,400; default 300 for TCP, 60 for UDP.
    pub flow_idle_seconds: u32,
    /// Whether the balancer answers ARP for the address; default yes.
    pub answer_arp: bool,
    /// What happens to the flows of a backend that fails.
    pub on_failure: OnFailure,
    /// How backends are checked; without it they are taken for healthy.
    pub health_check: Option<HealthCheck>,
    /// By (address, port).
    pub backends: BTreeMap<SocketAddr, Backend>,
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
    /// Set by a drain.
    pub draining: Option<Drain>,
    /// As the checks see it.
    pub health: Health,
}

/// An ordered drain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drain {
    /// When it began, in seconds of the Unix clock.
    pub since_unix_seconds: u64,
    /// When remaining flows are cut, in seconds of the Unix clock; `None`: never.
    pub deadline_unix_seconds: Option<u64>,
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
