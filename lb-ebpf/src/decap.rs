//! Takes packets out of tunnels, on backends: the other end of `dsr-ipip` and `dsr-gue`.
//!
//! | outer | inner |
//! |---|---|
//! | IPv4 or IPv6, protocol 4 or 41 | IPv4 or IPv6 (RFC 2003, 2473, 4213) |
//! | the same, UDP to the port of GUE, variant 1 | by the version in its first byte (draft-ietf-intarea-gue) |
//! | the same, variant 0 without options | by the protocol in the header of 4 bytes |
//!
//! The link layer stays, tags included, with the inner packet's Ethernet type. The inner packet keeps its DSCP, and
//! gets the outer one's mark of congestion (RFC 6040, 4.2). The outer UDP checksum is not looked at: zero is right
//! over IPv6 too (RFC 6935), and the inner packet has checksums of its own.
//!
//! Invariant: what is passed or dropped is unchanged.

use lb_common::{Address, DecapReason, DecapSettings};
use network_types::{
    eth::{EthHdr, EtherType},
    ip::Ipv4Hdr,
    udp::UdpHdr,
};

use crate::{
    checksum::Difference,
    link::{self, Link},
    packet::Packet,
    parse::{Family, Header, Ip, L4_MAX, Part, ipv4, ipv6},
};

const IPV4_IN: u8 = 4;
const IPV6_IN: u8 = 41;
const UDP: u8 = 17;
const TAG_LEN: usize = 4;
/// Offset of the Ethernet type, or of the first tag.
const ETHER_TYPE: usize = EthHdr::LEN - 2;
/// Offset of an IPv4 header's checksum.
const CHECK: usize = 10;
/// What GUE of variant 0 has before its options.
const GUE_LEN: usize = 4;

/// Codepoints of the ECN field (RFC 3168, 5).
mod ecn {
    pub const NOT_CAPABLE: u8 = 0;
    pub const CAPABLE_1: u8 = 1;
    pub const CAPABLE_0: u8 = 2;
    pub const CONGESTION: u8 = 3;
}

/// What a tunnel packet needs of the world.
pub trait Tables {
    /// As [`crate::tables::Tables::launder`].
    fn launder(&self, word: u64) -> u64;
    /// What the program was told.
    fn settings(&self) -> DecapSettings;
    /// What the longest listed network says that contains an outer source: [`DecapSettings::IPV4_SOURCE`] or the other.
    fn listed(&self, source: &Address) -> Option<u32>;
}

/// Takes what `packet` carries out of it, if it is a tunnel packet.
#[inline(always)]
pub fn decapsulate<P: Packet + ?Sized, T: Tables>(packet: &mut P, tables: &T) -> DecapReason {
    let header = match link::parse(packet) {
        Link::Ipv4(l3) => ipv4::parse::<P, true>(packet, l3),
        Link::Ipv6(l3) => ipv6::parse::<P, true>(packet, l3, &|word| tables.launder(word)),
        Link::Arp(_) | Link::Other => return DecapReason::NotTunnel,
    };
    // Frames for groups of hosts are no `Header::Ip`: tunnel packets are for one.
    let Header::Ip(outer) = header else { return DecapReason::NotTunnel };
    let outer = outer.laundered(|word| tables.launder(word));
    let (l3, l4) = (outer.l3(), outer.l4());
    let end = l3 + outer.length as usize;
    let settings = tables.settings();
    let by_gue = match outer.protocol() {
        IPV4_IN | IPV6_IN => false,
        UDP if is_to_port(packet, &outer, l4, settings.gue_port) => true,
        _ => return DecapReason::NotTunnel,
    };
    let family = match outer.family() {
        Family::V4 => DecapSettings::IPV4_SOURCE,
        Family::V6 => DecapSettings::IPV6_SOURCE,
    };
    if settings.only_listed_sources && tables.listed(&outer.source) != Some(family) {
        return DecapReason::SourceRefused;
    }
    if !matches!(outer.part(), Part::Whole) {
        return DecapReason::Fragment;
    }
    let found = if by_gue {
        in_gue(packet, l4, end)
    } else if outer.protocol() == IPV4_IN {
        Ok((Family::V4, l4))
    } else {
        Ok((Family::V6, l4))
    };
    let (family, at) = match found {
        Ok(found) => found,
        Err(reason) => return reason,
    };
    let at = tables.launder(at as u64) as usize & L4_MAX;
    let Some(inner_ecn) = ecn_of_whole(packet, family, at, end) else { return DecapReason::Malformed };
    let Some(outer_class) = packet.load::<u8>(l3 + 1) else { return DecapReason::Malformed };
    let Some(marked) = mark(inner_ecn, ecn_of(outer.family(), outer_class)) else {
        return DecapReason::CongestionUnmarkable;
    };
    match strip(packet, l3, at, family).and_then(|at| set_ecn(packet, family, at, marked)) {
        Some(()) if by_gue => DecapReason::Gue,
        Some(()) => DecapReason::Ipip,
        None => DecapReason::Malformed,
    }
}

/// Whether a datagram, or the first fragment of one, goes to `port`.
#[inline(always)]
fn is_to_port<P: Packet + ?Sized>(packet: &P, outer: &Ip, l4: usize, port: u16) -> bool {
    !matches!(outer.part(), Part::Later) && packet.load::<u16>(l4 + 2) == Some(port.to_be())
}

/// What a GUE datagram at `l4` carries, and where that begins; the outer packet ends at `end`.
#[inline(always)]
fn in_gue<P: Packet + ?Sized>(packet: &P, l4: usize, end: usize) -> Result<(Family, usize), DecapReason> {
    let Some(length) = packet.load::<u16>(l4 + 4) else { return Err(DecapReason::Malformed) };
    let length = u16::from_be(length) as usize;
    if length < UdpHdr::LEN + GUE_LEN || l4 + length > end {
        return Err(DecapReason::Malformed);
    }
    let Some(first) = packet.load::<u32>(l4 + UdpHdr::LEN) else { return Err(DecapReason::Malformed) };
    let [first, protocol, flags_high, flags_low] = first.to_ne_bytes();
    // Variant 1 has the two bits 01 in front, which is what the versions of IP begin with.
    match (first >> 4, first, protocol, flags_high | flags_low) {
        (4, ..) => Ok((Family::V4, l4 + UdpHdr::LEN)),
        (6, ..) => Ok((Family::V6, l4 + UdpHdr::LEN)),
        (_, 0, IPV4_IN, 0) => Ok((Family::V4, l4 + UdpHdr::LEN + GUE_LEN)),
        (_, 0, IPV6_IN, 0) => Ok((Family::V6, l4 + UdpHdr::LEN + GUE_LEN)),
        _ => Err(DecapReason::GueUnsupported),
    }
}

/// The ECN field of the packet at `at`, if it has a header of its family and ends before `end`.
#[inline(always)]
fn ecn_of_whole<P: Packet + ?Sized>(packet: &P, family: Family, at: usize, end: usize) -> Option<u8> {
    let [first, second] = packet.load::<[u32; 2]>(at)?;
    let [version, class, length_high, length_low] = first.to_ne_bytes();
    let (right, length) = match family {
        Family::V4 => {
            let (header, length) =
                ((version & 15) as usize * 4, u16::from_be_bytes([length_high, length_low]) as usize);
            (version >> 4 == 4 && header >= Ipv4Hdr::LEN && header <= length, length)
        }
        Family::V6 => {
            let [length_high, length_low, _, _] = second.to_ne_bytes();
            (version >> 4 == 6, ipv6::LEN + u16::from_be_bytes([length_high, length_low]) as usize)
        }
    };
    if right && at + length <= end { Some(ecn_of(family, class)) } else { None }
}

/// The ECN field in the second byte of a header.
#[inline(always)]
const fn ecn_of(family: Family, class: u8) -> u8 {
    match family {
        Family::V4 => class & 3,
        Family::V6 => class >> 4 & 3,
    }
}

/// The ECN field of a packet that is taken out of another (RFC 6040, 4.2, figure 4); `None` is "drop".
#[inline(always)]
const fn mark(inner: u8, outer: u8) -> Option<u8> {
    match (inner, outer) {
        (ecn::NOT_CAPABLE, ecn::CONGESTION) => None,
        (_, ecn::CONGESTION) => Some(ecn::CONGESTION),
        (ecn::CAPABLE_0, ecn::CAPABLE_1) => Some(ecn::CAPABLE_1),
        _ => Some(inner),
    }
}

/// Takes the bytes from `l3` up to `at` out of the frame. Returns where the inner header begins then.
#[inline(always)]
fn strip<P: Packet + ?Sized>(packet: &mut P, l3: usize, at: usize, family: Family) -> Option<usize> {
    let ether_type = match family {
        Family::V4 => EtherType::Ipv4,
        Family::V6 => EtherType::Ipv6,
    } as u16;
    let outer = at.checked_sub(l3)?;
    let addresses = packet.load::<[u32; 3]>(0)?;
    // Offsets as constants: the verifier does not follow what is subtracted from a sum.
    let inner = if l3 == EthHdr::LEN {
        packet.shrink_head(outer)?;
        EthHdr::LEN
    } else if l3 == EthHdr::LEN + TAG_LEN {
        let tag = packet.load::<u32>(ETHER_TYPE)?;
        packet.shrink_head(outer)?;
        packet.store(ETHER_TYPE, tag)?;
        EthHdr::LEN + TAG_LEN
    } else {
        let tags = packet.load::<[u32; 2]>(ETHER_TYPE)?;
        packet.shrink_head(outer)?;
        packet.store(ETHER_TYPE, tags)?;
        EthHdr::LEN + 2 * TAG_LEN
    };
    packet.store(0, addresses)?;
    packet.store(inner - 2, ether_type)?;
    Some(inner)
}

/// Writes the ECN field of the packet at `at`.
#[inline(always)]
fn set_ecn<P: Packet + ?Sized>(packet: &mut P, family: Family, at: usize, ecn: u8) -> Option<()> {
    let old = packet.load::<u16>(at)?;
    let [version, second] = old.to_ne_bytes();
    let new = u16::from_ne_bytes(match family {
        Family::V4 => [version, second & !3 | ecn],
        Family::V6 => [version, second & !0x30 | ecn << 4],
    });
    if new == old {
        return Some(());
    }
    packet.store(at, new)?;
    match family {
        Family::V4 => {
            let check = packet.load::<u16>(at + CHECK)?;
            packet.store(at + CHECK, Difference::default().word16(old, new).apply(check))
        }
        Family::V6 => Some(()),
    }
}

#[cfg(test)]
mod tests;
