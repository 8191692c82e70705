//! The backend that a client's network keeps to: an entry among the flows that is no flow, and counts for nothing.
//!
//! It is written with every flow that the network opens, and noted as seen with the packets of the flows that go to its
//! backend, at most once in a second for each. One that the full table refuses is not kept to.

use lb_common::{
    BackendId, Flow, FlowKey, FlowState, HashKeys, Service,
    hash::{flow_hash, tag},
};

use super::choose::{Takes, takes_new};
use crate::tables::Tables;

/// Whom a network's next flow goes to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Kept {
    /// [`BackendId::NONE`]: to whom the algorithm says.
    pub backend: BackendId,
    /// Because the backend that it keeps to has as many connections as it may.
    pub full: bool,
}

impl Kept {
    /// The network keeps to nobody.
    pub const NONE: Self = Self { backend: BackendId::NONE, full: false };

    /// All in one word, to be laundered.
    #[inline(always)]
    pub const fn word(self) -> u64 {
        self.backend.0 as u64 | (self.full as u64) << 32
    }

    /// From [`Self::word`].
    #[inline(always)]
    pub const fn from_word(word: u64) -> Self {
        Self { backend: BackendId(word as u32), full: word >> 32 & 1 != 0 }
    }
}

/// The entry of a network, if it still holds; `key` is its [`Service::affinity_key`].
#[inline(always)]
fn entry<T: Tables>(
    tables: &T,
    keys: HashKeys,
    service: &Service,
    key: &FlowKey,
    now: u32,
) -> Option<(Flow, T::Place)> {
    let (entry, place) = tables.flow(key)?;
    let holds =
        entry.tag() == tag(flow_hash(keys, key)) && entry.idle_seconds(now) <= service.affinity_seconds;
    holds.then_some((entry, place))
}

/// The backend that a network keeps to, while that takes new flows; `key` as above.
#[inline(always)]
pub fn kept_to<T: Tables>(tables: &T, keys: HashKeys, service: &Service, key: &FlowKey) -> Kept {
    let Some((entry, _)) = entry(tables, keys, service, key, tables.now_seconds()) else {
        return Kept::NONE;
    };
    match takes_new(tables, service, entry.backend()) {
        Takes::Yes => Kept { backend: entry.backend(), full: false },
        Takes::Full => Kept { full: true, ..Kept::NONE },
        Takes::No => Kept::NONE,
    }
}

/// Notes that a flow of the network goes on at a backend; it may be older than what the network keeps to.
#[inline(always)]
pub fn refresh<T: Tables>(tables: &T, keys: HashKeys, service: &Service, key: &FlowKey, backend: BackendId) {
    let now = tables.now_seconds();
    if let Some((entry, place)) = entry(tables, keys, service, key, now)
        && entry.backend() == backend
        && entry.last_seen() != now
    {
        tables.refresh(place, entry, entry.seen_at(now, FlowState::Established));
    }
}

/// Has the network of a new flow keep to its backend.
#[inline(always)]
pub fn keep<T: Tables>(tables: &T, keys: HashKeys, key: &FlowKey, backend: BackendId) {
    let entry = Flow::new(backend, tag(flow_hash(keys, key)), tables.now_seconds(), FlowState::Established);
    // Where the table is full, the network's next flow may go elsewhere.
    let _ = tables.remember(key, entry);
}
