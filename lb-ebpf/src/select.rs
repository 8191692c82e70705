//! One backend for a packet: track only what a change could break.
//!
//! | slot | looked up | a miss goes to | and is remembered |
//! |---|---|---|---|
//! | settled | no | `current` | no |
//! | moving, mid-flow | yes | a serving `previous`, else `current` | yes |
//! | moving, SYN | yes | `current`; a serving `previous` for 3 s after the move | yes |
//! | moving, UDP | yes | a serving `previous`, else `current`: there is no SYN to tell a new flow by | yes |
//! | pinned | yes | `current` | only in place of something stale |
//!
//! A service that goes by addresses alone has one flow for all connections of two addresses: none of them opens or ends
//! it, or a connection that begins anew would take the others along.
//!
//! A cut `previous` has connections that are to end, and takes none that begin ([`meaning_at`]).
//!
//! A flow of a moving slot that the full table refuses goes where its later packets will be sent: to a serving
//! `previous`.

use lb_common::{BackendId, FlowKey, Service, Slot, SlotState, Tracking, limits::SYN_RETRANSMIT_SECONDS};

use crate::{
    flow::{Memory, look, meaning_at, recall, remember, serves},
    parse::Event,
    tables::Tables,
};

/// The backend of a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Choice {
    /// Whom it goes to; may be [`BackendId::NONE`], or one that serves no more.
    pub backend: BackendId,
    /// Whether it opened a flow, as far as anything is known of flows.
    pub new_flow: bool,
    /// Whether the full table refused to remember it.
    pub refused: bool,
    /// Whether it went past a backend that takes no more connections.
    pub overflowed: bool,
    /// Whether nobody takes it because of that.
    pub full: bool,
    /// Whether its flow was remembered.
    pub known: bool,
}

impl Choice {
    /// All in one word, to be laundered.
    #[inline(always)]
    pub const fn word(self) -> u64 {
        self.backend.0 as u64
            | (self.new_flow as u64) << 32
            | (self.refused as u64) << 33
            | (self.overflowed as u64) << 34
            | (self.full as u64) << 35
            | (self.known as u64) << 36
    }

    /// From [`Self::word`].
    #[inline(always)]
    pub const fn from_word(word: u64) -> Self {
        Self {
            backend: BackendId(word as u32),
            new_flow: word >> 32 & 1 != 0,
            refused: word >> 33 & 1 != 0,
            overflowed: word >> 34 & 1 != 0,
            full: word >> 35 & 1 != 0,
            known: word >> 36 & 1 != 0,
        }
    }
}

/// Chooses by the slot's state; `hash` is the flow's.
#[inline(always)]
pub fn select<T: Tables>(
    tables: &T,
    service: &Service,
    slot: Slot,
    tuple: &FlowKey,
    hash: u64,
    event: Event,
) -> Choice {
    let opens = matches!(event, Event::Open);
    let to = |backend| Choice { backend, new_flow: opens, refused: false, ..Choice::default() };
    let event = event_of(service, event);
    match (service.tracking(), slot.state()) {
        (Tracking::Connectionless, _) | (Tracking::OnChange, SlotState::Settled) => to(slot.current()),
        // Where every flow is tracked this is for fragments.
        (Tracking::OnChange | Tracking::EveryFlow, state) => {
            let now = tables.now_seconds();
            let memory = match recall(tables, service, tuple, hash, event, now) {
                // Of many connections, one that begins is none of those that end.
                Memory::Live(backend)
                    if opens && service.by_address() && !serves(tables, service, backend) =>
                {
                    Memory::Stale
                }
                memory => memory,
            };
            match (memory, state) {
                (Memory::Live(backend), _) => Choice {
                    backend,
                    new_flow: opens && service.by_address(),
                    known: true,
                    ..Choice::default()
                },
                (_, SlotState::Moving) => moving(tables, service, slot, tuple, hash, (event, opens), now),
                (Memory::Unknown, _) => to(slot.current()),
                (Memory::Stale, _) => {
                    // Left as it is, the stale entry would claim the flow when its backend serves again.
                    let refused = remember(tables, tuple, hash, event, now, slot.current()).is_err();
                    Choice { backend: slot.current(), new_flow: opens, refused, ..Choice::default() }
                }
            }
        }
    }
}

/// What a packet means for what is remembered: by addresses alone, nothing that it says of its own connection.
#[inline(always)]
pub const fn event_of(service: &Service, event: Event) -> Event {
    match event {
        Event::Open | Event::Accept | Event::Close | Event::Reset if service.by_address() => Event::Continue,
        event => event,
    }
}

/// Whom the slot gives a packet of a flow of which nothing is known where every flow is tracked, and what it means there.
#[inline(always)]
pub fn unknown<T: Tables>(tables: &T, service: &Service, slot: Slot, event: Event) -> (BackendId, Event) {
    if matches!(slot.state(), SlotState::Moving)
        && let Some(meant) = meaning_at(tables, service, slot.previous(), event)
    {
        return (slot.previous(), meant);
    }
    (slot.current(), event)
}

#[inline(always)]
fn moving<T: Tables>(
    tables: &T,
    service: &Service,
    slot: Slot,
    tuple: &FlowKey,
    hash: u64,
    (event, opens): (Event, bool),
    now: u32,
) -> Choice {
    let there = meaning_at(tables, service, slot.previous(), if opens { Event::Open } else { event });
    let (old, event) = match there {
        None => (slot.current(), event),
        Some(Event::Reset) => (slot.previous(), Event::Reset),
        Some(_) => (slot.previous(), event),
    };
    // Both are whole seconds, so a difference of 3 may be of little more than 2.
    let fresh = matches!(event, Event::Open) && slot.seconds_since_move(now) > SYN_RETRANSMIT_SECONDS;
    let backend = if fresh { slot.current() } else { old };
    let new_flow = opens || matches!(event, Event::Datagram);
    if backend == BackendId::NONE {
        return Choice { backend, new_flow, refused: false, ..Choice::default() };
    }
    match remember(tables, tuple, hash, event, now, backend) {
        Ok(()) => Choice { backend, new_flow, refused: false, ..Choice::default() },
        Err(_) => Choice { backend: old, new_flow, refused: true, ..Choice::default() },
    }
}

/// The backend of a flow as its own mid-flow packet would find it, without a trace: for packets about it.
#[inline(always)]
pub fn owner_of<T: Tables>(
    tables: &T,
    service: &Service,
    slot: Slot,
    tuple: &FlowKey,
    hash: u64,
) -> BackendId {
    let current = slot.current();
    let nothing_known = match service.tracking() {
        Tracking::Connectionless => true,
        Tracking::OnChange => matches!(slot.state(), SlotState::Settled),
        Tracking::EveryFlow => false,
    };
    if nothing_known {
        return current;
    }
    if let Some(backend) = look(tables, service, tuple, hash, tables.now_seconds()) {
        return backend;
    }
    let moving = matches!(slot.state(), SlotState::Moving);
    if moving && serves(tables, service, slot.previous()) { slot.previous() } else { current }
}
