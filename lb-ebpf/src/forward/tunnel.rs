//! Puts a packet into another: `dsr-ipip` (RFC 2003 and 2473) and `dsr-gue` (draft-ietf-intarea-gue, variant 1:
//! the inner IP header follows the UDP header at once).
//!
//! | outer field | value |
//! |---|---|
//! | source | the configured network, host bits from the flow's hash, so that receivers spread flows over queues |
//! | DSCP and ECN | the inner's (RFC 6040, 4.1 normal mode, with the DSCP copied) |
//! | don't fragment | the inner's (RFC 2003, 3.1); always over IPv6, and for inner IPv6 |
//! | identification | 0 where it must not be fragmented (RFC 6864), else random |
//! | time to live | 64; the inner one loses the hop |
//! | UDP source port | from the flow's hash, within 49,152 to 65,535 |
//! | UDP checksum | zero (RFC 768; RFC 6935 over IPv6: the inner packet has checksums of its own) |

use lb_common::{Address, Backend, Mac, Mode, Reason, Settings};
use network_types::{eth::EtherType, ip::Ipv4Hdr, udp::UdpHdr};

use super::{Way, way_to};
use crate::{
    checksum::Difference,
    link,
    packet::Packet,
    parse::{Family, Ip, ipv6},
    pipeline::{Egress, Stage, Verdict},
    tables::Tables,
};

const TTL: u8 = 64;
const IPV4_IN: u8 = 4;
const IPV6_IN: u8 = 41;
const UDP: u8 = 17;
const DONT_FRAGMENT: u16 = 0x4000;

/// Bytes that a mode puts in front of a packet on its way to a backend.
#[inline(always)]
pub fn overhead(mode: Mode, backend: &Backend) -> u32 {
    let outer = if backend.address.is_ipv4() { Ipv4Hdr::LEN } else { ipv6::LEN };
    match mode {
        Mode::DsrGue => (outer + UdpHdr::LEN) as u32,
        Mode::DsrIpip => outer as u32,
        Mode::Nat | Mode::FullNat | Mode::DsrL2 => 0,
    }
}

/// Sends a packet to a backend within another one.
#[inline(always)]
pub fn send<P: Packet + ?Sized, T: Tables>(
    packet: &mut P,
    tables: &T,
    ip: &Ip,
    mode: Mode,
    backend: &Backend,
    hash: u64,
) -> Verdict {
    let Some(settings) = tables.settings() else { return Verdict::stay(Reason::TableInconsistent) };
    let source = outer_source(settings, &backend.address, hash);
    let (from, to, egress) = match way_to(tables, ip, source, backend, overhead(mode, backend)) {
        Ok(Way::Known { source, destination, egress }) => (source, destination, egress),
        Ok(Way::Unresolved) => return Verdict::stay(Reason::NextHopUnresolved),
        Ok(Way::TooBig(_)) => return Verdict::to(Stage::Control),
        Err(reason) => return Verdict::stay(reason),
    };
    if ip.ttl() <= 1 {
        return Verdict::to(Stage::Control);
    }
    match encapsulate(packet, tables, ip, mode, (source, backend.address), (from, to, egress), hash) {
        Some(()) => Verdict::send(Reason::Forwarded, egress),
        None => Verdict::stay(Reason::Malformed),
    }
}

/// Puts an IP packet into one from `ends.0` to `ends.1`, and both on the way out.
#[inline(always)]
pub fn encapsulate<P: Packet + ?Sized, T: Tables>(
    packet: &mut P,
    tables: &T,
    ip: &Ip,
    mode: Mode,
    ends: (Address, Address),
    hops: (Mac, Mac, Egress),
    hash: u64,
) -> Option<()> {
    let gue_port = tables.settings()?.gue_port;
    let inner = Inner {
        length: ip.length as u16,
        protocol: match ip.family() {
            Family::V4 => IPV4_IN,
            Family::V6 => IPV6_IN,
        },
        dont_fragment: ip.dont_fragment(),
        traffic_class: take_hop(packet, ip)?,
    };
    let port = (0xc000 | (hash >> 16) as u16 & 0x3fff, gue_port.word());
    match (ends.1.is_ipv4(), mode) {
        (true, Mode::DsrGue) => {
            let l3 =
                link::insert::<P, { Ipv4Hdr::LEN + UdpHdr::LEN }>(packet, ip.l3(), EtherType::Ipv4, hops)?;
            let udp = Inner { length: inner.length + UdpHdr::LEN as u16, protocol: UDP, ..inner };
            ipv4(packet, tables, l3, &udp, ends)?;
            gue(packet, l3 + Ipv4Hdr::LEN, inner.length, port)
        }
        (true, _) => {
            let l3 = link::insert::<P, { Ipv4Hdr::LEN }>(packet, ip.l3(), EtherType::Ipv4, hops)?;
            ipv4(packet, tables, l3, &inner, ends)
        }
        (false, Mode::DsrGue) => {
            let l3 = link::insert::<P, { ipv6::LEN + UdpHdr::LEN }>(packet, ip.l3(), EtherType::Ipv6, hops)?;
            let udp = Inner { length: inner.length + UdpHdr::LEN as u16, protocol: UDP, ..inner };
            ipv6(packet, l3, &udp, ends, hash)?;
            gue(packet, l3 + ipv6::LEN, inner.length, port)
        }
        (false, _) => {
            let l3 = link::insert::<P, { ipv6::LEN }>(packet, ip.l3(), EtherType::Ipv6, hops)?;
            ipv6(packet, l3, &inner, ends, hash)
        }
    }
}

/// What the outer header says of what it carries.
#[derive(Clone, Copy)]
struct Inner {
    /// Bytes.
    length: u16,
    protocol: u8,
    dont_fragment: bool,
    /// DSCP and ECN.
    traffic_class: u8,
}

/// The source of the outer header, in the family of `destination`.
#[inline(always)]
pub fn outer_source(settings: &Settings, destination: &Address, hash: u64) -> Address {
    // Bits that choose neither the slot nor, where few are needed, the port.
    let bits = hash as u32;
    if destination.is_ipv4() {
        Address::from_ipv4_word(settings.tunnel_ipv4.ipv4_word() | bits & settings.tunnel_ipv4_hosts)
    } else {
        let [a, b, c, d] = settings.tunnel_ipv6.words();
        Address::from_words([a, b, c, d | bits & settings.tunnel_ipv6_hosts])
    }
}

/// Takes a hop off the inner header; returns its traffic class.
#[inline(always)]
fn take_hop<P: Packet + ?Sized>(packet: &mut P, ip: &Ip) -> Option<u8> {
    let first = packet.load::<u16>(ip.l3())?.to_ne_bytes();
    let ttl_word = ip.ttl_word_after_hop();
    match ip.family() {
        Family::V4 => {
            packet.store(ip.l3() + 8, ttl_word)?;
            let check = packet.load::<u16>(ip.l3() + 10)?;
            packet.store(ip.l3() + 10, Difference::default().word16(ip.ttl_word, ttl_word).apply(check))?;
            Some(first[1])
        }
        Family::V6 => {
            packet.store(ip.l3() + ipv6::NEXT_HEADER, ttl_word)?;
            Some(first[0] << 4 | first[1] >> 4)
        }
    }
}

#[inline(always)]
fn ipv4<P: Packet + ?Sized, T: Tables>(
    packet: &mut P,
    tables: &T,
    l3: usize,
    inner: &Inner,
    (source, destination): (Address, Address),
) -> Option<()> {
    let length = (Ipv4Hdr::LEN as u16 + inner.length).to_be_bytes();
    let (identification, fragment) =
        if inner.dont_fragment { (0, DONT_FRAGMENT.to_be()) } else { (tables.random() as u16, 0) };
    let [id_high, id_low] = identification.to_ne_bytes();
    let [fragment_high, fragment_low] = fragment.to_ne_bytes();
    let mut header = [
        u32::from_ne_bytes([0x45, inner.traffic_class, length[0], length[1]]),
        u32::from_ne_bytes([id_high, id_low, fragment_high, fragment_low]),
        u32::from_ne_bytes([TTL, inner.protocol, 0, 0]),
        source.ipv4_word(),
        destination.ipv4_word(),
    ];
    let [check_low, check_high] = Difference::full(&header).to_ne_bytes();
    header[2] = u32::from_ne_bytes([TTL, inner.protocol, check_low, check_high]);
    packet.store(l3, header)
}

#[inline(always)]
fn ipv6<P: Packet + ?Sized>(
    packet: &mut P,
    l3: usize,
    inner: &Inner,
    (source, destination): (Address, Address),
    hash: u64,
) -> Option<()> {
    let length = inner.length.to_be_bytes();
    // RFC 6438: the flow label carries the flow's entropy.
    let label = (hash as u32).to_be_bytes();
    let class = inner.traffic_class;
    let ([s0, s1, s2, s3], [d0, d1, d2, d3]) = (source.words(), destination.words());
    // In parts: ten words at once become a call that copies them.
    packet.store(
        l3,
        [
            u32::from_ne_bytes([0x60 | class >> 4, class << 4 | label[1] & 15, label[2], label[3]]),
            u32::from_ne_bytes([length[0], length[1], inner.protocol, TTL]),
        ],
    )?;
    packet.store(l3 + ipv6::SOURCE, [s0, s1, s2, s3])?;
    packet.store(l3 + ipv6::DESTINATION, [d0, d1, d2, d3])
}

#[inline(always)]
fn gue<P: Packet + ?Sized>(
    packet: &mut P,
    l4: usize,
    inner_length: u16,
    (from, to): (u16, u16),
) -> Option<()> {
    let length = (UdpHdr::LEN as u16 + inner_length).to_be_bytes();
    let ([from_high, from_low], [to_high, to_low]) = (from.to_be_bytes(), to.to_ne_bytes());
    packet.store(
        l4,
        [
            u32::from_ne_bytes([from_high, from_low, to_high, to_low]),
            u32::from_ne_bytes([length[0], length[1], 0, 0]),
        ],
    )
}
