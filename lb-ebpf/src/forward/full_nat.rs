//! `full-nat`: both ends are rewritten, so that replies come back whatever the backends' routes are.
//!
//! A flow has two entries in one table ([`entries`]), each under the tuple that arrives, and each says what source and
//! destination become. They also are what is remembered of it: slots decide on new flows only.
//!
//! Two programs share the work, or it would not fit a stack: [`send_on`] follows an entry, in either direction, and
//! where there is none [`open`] adds both and hands the packet back. Where every flow is tracked, [`crate::track::open`]
//! chooses the backend of a new one before that, and the client's direction is what counts as a live connection. The
//! backend's direction knows whether its answer is timed.
//!
//! TCP without a translation and without a SYN opens one all the same, as the other modes balance it: the backend
//! answers with a reset.

pub mod entries;

use lb_common::{
    Backend, BackendId, Features, Flow, FlowKey, FlowState, QuicScheme, Reason, Service, Settings, Tracking,
    Translation,
};

use self::entries::{Candidates, Opened, Opening, is_live, tag_of_backend, tag_of_client};
use super::{
    Way, may_reset,
    rewrite::{self, Ends},
    unserved, way_by_hop,
};
use crate::{
    flow::{note_seen, note_tracked, release},
    fragment, mss,
    packet::Packet,
    parse::{Event, Transport},
    pipeline::{Stage, Verdict, hash_of},
    quic,
    select::Choice,
    service::service_of,
    tables::{Tables, Tally},
    track::note_answer,
};

/// Sends a packet after its translation: a client's to its backend, which is counted, or a reply to its client. Replies
/// of a backend that serves no more are sent too: it may finish.
#[inline(always)]
pub fn send_on<P: Packet + ?Sized, T: Tables>(packet: &mut P, tables: &T, transport: &Transport) -> Verdict {
    let (ip, key, event) = (&transport.ip, &transport.tuple, transport.event());
    let service = service_of(tables, key, transport.protocol());
    let Some((known, place)) = tables.translation(key) else { return unknown(tables, service, event) };
    let Some(settings) = tables.settings() else { return Verdict::stay(Reason::TableInconsistent) };
    let (now, backend) = (tables.now_seconds(), known.flow.backend());
    let known_here = match service {
        Some(service) => {
            is_live(tables, service, known.flow, tag_of_client(settings.hash_keys, key), event, now)
        }
        None => known.flow.tag() == tag_of_backend(settings.hash_keys, key),
    };
    if !known_here {
        return unknown(tables, service, event);
    }
    let ends = may_reset(tables, transport) && tables.backend(backend).is_some_and(Backend::is_cut);
    let meant = if ends { Event::Reset } else { event };
    match service {
        Some(service) if tracks(tables, service) => {
            note_tracked(tables, place, known.flow, (meant, false), now);
            if service.is_measured() && transport.has_payload(packet) {
                ask(tables, &known.opposite_key(key.protocol));
            }
        }
        Some(_) => note(tables, place, known.flow, meant, now),
        None => note_reply(packet, tables, transport, place, &known, (meant, now)),
    }
    if ends {
        return Verdict::to(Stage::Reset);
    }
    let next_hop = match service {
        Some(_) => tables.backend(backend).map_or(0, |backend| backend.next_hop),
        None => 0,
    };
    // A flow of datagrams is opening until its first one was sent.
    let opens = matches!(event, Event::Open)
        || matches!((event, known.flow.state()), (Event::Datagram, FlowState::Opening));
    let plan = Plan::new(service.is_some(), opens, mss::applies(tables, transport, known.mss));
    // Or the rest would be verified for every kind of packet in every state of a flow.
    let (plan, next_hop) = (Plan(tables.launder(plan.0)), tables.launder(next_hop));

    let way = match way_by_hop(tables, ip, known.source, known.destination, next_hop, 0) {
        Ok(way) => way,
        Err(reason) => return Verdict::stay(reason),
    };
    // Replies neither are left to the stack: to it, a packet for the pool is for the balancer itself.
    if ip.ttl() <= 1 || (matches!(way, Way::TooBig(_)) && ip.dont_fragment()) {
        return Verdict::to(Stage::Control);
    }
    if tables.features().contains(Features::MSS) && plan.clamps() {
        mss::clamp(packet, tables, transport, known.mss);
    }
    let to = if plan.is_from_client() { Some(backend) } else { None };
    fragment::note(tables, ip, to, known.service, (known.source, known.destination));
    let ends = Ends {
        source: (known.source, known.source_port),
        destination: (known.destination, known.destination_port),
    };
    let reason = if plan.is_from_client() { Reason::Forwarded } else { Reason::Replied };
    let verdict = rewrite::hop_both(packet, transport, &ends, way, reason);
    let leaves =
        matches!(verdict.reason, Reason::Forwarded | Reason::ResolvingNextHop | Reason::LeftToFragment);
    if leaves && plan.is_from_client() {
        let overflowed = plan.opens() && known.overflowed != 0;
        let tally = Tally { bytes: ip.length as u64, new_flow: plan.opens(), refused: false, overflowed };
        tables.count(known.service, backend, tally);
    }
    verdict
}

/// What is due to a packet besides its rewriting, in one word.
#[derive(Clone, Copy)]
struct Plan(u64);

impl Plan {
    #[inline(always)]
    const fn new(is_from_client: bool, opens: bool, clamps: bool) -> Self {
        Self(is_from_client as u64 | (opens as u64) << 1 | (clamps as u64) << 2)
    }

    #[inline(always)]
    const fn is_from_client(self) -> bool {
        self.0 & 1 != 0
    }

    #[inline(always)]
    const fn opens(self) -> bool {
        self.0 & 2 != 0
    }

    #[inline(always)]
    const fn clamps(self) -> bool {
        self.0 & 4 != 0
    }
}

#[inline(always)]
fn unknown<T: Tables>(tables: &T, service: Option<&Service>, event: Event) -> Verdict {
    match service {
        Some(service) if is_chosen(tables, service, event) => Verdict::to(Stage::Open),
        Some(_) => Verdict::to(Stage::FullNatOpen),
        None => Verdict::stay(Reason::NotOurs),
    }
}

/// Whether [`crate::track::open`] chooses for the flow that a packet opens, and hands its choice over to [`open`].
#[inline(always)]
fn is_chosen<T: Tables>(tables: &T, service: &Service, event: Event) -> bool {
    tracks(tables, service) && matches!(event, Event::Open | Event::Datagram)
}

/// Whether the service's flows are counted, and new ones go by its algorithm.
#[inline(always)]
fn tracks<T: Tables>(tables: &T, service: &Service) -> bool {
    tables.features().contains(Features::TRACKED) && matches!(service.tracking(), Tracking::EveryFlow)
}

/// Has the answer that a client asks for be timed: `key` is the backend's direction, where the answer comes by.
#[inline(always)]
fn ask<T: Tables>(tables: &T, key: &FlowKey) {
    if let Some((other, place)) = tables.translation(key)
        && !other.flow.is_asked()
    {
        tables.refresh(place, other.flow, other.flow.asked(tables.now_micros()));
    }
}

/// Notes a reply. One that answers what is timed is noted as that; a RST ends the client's direction too, which has
/// nothing to say after it.
#[inline(always)]
fn note_reply<P: Packet + ?Sized, T: Tables>(
    packet: &P,
    tables: &T,
    transport: &Transport,
    place: T::Place,
    known: &Translation,
    (event, now): (Event, u32),
) {
    let handshake = matches!(event, Event::Accept);
    let tracked = tables.features().contains(Features::TRACKED);
    let mut flow = known.flow;
    if tracked && flow.is_asked() && (handshake || transport.has_payload(packet)) {
        note_answer(tables, place, flow, handshake);
        flow = flow.answered();
    }
    note(tables, place, flow, event, now);
    if tracked
        && matches!(event, Event::Reset)
        && let Some((first, place)) = tables.translation(&known.opposite_key(transport.tuple.protocol))
        && first.flow.backend() == flow.backend()
    {
        release(tables, place, first.flow);
    }
}

/// A server that accepts has begun another connection by what is known of the last, which only it had closed.
#[inline(always)]
fn note<T: Tables>(tables: &T, place: T::Place, flow: Flow, event: Event, now: u32) {
    if matches!(event, Event::Accept) && flow.state().is_over() {
        tables.refresh(place, flow, flow.seen_at(now, FlowState::Established));
    } else {
        note_seen(tables, place, flow, event, now);
    }
}

/// Opens the flow of a client's packet, in place of what was known under its tuple; the packet stays as it is, and goes
/// on by what was added.
#[inline(always)]
pub fn open<P: Packet + ?Sized, T: Tables>(packet: &mut P, tables: &T, transport: &Transport) -> Verdict {
    let Some(service) = service_of(tables, &transport.tuple, transport.protocol()) else {
        return Verdict::stay(Reason::NotOurs);
    };
    let Some(settings) = tables.settings() else { return Verdict::stay(Reason::TableInconsistent) };
    // However it was chosen.
    let choice = owner_of_new(packet, tables, transport, service, settings);
    let choice = Choice::from_word(tables.launder(choice.word()));
    let chosen = choice.backend;
    if chosen == BackendId::NONE {
        return Verdict::stay(if choice.full { Reason::BackendsFull } else { Reason::NoBackend });
    }
    let Some(backend) = tables.backend(chosen) else { return Verdict::stay(Reason::TableInconsistent) };
    if backend.service != service.id {
        return Verdict::stay(Reason::NoBackend);
    }
    if !backend.serves() {
        return unserved(tables, transport, backend);
    }
    let opening = Opening {
        keys: settings.hash_keys,
        key: &transport.tuple,
        service,
        chosen,
        overflowed: choice.overflowed,
        tracked: tracks(tables, service),
        tag: tag_of_client(settings.hash_keys, &transport.tuple),
        event: transport.event(),
        now: tables.launder(tables.now_seconds().into()) as u32,
    };
    if let Some((known, place)) = tables.translation(&transport.tuple)
        && opening.reuse(tables, &known, place)
    {
        return Verdict::to(Stage::FullNat);
    }
    // A range's backends keep the port.
    let port = if backend.port.word() == 0 { transport.tuple.vip_port } else { backend.port };
    let candidates = Candidates::new(settings, transport.ip.family(), tables.random(), opening.tag);
    match opening.add(tables, (backend.address, port), candidates) {
        // Or another CPU did.
        Opened::Added => Verdict::to(Stage::FullNat),
        Opened::Exhausted => Verdict::stay(Reason::PortsExhausted),
        Opened::Full => Verdict::stay(Reason::TranslationsFull),
    }
}

/// Whom a new flow goes to. A slot that moves gives it to its new owner at once: the flows of the old one are known.
#[inline(always)]
fn owner_of_new<P: Packet + ?Sized, T: Tables>(
    packet: &P,
    tables: &T,
    transport: &Transport,
    service: &Service,
    settings: &Settings,
) -> Choice {
    let by_quic = tables.features().contains(Features::QUIC) && !matches!(service.quic(), QuicScheme::None);
    let named = if by_quic { quic::server(packet, tables, service, &transport.ip) } else { BackendId::NONE };
    if named != BackendId::NONE {
        return Choice { backend: named, ..Choice::default() };
    }
    if is_chosen(tables, service, transport.event()) {
        return Choice::from_word(tables.handed_over());
    }
    let tuple = &transport.tuple;
    let hash = hash_of(tables, service, settings, tuple, &service.flow_key(tuple));
    match tables.slot(service.slot_index(hash)) {
        Some(slot) => Choice { backend: slot.current(), ..Choice::default() },
        None => Choice { backend: BackendId(u32::MAX), ..Choice::default() },
    }
}
