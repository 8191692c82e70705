//! ARP (RFC 826) and neighbour solicitations (RFC 4861) for virtual addresses: the balancer owns them without the
//! host's stack knowing.

use lb_common::{Address, Mac, Reason, limits};
use network_types::eth::{EthHdr, EtherType};

use crate::{
    checksum::Difference,
    icmp::{
        answer::{link_ends, pseudo_header},
        v6::{NEIGHBOUR_ADVERTISEMENT, NEIGHBOUR_SOLICITATION},
    },
    link::{self, GROUP_BIT, write_mac},
    packet::Packet,
    parse::{
        Ip,
        ipv6::{self, ICMPV6},
    },
    pipeline::{Egress, Verdict},
    steps::steps,
    tables::Tables,
};

const ETHERNET_IPV4: [u32; 1] = [u32::from_ne_bytes([0, 1, 8, 0])];
const REQUEST: u32 = u32::from_ne_bytes([6, 4, 0, 1]);
const REPLY: u32 = u32::from_ne_bytes([6, 4, 0, 2]);

/// Turns a request for a virtual address into its answer, sent back by the way it came.
#[inline(always)]
pub fn answer_arp<P: Packet + ?Sized, T: Tables>(packet: &mut P, tables: &T, arp: usize) -> Verdict {
    try_answer_arp(packet, tables, arp).unwrap_or(Verdict::stay(Reason::NotIp))
}

#[inline(always)]
fn try_answer_arp<P: Packet + ?Sized, T: Tables>(packet: &mut P, tables: &T, arp: usize) -> Option<Verdict> {
    // hardware and protocol type; lengths and operation; then sender and target, MAC before IP, unaligned.
    let words = packet.load::<[u32; 7]>(arp)?;
    let [kind, operation, sender_mac_low, sender_mixed, sender_mixed_low, _, target] = words;
    if kind != ETHERNET_IPV4[0] || operation != REQUEST {
        return None;
    }
    let [mac4, mac5, ip0, ip1] = sender_mixed.to_ne_bytes();
    let [ip2, ip3, _, _] = sender_mixed_low.to_ne_bytes();
    let [mac0, mac1, mac2, mac3] = sender_mac_low.to_ne_bytes();
    let sender = Mac::new([mac0, mac1, mac2, mac3, mac4, mac5]);
    let sender_ip = u32::from_ne_bytes([ip0, ip1, ip2, ip3]);
    if sender_ip == target || tables.virtual_address(&Address::from_ipv4_word(target))?.answer_arp != 1 {
        return None;
    }
    let own = own_mac(tables)?;

    write_mac(packet, 0, sender)?;
    write_mac(packet, EthHdr::LEN - 8, own)?;
    packet.store(arp + 4, REPLY)?;
    write_mac(packet, arp + 8, own)?;
    packet.store(arp + 14, target)?;
    write_mac(packet, arp + 18, sender)?;
    packet.store(arp + 24, sender_ip)?;
    Some(Verdict::send(Reason::ArpAnswered, Egress::INGRESS))
}

/// Bytes of a solicitation and of an advertisement without options.
const FIXED: usize = 24;
/// Bytes of the option with an Ethernet address.
const LINK_LAYER: usize = 8;
const SOURCE_LINK_LAYER: u8 = 1;
const TARGET_LINK_LAYER: u8 = 2;
/// Units of 8 bytes: an address, a nonce (RFC 7527) and room for as much again.
const OPTIONS_MAX: usize = 8;
const HOP_LIMIT: u8 = 255;
const SOLICITED: u8 = 0x40;
const OVERRIDE: u8 = 0x20;
const SOLICITED_NODE: [u32; 3] = [u32::from_ne_bytes([0xff, 2, 0, 0]), 0, u32::from_ne_bytes([0, 0, 0, 1])];
const ALL_NODES: Address =
    Address::from_words([u32::from_ne_bytes([0xff, 2, 0, 0]), 0, 0, u32::from_ne_bytes([0, 0, 0, 1])]);
const ALL_NODES_MAC: Mac = Mac::new([0x33, 0x33, 0, 0, 0, 1]);

/// Turns a solicitation for a virtual address into its advertisement, sent back by the way it came. Those that are not
/// valid (RFC 4861, 7.1.1), have extension headers or more options than any known sender are left to the stack.
#[inline(always)]
pub fn answer_solicitation<P: Packet + ?Sized, T: Tables>(packet: &mut P, tables: &T, ip: &Ip) -> Verdict {
    try_answer_solicitation(packet, tables, ip).unwrap_or(Verdict::stay(Reason::NotOurs))
}

#[inline(always)]
fn try_answer_solicitation<P: Packet + ?Sized, T: Tables>(
    packet: &mut P,
    tables: &T,
    ip: &Ip,
) -> Option<Verdict> {
    let icmp = ip.l3() + ipv6::LEN;
    let length = (ip.length as usize).checked_sub(ipv6::LEN)?;
    if ip.l4() != icmp || ip.ttl() != HOP_LIMIT || length > FIXED + 8 * OPTIONS_MAX {
        return None;
    }
    let [first, _, t0, t1, t2, t3] = packet.load::<[u32; FIXED / 4]>(icmp)?;
    let target = Address::from_words([t0, t1, t2, t3]);
    let [_, code, _, _] = first.to_ne_bytes();
    let probe = ip.source == Address::from_words([0, 0, 0, 0]);
    let to_node = is_solicited_node(&ip.destination, t3);
    if code != 0
        || !(to_node || ip.destination == target && !probe)
        || is_group(&target)
        // An IPv4 address in its mapped form is asked for by ARP.
        || target.is_ipv4()
        || is_group(&ip.source)
    {
        return None;
    }
    if tables.virtual_address(&target)?.answer_arp != 1 {
        return None;
    }
    let own = own_mac(tables)?;
    let (to, asker) = link_ends(packet)?;
    if to.bytes()[0] & GROUP_BIT == 0 && to != own {
        return None;
    }
    options(packet, tables, icmp + FIXED, ip.l3() + ip.length as usize, probe)?;
    let sum = pseudo_header((&ip.source, &ip.destination), length as u16);
    if units(packet, icmp, ip.l3() + ip.length as usize, sum)?.apply(0xffff) != 0 {
        return None;
    }

    let (destination, asker, flags) =
        if probe { (ALL_NODES, ALL_NODES_MAC, OVERRIDE) } else { (ip.source, asker, SOLICITED | OVERRIDE) };
    advertise(packet, ip, target, own, (destination, asker, flags))?;
    Some(Verdict::send(Reason::NeighbourAnswered, Egress::INGRESS))
}

#[inline(always)]
fn is_group(address: &Address) -> bool {
    address.words()[0].to_ne_bytes()[0] == 0xff
}

/// Whether it is the group of the address that ends in `last` (RFC 4291, 2.7.1).
#[inline(always)]
fn is_solicited_node(address: &Address, last: u32) -> bool {
    let [a, b, c, d] = address.words();
    let [_, low1, low2, low3] = last.to_ne_bytes();
    [a, b, c] == SOLICITED_NODE && d == u32::from_ne_bytes([0xff, low1, low2, low3])
}

/// Walks over options, of which none may be empty or end beyond the packet; a probe has no address to tell.
#[inline(always)]
fn options<P: Packet + ?Sized, T: Tables>(
    packet: &P,
    tables: &T,
    start: usize,
    end: usize,
    probe: bool,
) -> Option<()> {
    let mut at = start;
    for _ in steps(OPTIONS_MAX as u8) {
        at = tables.launder(at as u64) as usize & 0xff;
        if at == end {
            break;
        }
        let [kind, units] = packet.load::<u16>(at)?.to_ne_bytes();
        at += units as usize * 8;
        if units == 0 || at > end || probe && kind == SOURCE_LINK_LAYER {
            return None;
        }
    }
    (at == end).then_some(())
}

/// `sum`, and the words of a solicitation, all of whose parts are multiples of 8 bytes.
#[inline(always)]
fn units<P: Packet + ?Sized>(
    packet: &P,
    start: usize,
    end: usize,
    mut sum: Difference,
) -> Option<Difference> {
    let mut at = start;
    for _ in steps((FIXED / 8 + OPTIONS_MAX) as u8) {
        if at + 8 > end {
            break;
        }
        let [first, second] = packet.load::<[u32; 2]>(at)?;
        sum = sum.plus32(first).plus32(second);
        at += 8;
    }
    Some(sum)
}

/// Writes the advertisement over the solicitation: from `target`, which `own` has, to the asker.
#[inline(always)]
fn advertise<P: Packet + ?Sized>(
    packet: &mut P,
    ip: &Ip,
    target: Address,
    own: Mac,
    (destination, asker, flags): (Address, Mac, u8),
) -> Option<()> {
    const LENGTH: u16 = (FIXED + LINK_LAYER) as u16;
    // As if the option were put before a solicitation without one: the link layer stays in its shape.
    packet.truncate(ip.l3() + ipv6::LEN + FIXED)?;
    let l3 = link::insert::<P, LINK_LAYER>(packet, ip.l3(), EtherType::Ipv6, (own, asker, Egress::INGRESS))?;
    let [length_high, length_low] = LENGTH.to_be_bytes();
    packet.store(
        l3,
        [
            u32::from_ne_bytes([0x60, 0, 0, 0]),
            u32::from_ne_bytes([length_high, length_low, ICMPV6, HOP_LIMIT]),
        ],
    )?;
    packet.store(l3 + ipv6::SOURCE, target.words())?;
    packet.store(l3 + ipv6::DESTINATION, destination.words())?;
    let [m0, m1, m2, m3, m4, m5] = own.bytes();
    let option = [
        u32::from_ne_bytes([TARGET_LINK_LAYER, (LINK_LAYER / 8) as u8, m0, m1]),
        u32::from_ne_bytes([m2, m3, m4, m5]),
    ];
    let flags = u32::from_ne_bytes([flags, 0, 0, 0]);
    let mut sum = pseudo_header((&target, &destination), LENGTH)
        .plus32(u32::from_ne_bytes([NEIGHBOUR_ADVERTISEMENT, 0, 0, 0]))
        .plus32(flags)
        .plus32(option[0])
        .plus32(option[1]);
    for word in target.words() {
        sum = sum.plus32(word);
    }
    let [check_low, check_high] = sum.apply(0xffff).to_ne_bytes();
    let first = u32::from_ne_bytes([NEIGHBOUR_ADVERTISEMENT, 0, check_low, check_high]);
    packet.store(l3 + ipv6::LEN, [first, flags])?;
    packet.store(l3 + ipv6::LEN + 8, target.words())?;
    packet.store(l3 + ipv6::LEN + FIXED, option)
}

/// The address of the interface that the packet came in by; found by a scan, which only questions for neighbours pay for.
#[inline(always)]
fn own_mac<T: Tables>(tables: &T) -> Option<Mac> {
    let ingress = tables.ingress_ifindex();
    for index in 0..limits::INTERFACES as u16 {
        if let Some(interface) = tables.interface(index)
            && interface.ifindex == ingress
        {
            return Some(Mac::from_word(interface.mac));
        }
    }
    None
}

const _: () = assert!(NEIGHBOUR_SOLICITATION + 1 == NEIGHBOUR_ADVERTISEMENT);
