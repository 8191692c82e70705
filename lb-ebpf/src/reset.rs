//! Ends a connection of a cut backend: a segment of either end becomes the reset that answers it (RFC 9293, 3.10.7.1).
//!
//! | the segment | sequence | acknowledged | flags |
//! |---|---|---|---|
//! | acknowledges something | what it acknowledges | 0 | RST |
//! | does not | 0 | its sequence and its length | RST, ACK |
//!
//! The reset comes from where the segment was sent to, so that the sender takes it for its peer's. It has no options, and
//! goes back by the interface that the segment came in by, with its tags. A reset is never answered, nor a sender that is
//! no host (RFC 9293, 3.9.2.3).

use lb_common::{Features, Protocol, Reason};
use network_types::{ip::Ipv4Hdr, tcp::TcpHdr};

use crate::{
    checksum::Difference,
    icmp::{answer::is_host, echo::TTL},
    link,
    packet::Packet,
    parse::{
        Event, Family, Ip, Parsed, Part, Transport, ipv6, parse,
        transport::{ACK, FIN, RST, SYN, TCP},
    },
    pipeline::{Egress, Verdict},
    tables::Tables,
};

const WORDS: usize = TcpHdr::LEN / 4;
const DONT_FRAGMENT: u8 = 0x40;

/// Turns a packet of a connection that is to end into the reset that its sender is owed.
#[inline(always)]
pub fn answer<P: Packet + ?Sized, T: Tables>(packet: &mut P, tables: &T) -> Verdict {
    let transport = match parse::<P, true>(packet, tables.features(), |word| tables.launder(word)) {
        Parsed::Transport(transport) => transport,
        _ => return Verdict::stay(Reason::TableInconsistent),
    };
    let ip = &transport.ip;
    let owed = matches!(transport.protocol(), Protocol::Tcp)
        && matches!(ip.part(), Part::Whole)
        && !matches!(transport.event(), Event::Reset)
        && is_host(ip.family(), &ip.source);
    if !owed {
        return Verdict::stay(Reason::NoBackend);
    }
    match turn(packet, tables, &transport) {
        Some(()) => Verdict::send(Reason::ConnectionReset, Egress::INGRESS),
        None => Verdict::stay(Reason::Malformed),
    }
}

#[inline(always)]
fn turn<P: Packet + ?Sized, T: Tables>(packet: &mut P, tables: &T, transport: &Transport) -> Option<()> {
    let ip = &transport.ip;
    let segment = packet.load::<[u32; WORDS]>(ip.l4())?;
    let header = header_of(&segment, transport);
    match ip.family() {
        Family::V4 => {
            packet.truncate(ip.l3() + Ipv4Hdr::LEN + TcpHdr::LEN)?;
            packet.store(ip.l3(), ipv4(ip))?;
            packet.store(ip.l3() + Ipv4Hdr::LEN, header)?;
        }
        Family::V6 if tables.features().contains(Features::IPV6) => {
            packet.truncate(ip.l3() + ipv6::LEN + TcpHdr::LEN)?;
            let [high, low] = (TcpHdr::LEN as u16).to_be_bytes();
            let first = u32::from_ne_bytes([0x60, 0, 0, 0]);
            packet.store(ip.l3(), [first, u32::from_ne_bytes([high, low, TCP, TTL])])?;
            packet.store(ip.l3() + ipv6::SOURCE, ip.destination.words())?;
            packet.store(ip.l3() + ipv6::DESTINATION, ip.source.words())?;
            packet.store(ip.l3() + ipv6::LEN, header)?;
        }
        Family::V6 => return None,
    }
    link::swap_addresses(packet)
}

/// The TCP header of the reset that answers `segment`.
#[inline(always)]
fn header_of(segment: &[u32; WORDS], transport: &Transport) -> [u32; WORDS] {
    let ip = &transport.ip;
    let [ports, sequence, acknowledged, rest, _] = *segment;
    let [data_offset, flags, _, _] = rest.to_ne_bytes();
    let header_len = (data_offset >> 4) as usize * 4;
    let end = ip.l3() + ip.length as usize;
    let payload = end.saturating_sub(ip.l4() + header_len) as u32;
    // SYN and FIN are a byte each (RFC 9293, 3.4).
    let length = payload + u32::from(flags & SYN != 0) + u32::from(flags & FIN != 0);
    let (sequence, acknowledged, flags) = if flags & ACK != 0 {
        (acknowledged, 0, RST)
    } else {
        (0, u32::from_be(sequence).wrapping_add(length).to_be(), RST | ACK)
    };
    // The ports change places.
    let first = [ports.rotate_left(16), sequence, acknowledged];
    let rest = u32::from_ne_bytes([(WORDS as u8) << 4, flags, 0, 0]);
    let mut sum = Difference::default().plus32(rest).plus32(first[0]).plus32(first[1]).plus32(first[2]);
    let ([s0, s1, s2, s3], [d0, d1, d2, d3]) = (ip.source.words(), ip.destination.words());
    // What stands before an IPv4 address in its mapped form is all ones: zero in such a sum.
    for word in [s0, s1, s2, s3, d0, d1, d2, d3] {
        sum = sum.plus32(word);
    }
    let sum = sum.plus16((TCP as u16).to_be()).plus16((TcpHdr::LEN as u16).to_be());
    let [check_low, check_high] = sum.apply(0xffff).to_ne_bytes();
    [first[0], first[1], first[2], rest, u32::from_ne_bytes([check_low, check_high, 0, 0])]
}

/// An IPv4 header back to the sender; not to be fragmented, so without identification (RFC 6864).
#[inline(always)]
fn ipv4(ip: &Ip) -> [u32; Ipv4Hdr::LEN / 4] {
    let [high, low] = ((Ipv4Hdr::LEN + TcpHdr::LEN) as u16).to_be_bytes();
    let mut header = [
        u32::from_ne_bytes([0x45, 0, high, low]),
        u32::from_ne_bytes([0, 0, DONT_FRAGMENT, 0]),
        u32::from_ne_bytes([TTL, TCP, 0, 0]),
        ip.destination.ipv4_word(),
        ip.source.ipv4_word(),
    ];
    let [check_low, check_high] = Difference::full(&header).to_ne_bytes();
    header[2] = u32::from_ne_bytes([TTL, TCP, check_low, check_high]);
    header
}
