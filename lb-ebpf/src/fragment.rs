//! Fragments: later ones follow their first, which alone has ports.
//!
//! They have a program of their own. Where a first fragment went is remembered under what its packet's fragments share. A later one of which no first
//! was seen goes by the policy of the service that its destination names: it is dropped, left to the stack, or goes by
//! addresses alone, as every packet of such a service does. It is never rewritten as if it had ports.
//!
//! No ICMP error is sent about a later fragment (RFC 1122, 3.2.2): one that would deserve one is dropped and counted.

use lb_common::{
    Address, Backend, BackendId, Features, FragmentKey, FragmentPolicy, FragmentWay, Mode, Port, Protocol,
    Reason, Service, ServiceKey, Tracking, limits,
};

use crate::{
    forward::{
        self, Way,
        rewrite::{self, End, Rewrite},
        tunnel, way_by_route, way_to,
    },
    packet::Packet,
    parse::{Family, Ip, Part, Transport, ipv6, transport::UDP},
    pipeline::{Stage, Verdict, hash_of},
    select::{Choice, select},
    service::{Owner, owner},
    tables::{Tables, Tally},
};

/// The first fragment of TCP ends after the fixed header, and at a multiple of eight.
const TCP_HEADER_UNITS: u16 = 3;
const IPV4_FRAGMENT: usize = 6;
const IPV4_OFFSET: u16 = 0x1fff;
const IPV6_FRAGMENT: usize = 2;

/// Remembers where a first fragment goes in `full-nat`: what source and destination become, to a backend or from one to
/// a client (`None`). Does nothing for a whole packet.
#[inline(always)]
pub fn note<T: Tables>(
    tables: &T,
    ip: &Ip,
    backend: Option<BackendId>,
    service: u32,
    ends: (Address, Address),
) {
    if is_first(ip) {
        let backend = backend.unwrap_or(BackendId::NONE);
        let way = FragmentWay::rewritten(ends, backend, service, tables.now_seconds());
        remember(tables, ip, &way);
    }
}

#[inline(always)]
fn remember<T: Tables>(tables: &T, ip: &Ip, way: &FragmentWay) {
    let key = key(ip);
    tables.remember_fragment(&key, &way.tagged(key.tag()));
}

#[inline(always)]
fn is_first(ip: &Ip) -> bool {
    matches!(ip.part(), Part::First)
}

#[inline(always)]
fn key(ip: &Ip) -> FragmentKey {
    let protocol = match ip.family() {
        Family::V4 => ip.protocol(),
        Family::V6 => 0,
    };
    FragmentKey {
        source: ip.source,
        destination: ip.destination,
        identification: ip.identification,
        protocol,
        reserved: [0, 0, 0],
    }
}

/// Sends a fragment on: the first by its ports, another after it. The transport of another has none.
#[inline(always)]
pub fn send_on<P: Packet + ?Sized, T: Tables>(packet: &mut P, tables: &T, transport: &Transport) -> Verdict {
    let ip = &transport.ip;
    let found = match find(tables, transport) {
        Ok(found) => found,
        Err(verdict) => return verdict,
    };
    if !is_first(ip) && overlaps_ports(packet, ip) {
        return Verdict::stay(Reason::Malformed);
    }
    let verdict = if found.way.is_reply() {
        to_client(packet, tables, transport, &found)
    } else {
        to_backend(packet, tables, transport, &found)
    };
    if verdict.next.is_some() && !is_first(ip) {
        let expired = ip.ttl() <= 1 && !matches!(found.way.mode(), Mode::DsrL2);
        return Verdict::stay(if expired { Reason::TtlExpired } else { Reason::ExceedsMtu });
    }
    verdict
}

/// Where a fragment goes, and what is counted of it.
struct Found {
    way: FragmentWay,
    new_flow: bool,
    refused: bool,
    /// Of a first one's reply: what the source port becomes, 0 for what it is.
    port: Port,
}

#[inline(always)]
fn find<T: Tables>(tables: &T, transport: &Transport) -> Result<Found, Verdict> {
    let service = if is_first(&transport.ip) {
        match owner(tables, transport) {
            Owner::Client(service) if matches!(service.mode(), Mode::FullNat) => {
                return Err(Verdict::to(Stage::FullNat));
            }
            Owner::Client(service) => service,
            Owner::Backend(reply) => {
                let (ip, ends) = (&transport.ip, (reply.vip, transport.ip.destination));
                note(tables, ip, None, reply.service, ends);
                let way = FragmentWay::rewritten(ends, BackendId::NONE, reply.service, 0);
                return Ok(Found { way, new_flow: false, refused: false, port: reply.port });
            }
            Owner::Translated => return Err(Verdict::to(Stage::FullNat)),
            Owner::Local => return Err(Verdict::stay(Reason::LocalReply)),
            Owner::Nobody => return Err(Verdict::stay(Reason::NotOurs)),
        }
    } else {
        if let Some(way) = known(tables, &transport.ip) {
            return Ok(Found { way, new_flow: false, refused: false, port: Port::new(0) });
        }
        by_policy(tables, &transport.ip).map_err(Verdict::stay)?
    };
    choose(tables, transport, service)
}

#[inline(always)]
fn known<T: Tables>(tables: &T, ip: &Ip) -> Option<FragmentWay> {
    let key = key(ip);
    // Another packet's may have taken the entry over a moment ago.
    let way = tables.fragment_way(&key).filter(|way| way.tag() == key.tag())?;
    let age = tables.now_seconds().wrapping_sub(way.seen);
    // Another CPU may have seen the first in a later second.
    (age <= limits::FRAGMENT_SECONDS || age == u32::MAX).then_some(way)
}

/// Whether a later fragment would write over ports and flags of the first (RFC 1858, RFC 5722).
#[inline(always)]
fn overlaps_ports<P: Packet + ?Sized>(packet: &P, ip: &Ip) -> bool {
    let offset = match ip.family() {
        Family::V4 => {
            let Some(field) = packet.load::<u16>(ip.l3() + IPV4_FRAGMENT) else { return true };
            u16::from_be(field) & IPV4_OFFSET
        }
        Family::V6 => {
            let Some(field) = packet.load::<u16>(ip.l4() + IPV6_FRAGMENT) else { return true };
            u16::from_be(field) >> 3
        }
    };
    ip.protocol() == Protocol::Tcp as u8 && offset < TCP_HEADER_UNITS
}

/// The service that a fragment of an unknown packet goes to by addresses alone, or what becomes of it.
#[inline(always)]
fn by_policy<'t, T: Tables>(tables: &'t T, ip: &Ip) -> Result<&'t Service, Reason> {
    let address = tables.virtual_address(&ip.destination);
    let Some(protocol) = Protocol::from_number(ip.protocol()) else {
        // Behind an extension header there may be ports.
        let hidden = matches!(ip.family(), Family::V6) && ipv6::is_extension(ip.protocol());
        return Err(if hidden && address.is_some() { Reason::FragmentUnknown } else { Reason::NotOurs });
    };
    let (policy, port) = match &address {
        Some(address) => (address.fragment_policy(protocol), address.by_address_port(protocol)),
        None => (FragmentPolicy::Drop, Port::new(0)),
    };
    let exact = ServiceKey { address: ip.destination, port, protocol: protocol as u8, width: 0 };
    let wide = if tables.features().contains(Features::WIDE) && matches!(policy, FragmentPolicy::Drop) {
        tables.wide(protocol, &ip.destination)
    } else {
        None
    };
    let (policy, key) = match wide {
        Some(wide) => (FragmentPolicy::from_byte(wide.fragments), wide.service_key(wide.ranges[0].first)),
        None if address.is_none() => return Err(Reason::NotOurs),
        None => (policy, Some(exact)),
    };
    match policy {
        FragmentPolicy::Drop => Err(Reason::FragmentUnknown),
        FragmentPolicy::Pass => Err(Reason::FragmentPassed),
        FragmentPolicy::ByAddress => key
            .and_then(|key| tables.service(&key))
            // The pool's ports are given to flows that are known.
            .filter(|service| service.by_address() && !matches!(service.mode(), Mode::FullNat))
            .ok_or(Reason::FragmentUnknown),
    }
}

/// As [`crate::pipeline`] does for whole packets.
#[inline(always)]
fn choose<T: Tables>(tables: &T, transport: &Transport, service: &Service) -> Result<Found, Verdict> {
    let stay = Verdict::stay;
    let settings = tables.settings().ok_or(stay(Reason::TableInconsistent))?;
    let tuple = service.flow_key(&transport.tuple);
    let hash = hash_of(tables, service, settings, &transport.tuple, &tuple);
    let slot = tables.slot(service.slot_index(hash)).ok_or(stay(Reason::TableInconsistent))?;
    // Without a look for QUIC, which is never fragmented (RFC 9000, 14).
    let choice = select(tables, service, slot, &tuple, hash, transport.event());
    let choice = Choice::from_word(tables.launder(choice.word()));
    let tracked =
        tables.features().contains(Features::TRACKED) && matches!(service.tracking(), Tracking::EveryFlow);
    if tracked && !choice.known && is_first(&transport.ip) && transport.ip.protocol() == UDP {
        // It comes back, and is known.
        return Err(Verdict::to(Stage::Open));
    }
    if choice.backend == BackendId::NONE {
        return Err(stay(Reason::NoBackend));
    }
    let ends = (transport.ip.source, transport.ip.destination);
    let way = |seen| FragmentWay::to_backend(ends, choice.backend, service.mode(), service.id, hash, seen);
    if is_first(&transport.ip) {
        remember(tables, &transport.ip, &way(tables.now_seconds()));
    }
    let way = way(0);
    Ok(Found { way, new_flow: choice.new_flow, refused: choice.refused, port: Port::new(0) })
}

#[inline(always)]
fn to_backend<P: Packet + ?Sized, T: Tables>(
    packet: &mut P,
    tables: &T,
    transport: &Transport,
    found: &Found,
) -> Verdict {
    let (ip, way) = (&transport.ip, &found.way);
    let id = BackendId(way.backend);
    let Some(backend) = tables.backend(id) else { return Verdict::stay(Reason::TableInconsistent) };
    if !backend.serves() || backend.service != way.service {
        return Verdict::stay(Reason::NoBackend);
    }
    let verdict = match way.mode() {
        Mode::Nat if ip.source == backend.address => Verdict::stay(Reason::OwnClient),
        Mode::Nat => to_rewritten(packet, tables, transport, (ip.source, backend.address), backend),
        Mode::FullNat => to_rewritten(packet, tables, transport, (way.source, way.destination), backend),
        Mode::DsrL2 => forward::to_neighbour(packet, tables, ip, backend),
        mode @ (Mode::DsrIpip | Mode::DsrGue) if tables.features().contains(Features::TUNNEL) => {
            tunnel::send(packet, tables, ip, mode, backend, way.hash)
        }
        Mode::DsrIpip | Mode::DsrGue => Verdict::stay(Reason::TableInconsistent),
    };
    if matches!(verdict.reason, Reason::Forwarded | Reason::ResolvingNextHop | Reason::LeftToFragment) {
        let tally = Tally {
            bytes: ip.length as u64,
            new_flow: found.new_flow,
            refused: found.refused,
            overflowed: false,
        };
        tables.count(way.service, id, tally);
    }
    verdict
}

#[inline(always)]
fn to_rewritten<P: Packet + ?Sized, T: Tables>(
    packet: &mut P,
    tables: &T,
    transport: &Transport,
    ends: (Address, Address),
    backend: &Backend,
) -> Verdict {
    let ip = &transport.ip;
    let way = match way_to(tables, ip, ends.0, backend, 0) {
        Ok(way) => way,
        Err(reason) => return Verdict::stay(reason),
    };
    if ip.ttl() <= 1 || (matches!(way, Way::TooBig(_)) && ip.dont_fragment()) {
        return Verdict::to(Stage::Control);
    }
    // A range's backends keep the port.
    let port = if backend.port.word() == 0 { transport.tuple.vip_port } else { backend.port };
    let first = Rewrite {
        end: End::Destination,
        address: (ip.destination, ends.1),
        port: (transport.tuple.vip_port, port),
    };
    send(packet, transport, &first, ends, way, Reason::Forwarded)
}

#[inline(always)]
fn to_client<P: Packet + ?Sized, T: Tables>(
    packet: &mut P,
    tables: &T,
    transport: &Transport,
    found: &Found,
) -> Verdict {
    let (ip, ends) = (&transport.ip, (found.way.source, found.way.destination));
    let way = match way_by_route(tables, ip, ends.0, ends.1, 0) {
        Ok(way) => way,
        Err(reason) => return Verdict::stay(reason),
    };
    // As in `forward::to_client`.
    if ip.ttl() <= 1 || (matches!(way, Way::TooBig(_)) && ip.dont_fragment()) {
        return Verdict::stay(Reason::ReplyLeft);
    }
    let port = if found.port.word() == 0 { transport.tuple.client_port } else { found.port };
    let first =
        Rewrite { end: End::Source, address: (ip.source, ends.0), port: (transport.tuple.client_port, port) };
    send(packet, transport, &first, ends, way, Reason::Replied)
}

/// Rewrites both addresses, and of a first fragment what stands above IP by `first`.
#[inline(always)]
fn send<P: Packet + ?Sized>(
    packet: &mut P,
    transport: &Transport,
    first: &Rewrite,
    ends: (Address, Address),
    way: Way,
    reason: Reason,
) -> Verdict {
    let ip = &transport.ip;
    let above = if is_first(ip) { rewrite::rewrite_transport(packet, transport, first) } else { Some(()) };
    // The hop is taken off once.
    let rewritten = above
        .and_then(|()| rewrite::rewrite_ip(packet, ip, End::Source, (ip.source, ends.0), Way::Unresolved))
        .and_then(|()| rewrite::rewrite_ip(packet, ip, End::Destination, (ip.destination, ends.1), way));
    match rewritten {
        Some(()) => rewrite::send(packet, ip, way, reason),
        None => Verdict::stay(Reason::Malformed),
    }
}
