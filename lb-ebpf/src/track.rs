//! Services that track every flow: what opens and ends a flow, and what is measured of it.
//!
//! Packets of a known flow that change nothing are the first program's ([`known`]). The others come here:
//!
//! | packet | goes to | and |
//! |---|---|---|
//! | known flow | its backend | its end takes it out of the backend's live connections |
//! | SYN, first datagram | the backend that its network keeps to, else by [`choose`] | is remembered and counted |
//! | RST of an unknown flow | by the slot of its hash | nothing |
//! | another of an unknown flow | by the slot of its hash, its serving `previous` while that moves | is remembered and counted |
//! | a backend's reply, where response times count | the client | the time since the client asked is noted |
//!
//! A flow that the full table refuses goes by its hash, because that is where its later packets will be sent.
//!
//! Invariant: what is remembered as counted is one of its backend's live connections. Who changes the one by a
//! compare-exchange that succeeds, or adds or removes what is remembered, changes the other.

pub mod affinity;
pub mod choose;

use lb_common::{
    BackendId, Features, Flow, FlowKey, HashKeys, Mode, Reason, Service, Settings, Slot,
    hash::{flow_hash, tag},
};

use self::choose::Terms;
use crate::{
    flow::{first_state, live, meaning, note_seen, note_tracked, release},
    forward,
    packet::Packet,
    parse::{Event, Parsed, Part, Transport, parse},
    pipeline::{Stage, Verdict},
    select::{Choice, event_of, unknown},
    service::{Owner, owner, service_of},
    tables::Tables,
};

/// The backend of a packet of a known flow of which nothing but time and state are to be noted; [`BackendId::NONE`] for
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
    // Remembered before every flow was tracked; or its network is to be noted as seen, once in a second.
    let uncounted = flow.is_counted() == flow.state().is_over();
    let keeps = service.affinity_seconds != 0 && flow.last_seen() != now;
    if uncounted || keeps || (service.is_measured() && !flow.is_asked() && transport.has_payload(packet)) {
        return BackendId::NONE;
    }
    note_seen(tables, place, flow, Event::Continue, now);
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
            let keys = settings.hash_keys;
            let hash = flow_hash(keys, &service.slot_key(&transport.tuple));
            let Some(slot) = tables.slot(service.slot_index(hash)) else {
                return Verdict::stay(Reason::TableInconsistent);
            };
            let asks = service.is_measured() && transport.has_payload(packet);
            let packet_is = (transport.event(), asks);
            let followed = follow(tables, keys, service, slot, &transport.tuple, hash, packet_is);
            let Some(choice) = followed else { return Verdict::to(Stage::Open) };
            let choice = Choice::from_word(tables.launder(choice.word()));
            forward::to_backend(packet, tables, transport, service, choice, hash)
        }
        Owner::Backend(reply) => {
            let handshake = matches!(transport.event(), Event::Accept);
            if handshake || transport.has_payload(packet) {
                let tuple = FlowKey {
                    client: transport.tuple.vip,
                    vip: reply.vip,
                    client_port: transport.tuple.vip_port,
                    vip_port: if reply.port.word() == 0 { transport.tuple.client_port } else { reply.port },
                    ..transport.tuple
                };
                if let Some((flow, place)) = tables.flow(&tuple)
                    && flow.backend() == BackendId(reply.backend)
                {
                    note_answer(tables, place, flow, handshake);
                }
            }
            forward::to_client(packet, tables, transport, reply)
        }
        // Its service was deleted a moment ago.
        Owner::Local => Verdict::stay(Reason::LocalReply),
        Owner::Translated | Owner::Nobody => Verdict::stay(Reason::NotOurs),
    }
}

/// Notes the time that a backend took to answer, if its client had asked; `flow` is what stands at `place`.
#[inline(always)]
pub fn note_answer<T: Tables>(tables: &T, place: T::Place, flow: Flow, handshake: bool) {
    if !flow.is_asked() || !tables.refresh(place, flow, flow.answered()) {
        return;
    }
    let (now, backend) = (tables.now_micros(), flow.backend());
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
    keys: HashKeys,
    service: &Service,
    slot: Slot,
    tuple: &FlowKey,
    hash: u64,
    (event, asks): (Event, bool),
) -> Option<Choice> {
    let key = service.flow_key(tuple);
    if let Some(choice) = recall(tables, service, &key, hash, (event, asks)) {
        if service.affinity_seconds != 0 {
            affinity::refresh(tables, keys, service, &service.affinity_key(tuple), choice.backend);
        }
        return Some(choice);
    }
    if matches!(event, Event::Open | Event::Datagram) {
        return None;
    }
    Some(join(tables, service, slot, &key, hash, (event, asks)))
}

/// The backend of a packet of a known flow, which is noted. What is known that does not bind the packet counts no more.
#[inline(always)]
fn recall<T: Tables>(
    tables: &T,
    service: &Service,
    key: &FlowKey,
    hash: u64,
    (event, asks): (Event, bool),
) -> Option<Choice> {
    let now = tables.now_seconds();
    let (flow, place) = tables.flow(key).filter(|(flow, _)| flow.tag() == tag(hash))?;
    let Some(meant) = meaning(tables, service, flow, event_of(service, event), now) else {
        release(tables, place, flow);
        return None;
    };
    note_tracked(tables, place, flow, (meant, asks), now);
    // One of many connections between two addresses.
    let new_flow = service.by_address() && matches!(event, Event::Open);
    Some(Choice { backend: flow.backend(), new_flow, ..Choice::default() })
}

/// The backend of a packet of an unknown flow that goes by its slot, and is remembered.
#[inline(always)]
fn join<T: Tables>(
    tables: &T,
    service: &Service,
    slot: Slot,
    key: &FlowKey,
    hash: u64,
    (event, asks): (Event, bool),
) -> Choice {
    let new_flow = matches!(event, Event::Open | Event::Datagram);
    let (backend, meant) = unknown(tables, service, slot, event_of(service, event));
    let choice = Choice { backend, new_flow, ..Choice::default() };
    // After a RST there is nothing to come.
    if backend == BackendId::NONE || matches!(meant, Event::Reset) {
        return choice;
    }
    let refused = !remember(tables, key, hash, backend, (meant, asks));
    Choice { refused, ..choice }
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
    // One key after the other in one place: several are too much for the stack.
    let mut key = service.affinity_key(&transport.tuple);
    let chosen = keep_to_or_choose(tables, settings, service, &key, hash);
    let chosen_word = tables.launder(chosen.word());
    let mut word = chosen_word;
    let backend = BackendId(word as u32);
    if tables.features().contains(Features::FULL_NAT) && matches!(service.mode(), Mode::FullNat) {
        if backend != BackendId::NONE && service.affinity_seconds != 0 {
            affinity::keep(tables, settings.hash_keys, &key, backend);
        }
        tables.hand_over(word);
        return Verdict::to(Stage::FullNatOpen);
    }
    if backend != BackendId::NONE {
        let event = event_of(service, transport.event());
        key = service.flow_key(&transport.tuple);
        if !remember(tables, &key, hash, backend, (event, service.is_measured())) {
            let Some(slot) = tables.slot(service.slot_index(hash)) else {
                return Verdict::stay(Reason::TableInconsistent);
            };
            let (backend, _) = unknown(tables, service, slot, transport.event());
            word = Choice { backend, new_flow: true, refused: true, ..Choice::default() }.word();
        } else if service.affinity_seconds != 0 {
            key = service.affinity_key(&transport.tuple);
            affinity::keep(tables, settings.hash_keys, &key, backend);
        }
        if matches!(transport.ip.part(), Part::First) && word == chosen_word {
            // Now that it is known it goes on as the others do, which follow it.
            return Verdict::to(Stage::Fragment);
        }
    }
    let choice = Choice::from_word(tables.launder(word));
    forward::to_backend(packet, tables, &transport, service, choice, hash)
}

/// The backend that the client's network keeps to, while it takes new flows; else another. `affinity_key` is the network's.
#[inline(always)]
pub fn keep_to_or_choose<T: Tables>(
    tables: &T,
    settings: &Settings,
    service: &Service,
    affinity_key: &FlowKey,
    hash: u64,
) -> Choice {
    let kept = if service.affinity_seconds != 0 {
        affinity::kept_to(tables, settings.hash_keys, service, affinity_key)
    } else {
        affinity::Kept::NONE
    };
    let kept = affinity::Kept::from_word(tables.launder(kept.word()));
    let new = Choice { new_flow: true, ..Choice::default() };
    if kept.backend != BackendId::NONE {
        return Choice { backend: kept.backend, ..new };
    }
    tables.choose(Terms::of(service), hash, kept.full).into_choice(new)
}
