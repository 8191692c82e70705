//! The ICMP errors that the balancer owes: a packet that is too big for the way, or whose time to live ends.
//!
//! | field | value |
//! |---|---|
//! | source | the address that the packet was sent to: the sender knows no other of ours |
//! | quoted | as much of the packet as fits 576 bytes (RFC 1812, 4.3.2.3) or 1280 (RFC 4443, 2.4) |
//! | DSCP | over IPv4 internetwork control (RFC 1812, 4.3.2.5) |
//! | identification | 0, not to be fragmented (RFC 6864) |
//!
//! Never about anything but the first fragment, and never to a group, a broadcast or a loopback address (RFC 1122,
//! 3.2.2). Errors about errors cannot arise: only TCP and UDP come here.

use lb_common::{Address, Features, Mac, Mode, Owed, Reason};
use network_types::{eth::EtherType, ip::Ipv4Hdr};

use super::{CHECKSUM, LEN, echo::TTL, v4, v6};
use crate::{
    checksum::Difference,
    link,
    packet::Packet,
    parse::{Family, Ip, L4_MAX, ipv4::ICMP, ipv6, ipv6::ICMPV6},
    pipeline::{Egress, Verdict},
    tables::Tables,
};

/// Bytes of a packet that are quoted at most.
const QUOTE_MAX_V4: usize = 576 - Ipv4Hdr::LEN - LEN;
const QUOTE_MAX_V6: usize = IPV6_MTU_MIN as usize - ipv6::LEN - LEN;
/// Every link takes that much (RFC 8200, 5), and senders take no less for an answer (RFC 8201, 4).
const IPV6_MTU_MIN: u32 = 1280;
const FRAGMENTATION_NEEDED: u8 = 4;
const INTERNETWORK_CONTROL: u8 = 0xc0;
const DONT_FRAGMENT: u8 = 0x40;
/// A sum is taken by so many bytes at a time.
const STRIDE: usize = 16;
const _: () = assert!(QUOTE_MAX_V6.is_multiple_of(STRIDE) && QUOTE_MAX_V6 >= QUOTE_MAX_V4);

/// Tells the sender why a packet goes no further on its way to a backend: the way takes less (RFC 1191, RFC 8201), or its
/// time to live ends here; `mtu` is 0 if the way takes it. The other programs found that out before a byte was changed; here it is found out again.
#[inline(always)]
pub fn tell<P: Packet + ?Sized, T: Tables>(
    packet: &mut P,
    tables: &T,
    ip: &Ip,
    mode: Mode,
    mtu: u32,
) -> Verdict {
    let expired = ip.ttl() <= 1 && !matches!(mode, Mode::DsrL2);
    let (mtu, kind, silent, spoken) = if expired {
        (0, Owed::TimeExceeded, Reason::TtlExpired, Reason::TimeExceededAnswered)
    } else {
        (mtu, Owed::TooBig, Reason::ExceedsMtu, Reason::TooBigAnswered)
    };
    // Without the bit the sender has not asked for an answer; without a size, the way has become wider since.
    let owed = expired || mtu != 0 && ip.dont_fragment();
    if !owed || !is_host(ip.family(), &ip.source) {
        return Verdict::stay(silent);
    }
    if !tables.may_answer(kind) {
        return Verdict::stay(Reason::AnswerLimited);
    }
    let mtu = tables.launder(mtu as u64) as u32;
    match answer(packet, tables, ip, mtu) {
        Some(()) => Verdict::send(spoken, Egress::INGRESS),
        None => Verdict::stay(silent),
    }
}

/// `mtu` of 0: the time is exceeded.
#[inline(always)]
fn answer<P: Packet + ?Sized, T: Tables>(packet: &mut P, tables: &T, ip: &Ip, mtu: u32) -> Option<()> {
    let most = match ip.family() {
        Family::V4 => QUOTE_MAX_V4,
        Family::V6 => QUOTE_MAX_V6,
    };
    let quoted = (ip.length as usize).min(most);
    packet.truncate(ip.l3() + quoted)?;
    let sum = sum(packet, tables, ip.l3(), quoted)?;
    match ip.family() {
        Family::V4 => answer_v4(packet, ip, mtu, (quoted, sum)),
        Family::V6 if tables.features().contains(Features::IPV6) => answer_v6(packet, ip, mtu, (quoted, sum)),
        Family::V6 => None,
    }
}

/// Whether an address is one host's, so that it can be answered.
#[inline(always)]
pub fn is_host(family: Family, address: &Address) -> bool {
    let words = address.words();
    match family {
        // "This network", loopback, groups, and what is reserved or broadcast (RFC 6890).
        Family::V4 => !matches!(words[3].to_ne_bytes()[0], 0 | 127 | 224..),
        // Unspecified, loopback, groups; mapped addresses are none on a wire (RFC 4038, 4.2).
        Family::V6 => {
            let short = words[0] == 0 && words[1] == 0 && words[2] == 0;
            words[0].to_ne_bytes()[0] != 0xff && !address.is_ipv4() && !(short && u32::from_be(words[3]) <= 1)
        }
    }
}

/// `sum` is of the `quoted` bytes that the packet is cut to.
#[inline(always)]
fn answer_v4<P: Packet + ?Sized>(
    packet: &mut P,
    ip: &Ip,
    mtu: u32,
    (quoted, sum): (usize, Difference),
) -> Option<()> {
    let l3 = insert::<P, { Ipv4Hdr::LEN + LEN }>(packet, ip, EtherType::Ipv4)?;
    let (kind, code) = match mtu {
        0 => (v4::TIME_EXCEEDED, 0),
        _ => (v4::UNREACHABLE, FRAGMENTATION_NEEDED),
    };
    // RFC 1191, 4: two bytes of zero, two of MTU.
    let rest = mtu.min(u16::MAX as u32).to_be();
    let sum = sum.plus16(u16::from_ne_bytes([kind, code])).plus32(rest);
    let [check_low, check_high] = sum.apply(0xffff).to_ne_bytes();
    packet.store(l3 + Ipv4Hdr::LEN, [u32::from_ne_bytes([kind, code, check_low, check_high]), rest])?;

    let [length_high, length_low] = ((Ipv4Hdr::LEN + LEN + quoted) as u16).to_be_bytes();
    let mut header = [
        u32::from_ne_bytes([0x45, INTERNETWORK_CONTROL, length_high, length_low]),
        u32::from_ne_bytes([0, 0, DONT_FRAGMENT, 0]),
        u32::from_ne_bytes([TTL, ICMP, 0, 0]),
        ip.destination.ipv4_word(),
        ip.source.ipv4_word(),
    ];
    let [check_low, check_high] = Difference::full(&header).to_ne_bytes();
    header[2] = u32::from_ne_bytes([TTL, ICMP, check_low, check_high]);
    packet.store(l3, header)
}

/// Likewise.
#[inline(always)]
fn answer_v6<P: Packet + ?Sized>(
    packet: &mut P,
    ip: &Ip,
    mtu: u32,
    (quoted, sum): (usize, Difference),
) -> Option<()> {
    let l3 = insert::<P, { ipv6::LEN + LEN }>(packet, ip, EtherType::Ipv6)?;
    let (kind, rest) = match mtu {
        0 => (v6::TIME_EXCEEDED, 0),
        mtu => (v6::PACKET_TOO_BIG, mtu.max(IPV6_MTU_MIN).to_be()),
    };
    let length = (LEN + quoted) as u16;
    let sum = sum
        .plus(pseudo_header((&ip.destination, &ip.source), length))
        .plus16(u16::from_ne_bytes([kind, 0]))
        .plus32(rest);
    let [check_low, check_high] = sum.apply(0xffff).to_ne_bytes();
    packet.store(l3 + ipv6::LEN, [u32::from_ne_bytes([kind, 0, check_low, check_high]), rest])?;

    let [length_high, length_low] = length.to_be_bytes();
    packet.store(
        l3,
        [u32::from_ne_bytes([0x60, 0, 0, 0]), u32::from_ne_bytes([length_high, length_low, ICMPV6, TTL])],
    )?;
    packet.store(l3 + ipv6::SOURCE, ip.destination.words())?;
    packet.store(l3 + ipv6::DESTINATION, ip.source.words())
}

/// The part of an ICMPv6 checksum that is not in the message (RFC 8200, 8.1); `length` is the message's.
#[inline(always)]
pub fn pseudo_header((source, destination): (&Address, &Address), length: u16) -> Difference {
    let ([s0, s1, s2, s3], [d0, d1, d2, d3]) = (source.words(), destination.words());
    let mut sum = Difference::default();
    for word in [s0, s1, s2, s3, d0, d1, d2, d3] {
        sum = sum.plus32(word);
    }
    sum.plus16(length.to_be()).plus16((ICMPV6 as u16).to_be())
}

/// Puts `BYTES` before a packet's IP header and addresses it to where it came from. Returns where the `BYTES` begin.
#[inline(always)]
fn insert<P: Packet + ?Sized, const BYTES: usize>(
    packet: &mut P,
    ip: &Ip,
    ether_type: EtherType,
) -> Option<usize> {
    let (to, from) = link_ends(packet)?;
    link::insert::<P, BYTES>(packet, ip.l3(), ether_type, (to, from, Egress::INGRESS))
}

/// Destination and source of a frame.
#[inline(always)]
pub fn link_ends<P: Packet + ?Sized>(packet: &P) -> Option<(Mac, Mac)> {
    let [a, b, c] = packet.load::<[u32; 3]>(0)?;
    let ([a0, a1, a2, a3], [b0, b1, b2, b3], [c0, c1, c2, c3]) =
        (a.to_ne_bytes(), b.to_ne_bytes(), c.to_ne_bytes());
    Some((Mac::new([a0, a1, a2, a3, b0, b1]), Mac::new([b2, b3, c0, c1, c2, c3])))
}

/// The words from `start` on, `length` bytes of them, from 2 up to [`QUOTE_MAX_V6`].
#[inline(always)]
fn sum<P: Packet + ?Sized, T: Tables>(
    packet: &P,
    tables: &T,
    start: usize,
    length: usize,
) -> Option<Difference> {
    let end = start + length;
    let (mut at, mut sum) = (start, Difference::default());
    for _ in 0..QUOTE_MAX_V6 / STRIDE {
        if at + STRIDE > end {
            break;
        }
        for word in packet.load::<[u32; STRIDE / 4]>(at)? {
            sum = sum.plus32(word);
        }
        at += STRIDE;
    }
    // Where the loop ended is all the same.
    let mut at = tables.launder(at as u64) as usize & L4_MAX;
    if length & 8 != 0 {
        let [first, second] = packet.load::<[u32; 2]>(at)?;
        sum = sum.plus32(first).plus32(second);
        at += 8;
    }
    if length & 4 != 0 {
        sum = sum.plus32(packet.load(at)?);
        at += 4;
    }
    if length & 2 != 0 {
        sum = sum.plus16(packet.load(at)?);
        at += 2;
    }
    if length & 1 != 0 {
        // With the byte before it: the verifier does not see where a single one ends.
        let [_, last] = packet.load::<u16>((at - 1) & L4_MAX)?.to_ne_bytes();
        sum = sum.plus16(u16::from_ne_bytes([last, 0]));
    }
    Some(sum)
}

const _: () = assert!(CHECKSUM == 2, "it is written as the third and fourth byte");
