//! The packet that an error quotes: the beginning of one that somebody could not deliver.

use core::mem::offset_of;

use lb_common::{Address, Features, FlowKey, Port, Protocol};
use network_types::ip::Ipv4Hdr;

use super::LEN;
use crate::{
    packet::Packet,
    parse::{
        Family, Ip, L4_MAX, Part,
        ipv6::{self, Chain, is_extension},
        transport::checksum_offset,
    },
    tables::Tables,
};

/// Bytes of TCP and UDP that every error quotes (RFC 792).
const TRANSPORT_MIN: usize = 8;
const FRAGMENT_OFFSET: u16 = 0x1fff;

/// Where a quoted TCP or UDP packet stands in an error.
#[derive(Clone, Copy)]
pub struct Quote {
    /// Offset of its IP header.
    pub l3: usize,
    /// Offset of its TCP or UDP header.
    pub l4: usize,
    /// Whether its TCP or UDP checksum is quoted.
    pub has_checksum: bool,
}

impl Quote {
    /// Nothing is quoted: the packet is no error.
    pub const NONE: Self = Self { l3: 0, l4: 0, has_checksum: false };

    /// Whether anything is quoted.
    #[inline(always)]
    pub const fn is_some(&self) -> bool {
        self.l3 != 0
    }
}

/// A quoted IP header.
struct Header {
    source: Address,
    destination: Address,
    protocol: u8,
    l4: usize,
    /// Where the quoted packet ends, by its own word.
    end: usize,
}

/// Reads what the error in `ip` quotes. `None` for anything but the beginning of a TCP or UDP packet of the same
/// family. `answering` becomes the tuple of packets the other way: `client` is the quoted destination, `vip` its source.
#[inline(always)]
pub fn parse<P: Packet + ?Sized, T: Tables>(
    packet: &P,
    tables: &T,
    ip: &Ip,
    answering: &mut FlowKey,
) -> Option<Quote> {
    let l3 = ip.l4() + LEN;
    let end = ip.l3() + ip.length as usize;
    let header = match ip.family() {
        Family::V4 => ipv4(packet, l3)?,
        Family::V6 if tables.features().contains(Features::IPV6) => ipv6(packet, tables, l3, end)?,
        Family::V6 => return None,
    };
    let protocol = Protocol::from_number(header.protocol)?;
    // Or the verifier would walk the rest for every length of every header.
    let l4 = tables.launder(header.l4 as u64) as usize & L4_MAX;
    let end = if end < header.end { end } else { header.end };
    let ports = packet.load::<u32>(l4)?;
    if l4 + TRANSPORT_MIN > end {
        return None;
    }
    let [source_high, source_low, destination_high, destination_low] = ports.to_ne_bytes();
    answering.client = header.destination;
    answering.vip = header.source;
    answering.client_port = Port::from_word(u16::from_ne_bytes([destination_high, destination_low]));
    answering.vip_port = Port::from_word(u16::from_ne_bytes([source_high, source_low]));
    answering.protocol = header.protocol;
    Some(Quote { l3, l4, has_checksum: checksum_offset(protocol, l4) + size_of::<u16>() <= end })
}

#[inline(always)]
fn ipv4<P: Packet + ?Sized>(packet: &P, l3: usize) -> Option<Header> {
    let header = packet.load::<[u32; Ipv4Hdr::LEN / 4]>(l3)?;
    let [version_ihl, _, length_high, length_low] = header[0].to_ne_bytes();
    let [_, _, fragment_high, fragment_low] = header[1].to_ne_bytes();
    let header_len = (version_ihl & 15) as usize * 4;
    let later = u16::from_be_bytes([fragment_high, fragment_low]) & FRAGMENT_OFFSET != 0;
    if version_ihl >> 4 != 4 || header_len < Ipv4Hdr::LEN || later {
        return None;
    }
    Some(Header {
        source: Address::from_ipv4_word(header[3]),
        destination: Address::from_ipv4_word(header[4]),
        protocol: header[2].to_ne_bytes()[offset_of!(Ipv4Hdr, proto) - offset_of!(Ipv4Hdr, ttl)],
        l4: l3 + header_len,
        end: l3 + u16::from_be_bytes([length_high, length_low]) as usize,
    })
}

#[inline(always)]
fn ipv6<P: Packet + ?Sized, T: Tables>(packet: &P, tables: &T, l3: usize, end: usize) -> Option<Header> {
    let header = packet.load::<[u32; ipv6::LEN / 4]>(l3)?;
    let [length_high, length_low, next_header, _] = header[1].to_ne_bytes();
    if header[0].to_ne_bytes()[0] >> 4 != 6 {
        return None;
    }
    let mut chain = Chain::new(next_header, l3 + ipv6::LEN);
    if is_extension(next_header) {
        chain.walk(packet, end, &|word| tables.launder(word)).ok()?;
    }
    if matches!(chain.part, Part::Later) {
        return None;
    }
    let source = Address::from_words([header[2], header[3], header[4], header[5]]);
    let destination = Address::from_words([header[6], header[7], header[8], header[9]]);
    // Or a flow of IPv4 would be found by its mapped addresses.
    if source.is_ipv4() || destination.is_ipv4() {
        return None;
    }
    Some(Header {
        source,
        destination,
        protocol: chain.next_header,
        l4: chain.l4,
        end: l3 + ipv6::LEN + u16::from_be_bytes([length_high, length_low]) as usize,
    })
}
