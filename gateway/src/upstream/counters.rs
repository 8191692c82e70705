//! What is counted of a service beside its instances: what its policies did. Rare, so all workers share the counters;
//! handed on by reloads.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::retry::Cause;

/// Counters of one service.
#[derive(Debug, Default)]
pub struct Counters {
    retries: [AtomicU64; Cause::ALL.len()],
    unaffordable: AtomicU64,
    crowded_out: AtomicU64,
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

    /// A request would have been sent once more, and too many were already.
    pub(super) fn crowded_out(&self) {
        self.crowded_out.fetch_add(1, Relaxed);
    }

    /// Repetitions, by cause.
    pub fn retries(&self) -> [(Cause, u64); Cause::ALL.len()] {
        Cause::ALL.map(|cause| (cause, self.retries[cause as usize].load(Relaxed)))
    }

    /// Repetitions that there was no room for, by what bounds them.
    pub fn retries_refused(&self) -> [(&'static str, u64); 2] {
        [("budget", self.unaffordable.load(Relaxed)), ("in_flight", self.crowded_out.load(Relaxed))]
    }
}
