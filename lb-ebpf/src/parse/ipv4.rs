//! The IPv4 header (RFC 791), and its options.

use lb_common::Address;
use network_types::ip::Ipv4Hdr;

use super::{Family, Header, Ip, Obstacle, Part, Shape};
use crate::{
    link::{self, Link},
    packet::Packet,
    steps::steps,
};

/// The protocol number of ICMP.
pub const ICMP: u8 = 1;
const DONT_FRAGMENT: u16 = 0x4000;
const MORE_FRAGMENTS: u16 = 0x2000;
const OFFSET: u16 = 0x1fff;
/// Bytes of options, and so options.
const OPTIONS_MAX: u8 = 40;
const END: u8 = 0;
const NO_OPERATION: u8 = 1;
const LOOSE_SOURCE_ROUTE: u8 = 131;
const STRICT_SOURCE_ROUTE: u8 = 137;

/// Reads the header at `l3`; one with options only if `OPTIONS`.
#[inline(always)]
pub fn parse<P: Packet + ?Sized, const OPTIONS: bool>(packet: &P, l3: usize) -> Header {
    let Some(header) = packet.load::<[u32; Ipv4Hdr::LEN / 4]>(l3) else { return Header::Cut };
    let [version_ihl, _, length_high, length_low] = header[0].to_ne_bytes();
    let length = u16::from_be_bytes([length_high, length_low]);
    let [id_high, id_low, fragment_high, fragment_low] = header[1].to_ne_bytes();
    let fragment = u16::from_be_bytes([fragment_high, fragment_low]);
    let [ttl, protocol, _, _] = header[2].to_ne_bytes();
    let (source, destination) = (Address::from_ipv4_word(header[3]), Address::from_ipv4_word(header[4]));

    // Broadcast and multicast frames are for every host of the link, and so not for a balancer among them.
    if !link::is_unicast(packet) {
        return Header::Not(destination, Obstacle::NotUnicast);
    }
    let header_len = (version_ihl & 15) as usize * 4;
    if version_ihl >> 4 != 4
        || header_len < Ipv4Hdr::LEN
        || header_len > length as usize
        || !has(packet, l3 + length as usize)
        // Nobody sends to himself by a wire: what answers it would answer itself. The first program sees to it for all.
        || (!OPTIONS && header[3] == header[4])
    {
        return Header::Not(destination, Obstacle::Malformed);
    }
    if !OPTIONS && header_len != Ipv4Hdr::LEN {
        return Header::Extended;
    }
    let part = match (fragment & OFFSET, fragment & MORE_FRAGMENTS) {
        (0, 0) => Part::Whole,
        (0, _) => Part::First,
        _ => Part::Later,
    };
    let dont_fragment = fragment & DONT_FRAGMENT != 0;
    Header::Ip(Ip {
        source,
        destination,
        length: length as u32,
        identification: u16::from_ne_bytes([id_high, id_low]) as u32,
        ttl_word: u16::from_ne_bytes([ttl, protocol]),
        shape: Shape::new(Family::V4, protocol, dont_fragment, part, l3, l3 + header_len),
    })
}

/// The destination of an IPv4 packet for this host whose options say by whom it is to go (RFC 791, 3.1): its sender would
/// be answered by way of whomever it names (RFC 7126, 4.3). Options that contradict themselves are the receiver's to
/// judge.
#[inline(always)]
pub fn source_routed<P: Packet + ?Sized>(packet: &P, launder: impl Fn(u64) -> u64) -> Option<Address> {
    let Link::Ipv4(l3) = link::parse(packet) else { return None };
    let header = packet.load::<[u32; Ipv4Hdr::LEN / 4]>(l3)?;
    let words = (header[0].to_ne_bytes()[0] & 15) as usize;
    let routed = words * 4 != Ipv4Hdr::LEN
        && link::is_unicast(packet)
        && names_a_route(packet, (l3, words * 4), &launder);
    // However many options it took.
    (launder(routed as u64) != 0).then_some(Address::from_ipv4_word(header[4]))
}

#[inline(always)]
fn names_a_route<P: Packet + ?Sized>(
    packet: &P,
    (l3, header_len): (usize, usize),
    launder: &impl Fn(u64) -> u64,
) -> bool {
    let (start, end) = (l3 + Ipv4Hdr::LEN, l3 + header_len);
    let mut option = 0;
    for _ in steps(OPTIONS_MAX) {
        // Or every length of every option would be another state to the verifier.
        option = launder(option as u64) as usize & 0x3f;
        if start + option >= end {
            return false;
        }
        let Some(word) = packet.load::<u16>(start + option) else { return false };
        let [kind, len] = word.to_ne_bytes();
        match kind {
            END => return false,
            LOOSE_SOURCE_ROUTE | STRICT_SOURCE_ROUTE => return true,
            NO_OPERATION => option += 1,
            _ if !(2..=OPTIONS_MAX).contains(&len) => return false,
            _ => option += len as usize,
        }
    }
    false
}

/// Whether the packet has so many bytes; that it has several buffers is looked at only where one is too short.
#[inline(always)]
pub(super) fn has<P: Packet + ?Sized>(packet: &P, bytes: usize) -> bool {
    bytes <= packet.len() || bytes <= packet.total_len()
}
