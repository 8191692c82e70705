//! Counters. Each worker counts in a place of its own, and the places are summed when somebody asks, so that counting
//! costs no cache line that two cores want.
//!
//! Invariant: labels are bounded by the configuration and by closed lists. Nothing that a client sends becomes one.

mod scrape;

use std::{
    cell::Cell,
    sync::{
        OnceLock,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed},
    },
};

use http::StatusCode;

use crate::{accept::opening::HandshakeFailure, record::Record};

pub use scrape::render;

/// Places to count in. More workers than places share some, which is slower and as right.
const PLACES: usize = 16;

/// Upper bounds of the buckets of durations, in µs; the last bucket has none.
const BUCKETS_US: [u64; 15] = [
    100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000,
    5_000_000, 30_000_000,
];

/// Every word that [`Record::reason`] may be, but for a last one that stands for what was forgotten here.
const REASONS: [&str; 40] = [
    "malformed",
    "path",
    "overloaded",
    "route_overloaded",
    "no_route",
    "method_not_allowed",
    "body_too_large",
    "body_lost",
    "body_not_json",
    "credential_ambiguous",
    "key_set_unavailable",
    "unauthenticated",
    "forbidden",
    "rate_limited",
    "no_endpoint",
    "service_full",
    "circuit_open",
    "connect",
    "connect_timeout",
    "tls",
    "broken",
    "timeout",
    "try_timeout",
    "first_byte_timeout",
    "protocol",
    "too_large",
    "not_json",
    "not_object",
    "step_failed",
    "collision",
    "internal",
    "answer_broke_off",
    "answer_stalled",
    "partial",
    "handshake",
    "tunnels_full",
    "tunnel_idle",
    "tunnel_broke_off",
    "tunnel_cut",
    "other",
];

thread_local! {
    static PLACE: Cell<usize> = const { Cell::new(0) };
}

/// Gives this thread the place of worker number `worker`.
pub fn count_as(worker: usize) {
    PLACE.set(worker % PLACES);
}

/// What is counted of a route; handed on by reloads. A place is made when it is first counted in: thousands of routes
/// that are never asked for cost little.
#[derive(Debug, Default)]
pub struct RouteMetrics {
    places: [OnceLock<Box<Place>>; PLACES],
    undecided: AtomicU64,
}

/// What one worker counts of one route. Two cache lines are fetched together by the processors that we know.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Place {
    /// By the status' first digit, 1 to 5.
    classes: [AtomicU64; 5],
    reasons: Reasons,
    buckets: [AtomicU64; BUCKETS_US.len() + 1],
    duration_us: AtomicU64,
    bytes: AtomicU64,
    tunnel_sent: AtomicU64,
    tunnel_received: AtomicU64,
}

/// One counter for each of [`REASONS`].
#[derive(Debug)]
struct Reasons([AtomicU64; REASONS.len()]);

impl Default for Reasons {
    fn default() -> Self {
        Self(std::array::from_fn(|_| AtomicU64::new(0)))
    }
}

/// All counters that belong to no route.
#[derive(Debug, Default)]
pub struct Metrics {
    /// Requests that found no route.
    pub unrouted: RouteMetrics,
    /// Clients' connections.
    pub connections: ConnectionMetrics,
    /// Their TLS handshakes.
    pub handshakes: HandshakeMetrics,
    /// Configurations.
    pub config: ConfigMetrics,
}

/// What is counted of clients' connections. How many are open is counted where the bound is.
#[derive(Debug, Default)]
pub struct ConnectionMetrics {
    /// Taken.
    pub accepted: AtomicU64,
    /// Closed because nothing was asked for too long.
    pub idle: AtomicU64,
    /// Closed because the head of a request did not arrive in time.
    pub slow_head: AtomicU64,
    /// Cut because the client took no byte of its answer for too long.
    pub stalled: AtomicU64,
    /// Cut because the client took back too many of its HTTP/2 requests.
    pub resets: AtomicU64,
    /// Closed because a balancer in front did not say for whom they are.
    pub proxy_header: AtomicU64,
    /// Failures to take one, such as for want of file descriptors.
    pub accept_errors: AtomicU64,
    /// Requests that ended in a panic.
    pub panics: AtomicU64,
}

/// What is counted of clients' TLS handshakes.
#[derive(Debug, Default)]
pub struct HandshakeMetrics {
    /// Those that led to a connection.
    pub completed: AtomicU64,
    failed: [AtomicU64; HandshakeFailure::ALL.len()],
}

/// What is counted of configurations.
#[derive(Debug, Default)]
pub struct ConfigMetrics {
    /// Taken since the start.
    pub reloads: AtomicU64,
    /// Refused since the start.
    pub failures: AtomicU64,
    /// The last one was refused.
    pub last_failed: AtomicBool,
    /// Warnings about the present one.
    pub warnings: AtomicU32,
    /// From the wish for the last one that was taken until requests met it.
    pub took_us: AtomicU64,
}

impl Metrics {
    /// Counts a request that is over.
    pub fn count(&self, record: &Record) {
        let of_route = record.route.as_ref().map_or(&self.unrouted, |route| &route.metrics);
        if record.status == StatusCode::SWITCHING_PROTOCOLS {
            return of_route.count_tunnel(record.reason, record.bytes, record.received);
        }
        let duration = u64::try_from(record.begun.elapsed().as_micros()).unwrap_or(u64::MAX);
        of_route.count(record.status.as_u16(), record.reason, record.bytes, duration);
    }
}

impl Place {
    fn count(&self, status: u16, reason: Option<&str>) {
        let class = usize::from(status / 100).clamp(1, 5) - 1;
        self.classes[class].fetch_add(1, Relaxed);
        if let Some(reason) = reason {
            let known = REASONS.iter().position(|known| *known == reason);
            self.reasons.0[known.unwrap_or(REASONS.len() - 1)].fetch_add(1, Relaxed);
        }
    }
}

impl HandshakeMetrics {
    /// Counts one that came to nothing.
    pub fn failed(&self, failure: HandshakeFailure) {
        self.failed[failure as usize].fetch_add(1, Relaxed);
    }

    /// Those that came to nothing for this reason.
    pub fn by_failure(&self, failure: HandshakeFailure) -> u64 {
        self.failed[failure as usize].load(Relaxed)
    }
}

impl RouteMetrics {
    fn count(&self, status: u16, reason: Option<&str>, bytes: u64, duration_us: u64) {
        let place = self.place();
        place.count(status, reason);
        let bucket = BUCKETS_US.partition_point(|bound| *bound < duration_us);
        place.buckets[bucket].fetch_add(1, Relaxed);
        place.duration_us.fetch_add(duration_us, Relaxed);
        place.bytes.fetch_add(bytes, Relaxed);
    }

    fn place(&self) -> &Place {
        self.places[PLACE.get()].get_or_init(Box::default)
    }

    /// Counts a tunnel that is over. How long it was open is no duration of a request.
    fn count_tunnel(&self, reason: Option<&str>, sent: u64, received: u64) {
        let place = self.place();
        place.count(StatusCode::SWITCHING_PROTOCOLS.as_u16(), reason);
        place.tunnel_sent.fetch_add(sent, Relaxed);
        place.tunnel_received.fetch_add(received, Relaxed);
    }

    /// Bytes that tunnels carried: from clients, to clients.
    pub fn tunnel_bytes(&self) -> (u64, u64) {
        (self.sum(|place| &place.tunnel_received), self.sum(|place| &place.tunnel_sent))
    }

    /// Requests by the first digit of their status, 1 to 5.
    pub fn by_class(&self) -> [u64; 5] {
        std::array::from_fn(|class| self.sum(|place| &place.classes[class]))
    }

    /// Requests that ended for this reason.
    pub fn by_reason(&self, reason: &str) -> u64 {
        let known = REASONS.iter().position(|known| *known == reason);
        known.map_or(0, |index| self.sum(|place| &place.reasons.0[index]))
    }

    /// Counts a request for which the expression of the route's `when` came to no answer.
    pub fn count_undecided(&self) {
        self.undecided.fetch_add(1, Relaxed);
    }

    /// How many such requests there were.
    pub fn undecided(&self) -> u64 {
        self.undecided.load(Relaxed)
    }

    fn bytes(&self) -> u64 {
        self.sum(|place| &place.bytes)
    }

    fn seconds(&self) -> f64 {
        self.sum(|place| &place.duration_us) as f64 / 1e6
    }

    /// Requests in each bucket, not summed up.
    fn by_bucket(&self) -> [u64; BUCKETS_US.len() + 1] {
        std::array::from_fn(|bucket| self.sum(|place| &place.buckets[bucket]))
    }

    fn sum(&self, counter: impl Fn(&Place) -> &AtomicU64) -> u64 {
        self.places.iter().filter_map(OnceLock::get).map(|place| counter(place).load(Relaxed)).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        error::{HandshakeError, Refusal, UpstreamError},
        screen::Malformed,
    };

    #[test]
    fn places_are_summed() {
        let metrics = RouteMetrics::default();
        std::thread::scope(|scope| {
            for worker in 0..2 * PLACES {
                let metrics = &metrics;
                scope.spawn(move || {
                    count_as(worker);
                    metrics.count(200, None, 10, 100);
                    metrics.count(429, Some("rate_limited"), 5, 101);
                    metrics.count(799, Some("never heard of"), 0, u64::MAX >> 20);
                });
            }
        });
        let all = 2 * PLACES as u64;
        assert_eq!(metrics.by_class(), [0, all, 0, all, all]);
        assert_eq!(metrics.by_reason("rate_limited"), all);
        assert_eq!(metrics.by_reason("other"), all);
        assert_eq!(metrics.bytes(), 15 * all);
        let buckets = metrics.by_bucket();
        assert_eq!((buckets[0], buckets[1], buckets[BUCKETS_US.len()]), (all, all, all));
    }

    #[test]
    fn reasons_have_a_counter_of_their_own() {
        let refusals = [
            Refusal::Malformed(Malformed::BareLf),
            Refusal::Overloaded,
            Refusal::NoRoute,
            Refusal::BodyLost,
            Refusal::TunnelsFull,
            Refusal::Handshake(HandshakeError::Key),
            Refusal::Internal,
            Refusal::Upstream(UpstreamError::Timeout),
        ];
        for refusal in refusals {
            assert!(REASONS.contains(&refusal.reason()), "{}", refusal.reason());
        }
    }
}
