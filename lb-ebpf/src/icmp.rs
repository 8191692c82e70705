//! ICMP (RFC 792) and ICMPv6 (RFC 4443) for virtual addresses and about balanced flows.

pub mod answer;

use lb_common::Reason;

use crate::{packet::Packet, parse::Ip, pipeline::Verdict, tables::Tables};

/// Answers an echo request, answers a neighbour solicitation, or sends an error on to the end that it is for.
#[inline(always)]
pub fn receive<P: Packet + ?Sized, T: Tables>(_packet: &mut P, _tables: &T, _ip: &Ip) -> Verdict {
    Verdict::stay(Reason::NotOurs)
}
