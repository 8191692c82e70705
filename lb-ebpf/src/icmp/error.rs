//! Errors about balanced flows, sent on to the end that they are for.
//!
//! | error to | about a packet | goes to |
//! |---|---|---|
//! | a virtual address | from it to a client | the backend that owns the client's flow, by the service's mode |
//! | a client | from it to a `nat` backend | the client, in the name of the service |
//! | an address of the pool | from it to a `full-nat` backend | the client, likewise |

use lb_common::{
    Address, Algorithm, Backend, BackendId, Features, FlowKey, Mac, Mode, Port, Protocol, QuicScheme, Reason,
    Service, hash, hash::flow_hash,
};

use super::{
    answer,
    quote::Quote,
    rename::{Names, rename},
};
use crate::{
    forward::{Way, tunnel, way_by_hop},
    link,
    packet::Packet,
    parse::Ip,
    pipeline::{Egress, Verdict},
    quic,
    select::owner_of,
    service::{reply_of, service_of},
    tables::Tables,
};

/// Sends an error on, or answers a packet that goes no further with one. An error for a virtual address that is about no
/// flow is dropped: the stack does not know the address.
#[inline(always)]
pub fn go_on<P: Packet + ?Sized, T: Tables>(
    packet: &mut P,
    tables: &T,
    ip: &Ip,
    quote: &Quote,
    tuple: &mut FlowKey,
) -> Verdict {
    let Some(protocol) = Protocol::from_number(tuple.protocol) else {
        return Verdict::stay(Reason::NotOurs);
    };
    let mut onward = Onward::new(tuple);
    let service = service_of(tables, tuple, protocol);
    // A prefix's addresses are none of the virtual ones, but have services.
    let ours = service.is_some() || !quote.is_some() || tables.virtual_address(&ip.destination).is_some();
    let found = if ours {
        let named = named(packet, tables, ip, quote, service);
        to_owner(tables, ip, tuple, service, named, &mut onward)
    } else {
        to_nat_client(tables, ip, tuple, &mut onward)
    };
    match found {
        Reason::ErrorForwarded | Reason::ErrorReplied => {}
        // Its service was deleted a moment ago.
        Reason::IcmpUnrelated if !quote.is_some() => return Verdict::stay(Reason::NotOurs),
        reason => return Verdict::stay(reason),
    }
    let way = match onward.way(tables, ip) {
        Ok(way) => Hop::new(way),
        Err(reason) => return Verdict::stay(reason),
    };
    if !quote.is_some() {
        return answer::tell(packet, tables, ip, onward.mode, way.mtu);
    }
    send(packet, tables, ip, (quote, protocol), &onward, &way, found)
}

/// A [`Way`] in plain words, always written: see [`Verdict`].
struct Hop {
    /// Whether the neighbour is known, and what follows means something.
    known: bool,
    source: Mac,
    destination: Mac,
    egress: Egress,
    /// Bytes that the way takes, if that is too few; else 0.
    mtu: u32,
}

impl Hop {
    #[inline(always)]
    fn new(way: Way) -> Self {
        let unknown = |mtu| Self {
            known: false,
            source: Mac::from_word(0),
            destination: Mac::from_word(0),
            egress: Egress::INGRESS,
            mtu,
        };
        match way {
            Way::Known { source, destination, egress } => {
                Self { known: true, source, destination, egress, mtu: 0 }
            }
            Way::Unresolved => unknown(0),
            Way::TooBig(mtu) => unknown(if mtu == 0 { 1 } else { mtu }),
        }
    }
}

/// Where an error goes on to, and how.
///
/// One value that every case fills in, so that what follows stands in the program once.
struct Onward {
    /// What it says when it gets there; in tunnels only the sender's address counts, which the way leads to.
    names: Names,
    /// [`Backend::next_hop`]; zero for a client.
    next_hop: u64,
    /// How its packets get there; `Nat` and `FullNat` for clients too.
    mode: Mode,
    hash: u64,
}

impl Onward {
    /// Still as it came.
    #[inline(always)]
    fn new(tuple: &FlowKey) -> Self {
        Self {
            names: Names {
                sender: (tuple.vip, tuple.vip_port),
                receiver: (tuple.client, tuple.client_port),
                reported_by_receiver: false,
            },
            next_hop: 0,
            mode: Mode::Nat,
            hash: 0,
        }
    }

    /// What leaves with a tunnel's outer header comes from here.
    #[inline(always)]
    fn outer_source<T: Tables>(&self, tables: &T) -> Result<Address, Reason> {
        let settings = tables.settings().ok_or(Reason::TableInconsistent)?;
        Ok(tunnel::outer_source(settings, &self.names.sender.0, self.hash))
    }

    /// The way there.
    #[inline(always)]
    fn way<T: Tables>(&self, tables: &T, ip: &Ip) -> Result<Way, Reason> {
        let to = self.names.sender.0;
        let (source, overhead) = if is_tunnel(tables, self.mode) {
            let backend = Backend { address: to, ..Backend::default() };
            (self.outer_source(tables)?, tunnel::overhead(self.mode, &backend))
        } else if self.names.reported_by_receiver {
            (self.names.receiver.0, 0)
        } else {
            (ip.source, 0)
        };
        way_by_hop(tables, ip, source, to, self.next_hop, overhead)
    }
}

#[inline(always)]
fn is_tunnel<T: Tables>(tables: &T, mode: Mode) -> bool {
    tables.features().contains(Features::TUNNEL) && matches!(mode, Mode::DsrIpip | Mode::DsrGue)
}

/// The backend that a packet's own QUIC connection id names; what an error quotes has the id of the other end.
#[inline(always)]
fn named<P: Packet + ?Sized, T: Tables>(
    packet: &P,
    tables: &T,
    ip: &Ip,
    quote: &Quote,
    service: Option<&Service>,
) -> BackendId {
    match service {
        Some(service)
            if tables.features().contains(Features::QUIC)
                && !quote.is_some()
                && !matches!(service.quic(), QuicScheme::None) =>
        {
            quic::server(packet, tables, service, ip)
        }
        _ => BackendId::NONE,
    }
}

/// The way of a client's packets of this tuple to `service`, found without a trace, or of a `full-nat` backend's. The reason is one of
/// errors that go on, or why none does.
#[inline(always)]
fn to_owner<T: Tables>(
    tables: &T,
    ip: &Ip,
    tuple: &mut FlowKey,
    service: Option<&Service>,
    named: BackendId,
    onward: &mut Onward,
) -> Reason {
    let features = tables.features();
    let Some(settings) = tables.settings() else { return Reason::TableInconsistent };
    // An address of the pool has no services.
    onward.mode = match service {
        Some(service) => service.mode(),
        None => Mode::FullNat,
    };
    let full_nat = matches!(onward.mode, Mode::FullNat);
    // As in `Service::flow_key`, but in its place: two tuples are too much for the stack.
    if !full_nat && service.is_some_and(Service::by_address) {
        (tuple.client_port, tuple.vip_port) = (Port::from_word(0), Port::from_word(0));
    }
    onward.hash = match service {
        Some(service)
            if !full_nat
                && features.contains(Features::SOURCE)
                && matches!(service.algorithm(), Algorithm::SourceHash) =>
        {
            // As in `Service::slot_key`, and back.
            let port = tuple.client_port;
            (tuple.client, tuple.client_port) =
                (tuple.client.network(service.client_bits), Port::from_word(0));
            let hash = flow_hash(settings.hash_keys, tuple);
            (tuple.client, tuple.client_port) = (onward.names.receiver.0, port);
            hash
        }
        _ => flow_hash(settings.hash_keys, tuple),
    };
    let id = match service {
        Some(_) if !full_nat && named != BackendId::NONE => named,
        Some(service) if !full_nat => {
            let Some(slot) = tables.slot(service.slot_index(onward.hash)) else {
                return Reason::TableInconsistent;
            };
            owner_of(tables, service, slot, tuple, onward.hash)
        }
        _ => {
            let known = if features.contains(Features::FULL_NAT) { tables.translation(tuple) } else { None };
            let forth = service.is_some();
            // As the tags of `full_nat::entries`.
            let tag = if forth { hash::tag(onward.hash) } else { !hash::tag(onward.hash) };
            let known = match known {
                Some((known, _)) if known.flow.tag() == tag => known,
                _ => return Reason::IcmpUnrelated,
            };
            onward.names.sender = (known.destination, known.destination_port);
            onward.names.receiver = (known.source, known.source_port);
            // Backends know the balancer only; a client is told of a router, but the virtual address for the backend's.
            onward.names.reported_by_receiver = forth || ip.source == tuple.client;
            if !forth {
                return Reason::ErrorReplied;
            }
            known.flow.backend()
        }
    };
    let backend = match tables.backend(id) {
        Some(backend) if backend.serves() => backend,
        _ => return Reason::NoBackend,
    };
    onward.next_hop = backend.next_hop;
    match onward.mode {
        // A range's backends keep the port.
        Mode::Nat if backend.port.word() == 0 => onward.names.sender.0 = backend.address,
        Mode::Nat => onward.names.sender = (backend.address, backend.port),
        Mode::DsrL2 => onward.names.sender.0 = backend.address,
        Mode::DsrIpip | Mode::DsrGue if features.contains(Features::TUNNEL) => {
            onward.names.sender.0 = backend.address;
        }
        Mode::DsrIpip | Mode::DsrGue => return Reason::TableInconsistent,
        Mode::FullNat => {}
    }
    Reason::ErrorForwarded
}

/// The error is for the client of a `nat` backend, or nobody's here.
#[inline(always)]
fn to_nat_client<T: Tables>(tables: &T, ip: &Ip, tuple: &FlowKey, onward: &mut Onward) -> Reason {
    let Some(reply) = reply_of(tables, tuple) else { return Reason::NotOurs };
    if tables.is_local(&ip.destination) {
        return Reason::LocalReply;
    }
    let port = if reply.port.word() == 0 { tuple.client_port } else { reply.port };
    onward.names.receiver = (reply.vip, port);
    if ip.source == tuple.client {
        onward.names.reported_by_receiver = true;
    }
    Reason::ErrorReplied
}

/// Rewrites an error by the mode and hands it to the next hop. About an error, no error is owed.
#[inline(always)]
fn send<P: Packet + ?Sized, T: Tables>(
    packet: &mut P,
    tables: &T,
    ip: &Ip,
    quote: (&Quote, Protocol),
    onward: &Onward,
    way: &Hop,
    reason: Reason,
) -> Verdict {
    let keeps = onward.mode.keeps_destination();
    if way.mtu != 0 && (keeps || ip.dont_fragment()) {
        return Verdict::stay(Reason::ExceedsMtu);
    }
    if !way.known && keeps {
        return Verdict::stay(Reason::NextHopUnresolved);
    }
    if ip.ttl() <= 1 && !matches!(onward.mode, Mode::DsrL2) {
        return Verdict::stay(Reason::TtlExpired);
    }
    let hops = (way.source, way.destination, way.egress);
    let written = if is_tunnel(tables, onward.mode) {
        let Ok(source) = onward.outer_source(tables) else { return Verdict::stay(Reason::TableInconsistent) };
        let ends = (source, onward.names.sender.0);
        tunnel::encapsulate(packet, tables, ip, onward.mode, ends, hops, onward.hash)
    } else {
        // Left to the stack, an error loses its hop there.
        let renamed =
            if keeps { Some(()) } else { rename(packet, tables, ip, quote, &onward.names, way.known) };
        if way.known {
            renamed.and_then(|()| link::readdress(packet, ip.l3(), hops.0, hops.1, hops.2))
        } else {
            renamed
        }
    };
    match written {
        None => Verdict::stay(Reason::Malformed),
        Some(()) if way.known => Verdict::send(reason, way.egress),
        Some(()) if way.mtu == 0 => Verdict::stay(Reason::ResolvingNextHop),
        Some(()) => Verdict::stay(Reason::LeftToFragment),
    }
}
