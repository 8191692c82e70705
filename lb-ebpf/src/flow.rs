//! What is remembered of a flow, and whether that still holds.

use lb_common::{BackendId, Features, Flow, FlowKey, FlowState, Service, hash};

use crate::{
    parse::Event,
    tables::{Refused, Tables},
};

/// A look into the flow table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Memory {
    /// The flow is known and its backend still serves.
    Live(BackendId),
    /// Something is remembered of the tuple that no longer binds it: another flow that ended or idled
    /// out, or a backend that serves no more.
    Stale,
    /// Nothing.
    Unknown,
}

/// Looks `tuple` up and, where the flow is live, notes that it was seen.
#[inline(always)]
pub fn recall<T: Tables>(
    tables: &T,
    service: &Service,
    tuple: &FlowKey,
    hash: u64,
    event: Event,
    now: u32,
) -> Memory {
    let Some((flow, place)) = tables.flow(tuple) else { return Memory::Unknown };
    if flow.tag() != hash::tag(hash) {
        return Memory::Unknown;
    }
    let Some(event) = meaning(tables, service, flow, event, now) else {
        return Memory::Stale;
    };
    note_seen(tables, place, flow, event, now);
    Memory::Live(flow.backend())
}

/// The backend of a live flow, without a trace: for packets about a flow that are not its own.
#[inline(always)]
pub fn look<T: Tables>(
    tables: &T,
    service: &Service,
    tuple: &FlowKey,
    hash: u64,
    now: u32,
) -> Option<BackendId> {
    live(tables, service, tuple, hash, now).map(|(flow, _)| flow.backend())
}

/// A live flow, as its mid-flow packet finds it.
#[inline(always)]
pub fn live<T: Tables>(
    tables: &T,
    service: &Service,
    tuple: &FlowKey,
    hash: u64,
    now: u32,
) -> Option<(Flow, T::Place)> {
    let found = tables.flow(tuple)?;
    let live = found.0.tag() == hash::tag(hash)
        && binds(service, found.0, Event::Continue, now)
        && serves(tables, service, found.0.backend());
    live.then_some(found)
}

/// What a packet means for the flow that is remembered under its tuple; `None` where that does not bind it.
#[inline(always)]
pub fn meaning<T: Tables>(
    tables: &T,
    service: &Service,
    flow: Flow,
    event: Event,
    now: u32,
) -> Option<Event> {
    if !binds(service, flow, event, now) {
        return None;
    }
    meaning_at(tables, service, flow.backend(), event)
}

#[inline(always)]
fn binds(service: &Service, flow: Flow, event: Event, now: u32) -> bool {
    let reopened = matches!(event, Event::Open) && flow.state().is_over();
    !reopened && flow.idle_seconds(now) <= flow.state().timeout_seconds(service.flow_idle_seconds)
}

/// What a packet means for a flow of `id`, which may be any word; `None` where it does not go there. A cut backend keeps
/// its connections only to end them, with a reset of ours. What opens another one goes elsewhere, and so does UDP, to
/// which nobody can say that it is over.
#[inline(always)]
pub fn meaning_at<T: Tables>(tables: &T, service: &Service, id: BackendId, event: Event) -> Option<Event> {
    let backend = tables.backend(id).filter(|backend| backend.service == service.id)?;
    if backend.serves() {
        return Some(event);
    }
    let ends = tables.features().contains(Features::RESET)
        && backend.is_cut()
        && !matches!(event, Event::Open | Event::Datagram);
    ends.then_some(Event::Reset)
}

/// Writes time and state of a flow whose packet arrived, if they changed. What it counts for stays.
#[inline(always)]
pub fn note_seen<T: Tables>(tables: &T, place: T::Place, flow: Flow, event: Event, now: u32) {
    let state = after(flow.state(), event);
    if flow.last_seen() != now || state != flow.state() {
        tables.refresh(place, flow, flow.seen_at(now, state));
    }
}

/// The same where every flow is tracked: it is one of its backend's live connections until it ends. `asks`: its client
/// asks for what is timed.
#[inline(always)]
pub fn note_tracked<T: Tables>(
    tables: &T,
    place: T::Place,
    flow: Flow,
    (event, asks): (Event, bool),
    now: u32,
) {
    let state = after(flow.state(), event);
    let counts = !state.is_over();
    let mut next = flow.seen_at(now, state).counted(counts);
    if asks && !flow.is_asked() {
        next = next.asked(tables.now_micros());
    }
    if tables.refresh(place, flow, next) && counts != flow.is_counted() {
        tables.count_connection(flow.backend(), counts);
    }
}

/// Takes a flow out of its backend's live connections: of CPUs that try at once, one does.
#[inline(always)]
pub fn release<T: Tables>(tables: &T, place: T::Place, flow: Flow) {
    if flow.is_counted() && tables.refresh(place, flow, flow.counted(false)) {
        tables.count_connection(flow.backend(), false);
    }
}

/// The state of a flow of which nothing is known but this packet.
#[inline(always)]
pub const fn first_state(event: Event) -> FlowState {
    match event {
        Event::Open => FlowState::Opening,
        Event::Close => FlowState::Closing,
        Event::Reset => FlowState::Reset,
        Event::Accept | Event::Continue | Event::Datagram => FlowState::Established,
    }
}

/// The state after a packet.
#[inline(always)]
pub const fn after(state: FlowState, event: Event) -> FlowState {
    match (state, event) {
        (_, Event::Reset) => FlowState::Reset,
        // Who goes on after a RST did not send it: anybody can forge one, without the numbers that make it count.
        (FlowState::Reset, Event::Continue) => FlowState::Established,
        (FlowState::Opening | FlowState::Established, Event::Close) => FlowState::Closing,
        (FlowState::Opening, Event::Accept | Event::Continue | Event::Datagram) => FlowState::Established,
        (state, _) => state,
    }
}

/// Remembers that `tuple` belongs to `backend`.
#[inline(always)]
pub fn remember<T: Tables>(
    tables: &T,
    tuple: &FlowKey,
    hash: u64,
    event: Event,
    now: u32,
    backend: BackendId,
) -> Result<(), Refused> {
    tables.remember(tuple, Flow::new(backend, hash::tag(hash), now, first_state(event)))
}

/// Whether `id` is a backend of `service` that flows may be sent to.
#[inline(always)]
pub fn serves<T: Tables>(tables: &T, service: &Service, id: BackendId) -> bool {
    tables.backend(id).is_some_and(|backend| backend.serves() && backend.service == service.id)
}
