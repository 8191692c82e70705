//! One instance of a service: what is in flight on it, what health checks say, whether it is left out. Shared by
//! all workers, and handed on by reloads as long as its upstream and address stay.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering::Relaxed},
};

use http::StatusCode;

use super::{
    Ejection, Ratio, affinity,
    latency::Latency,
    window::{Counts, Window},
};
use crate::{clock::now_ns, config::connect::Address, in_flight::InFlightGuard};

/// Ejections in a row that make each longer than the one before.
const EJECTIONS_MAX: u32 = 10;

/// What health checks say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Health {
    /// Nothing yet: it is used.
    Unknown,
    /// It is well.
    Up,
    /// It is not.
    Down,
}

/// An instance.
#[derive(Debug)]
pub struct Endpoint {
    /// Its number in this process, never given again.
    pub id: u64,
    /// Where it listens.
    pub address: Address,
    /// Of its address, for keys that belong to it.
    pub(super) hash: u64,
    in_flight: AtomicU32,
    /// How long it takes to answer, where that is asked for.
    pub(super) latency: Latency,
    /// How many were sent here, for metrics.
    requests_total: AtomicU64,
    health: AtomicU8,
    /// Failures since the last success.
    failures: AtomicU32,
    /// Requests of the last while, those that failed marked, where they are counted.
    outcomes: Option<Window>,
    /// Ejections since it last stayed in for as long as it was out.
    ejections: AtomicU32,
    ejected_until_ns: AtomicU64,
    /// When health checks last called it well again; 0: never.
    up_since_ns: AtomicU64,
    /// How often it was left out, for metrics.
    ejections_total: AtomicU64,
    /// Set once by the checker that looks after it.
    pub(super) checked: AtomicBool,
}

/// A request in flight; over when dropped.
#[derive(Debug)]
pub struct InFlightOn {
    endpoint: Arc<Endpoint>,
    /// When it began, where its answer is timed and has not come.
    begun_ns: Option<u64>,
    /// Its place among all that are in flight on the service, where these are bounded.
    pub(super) place: Option<InFlightGuard>,
}

impl Endpoint {
    /// One of which nothing is known. With a ratio, what becomes of its requests is counted.
    pub fn new(address: Address, ratio: Option<&Ratio>) -> Self {
        static IDS: AtomicU64 = AtomicU64::new(0);
        Self {
            id: IDS.fetch_add(1, Relaxed),
            hash: affinity::hash(address.to_string().as_bytes()),
            address,
            in_flight: AtomicU32::new(0),
            latency: Latency::default(),
            requests_total: AtomicU64::new(0),
            health: AtomicU8::new(Health::Unknown as u8),
            failures: AtomicU32::new(0),
            outcomes: ratio.map(|ratio| Window::new(ratio.window)),
            ejections: AtomicU32::new(0),
            ejected_until_ns: AtomicU64::new(0),
            up_since_ns: AtomicU64::new(0),
            ejections_total: AtomicU64::new(0),
            checked: AtomicBool::new(false),
        }
    }

    /// Requests in flight, over all workers.
    pub fn in_flight(&self) -> u32 {
        self.in_flight.load(Relaxed)
    }

    /// Requests that were sent here.
    pub fn requests_total(&self) -> u64 {
        self.requests_total.load(Relaxed)
    }

    /// How often it was left out.
    pub fn ejections_total(&self) -> u64 {
        self.ejections_total.load(Relaxed)
    }

    /// What health checks say.
    pub fn health(&self) -> Health {
        match self.health.load(Relaxed) {
            1 => Health::Up,
            2 => Health::Down,
            _ => Health::Unknown,
        }
    }

    /// Notes what health checks say.
    pub fn set_health(&self, health: Health) {
        if health == Health::Up && self.health() == Health::Down {
            self.up_since_ns.store(now_ns().max(1), Relaxed);
        }
        self.health.store(health as u8, Relaxed);
    }

    /// Whether it is left out for its failures at `now_ns`.
    pub fn is_ejected(&self, now_ns: u64) -> bool {
        // Mostly zero: no clock need have been read.
        self.ejected_until_ns.load(Relaxed) > now_ns
    }

    /// Whether it was ever left out, so that the clock must be asked.
    pub(super) fn may_be_ejected(&self) -> bool {
        self.ejected_until_ns.load(Relaxed) != 0
    }

    /// When it came back, from being down or left out; none if it was never away.
    pub(super) fn returned_ns(&self) -> Option<u64> {
        let returned = self.up_since_ns.load(Relaxed).max(self.ejected_until_ns.load(Relaxed));
        (returned != 0).then_some(returned)
    }

    /// Counts a request in.
    pub fn begin(self: &Arc<Self>) -> InFlightOn {
        self.in_flight.fetch_add(1, Relaxed);
        self.requests_total.fetch_add(1, Relaxed);
        InFlightOn { endpoint: self.clone(), begun_ns: None, place: None }
    }

    /// What one more request would wait at `now_ns`: the time of an answer, for each that is in flight and for itself.
    /// Where nothing is known one is tried, and more only when all others are slow.
    pub(super) fn expected_wait(&self, now_ns: u64) -> f64 {
        let (time, in_flight) = (self.latency.at(now_ns), self.in_flight());
        match time == 0.0 && in_flight != 0 {
            true => f64::from(f32::MAX) * f64::from(in_flight),
            false => f64::from(time) * f64::from(in_flight + 1),
        }
    }

    /// Judges an answer.
    pub fn answered(&self, status: StatusCode, ejection: &Ejection, all: &[Arc<Self>]) {
        match status {
            StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT => {
                self.failed(ejection, all);
            }
            _ => {
                // Written only when it changes something: the line is shared by all cores.
                if self.failures.load(Relaxed) != 0 {
                    self.failures.store(0, Relaxed);
                }
                if let Some(outcomes) = &self.outcomes {
                    outcomes.add(Counts { all: 1, marked: 0 }, now_ns());
                }
            }
        }
    }

    /// Counts a failure; too many leave it out for a while, each time longer, if few enough of `all` are.
    pub fn failed(&self, ejection: &Ejection, all: &[Arc<Self>]) {
        let failures = self.failures.fetch_add(1, Relaxed) + 1;
        let in_a_row = ejection.failures != 0 && failures >= ejection.failures;
        if !self.fails_too_often(ejection) && !in_a_row {
            return;
        }
        match ejection.percent_max {
            None => self.eject(ejection),
            Some(percent) => {
                // One after the other, or two could each take the last place.
                static EJECTING: Mutex<()> = Mutex::new(());
                let _one = EJECTING.lock().unwrap_or_else(PoisonError::into_inner);
                let now = now_ns();
                let out = all.iter().filter(|endpoint| endpoint.is_ejected(now)).count();
                if (out + 1) * 100 <= all.len() * usize::from(percent) {
                    self.eject(ejection);
                }
            }
        }
    }

    /// Counts a failure among all requests of the last while, where they are counted: whether there are too many.
    fn fails_too_often(&self, ejection: &Ejection) -> bool {
        let (Some(outcomes), Some(ratio)) = (&self.outcomes, ejection.ratio) else { return false };
        let now = now_ns();
        outcomes.add(Counts { all: 1, marked: 1 }, now);
        let Counts { all, marked } = outcomes.sum(now);
        all >= ratio.volume.into() && marked * 100 >= all * u64::from(ratio.percent)
    }

    fn eject(&self, ejection: &Ejection) {
        let now = now_ns();
        let until = self.ejected_until_ns.load(Relaxed);
        if until > now {
            return;
        }
        let first = u64::try_from(ejection.duration.as_nanos()).unwrap_or(u64::MAX);
        // Well for longer than it was ever out: the past is forgotten.
        let relapse = until != 0 && now - until < first.saturating_mul(u64::from(EJECTIONS_MAX));
        let count = if relapse { self.ejections.load(Relaxed).min(EJECTIONS_MAX - 1) + 1 } else { 1 };
        let next = now.saturating_add(first.saturating_mul(u64::from(count)));
        if self.ejected_until_ns.compare_exchange(until, next, Relaxed, Relaxed).is_ok() {
            self.ejections.store(count, Relaxed);
            self.ejections_total.fetch_add(1, Relaxed);
            self.failures.store(0, Relaxed);
            if let Some(outcomes) = &self.outcomes {
                outcomes.clear();
            }
            tracing::warn!(endpoint = %self.address, seconds = (next - now) / 1_000_000_000, "left out for its failures");
        }
    }
}

impl InFlightOn {
    /// Its answer is timed, from now on.
    pub(super) fn timed(&mut self, now_ns: u64) {
        self.begun_ns = Some(now_ns);
    }

    /// The head of its answer is there.
    pub(super) fn answered(&mut self) {
        if let Some(begun_ns) = self.begun_ns.take() {
            let now = now_ns();
            self.endpoint.latency.took(now.saturating_sub(begun_ns), now);
        }
    }
}

impl Drop for InFlightOn {
    fn drop(&mut self) {
        if let Some(begun_ns) = self.begun_ns {
            let now = now_ns();
            self.endpoint.latency.took_longer_than(now.saturating_sub(begun_ns), now);
        }
        self.endpoint.in_flight.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn failures_in_a_row_leave_it_out() {
        let ejection = Ejection { failures: 3, duration: Duration::from_secs(60), ..Ejection::default() };
        let endpoint = Endpoint::new(Address::Tcp(([127, 0, 0, 1], 1).into()), None);
        endpoint.failed(&ejection, &[]);
        endpoint.answered(StatusCode::BAD_GATEWAY, &ejection, &[]);
        endpoint.answered(StatusCode::OK, &ejection, &[]);
        endpoint.failed(&ejection, &[]);
        endpoint.failed(&ejection, &[]);
        assert!(!endpoint.is_ejected(now_ns()), "a success between counts");
        endpoint.failed(&ejection, &[]);
        assert!(endpoint.is_ejected(now_ns()));
        assert!(!endpoint.is_ejected(now_ns() + 61_000_000_000));
        assert_eq!(endpoint.ejections_total(), 1);
    }

    #[test]
    fn too_many_failures_among_its_requests_leave_it_out() {
        let ratio = Ratio { percent: 40, volume: 10, window: Duration::from_secs(86_400) };
        let ejection =
            Ejection { ratio: Some(ratio), duration: Duration::from_secs(86_400), ..Ejection::default() };
        let endpoint = Endpoint::new(Address::Tcp(([127, 0, 0, 1], 1).into()), Some(&ratio));
        let asked = |status| endpoint.answered(status, &ejection, &[]);
        (0..3).for_each(|_| asked(StatusCode::BAD_GATEWAY));
        (0..6).for_each(|_| asked(StatusCode::OK));
        assert!(!endpoint.is_ejected(now_ns()), "too few to judge");
        asked(StatusCode::NOT_FOUND);
        endpoint.failed(&ejection, &[]);
        assert!(!endpoint.is_ejected(now_ns()), "4 of 11");
        endpoint.failed(&ejection, &[]);
        assert!(endpoint.is_ejected(now_ns()), "5 of 12");
        assert_eq!(
            endpoint.outcomes.as_ref().map(|outcomes| outcomes.sum(now_ns())),
            Some(Counts::default())
        );
    }

    #[test]
    fn no_more_than_some_are_out_at_once() {
        let ejection =
            Ejection { failures: 1, percent_max: Some(50), duration: Duration::from_secs(60), ratio: None };
        let at = |port| Arc::new(Endpoint::new(Address::Tcp(([127, 0, 0, 1], port).into()), None));
        let all: Vec<_> = (1..=5).map(at).collect();
        std::thread::scope(|scope| {
            all.iter().for_each(|endpoint| drop(scope.spawn(|| endpoint.failed(&ejection, &all))));
        });
        let out = all.iter().filter(|endpoint| endpoint.is_ejected(now_ns())).count();
        assert_eq!(out, 2, "half of five");
    }

    #[test]
    fn zero_failures_never_leave_it_out() {
        let ejection = Ejection { failures: 0, duration: Duration::from_secs(60), ..Ejection::default() };
        let endpoint = Endpoint::new(Address::Tcp(([127, 0, 0, 1], 1).into()), None);
        for _ in 0..100 {
            endpoint.failed(&ejection, &[]);
        }
        assert!(!endpoint.is_ejected(now_ns()));
    }
}
