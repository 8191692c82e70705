//! The IPv4 header (RFC 791), options included.

use lb_common::Address;
use network_types::ip::Ipv4Hdr;

use super::{Family, Header, Ip, Obstacle, Part, Shape};
use crate::{link, packet::Packet};

/// The protocol number of ICMP.
pub const ICMP: u8 = 1;
const DONT_FRAGMENT: u16 = 0x4000;
const MORE_FRAGMENTS: u16 = 0x2000;
const OFFSET: u16 = 0x1fff;

/// Reads the header at `l3`.
#[inline(always)]
pub fn parse<P: Packet + ?Sized>(packet: &P, l3: usize) -> Header {
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
    {
        return Header::Not(destination, Obstacle::Malformed);
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

/// Whether the packet has so many bytes; that it has several buffers is looked at only where one is too short.
#[inline(always)]
pub(super) fn has<P: Packet + ?Sized>(packet: &P, bytes: usize) -> bool {
    bytes <= packet.len() || bytes <= packet.total_len()
}
