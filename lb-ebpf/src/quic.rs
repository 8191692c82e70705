//! Routing by QUIC connection id, so that a client that changes its address stays with its server.

use lb_common::{BackendId, Service};

use crate::{packet::Packet, parse::Transport, tables::Tables};

/// The server that a packet's connection id names, if it names one that serves.
#[inline(always)]
pub fn server<P: Packet + ?Sized, T: Tables>(
    _packet: &P,
    _tables: &T,
    _service: &Service,
    _transport: &Transport,
) -> Option<BackendId> {
    None
}
