//! The link layer: Ethernet with up to two VLAN tags (IEEE 802.1Q, 802.1ad).
//!
//! A frame that leaves by the interface that it came in by keeps its tags; one that leaves by another loses them.

use core::mem::offset_of;

use lb_common::Mac;
use network_types::eth::{EthHdr, EtherType};

use crate::{packet::Packet, pipeline::Egress};

/// Of the first byte of an Ethernet address (IEEE 802).
pub const GROUP_BIT: u8 = 0x01;
const ETHER_TYPE: usize = offset_of!(EthHdr, ether_type);
const TAG_LEN: usize = 4;
/// 802.1Q, 802.1ad, and what was in use before that.
const TAGGED: [u16; 3] = [0x8100u16.to_be(), 0x88a8u16.to_be(), 0x9100u16.to_be()];

/// What a frame carries, and where that begins.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Link {
    /// IPv4.
    Ipv4(usize),
    /// IPv6.
    Ipv6(usize),
    /// ARP.
    Arp(usize),
    /// Anything else, or nothing.
    Other,
}

/// Reads the Ethernet header and up to two tags.
#[inline(always)]
pub fn parse<P: Packet + ?Sized>(packet: &P) -> Link {
    let Some((ether_type, l3)) = untag(packet) else { return Link::Other };
    if ether_type == EtherType::Ipv4 as u16 {
        Link::Ipv4(l3)
    } else if ether_type == EtherType::Ipv6 as u16 {
        Link::Ipv6(l3)
    } else if ether_type == EtherType::Arp as u16 {
        Link::Arp(l3)
    } else {
        Link::Other
    }
}

#[inline(always)]
fn untag<P: Packet + ?Sized>(packet: &P) -> Option<(u16, usize)> {
    let ether_type = packet.load::<u16>(ETHER_TYPE)?;
    if !is_tag(ether_type) {
        return Some((ether_type, EthHdr::LEN));
    }
    let inner = packet.load::<u16>(ETHER_TYPE + TAG_LEN)?;
    if !is_tag(inner) {
        return Some((inner, EthHdr::LEN + TAG_LEN));
    }
    Some((packet.load::<u16>(ETHER_TYPE + 2 * TAG_LEN)?, EthHdr::LEN + 2 * TAG_LEN))
}

#[inline(always)]
fn is_tag(ether_type: u16) -> bool {
    TAGGED[0] == ether_type || TAGGED[1] == ether_type || TAGGED[2] == ether_type
}

/// Whether a frame is for one host.
#[inline(always)]
pub fn is_unicast<P: Packet + ?Sized>(packet: &P) -> bool {
    matches!(packet.load::<u8>(offset_of!(EthHdr, dst_addr)), Some(first) if first & GROUP_BIT == 0)
}

/// Readdresses a frame whose IP header begins at `l3` for its way out. Must come last: offsets change where tags go.
#[inline(always)]
pub fn readdress<P: Packet + ?Sized>(
    packet: &mut P,
    l3: usize,
    source: Mac,
    destination: Mac,
    egress: Egress,
) -> Option<()> {
    if l3 == EthHdr::LEN || egress.is_ingress() {
        return write_addresses(packet, 0, source, destination);
    }
    if l3 == EthHdr::LEN + TAG_LEN {
        write_addresses(packet, TAG_LEN, source, destination)?;
        packet.shrink_head(TAG_LEN)
    } else {
        write_addresses(packet, 2 * TAG_LEN, source, destination)?;
        packet.shrink_head(2 * TAG_LEN)
    }
}

/// Puts `LEN` bytes between a frame's link layer and its IP header at `l3`, for an outer header of `ether_type`,
/// with the link layer of the way out before it. Returns where the outer header begins.
#[inline(always)]
pub fn insert<P: Packet + ?Sized, const LEN: usize>(
    packet: &mut P,
    l3: usize,
    ether_type: EtherType,
    (source, destination, egress): (Mac, Mac, Egress),
) -> Option<usize> {
    packet.grow_head(LEN)?;
    let tags = if l3 == EthHdr::LEN {
        0
    } else if l3 == EthHdr::LEN + TAG_LEN {
        1
    } else {
        2
    };
    let kept = if egress.is_ingress() { tags } else { 0 };
    // Offsets as constants: the verifier does not follow what is subtracted from a sum.
    let outer = match (kept, tags) {
        (0, 0) => EthHdr::LEN,
        (0, 1) => {
            packet.shrink_head(TAG_LEN)?;
            EthHdr::LEN
        }
        (0, _) => {
            packet.shrink_head(2 * TAG_LEN)?;
            EthHdr::LEN
        }
        (1, _) => {
            let tag = packet.load::<u32>(LEN + ETHER_TYPE)?;
            packet.store(ETHER_TYPE, tag)?;
            EthHdr::LEN + TAG_LEN
        }
        _ => {
            let tags = packet.load::<[u32; 2]>(LEN + ETHER_TYPE)?;
            packet.store(ETHER_TYPE, tags)?;
            EthHdr::LEN + 2 * TAG_LEN
        }
    };
    let at = match kept {
        0 => ETHER_TYPE,
        1 => ETHER_TYPE + TAG_LEN,
        _ => ETHER_TYPE + 2 * TAG_LEN,
    };
    packet.store(at, ether_type as u16)?;
    write_addresses(packet, 0, source, destination)?;
    Some(outer)
}

#[inline(always)]
fn write_addresses<P: Packet + ?Sized>(
    packet: &mut P,
    at: usize,
    source: Mac,
    destination: Mac,
) -> Option<()> {
    write_mac(packet, at + offset_of!(EthHdr, dst_addr), destination)?;
    write_mac(packet, at + offset_of!(EthHdr, src_addr), source)
}

/// Sends a frame back to where it came from: swaps its addresses.
#[inline(always)]
pub fn swap_addresses<P: Packet + ?Sized>(packet: &mut P) -> Option<()> {
    let [a, b, c] = packet.load::<[u32; 3]>(0)?;
    let ([a0, a1, a2, a3], [b0, b1, b2, b3], [c0, c1, c2, c3]) =
        (a.to_ne_bytes(), b.to_ne_bytes(), c.to_ne_bytes());
    packet.store(
        0,
        [
            u32::from_ne_bytes([b2, b3, c0, c1]),
            u32::from_ne_bytes([c2, c3, a0, a1]),
            u32::from_ne_bytes([a2, a3, b0, b1]),
        ],
    )
}

/// Writes the six bytes of an Ethernet address.
#[inline(always)]
pub fn write_mac<P: Packet + ?Sized>(packet: &mut P, offset: usize, mac: Mac) -> Option<()> {
    let [a, b, c, d, e, f] = mac.bytes();
    packet.store(offset, u32::from_ne_bytes([a, b, c, d]))?;
    packet.store(offset + 4, u16::from_ne_bytes([e, f]))
}
