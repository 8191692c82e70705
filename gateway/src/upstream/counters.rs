//! What is counted of a service beside its instances: what its policies did. Rare, so all workers share the counters;
//! handed on by reloads.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::retry::Cause;

/// Counters of one service.
#[derive(Debug, Default)]
pub struct Counters {
    retries: [AtomicU64; Cause::ALL.len()],
    unaffordable: AtomicU64,
}

impl Counters {
    /// A request is sent once more.
    pub(super) fn retried(&self, cause: Cause) {
        self.retries[cause as usize].fetch_add(1, Relaxed);
    }

    /// A request would have been sent once more, and the budget had nothing left.
    pub(super) fn unaffordable(&self) {
        self.unaffordable.fetch_add(1, Relaxed);
    }

    /// Repetitions, by cause.
    pub fn retries(&self) -> [(Cause, u64); Cause::ALL.len()] {
        Cause::ALL.map(|cause| (cause, self.retries[cause as usize].load(Relaxed)))
    }

    /// Repetitions that the budget did not have.
    pub fn retries_unaffordable(&self) -> u64 {
        self.unaffordable.load(Relaxed)
    }
}
