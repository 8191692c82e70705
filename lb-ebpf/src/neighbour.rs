//! ARP (RFC 826) and neighbour solicitations (RFC 4861) for virtual addresses: the balancer owns them without the
//! host's stack knowing.

use lb_common::{Address, Mac, Reason, limits};
use network_types::eth::EthHdr;

use crate::{
    link::write_mac,
    packet::Packet,
    pipeline::{Egress, Verdict},
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

/// The address of the interface that the packet came in by; found by a scan, which only ARP pays for.
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
