//! Sends a packet on: to a backend by its service's mode, or a reply to its client.

use core::mem::offset_of;

use lb_common::{Address, Backend, BackendId, Mac, Mode, NextHop, Port, Protocol, Reason, Reply, Service};
use network_types::{eth::EthHdr, ip::Ipv4Hdr, tcp::TcpHdr};

use crate::{
    arp::write_mac,
    checksum::Difference,
    packet::Packet,
    parse::Transport,
    pipeline::{Egress, Verdict},
    select::Choice,
    tables::{Route, RouteQuery, Tables, Tally},
};

/// Sends a client's packet to the chosen backend and counts it.
#[inline(always)]
pub fn to_backend<P: Packet + ?Sized, T: Tables>(
    packet: &mut P,
    tables: &T,
    transport: &Transport,
    service: &Service,
    choice: Choice,
) -> Verdict {
    if choice.backend == BackendId::NONE {
        return Verdict::stay(Reason::NoBackend);
    }
    let Some(backend) = tables.backend(choice.backend) else {
        return Verdict::stay(Reason::TableInconsistent);
    };
    if !backend.serves() {
        return Verdict::stay(Reason::NoBackend);
    }
    let way = match way_to(tables, transport, backend) {
        Ok(way) => way,
        Err(reason) => return Verdict::stay(reason),
    };
    let verdict = match service.mode() {
        Mode::Nat => {
            let destination = Rewrite {
                end: End::Destination,
                address: (transport.tuple.vip, backend.address),
                port: (transport.tuple.vip_port, backend.port),
            };
            hop(packet, transport, destination, way, Reason::Forwarded)
        }
        // The backend owns the virtual address: there is nothing that the stack could resolve or send.
        Mode::DsrL2 => match way {
            Way::Unresolved => Verdict::stay(Reason::NextHopUnresolved),
            Way::Known { source, destination, egress } => match write_ethernet(packet, source, destination) {
                Some(()) => Verdict { reason: Reason::Forwarded, egress },
                None => Verdict::stay(Reason::Malformed),
            },
        },
    };
    if matches!(verdict.reason, Reason::Forwarded | Reason::ResolvingNextHop) {
        let tally =
            Tally { bytes: transport.length as u64, new_flow: choice.new_flow, refused: choice.refused };
        tables.count(service.id, choice.backend, tally);
    }
    verdict
}

/// Sends a backend's reply to the client, in the name of the service.
#[inline(always)]
pub fn to_client<P: Packet + ?Sized, T: Tables>(
    packet: &mut P,
    tables: &T,
    transport: &Transport,
    reply: &Reply,
) -> Verdict {
    let way = match way_by_route(tables, transport, reply.vip, transport.tuple.vip) {
        Ok(way) => way,
        Err(reason) => return Verdict::stay(reason),
    };
    let source = Rewrite {
        end: End::Source,
        address: (transport.tuple.client, reply.vip),
        port: (transport.tuple.client_port, reply.port),
    };
    hop(packet, transport, source, way, Reason::Replied)
}

/// How a packet leaves.
#[derive(Clone, Copy)]
enum Way {
    Known {
        source: Mac,
        destination: Mac,
        egress: Egress,
    },
    /// The route is known, the neighbour is not: the stack can find out.
    Unresolved,
}

/// The next hop in the backend's entry, else the kernel's routes.
#[inline(always)]
fn way_to<T: Tables>(tables: &T, transport: &Transport, backend: &Backend) -> Result<Way, Reason> {
    let Some(next_hop) = NextHop::from_word(backend.next_hop) else {
        return way_by_route(tables, transport, transport.tuple.client, backend.address);
    };
    let interface = tables.interface(next_hop.interface).ok_or(Reason::TableInconsistent)?;
    if transport.length as u32 > interface.mtu {
        return Err(Reason::ExceedsMtu);
    }
    Ok(Way::Known {
        source: Mac::from_word(interface.mac),
        destination: next_hop.mac,
        egress: Egress::by_ifindex(interface.ifindex, tables.ingress_ifindex()),
    })
}

#[inline(always)]
fn way_by_route<T: Tables>(
    tables: &T,
    transport: &Transport,
    source: Address,
    destination: Address,
) -> Result<Way, Reason> {
    let query =
        RouteQuery { source, destination, length: transport.length, protocol: transport.protocol as u8 };
    match tables.route(&query) {
        Route::Found { ifindex, source, destination } => Ok(Way::Known {
            source,
            destination,
            egress: Egress::by_ifindex(ifindex, tables.ingress_ifindex()),
        }),
        Route::NeighbourUnknown => Ok(Way::Unresolved),
        Route::TooBig => Err(Reason::ExceedsMtu),
        Route::None => Err(Reason::NoRoute),
    }
}

#[derive(Clone, Copy)]
enum End {
    Source,
    Destination,
}

/// One end of the tuple, from what it is to what it becomes.
struct Rewrite {
    end: End,
    address: (Address, Address),
    port: (Port, Port),
}

/// Rewrites one end, takes a hop off the time to live and hands the packet to the next hop.
#[inline(always)]
fn hop<P: Packet + ?Sized>(
    packet: &mut P,
    transport: &Transport,
    rewrite: Rewrite,
    way: Way,
    reason: Reason,
) -> Verdict {
    if transport.ttl() <= 1 {
        return Verdict::stay(Reason::TtlExpired);
    }
    let sent = match way {
        Way::Known { source, destination, egress } => {
            write_ethernet(packet, source, destination).map(|()| Verdict { reason, egress })
        }
        Way::Unresolved => Some(Verdict::stay(Reason::ResolvingNextHop)),
    };
    match (sent, rewrite_ipv4(packet, transport, &rewrite, way)) {
        (Some(verdict), Some(())) => verdict,
        _ => Verdict::stay(Reason::Malformed),
    }
}

#[inline(always)]
fn rewrite_ipv4<P: Packet + ?Sized>(
    packet: &mut P,
    transport: &Transport,
    rewrite: &Rewrite,
    way: Way,
) -> Option<()> {
    let (l3, l4) = (transport.l3, transport.l4);
    let (address_at, port_at) = match rewrite.end {
        End::Source => (l3 + offset_of!(Ipv4Hdr, src_addr), l4 + offset_of!(TcpHdr, source)),
        End::Destination => (l3 + offset_of!(Ipv4Hdr, dst_addr), l4 + offset_of!(TcpHdr, dest)),
    };
    let (old, new) = (rewrite.address.0.ipv4_word(), rewrite.address.1.ipv4_word());
    let of_address = Difference::default().word32(old, new);
    let mut of_header = of_address;
    // A packet that is left to the stack loses its hop there.
    if let Way::Known { .. } = way {
        let ttl_word = transport.ttl_word_after_hop();
        of_header = of_header.word16(transport.ttl_word, ttl_word);
        packet.store(l3 + offset_of!(Ipv4Hdr, ttl), ttl_word)?;
    }
    let check_at = l3 + offset_of!(Ipv4Hdr, check);
    let check = packet.load::<u16>(check_at)?;
    packet.store(check_at, of_header.apply(check))?;
    packet.store(address_at, new)?;

    let of_segment = of_address.word16(rewrite.port.0.word(), rewrite.port.1.word());
    let check_at = transport.checksum_offset();
    let check = packet.load::<u16>(check_at)?;
    let check = match transport.protocol {
        Protocol::Tcp => of_segment.apply(check),
        Protocol::Udp => of_segment.apply_udp(check),
    };
    packet.store(check_at, check)?;
    packet.store(port_at, rewrite.port.1.word())
}

#[inline(always)]
fn write_ethernet<P: Packet + ?Sized>(packet: &mut P, source: Mac, destination: Mac) -> Option<()> {
    write_mac(packet, offset_of!(EthHdr, dst_addr), destination)?;
    write_mac(packet, offset_of!(EthHdr, src_addr), source)
}
