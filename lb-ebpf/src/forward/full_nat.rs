//! `full-nat`: both ends are rewritten, so that replies come back whatever the backends' routes are.

use lb_common::{Backend, BackendId, Reason, Service, Translation};

use crate::{packet::Packet, parse::Transport, pipeline::Verdict, tables::Tables};

/// Sends a client's packet to its backend from an address and port of the pool.
#[inline(always)]
pub fn to_backend<P: Packet + ?Sized, T: Tables, const FRAGMENT: bool>(
    _packet: &mut P,
    _tables: &T,
    _transport: &Transport,
    _service: &Service,
    _chosen: (BackendId, &Backend),
    _hash: u64,
) -> Verdict {
    Verdict::stay(Reason::TableInconsistent)
}

/// Sends a backend's reply to the client.
#[inline(always)]
pub fn to_client<P: Packet + ?Sized, T: Tables, const FRAGMENT: bool>(
    _packet: &mut P,
    _tables: &T,
    _transport: &Transport,
    _translation: &Translation,
    _place: T::Place,
) -> Verdict {
    Verdict::stay(Reason::TableInconsistent)
}
