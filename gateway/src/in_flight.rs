//! A bound on what goes on at the same time, counted over all workers.

use std::sync::{
    Arc,
    atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
};

/// A count with a bound.
#[derive(Debug)]
pub struct InFlight {
    count: AtomicU32,
    limit: AtomicU32,
    refused: AtomicU64,
}

/// One of those that are counted; gone when dropped.
#[derive(Debug)]
pub struct InFlightGuard(Arc<InFlight>);

impl InFlight {
    /// Nothing in flight yet, at most `limit`.
    pub fn new(limit: u32) -> Self {
        Self { count: AtomicU32::new(0), limit: AtomicU32::new(limit), refused: AtomicU64::new(0) }
    }

    /// Counts one more; none when it is full, which is counted as well.
    pub fn enter(self: &Arc<Self>) -> Option<InFlightGuard> {
        // Counting before looking never lets more in than the limit; two that meet at the brink may both
        // be refused, which is harmless.
        if self.count.fetch_add(1, Relaxed) >= self.limit.load(Relaxed) {
            self.count.fetch_sub(1, Relaxed);
            self.refused.fetch_add(1, Relaxed);
            return None;
        }
        Some(InFlightGuard(self.clone()))
    }

    /// Another limit from now on.
    pub fn set_limit(&self, limit: u32) {
        self.limit.store(limit, Relaxed);
    }

    /// How many may be in flight.
    pub fn limit(&self) -> u32 {
        self.limit.load(Relaxed)
    }

    /// How many are in flight.
    pub fn count(&self) -> u32 {
        self.count.load(Relaxed)
    }

    /// How many were refused.
    pub fn refused(&self) -> u64 {
        self.refused.load(Relaxed)
    }
}

impl Drop for InFlightGuard {
    fn drop(&mut self) {
        self.0.count.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_than_the_limit_enter() {
        let in_flight = Arc::new(InFlight::new(2));
        let first = in_flight.enter().expect("room");
        let _second = in_flight.enter().expect("room");
        assert!(in_flight.enter().is_none());
        assert_eq!((in_flight.count(), in_flight.refused()), (2, 1));
        drop(first);
        assert!(in_flight.enter().is_some());
    }
}
