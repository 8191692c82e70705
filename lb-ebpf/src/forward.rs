//! Sends a packet on: to a backend by its service's mode, or a reply to its client.

pub mod full_nat;
pub mod rewrite;
pub mod tunnel;

use lb_common::{
    Address, Backend, BackendId, Features, Mac, Mode, NextHop, Protocol, Reason, Reply, Service,
};

use self::rewrite::{End, Rewrite};
use crate::{
    link,
    packet::Packet,
    parse::{Ip, Transport},
    pipeline::{Egress, Stage, Verdict},
    select::Choice,
    tables::{Route, RouteQuery, Tables, Tally},
};

/// Bytes of the largest IP packet: what a tunnel puts in front may make it too large for any way.
const PACKET_MAX: u32 = u16::MAX as u32;

/// Sends a client's packet to the chosen backend and counts it; `hash` is the flow's.
#[inline(always)]
pub fn to_backend<P: Packet + ?Sized, T: Tables>(
    packet: &mut P,
    tables: &T,
    transport: &Transport,
    service: &Service,
    choice: Choice,
    hash: u64,
) -> Verdict {
    if choice.backend == BackendId::NONE {
        return Verdict::stay(if choice.full { Reason::BackendsFull } else { Reason::NoBackend });
    }
    let Some(backend) = tables.backend(choice.backend) else {
        return Verdict::stay(Reason::TableInconsistent);
    };
    if !backend.serves() {
        return unserved(tables, transport, backend);
    }
    let features = tables.features();
    let ip = &transport.ip;
    let verdict = match service.mode() {
        Mode::Nat => to_nat(packet, tables, transport, backend),
        Mode::DsrL2 => to_neighbour(packet, tables, &transport.ip, backend),
        Mode::DsrIpip | Mode::DsrGue if features.contains(Features::TUNNEL) => {
            tunnel::send(packet, tables, ip, service.mode(), backend, hash)
        }
        Mode::FullNat | Mode::DsrIpip | Mode::DsrGue => Verdict::stay(Reason::TableInconsistent),
    };
    if matches!(verdict.reason, Reason::Forwarded | Reason::ResolvingNextHop | Reason::LeftToFragment) {
        let tally = Tally {
            bytes: ip.length as u64,
            new_flow: choice.new_flow,
            refused: choice.refused,
            overflowed: choice.overflowed,
        };
        tables.count(service.id, choice.backend, tally);
    }
    verdict
}

/// Whether a packet of a cut backend's connection is answered with a reset: TCP, where that is loaded.
#[inline(always)]
pub fn may_reset<T: Tables>(tables: &T, transport: &Transport) -> bool {
    tables.features().contains(Features::RESET) && matches!(transport.protocol(), Protocol::Tcp)
}

/// A client's packet for a backend that does not serve.
#[inline(always)]
pub fn unserved<T: Tables>(tables: &T, transport: &Transport, backend: &Backend) -> Verdict {
    if backend.is_cut() && may_reset(tables, transport) {
        return Verdict::to(Stage::Reset);
    }
    Verdict::stay(Reason::NoBackend)
}

/// `nat`.
#[inline(always)]
fn to_nat<P: Packet + ?Sized, T: Tables>(
    packet: &mut P,
    tables: &T,
    transport: &Transport,
    backend: &Backend,
) -> Verdict {
    let ip = &transport.ip;
    if ip.source == backend.address {
        return Verdict::stay(Reason::OwnClient);
    }
    let way = match way_to(tables, ip, ip.source, backend, 0) {
        Ok(way) => way,
        Err(reason) => return Verdict::stay(reason),
    };
    if ip.ttl() <= 1 || (matches!(way, Way::TooBig(_)) && ip.dont_fragment()) {
        return Verdict::to(Stage::Control);
    }
    // A range's backends keep the port.
    let port = if backend.port.word() == 0 { transport.tuple.vip_port } else { backend.port };
    let destination = Rewrite {
        end: End::Destination,
        address: (ip.destination, backend.address),
        port: (transport.tuple.vip_port, port),
    };
    rewrite::hop(packet, transport, destination, way, Reason::Forwarded)
}

/// `dsr-l2`. The backend owns the virtual address: there is nothing that the stack could resolve or send.
#[inline(always)]
pub fn to_neighbour<P: Packet + ?Sized, T: Tables>(
    packet: &mut P,
    tables: &T,
    ip: &Ip,
    backend: &Backend,
) -> Verdict {
    let (source, destination, egress) = match way_to(tables, ip, ip.source, backend, 0) {
        Ok(Way::Known { source, destination, egress }) => (source, destination, egress),
        Ok(Way::Unresolved) => return Verdict::stay(Reason::NextHopUnresolved),
        Ok(Way::TooBig(_)) => return Verdict::to(Stage::Control),
        Err(reason) => return Verdict::stay(reason),
    };
    match link::readdress(packet, ip.l3(), source, destination, egress) {
        Some(()) => Verdict::send(Reason::Forwarded, egress),
        None => Verdict::stay(Reason::Malformed),
    }
}

/// Sends a backend's reply to the client, in the name of the service.
#[inline(always)]
pub fn to_client<P: Packet + ?Sized, T: Tables>(
    packet: &mut P,
    tables: &T,
    transport: &Transport,
    reply: &Reply,
) -> Verdict {
    let ip = &transport.ip;
    let way = match way_by_route(tables, ip, reply.vip, ip.destination, 0) {
        Ok(way) => way,
        Err(reason) => return Verdict::stay(reason),
    };
    // The stack has an address to answer with, and knows the backend.
    if ip.ttl() <= 1 || (matches!(way, Way::TooBig(_)) && ip.dont_fragment()) {
        return Verdict::stay(Reason::ReplyLeft);
    }
    let port = if reply.port.word() == 0 { transport.tuple.client_port } else { reply.port };
    let source = Rewrite {
        end: End::Source,
        address: (ip.source, reply.vip),
        port: (transport.tuple.client_port, port),
    };
    rewrite::hop(packet, transport, source, way, Reason::Replied)
}

/// How a packet leaves.
#[derive(Clone, Copy)]
pub enum Way {
    /// To this neighbour.
    Known {
        /// The egress interface's address.
        source: Mac,
        /// The neighbour's.
        destination: Mac,
        /// The interface.
        egress: Egress,
    },
    /// The route is known, the neighbour is not: the stack can find out.
    Unresolved,
    /// The way takes only so many bytes of what arrived.
    TooBig(u32),
}

/// The next hop in the backend's entry, else the kernel's routes; `overhead` bytes will be put in front, and `source`
/// is what the packet leaves with.
#[inline(always)]
pub fn way_to<T: Tables>(
    tables: &T,
    ip: &Ip,
    source: Address,
    backend: &Backend,
    overhead: u32,
) -> Result<Way, Reason> {
    way_by_hop(tables, ip, source, backend.address, backend.next_hop, overhead)
}

/// By a backend's [`Backend::next_hop`], else the kernel's routes to `destination`.
#[inline(always)]
pub fn way_by_hop<T: Tables>(
    tables: &T,
    ip: &Ip,
    source: Address,
    destination: Address,
    next_hop: u64,
    overhead: u32,
) -> Result<Way, Reason> {
    let Some(next_hop) = NextHop::from_word(next_hop) else {
        return way_by_route(tables, ip, source, destination, overhead);
    };
    let interface = tables.interface(next_hop.interface).ok_or(Reason::TableInconsistent)?;
    let mtu = if overhead == 0 { interface.mtu } else { interface.mtu.min(PACKET_MAX) };
    if ip.length + overhead > mtu {
        return Ok(Way::TooBig(mtu.saturating_sub(overhead)));
    }
    Ok(Way::Known {
        source: Mac::from_word(interface.mac),
        destination: next_hop.mac,
        egress: Egress::by_ifindex(interface.ifindex, tables.ingress_ifindex()),
    })
}

/// By the kernel's routes.
#[inline(always)]
pub fn way_by_route<T: Tables>(
    tables: &T,
    ip: &Ip,
    source: Address,
    destination: Address,
    overhead: u32,
) -> Result<Way, Reason> {
    if overhead != 0 && ip.length + overhead > PACKET_MAX {
        return Ok(Way::TooBig(PACKET_MAX - overhead));
    }
    let query = RouteQuery { source, destination, length: ip.length + overhead, protocol: ip.protocol() };
    match tables.route(&query) {
        Route::Found { ifindex, source, destination } => Ok(Way::Known {
            source,
            destination,
            egress: Egress::by_ifindex(ifindex, tables.ingress_ifindex()),
        }),
        Route::NeighbourUnknown => Ok(Way::Unresolved),
        Route::TooBig(mtu) => Ok(Way::TooBig(mtu.saturating_sub(overhead))),
        Route::None => Err(Reason::NoRoute),
    }
}
