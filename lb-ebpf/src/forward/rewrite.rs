//! Addresses, ports, time to live and the checksums over them.

use core::mem::offset_of;

use lb_common::{Address, Port, Protocol, Reason};
use network_types::{ip::Ipv4Hdr, tcp::TcpHdr};

use super::Way;
use crate::{
    checksum::Difference,
    link,
    packet::Packet,
    parse::{Family, Ip, Transport, ipv6},
    pipeline::Verdict,
};

/// Which end of a tuple.
#[derive(Clone, Copy)]
pub enum End {
    /// Where a packet comes from.
    Source,
    /// Where it goes.
    Destination,
}

/// One end of the tuple, from what it is to what it becomes.
pub struct Rewrite {
    /// Which.
    pub end: End,
    /// Its address.
    pub address: (Address, Address),
    /// Its port.
    pub port: (Port, Port),
}

/// Rewrites one end, takes a hop off the time to live, which is above 1, and hands the packet to the next hop.
#[inline(always)]
pub fn hop<P: Packet + ?Sized>(
    packet: &mut P,
    transport: &Transport,
    rewrite: Rewrite,
    way: Way,
    reason: Reason,
) -> Verdict {
    let rewritten = rewrite_transport(packet, transport, &rewrite)
        .and_then(|()| rewrite_ip(packet, &transport.ip, rewrite.end, rewrite.address, way));
    match rewritten {
        Some(()) => send(packet, &transport.ip, way, reason),
        None => Verdict::stay(Reason::Malformed),
    }
}

/// What both ends of the tuple become.
pub struct Ends {
    /// Where the packet comes from.
    pub source: (Address, Port),
    /// Where it goes.
    pub destination: (Address, Port),
}

/// As [`hop`], with both ends.
#[inline(always)]
pub fn hop_both<P: Packet + ?Sized>(
    packet: &mut P,
    transport: &Transport,
    ends: &Ends,
    way: Way,
    reason: Reason,
) -> Verdict {
    let rewritten = rewrite_both_ports(packet, transport, ends)
        .and_then(|()| rewrite_both_addresses(packet, transport, ends, way));
    match rewritten {
        Some(()) => send(packet, &transport.ip, way, reason),
        None => Verdict::stay(Reason::Malformed),
    }
}

/// Hands a rewritten packet to the next hop, or leaves it to the stack.
#[inline(always)]
pub fn send<P: Packet + ?Sized>(packet: &mut P, ip: &Ip, way: Way, reason: Reason) -> Verdict {
    match way {
        Way::Known { source, destination, egress } => {
            match link::readdress(packet, ip.l3(), source, destination, egress) {
                Some(()) => Verdict::send(reason, egress),
                None => Verdict::stay(Reason::Malformed),
            }
        }
        Way::Unresolved => Verdict::stay(Reason::ResolvingNextHop),
        Way::TooBig(_) => Verdict::stay(Reason::LeftToFragment),
    }
}

/// Rewrites one address of the IP header and, where the program sends the packet itself, takes a hop off.
#[inline(always)]
pub fn rewrite_ip<P: Packet + ?Sized>(
    packet: &mut P,
    ip: &Ip,
    end: End,
    (old, new): (Address, Address),
    way: Way,
) -> Option<()> {
    let l3 = ip.l3();
    // A packet that is left to the stack loses its hop there.
    let sends = matches!(way, Way::Known { .. });
    match ip.family() {
        Family::V4 => {
            let address_at = match end {
                End::Source => l3 + offset_of!(Ipv4Hdr, src_addr),
                End::Destination => l3 + offset_of!(Ipv4Hdr, dst_addr),
            };
            let mut change = Difference::default().word32(old.ipv4_word(), new.ipv4_word());
            if sends {
                let ttl_word = ip.ttl_word_after_hop();
                change = change.word16(ip.ttl_word, ttl_word);
                packet.store(l3 + offset_of!(Ipv4Hdr, ttl), ttl_word)?;
            }
            let check_at = l3 + offset_of!(Ipv4Hdr, check);
            let check = packet.load::<u16>(check_at)?;
            packet.store(check_at, change.apply(check))?;
            packet.store(address_at, new.ipv4_word())
        }
        Family::V6 => {
            let address_at = match end {
                End::Source => l3 + ipv6::SOURCE,
                End::Destination => l3 + ipv6::DESTINATION,
            };
            if sends {
                packet.store(l3 + ipv6::NEXT_HEADER, ip.ttl_word_after_hop())?;
            }
            packet.store(address_at, new.words())
        }
    }
}

/// Rewrites one port, and the checksum for the change of port and address.
#[inline(always)]
pub fn rewrite_transport<P: Packet + ?Sized>(
    packet: &mut P,
    transport: &Transport,
    rewrite: &Rewrite,
) -> Option<()> {
    let l4 = transport.ip.l4();
    let port_at = match rewrite.end {
        End::Source => l4 + offset_of!(TcpHdr, source),
        End::Destination => l4 + offset_of!(TcpHdr, dest),
    };
    let change = address_change(transport.ip.family(), rewrite.address)
        .word16(rewrite.port.0.word(), rewrite.port.1.word());
    let check_at = transport.checksum_offset();
    let check = packet.load::<u16>(check_at)?;
    let check = match transport.protocol() {
        Protocol::Tcp => change.apply(check),
        Protocol::Udp => change.apply_udp(check),
    };
    packet.store(check_at, check)?;
    packet.store(port_at, rewrite.port.1.word())
}

/// As [`rewrite_ip`], with both addresses.
#[inline(always)]
fn rewrite_both_addresses<P: Packet + ?Sized>(
    packet: &mut P,
    transport: &Transport,
    ends: &Ends,
    way: Way,
) -> Option<()> {
    let ip = &transport.ip;
    let l3 = ip.l3();
    let sends = matches!(way, Way::Known { .. });
    match ip.family() {
        Family::V4 => {
            let mut change = ends.address_change(transport);
            if sends {
                let ttl_word = ip.ttl_word_after_hop();
                change = change.word16(ip.ttl_word, ttl_word);
                packet.store(l3 + offset_of!(Ipv4Hdr, ttl), ttl_word)?;
            }
            let check_at = l3 + offset_of!(Ipv4Hdr, check);
            let check = packet.load::<u16>(check_at)?;
            packet.store(check_at, change.apply(check))?;
            let words = [ends.source.0.ipv4_word(), ends.destination.0.ipv4_word()];
            packet.store(l3 + offset_of!(Ipv4Hdr, src_addr), words)
        }
        Family::V6 => {
            if sends {
                packet.store(l3 + ipv6::NEXT_HEADER, ip.ttl_word_after_hop())?;
            }
            packet.store(l3 + ipv6::SOURCE, ends.source.0.words())?;
            packet.store(l3 + ipv6::DESTINATION, ends.destination.0.words())
        }
    }
}

/// As [`rewrite_transport`], with both ports.
#[inline(always)]
fn rewrite_both_ports<P: Packet + ?Sized>(packet: &mut P, transport: &Transport, ends: &Ends) -> Option<()> {
    let l4 = transport.ip.l4();
    let (old, source, destination) = (&transport.tuple, ends.source.1, ends.destination.1);
    let change = ends
        .address_change(transport)
        .word16(old.client_port.word(), source.word())
        .word16(old.vip_port.word(), destination.word());
    let check_at = transport.checksum_offset();
    let check = packet.load::<u16>(check_at)?;
    let check = match transport.protocol() {
        Protocol::Tcp => change.apply(check),
        Protocol::Udp => change.apply_udp(check),
    };
    packet.store(check_at, check)?;
    packet.store(l4 + offset_of!(TcpHdr, source), source.word())?;
    packet.store(l4 + offset_of!(TcpHdr, dest), destination.word())
}

impl Ends {
    #[inline(always)]
    fn address_change(&self, transport: &Transport) -> Difference {
        let (old, family) = (&transport.tuple, transport.ip.family());
        let change = address_change(family, (old.client, self.source.0));
        change_address(change, family, (old.vip, self.destination.0))
    }
}

/// What a change of address means for a checksum over it.
#[inline(always)]
pub fn address_change(family: Family, addresses: (Address, Address)) -> Difference {
    change_address(Difference::default(), family, addresses)
}

#[inline(always)]
fn change_address(change: Difference, family: Family, (old, new): (Address, Address)) -> Difference {
    let (old, new) = (old.words(), new.words());
    let change = change.word32(old[3], new[3]);
    match family {
        Family::V4 => change,
        Family::V6 => change.word32(old[0], new[0]).word32(old[1], new[1]).word32(old[2], new[2]),
    }
}
