//! Echo requests to virtual addresses.

use core::mem::offset_of;

use lb_common::Reason;
use network_types::ip::Ipv4Hdr;

use super::{CHECKSUM, answer::is_host, v4, v6};
use crate::{
    checksum::Difference,
    link,
    packet::Packet,
    parse::{Family, Ip, ipv6},
    pipeline::{Egress, Verdict},
    tables::Tables,
};

/// The time to live of an answer (RFC 1700's recommendation).
pub const TTL: u8 = 64;

/// Turns a request into its answer, where the services of the address say so. Headers with options are the stack's.
#[inline(always)]
pub fn answer<P: Packet + ?Sized, T: Tables>(packet: &mut P, tables: &T, ip: &Ip) -> Verdict {
    let plain = match ip.family() {
        Family::V4 => ip.l4() == ip.l3() + Ipv4Hdr::LEN,
        Family::V6 => ip.l4() == ip.l3() + ipv6::LEN,
    };
    let answers = || tables.virtual_address(&ip.destination).is_some_and(|address| address.answer_echo == 1);
    if !plain || !is_host(ip.family(), &ip.source) || !answers() {
        return Verdict::stay(Reason::NotOurs);
    }
    match turn(packet, ip) {
        Some(()) => Verdict::send(Reason::EchoAnswered, Egress::INGRESS),
        None => Verdict::stay(Reason::Malformed),
    }
}

/// Sums do not change where source and destination change places.
#[inline(always)]
fn turn<P: Packet + ?Sized>(packet: &mut P, ip: &Ip) -> Option<()> {
    let l3 = ip.l3();
    let [first, second] = ip.ttl_word.to_ne_bytes();
    match ip.family() {
        Family::V4 => {
            let ttl_word = u16::from_ne_bytes([TTL, second]);
            packet.store(l3 + offset_of!(Ipv4Hdr, ttl), ttl_word)?;
            let check = packet.load::<u16>(l3 + offset_of!(Ipv4Hdr, check))?;
            let check = Difference::default().word16(ip.ttl_word, ttl_word).apply(check);
            packet.store(l3 + offset_of!(Ipv4Hdr, check), check)?;
            packet.store(l3 + offset_of!(Ipv4Hdr, src_addr), ip.destination.ipv4_word())?;
            packet.store(l3 + offset_of!(Ipv4Hdr, dst_addr), ip.source.ipv4_word())?;
            set_type(packet, l3 + Ipv4Hdr::LEN, v4::ECHO_REPLY)?;
        }
        Family::V6 => {
            packet.store(l3 + ipv6::NEXT_HEADER, u16::from_ne_bytes([first, TTL]))?;
            packet.store(l3 + ipv6::SOURCE, ip.destination.words())?;
            packet.store(l3 + ipv6::DESTINATION, ip.source.words())?;
            set_type(packet, l3 + ipv6::LEN, v6::ECHO_REPLY)?;
        }
    }
    link::swap_addresses(packet)
}

#[inline(always)]
fn set_type<P: Packet + ?Sized>(packet: &mut P, l4: usize, kind: u8) -> Option<()> {
    let old = packet.load::<u16>(l4)?;
    let [_, code] = old.to_ne_bytes();
    let new = u16::from_ne_bytes([kind, code]);
    packet.store(l4, new)?;
    let check = packet.load::<u16>(l4 + CHECKSUM)?;
    packet.store(l4 + CHECKSUM, Difference::default().word16(old, new).apply(check))
}
