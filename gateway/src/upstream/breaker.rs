//! What a service is spared: more requests or repetitions at the same time than it bears, and all requests while most of
//! them fail. Shared by all workers.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use super::window::{Counts, Window};
use crate::{
    error::UpstreamError,
    in_flight::{InFlight, InFlightGuard},
};

/// A service's bounds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BreakerSettings {
    /// Requests in flight, to the last byte of their answers.
    pub requests: Option<u32>,
    /// Requests in flight that were sent before.
    pub retries: Option<u32>,
    /// When none is sent.
    pub open: Option<CircuitSettings>,
}

/// When a circuit opens and closes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CircuitSettings {
    /// It opens when so many requests of a hundred failed
    pub percent: u32,
    /// in the last while,
    pub window: Duration,
    /// of at least so many.
    pub volume: u64,
    /// It stays open for so long.
    pub duration: Duration,
    /// Then so many requests must succeed, no more at the same time, until it closes.
    pub probes: u32,
}

/// A service's bounds, and how near they are.
#[derive(Debug)]
pub struct Breaker {
    settings: BreakerSettings,
    requests: Option<Arc<InFlight>>,
    retries: Option<Arc<InFlight>>,
    circuit: Option<Circuit>,
}

/// Closed: all are let through. Open until a moment: none is. After the moment: probes are.
#[derive(Debug)]
struct Circuit {
    settings: CircuitSettings,
    window: Window,
    /// 0: closed.
    open_until_ns: AtomicU64,
    probes: AtomicU32,
    succeeded: AtomicU32,
    opened_total: AtomicU64,
}

/// A request that was let through; dropped without a verdict, it counts neither way.
#[derive(Debug)]
pub struct Passage<'b> {
    circuit: Option<&'b Circuit>,
    is_probe: bool,
    /// Its place among those in flight; goes with its answer.
    pub place: Option<InFlightGuard>,
}

impl Breaker {
    /// Closed, with nothing in flight.
    pub fn new(settings: BreakerSettings) -> Self {
        let bound = |limit: Option<u32>| limit.map(|limit| Arc::new(InFlight::new(limit)));
        Self {
            requests: bound(settings.requests),
            retries: bound(settings.retries),
            circuit: settings.open.map(Circuit::new),
            settings,
        }
    }

    /// Its bounds.
    pub fn settings(&self) -> &BreakerSettings {
        &self.settings
    }

    /// Lets a request through or not.
    ///
    /// # Errors
    /// [`UpstreamError::CircuitOpen`], [`UpstreamError::Full`].
    pub fn enter(&self, now_ns: u64) -> Result<Passage<'_>, UpstreamError> {
        let place = match &self.requests {
            Some(requests) => Some(requests.enter().ok_or(UpstreamError::Full)?),
            None => None,
        };
        let is_probe = match &self.circuit {
            Some(circuit) => circuit.admit(now_ns).ok_or(UpstreamError::CircuitOpen)?,
            None => false,
        };
        Ok(Passage { circuit: self.circuit.as_ref(), is_probe, place })
    }

    /// A place for a request that is sent once more, where these are bounded; nothing, if they are too many.
    pub fn retry(&self) -> Option<Option<InFlightGuard>> {
        match &self.retries {
            Some(retries) => retries.enter().map(Some),
            None => Some(None),
        }
    }

    /// Whether requests are refused at `now_ns`.
    pub fn is_open(&self, now_ns: u64) -> bool {
        self.circuit.as_ref().is_some_and(|circuit| now_ns < circuit.open_until_ns.load(Relaxed))
    }

    /// How often it opened.
    pub fn opened_total(&self) -> u64 {
        self.circuit.as_ref().map_or(0, |circuit| circuit.opened_total.load(Relaxed))
    }
}

impl Circuit {
    fn new(settings: CircuitSettings) -> Self {
        Self {
            settings,
            window: Window::new(settings.window),
            open_until_ns: AtomicU64::new(0),
            probes: AtomicU32::new(0),
            succeeded: AtomicU32::new(0),
            opened_total: AtomicU64::new(0),
        }
    }

    /// Whether a request is let through, and if so, whether as a probe.
    fn admit(&self, now_ns: u64) -> Option<bool> {
        match self.open_until_ns.load(Relaxed) {
            0 => Some(false),
            until if now_ns < until => None,
            _ if self.probes.fetch_add(1, Relaxed) < self.settings.probes => Some(true),
            _ => {
                self.probes.fetch_sub(1, Relaxed);
                None
            }
        }
    }

    fn judge(&self, is_probe: bool, well: bool, now_ns: u64) {
        let until = self.open_until_ns.load(Relaxed);
        match (is_probe, well) {
            (true, true) => {
                if self.succeeded.fetch_add(1, Relaxed) + 1 >= self.settings.probes {
                    self.window.clear();
                    let _ = self.open_until_ns.compare_exchange(until, 0, Relaxed, Relaxed);
                }
            }
            (true, false) => self.open(until, now_ns),
            (false, _) => {
                self.window.add(Counts { all: 1, marked: u64::from(!well) }, now_ns);
                let Counts { all, marked } = self.window.sum(now_ns);
                let too_many = marked * 100 >= all * u64::from(self.settings.percent);
                // What was let through before it opened says nothing new.
                if until == 0 && !well && all >= self.settings.volume && too_many {
                    self.open(0, now_ns);
                }
            }
        }
    }

    fn open(&self, before: u64, now_ns: u64) {
        let duration = u64::try_from(self.settings.duration.as_nanos()).unwrap_or(u64::MAX);
        let until = now_ns.saturating_add(duration).max(1);
        if self.open_until_ns.compare_exchange(before, until, Relaxed, Relaxed).is_ok() {
            self.succeeded.store(0, Relaxed);
            self.opened_total.fetch_add(1, Relaxed);
        }
    }
}

impl Passage<'_> {
    /// Says how the request ended.
    pub fn ended(&self, well: bool, now_ns: u64) {
        if let Some(circuit) = self.circuit {
            circuit.judge(self.is_probe, well, now_ns);
        }
    }
}

impl Drop for Passage<'_> {
    fn drop(&mut self) {
        if let Some(circuit) = self.circuit.filter(|_| self.is_probe) {
            circuit.probes.fetch_sub(1, Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn breaker(probes: u32) -> Breaker {
        let (window, duration) = (Duration::from_secs(10), Duration::from_secs(5));
        let open = CircuitSettings { percent: 50, window, volume: 10, duration, probes };
        Breaker::new(BreakerSettings { requests: None, retries: None, open: Some(open) })
    }

    fn request(breaker: &Breaker, well: bool, now_ns: u64) -> bool {
        breaker.enter(now_ns).map(|passage| passage.ended(well, now_ns)).is_ok()
    }

    #[test]
    fn a_circuit_opens_probes_and_closes() {
        let breaker = breaker(2);
        for index in 0..9 {
            assert!(request(&breaker, index % 2 == 0, SECOND), "too few to judge");
        }
        assert!(request(&breaker, false, SECOND));
        assert!(breaker.is_open(SECOND) && !request(&breaker, true, 5 * SECOND));
        assert!(request(&breaker, false, 6 * SECOND), "a probe");
        assert!(!request(&breaker, true, 10 * SECOND), "it failed");
        assert!(request(&breaker, true, 11 * SECOND) && request(&breaker, true, 11 * SECOND));
        assert!(request(&breaker, false, 11 * SECOND) && request(&breaker, false, 11 * SECOND), "closed");
        assert_eq!(breaker.opened_total(), 2);
    }

    #[test]
    fn no_more_probes_than_allowed_are_in_flight_and_those_given_up_make_room() {
        let breaker = breaker(1);
        (0..10).for_each(|_| assert!(request(&breaker, false, SECOND)));
        let probe = breaker.enter(7 * SECOND).expect("a probe");
        assert_eq!(breaker.enter(7 * SECOND).err(), Some(UpstreamError::CircuitOpen));
        drop(probe);
        assert!(breaker.enter(7 * SECOND).is_ok());
    }

    #[test]
    fn a_share_below_the_limit_keeps_it_closed() {
        let breaker = breaker(1);
        for index in 0..1000 {
            assert!(request(&breaker, index % 5 != 4, index * SECOND / 100));
        }
        assert_eq!(breaker.opened_total(), 0);
    }

    #[test]
    fn requests_and_repetitions_are_bounded() {
        let breaker = Breaker::new(BreakerSettings { requests: Some(1), retries: Some(1), open: None });
        let first = breaker.enter(0).expect("room");
        assert_eq!(breaker.enter(0).err(), Some(UpstreamError::Full));
        drop(first);
        assert!(breaker.enter(0).is_ok());
        let retry = breaker.retry();
        assert!(retry.is_some() && breaker.retry().is_none());
    }
}
