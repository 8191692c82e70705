//! ICMP (RFC 792) and ICMPv6 (RFC 4443) for virtual addresses and about balanced flows.
//!
//! | message | becomes of it | file |
//! |---|---|---|
//! | echo request to a virtual address | answered | [`echo`] |
//! | neighbour solicitation | answered | [`crate::neighbour`] |
//! | error about a flow | sent on to the end that it is for | [`error`], [`quote`], [`rename`] |
//! | anything else | left to the stack | |
//!
//! [`answer`] makes the errors that the balancer owes itself.

pub mod answer;
pub mod echo;
pub mod error;
pub mod quote;
pub mod rename;

use lb_common::{FlowKey, Reason};

use self::quote::Quote;

use crate::{
    link, neighbour,
    packet::Packet,
    parse::{Family, Ip, transport},
    pipeline::Verdict,
    tables::Tables,
};

/// Bytes of the header of echoes and errors.
pub const LEN: usize = 8;
/// Offset of the checksum.
pub const CHECKSUM: usize = 2;

/// Types of ICMP.
pub mod v4 {
    #![expect(missing_docs, reason = "names of RFC 792")]
    pub const ECHO_REPLY: u8 = 0;
    pub const UNREACHABLE: u8 = 3;
    pub const ECHO_REQUEST: u8 = 8;
    pub const TIME_EXCEEDED: u8 = 11;
    pub const PARAMETER_PROBLEM: u8 = 12;
}

/// Types of ICMPv6.
pub mod v6 {
    #![expect(missing_docs, reason = "names of RFC 4443 and RFC 4861")]
    pub const UNREACHABLE: u8 = 1;
    pub const PACKET_TOO_BIG: u8 = 2;
    pub const TIME_EXCEEDED: u8 = 3;
    pub const PARAMETER_PROBLEM: u8 = 4;
    pub const ECHO_REQUEST: u8 = 128;
    pub const ECHO_REPLY: u8 = 129;
    pub const NEIGHBOUR_SOLICITATION: u8 = 135;
    pub const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
}

/// Answers an echo request, answers a neighbour solicitation, or sends an error on to the end that it is for. Where the
/// packet is TCP or UDP, of this tuple, it goes no further, and its sender is owed an error.
#[inline(always)]
pub fn receive<P: Packet + ?Sized, T: Tables>(
    packet: &mut P,
    tables: &T,
    ip: &Ip,
    tuple: &mut FlowKey,
) -> Verdict {
    let quote = if matches!(ip.protocol(), transport::TCP | transport::UDP) {
        Quote::NONE
    } else {
        match message(packet, tables, ip, tuple) {
            Ok(quote) => quote,
            Err(verdict) => return verdict,
        }
    };
    error::go_on(packet, tables, ip, &quote, tuple)
}

/// What an error quotes, and the tuple of packets the other way; any other message, and an error that quotes nothing of
/// use, comes to its end here.
#[inline(always)]
fn message<P: Packet + ?Sized, T: Tables>(
    packet: &mut P,
    tables: &T,
    ip: &Ip,
    tuple: &mut FlowKey,
) -> Result<Quote, Verdict> {
    let kind = match packet.load::<[u32; LEN / 4]>(ip.l4()) {
        Some(header) if ip.l4() + LEN <= ip.l3() + ip.length as usize => header[0].to_ne_bytes()[0],
        _ => return Err(Verdict::stay(Reason::NotOurs)),
    };
    Err(match (ip.family(), kind) {
        (Family::V6, v6::NEIGHBOUR_SOLICITATION) => neighbour::answer_solicitation(packet, tables, ip),
        _ if !link::is_unicast(packet) => Verdict::stay(Reason::NotOurs),
        (Family::V4, v4::ECHO_REQUEST) | (Family::V6, v6::ECHO_REQUEST) => echo::answer(packet, tables, ip),
        (Family::V4, v4::UNREACHABLE | v4::TIME_EXCEEDED | v4::PARAMETER_PROBLEM)
        | (Family::V6, v6::UNREACHABLE..=v6::PARAMETER_PROBLEM) => {
            match quote::parse(packet, tables, ip, tuple) {
                Some(quote) if tuple.vip == ip.destination => return Ok(quote),
                _ if tables.virtual_address(&ip.destination).is_some() => {
                    Verdict::stay(Reason::IcmpUnrelated)
                }
                _ => Verdict::stay(Reason::NotOurs),
            }
        }
        _ => Verdict::stay(Reason::NotOurs),
    })
}
