//! What is remembered of fragments, in the oracle's words. Plain data. Pure.

use std::net::IpAddr;

use lb_common::FlowKey;

/// What the fragments of one packet share.
pub type FragmentKey = (IpAddr, IpAddr, u32, u8);

/// Where the first one went.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Way {
    /// How the others follow.
    pub fate: Fate,
    /// The second in which it was seen.
    pub seen: u32,
}

/// See [`Way`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Fate {
    /// To a backend by its service's mode.
    Backend {
        /// Its id.
        backend: u32,
        /// The service's number.
        service: u32,
        /// The flow's tuple, by which tunnels spread.
        tuple: FlowKey,
    },
    /// With these addresses: to a backend in `full-nat` (id and service), or from one to a client.
    Rewritten {
        /// New source.
        source: IpAddr,
        /// New destination.
        destination: IpAddr,
        /// Backend and service; none for a client.
        to: Option<(u32, u32)>,
    },
}
