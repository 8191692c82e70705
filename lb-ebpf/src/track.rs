//! Services that track every flow: what opens and ends a flow, and what is measured of it.
//!
//! Packets of a known flow that change nothing are the first program's ([`known`]). The others come here:
//!
//! | packet | goes to | and |
//! |---|---|---|
//! | known flow | its backend | its end takes it out of the backend's live connections |
//! | SYN, first datagram | the backend that its network keeps to, else by [`choose`] | is remembered and counted |
//! | another of an unknown flow | by the slot of its hash, its serving `previous` while that moves | likewise |
//! | a backend's reply, where response times count | the client | the time since the client asked is noted |
//!
//! A flow that the full table refuses goes by its hash, because that is where its later packets will be sent.

pub mod choose;

use lb_common::{
    BackendId, Flow, FlowKey, FlowState, Reason, Service, Slot, SlotState,
    hash::{flow_hash, tag},
};

use self::choose::{Chosen, choose};
use crate::{
    flow::{Memory, first_state, live, note_seen, recall, serves},
    forward,
    packet::Packet,
    parse::{Event, Parsed, Transport, parse},
    pipeline::{Stage, Verdict},
    select::Choice,
    service::{Owner, owner, service_of},
    tables::Tables,
};

/// The backend of a packet of a known flow that neither ends it nor asks what is to be timed; [`BackendId::NONE`] for
/// another, which is for [`send_on`].
#[inline(always)]
pub fn known<P: Packet + ?Sized, T: Tables>(
    packet: &P,
    tables: &T,
    service: &Service,
    transport: &Transport,
    key: &FlowKey,
    hash: u64,
) -> BackendId {
    let event = transport.event();
    if !matches!(event, Event::Continue | Event::Datagram) {
        return BackendId::NONE;
    }
    let now = tables.now_seconds();
    let Some((flow, place)) = live(tables, service, key, hash, now) else { return BackendId::NONE };
    if service.is_measured() && !flow.is_asked() && transport.has_payload(packet) {
        return BackendId::NONE;
    }
    note_seen(tables, place, flow, event, now);
    flow.backend()
}

/// Sends a packet of a service that tracks every flow on.
#[inline(always)]
pub fn send_on<P: Packet + ?Sized, T: Tables>(packet: &mut P, tables: &T) -> Verdict {
    let transport = match parse::<P, true>(packet, tables.features(), |word| tables.launder(word)) {
        Parsed::Transport(transport) => transport,
        _ => return Verdict::stay(Reason::TableInconsistent),
    };
    let transport = &transport;
    match owner(tables, transport) {
        Owner::Client(service) => {
            let Some(settings) = tables.settings() else { return Verdict::stay(Reason::TableInconsistent) };
            let hash = flow_hash(settings.hash_keys, &service.slot_key(&transport.tuple));
            let Some(slot) = tables.slot(service.slot_index(hash)) else {
                return Verdict::stay(Reason::TableInconsistent);
            };
            let asks = service.is_measured() && transport.has_payload(packet);
            let followed = follow(tables, service, slot, &transport.tuple, hash, (transport.event(), asks));
            let Some(choice) = followed else { return Verdict::to(Stage::Open) };
            let choice = Choice::from_word(tables.launder(choice.word()));
            forward::to_backend(packet, tables, transport, service, choice, hash)
        }
        Owner::Backend(reply) => {
            let answers = matches!(transport.event(), Event::Accept) || transport.has_payload(packet);
            if answers {
                let tuple = FlowKey {
                    client: transport.tuple.vip,
                    vip: reply.vip,
                    client_port: transport.tuple.vip_port,
                    vip_port: if reply.port.word() == 0 { transport.tuple.client_port } else { reply.port },
                    ..transport.tuple
                };
                let handshake = matches!(transport.event(), Event::Accept);
                note_answer(tables, BackendId(reply.backend), &tuple, handshake);
            }
            forward::to_client(packet, tables, transport, reply)
        }
        Owner::Translated | Owner::Local | Owner::Nobody => Verdict::stay(Reason::TableInconsistent),
    }
}

/// Notes the time that a backend took to answer; `tuple` is the client's.
#[inline(always)]
fn note_answer<T: Tables>(tables: &T, backend: BackendId, tuple: &FlowKey, handshake: bool) {
    let Some((flow, place)) = tables.flow(tuple) else { return };
    if flow.backend() != backend || !flow.is_asked() {
        return;
    }
    let now = tables.now_micros();
    if !tables.refresh(place, flow, flow.answered()) {
        return;
    }
    let Some(load) = tables.load(backend) else { return };
    let sample = flow.micros_since_asked(now);
    // A kernel accepts at once what its server answers late: handshakes tell of distance, and of overload.
    if !handshake || sample >= load.response_micros(now) {
        tables.note_response(backend, load.after_sample(sample, now));
    }
}

/// The backend of a client's packet of a known flow, or of an unknown one that it does not open. Else
/// `None`: for [`open`]. `asks`: an answer to it is to be timed.
#[inline(always)]
fn follow<T: Tables>(
    tables: &T,
    service: &Service,
    slot: Slot,
    tuple: &FlowKey,
    hash: u64,
    (event, asks): (Event, bool),
) -> Option<Choice> {
    let now = tables.now_seconds();
    let key = service.flow_key(tuple);
    if let Memory::Live(backend) = recall(tables, service, &key, hash, event, now) {
        if asks
            && let Some((flow, place)) = tables.flow(&key)
            && !flow.is_asked()
        {
            tables.refresh(place, flow, flow.asked(tables.now_micros()));
        }
        return Some(Choice { backend, ..Choice::default() });
    }
    if matches!(event, Event::Open | Event::Datagram) {
        return None;
    }
    let backend = by_hash(tables, service, slot);
    let choice = Choice { backend, ..Choice::default() };
    if backend == BackendId::NONE {
        return Some(choice);
    }
    let refused = !remember(tables, &key, hash, backend, (event, asks));
    Some(Choice { refused, ..choice })
}

/// Whom the slot gives a flow of which nothing is known.
#[inline(always)]
fn by_hash<T: Tables>(tables: &T, service: &Service, slot: Slot) -> BackendId {
    let moving = matches!(slot.state(), SlotState::Moving);
    if moving && serves(tables, service, slot.previous()) { slot.previous() } else { slot.current() }
}

/// Remembers a flow and counts it as a live connection; `false` where the table is full.
#[inline(always)]
fn remember<T: Tables>(
    tables: &T,
    key: &FlowKey,
    hash: u64,
    backend: BackendId,
    (event, asks): (Event, bool),
) -> bool {
    let state = first_state(event);
    let flow = Flow::new(backend, tag(hash), tables.now_seconds(), state).counted(!state.is_over());
    let flow = if asks { flow.asked(tables.now_micros()) } else { flow };
    if tables.remember(key, flow).is_err() {
        return false;
    }
    if flow.is_counted() {
        tables.count_connection(backend, true);
    }
    true
}

/// Opens the flow of a client's packet, and sends it on.
#[inline(always)]
pub fn open<P: Packet + ?Sized, T: Tables>(packet: &mut P, tables: &T) -> Verdict {
    let transport = match parse::<P, true>(packet, tables.features(), |word| tables.launder(word)) {
        Parsed::Transport(transport) => transport,
        _ => return Verdict::stay(Reason::TableInconsistent),
    };
    let Some(service) = service_of(tables, &transport.tuple, transport.protocol()) else {
        return Verdict::stay(Reason::NotOurs);
    };
    let Some(settings) = tables.settings() else { return Verdict::stay(Reason::TableInconsistent) };
    // One way on from here, whatever the packet was.
    let hash = tables.launder(flow_hash(settings.hash_keys, &service.slot_key(&transport.tuple)));
    let Some(slot) = tables.slot(service.slot_index(hash)) else {
        return Verdict::stay(Reason::TableInconsistent);
    };
    let chosen = keep_to_or_choose(tables, service, &transport.tuple, hash);
    let mut choice = Choice::from_word(tables.launder(chosen.word()));
    if choice.backend != BackendId::NONE {
        let event = transport.event();
        let asks = service.is_measured();
        let key = service.flow_key(&transport.tuple);
        if !remember(tables, &key, hash, choice.backend, (event, asks)) {
            (choice.backend, choice.refused) = (by_hash(tables, service, slot), true);
        } else if service.affinity_seconds != 0 {
            // Where the table is full, the network's next flow may go elsewhere.
            let now = tables.now_seconds();
            let entry = Flow::new(choice.backend, tag(hash), now, FlowState::Established);
            let _ = tables.remember(&service.affinity_key(&transport.tuple), entry);
        }
    }
    let choice = Choice::from_word(tables.launder(choice.word()));
    forward::to_backend(packet, tables, &transport, service, choice, hash)
}

/// The backend that the client's network keeps to, while it takes new flows; else another.
#[inline(always)]
fn keep_to_or_choose<T: Tables>(tables: &T, service: &Service, tuple: &FlowKey, hash: u64) -> Choice {
    let chosen = Choice { new_flow: true, ..Choice::default() };
    if service.affinity_seconds != 0
        && let Some((flow, _)) = tables.flow(&service.affinity_key(tuple))
        && flow.idle_seconds(tables.now_seconds()) <= service.affinity_seconds
        && choose::takes_new(tables, service, flow.backend())
    {
        return Choice { backend: flow.backend(), ..chosen };
    }
    let Chosen { backend, overflowed, full } = choose(tables, service, hash);
    Choice { backend, overflowed, full, ..chosen }
}
