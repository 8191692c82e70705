//! The IPv6 header and its extension headers (RFC 8200).

use lb_common::Address;

use super::{Family, Header, Ip, L4_MAX, Obstacle, Part, Shape, ipv4::has};
use crate::{link, packet::Packet, steps::steps};

/// The protocol number of ICMPv6.
pub const ICMPV6: u8 = 58;
/// Bytes of the fixed header.
pub const LEN: usize = 40;
/// Offset of the next header's number, which the hop limit follows.
pub const NEXT_HEADER: usize = 6;
/// Offset of the source address.
pub const SOURCE: usize = 8;
/// Offset of the destination address.
pub const DESTINATION: usize = 24;
const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const DESTINATION_OPTIONS: u8 = 60;
/// RFC 8200 lists six in its recommended order; more are taken for an attack.
const EXTENSIONS_MAX: u8 = 6;

/// Reads the header at `l3` and, if `EXTENSIONS`, what extends it.
#[inline(always)]
pub fn parse<P: Packet + ?Sized, const EXTENSIONS: bool>(
    packet: &P,
    l3: usize,
    launder: &impl Fn(u64) -> u64,
) -> Header {
    let Some(header) = packet.load::<[u32; LEN / 4]>(l3) else { return Header::Cut };
    let [length_high, length_low, next_header, hop_limit] = header[1].to_ne_bytes();
    let length = LEN as u32 + u16::from_be_bytes([length_high, length_low]) as u32;
    let source = Address::from_words([header[2], header[3], header[4], header[5]]);
    let destination = Address::from_words([header[6], header[7], header[8], header[9]]);

    // No host sends from or to an IPv4 address in its mapped form (RFC 4038, 4.2), in which tables hold IPv4. The first
    // program sees to it for all.
    if !EXTENSIONS && (source.is_ipv4() || destination.is_ipv4()) {
        return Header::Not(destination, Obstacle::Protocol);
    }
    // Neighbour solicitations are sent to groups.
    if next_header != ICMPV6 && !link::is_unicast(packet) {
        return Header::Not(destination, Obstacle::NotUnicast);
    }
    let version = header[0].to_ne_bytes()[0] >> 4;
    // As in IPv4.
    let to_itself = !EXTENSIONS
        && (header[2] ^ header[6])
            | (header[3] ^ header[7])
            | (header[4] ^ header[8])
            | (header[5] ^ header[9])
            == 0;
    if version != 6 || !has(packet, l3 + length as usize) || to_itself {
        return Header::Not(destination, Obstacle::Malformed);
    }
    let mut chain = Chain::new(next_header, l3 + LEN);
    if is_extension(next_header) {
        if !EXTENSIONS {
            return Header::Extended;
        }
        if let Err(obstacle) = chain.walk(packet, l3 + length as usize, launder) {
            return Header::Not(destination, obstacle);
        }
    }
    Header::Ip(Ip {
        source,
        destination,
        length,
        identification: chain.identification,
        ttl_word: u16::from_ne_bytes([next_header, hop_limit]),
        shape: Shape::new(Family::V6, chain.next_header, true, chain.part, l3, chain.l4),
    })
}

#[inline(always)]
pub(crate) const fn is_extension(next_header: u8) -> bool {
    matches!(next_header, HOP_BY_HOP | ROUTING | FRAGMENT | DESTINATION_OPTIONS)
}

/// How far a walk over extension headers has come.
pub(crate) struct Chain {
    /// Of the header that the walk stands at.
    pub(crate) next_header: u8,
    /// Its offset.
    pub(crate) l4: usize,
    pub(crate) part: Part,
    pub(crate) identification: u32,
}

impl Chain {
    /// Before the first step: the header after the fixed one.
    #[inline(always)]
    pub(crate) const fn new(next_header: u8, l4: usize) -> Self {
        Self { next_header, l4, part: Part::Whole, identification: 0 }
    }

    /// Walks up to the upper layer or a later fragment; the packet ends at `end`.
    #[inline(always)]
    pub(crate) fn walk<P: Packet + ?Sized>(
        &mut self,
        packet: &P,
        end: usize,
        launder: &impl Fn(u64) -> u64,
    ) -> Result<(), Obstacle> {
        for _ in steps(EXTENSIONS_MAX) {
            // Or every length of every header would be another state to the verifier.
            self.l4 = launder(self.l4 as u64) as usize & L4_MAX;
            let first = packet.load::<[u32; 2]>(self.l4).filter(|_| self.l4 + 8 <= end);
            let Some(first) = first else { return Err(Obstacle::Malformed) };
            let [next_header, length, third, fourth] = first[0].to_ne_bytes();
            let fragment = self.next_header == FRAGMENT;
            // With segments left, the destination is a way-point.
            if self.next_header == ROUTING && fourth != 0 {
                return Err(Obstacle::Extension);
            }
            self.next_header = next_header;
            let field = u16::from_be_bytes([third, fourth]);
            // RFC 6946: a packet in one fragment is whole.
            if fragment && field & !6 != 0 {
                self.identification = first[1];
                if field >> 3 != 0 {
                    self.part = Part::Later;
                    return Ok(());
                }
                self.part = Part::First;
            }
            self.l4 += if fragment { 8 } else { 8 + length as usize * 8 };
            if self.l4 > end || self.l4 > L4_MAX {
                return Err(if self.l4 > end { Obstacle::Malformed } else { Obstacle::Extension });
            }
            if !is_extension(next_header) {
                return Ok(());
            }
        }
        Err(Obstacle::Extension)
    }
}
