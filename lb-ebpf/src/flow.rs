//! What is remembered of a flow, and whether that still holds.

use lb_common::{BackendId, Flow, FlowKey, Service, hash};

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
    let reopened = matches!(event, Event::Open) && flow.closed();
    if reopened
        || flow.idle_seconds(now) > service.flow_idle_seconds
        || !serves(tables, service, flow.backend())
    {
        return Memory::Stale;
    }
    let closed = flow.closed() || matches!(event, Event::Close);
    if flow.last_seen() != now || closed != flow.closed() {
        tables.refresh(place, Flow::new(flow.backend(), flow.tag(), now, closed));
    }
    Memory::Live(flow.backend())
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
    tables.remember(tuple, Flow::new(backend, hash::tag(hash), now, matches!(event, Event::Close)))
}

/// Whether `id` is a backend of `service` that flows may be sent to.
#[inline(always)]
pub fn serves<T: Tables>(tables: &T, service: &Service, id: BackendId) -> bool {
    tables.backend(id).is_some_and(|backend| backend.serves() && backend.service == service.id)
}
