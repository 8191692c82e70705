//! The ICMP errors that the balancer owes: a packet that is too big for the way, or whose time to live ends.

use lb_common::Reason;

use crate::{packet::Packet, parse::Transport, pipeline::Verdict, tables::Tables};

/// Tells the sender why a packet goes no further: the way to its backend takes less (RFC 1191, RFC 8201), or its time to
/// live ends here. The other programs found that out before a byte was changed; here it is found out again.
#[inline(always)]
pub fn about<P: Packet + ?Sized, T: Tables>(_packet: &mut P, _tables: &T, transport: &Transport) -> Verdict {
    Verdict::stay(if transport.ip.ttl() <= 1 { Reason::TtlExpired } else { Reason::ExceedsMtu })
}
