//! What the data plane should look like: the desired state without names, policies and health checks.
//! Pure data; [`crate::plan`] turns (target, installed) into changes.

use lb_common::{Address, BackendState, Interface, Mode, NextHop, Port, ServiceKey, Tracking};

/// Everything that should be installed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Target {
    /// Services, at most one for a key.
    pub services: Vec<TargetService>,
    /// Interfaces by their index in `INTERFACES`; an index keeps its interface while a next hop names it.
    pub interfaces: Vec<(u16, Interface)>,
    /// The balancer's own addresses.
    pub locals: Vec<Address>,
}

/// One service.
#[derive(Clone, Debug, PartialEq)]
pub struct TargetService {
    /// Where clients reach it.
    pub key: ServiceKey,
    /// How packets get to its backends.
    pub mode: Mode,
    /// What it remembers.
    pub tracking: Tracking,
    /// After how many seconds without a packet a remembered flow is forgotten.
    pub flow_idle_seconds: u32,
    /// Whether the program answers ARP for its address.
    pub answer_arp: bool,
    /// Its backends, at most one for an (address, port).
    pub backends: Vec<TargetBackend>,
}

/// One backend of one service.
#[derive(Clone, Debug, PartialEq)]
pub struct TargetBackend {
    /// Where it is reached.
    pub address: Address,
    /// Its port.
    pub port: Port,
    /// Its share of new flows relative to the others'; zero takes none.
    pub weight: u32,
    /// `Up`: in the table. `Draining`: old flows only. `Down`: nothing.
    pub state: BackendState,
    /// The way to it, once resolved.
    pub next_hop: Option<NextHop>,
}
