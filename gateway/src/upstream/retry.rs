//! When a request is sent once more: for which causes, how often, after how long a rest, within which budget.
//!
//! A request of which surely nothing was sent costs the service nothing and is repeated at once, whatever its method. One
//! that may have been sent is repeated only if it is idempotent (RFC 9110, section 9.2.2) or says so with
//! `Idempotency-Key`, and its body is at hand.

use std::{collections::BTreeSet, time::Duration};

use http::{HeaderMap, Method, StatusCode};

use super::window::{Counts, Window};
use crate::error::UpstreamError;

/// The budget looks back so far.
const BUDGET_WINDOW: Duration = Duration::from_secs(10);

/// A rule of repeating.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retry {
    /// No connection.
    pub on_connect: bool,
    /// A connection that broke, or spoke no HTTP, before the answer.
    pub on_reset: bool,
    /// No answer within the time of a try.
    pub on_timeout: bool,
    /// Answers.
    pub on_statuses: BTreeSet<u16>,
    /// Tries in all, the first included; at least 1.
    pub tries: u32,
    /// Until a try's answer begins, of requests that may be repeated.
    pub per_try_timeout: Option<Duration>,
    /// The rest before a request that was sent is sent again.
    pub backoff: Backoff,
    /// The largest body of a client that is kept for a repetition.
    pub body_bytes: u64,
}

/// A rest between two tries: random, up to a bound that doubles (full jitter).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Backoff {
    /// The bound of the first rest.
    pub base: Duration,
    /// No bound is above it.
    pub max: Duration,
}

/// Why a request is sent once more; a label of metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// No connection: nothing was sent.
    Connect,
    /// A kept connection that the service closed in the same moment (RFC 9112, section 9.3.1).
    Stale,
    /// The connection broke before the answer.
    Reset,
    /// No answer in time.
    Timeout,
    /// The answer's status.
    Status,
}

impl Cause {
    /// All, in the order of their numbers.
    pub const ALL: [Self; 5] = [Self::Connect, Self::Stale, Self::Reset, Self::Timeout, Self::Status];

    /// One word for metrics; stable.
    pub fn word(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Stale => "stale",
            Self::Reset => "reset",
            Self::Timeout => "timeout",
            Self::Status => "status",
        }
    }

    /// Whether the service has seen the request, as far as we know, and so pays for it twice.
    pub fn costs(self) -> bool {
        !matches!(self, Self::Connect | Self::Stale)
    }
}

impl Retry {
    /// What holds where the configuration says nothing: only what surely was not sent is sent again.
    pub fn unsent_only() -> Self {
        Self {
            on_connect: true,
            on_reset: false,
            on_timeout: false,
            on_statuses: BTreeSet::new(),
            tries: 3,
            per_try_timeout: None,
            backoff: Backoff::default(),
            body_bytes: 0,
        }
    }

    /// Whether requests that were sent may be repeated at all.
    pub fn repeats_sent(&self) -> bool {
        self.tries > 1 && (self.on_reset || self.on_timeout || !self.on_statuses.is_empty())
    }

    /// Whether an answer of this status is asked for once more.
    pub fn on_status(&self, status: StatusCode) -> bool {
        !self.on_statuses.is_empty() && self.on_statuses.contains(&status.as_u16())
    }

    /// Whether this failure is followed by another try.
    pub fn on_failure(&self, cause: Cause) -> bool {
        match cause {
            Cause::Connect => self.on_connect,
            Cause::Stale => true,
            Cause::Reset => self.on_reset,
            Cause::Timeout => self.on_timeout,
            Cause::Status => true,
        }
    }
}

impl Backoff {
    /// The rest after `tries` tries; `random` is from 0 to 1.
    pub fn rest(&self, tries: u32, random: f64) -> Duration {
        let bound = self.base.saturating_mul(1 << tries.saturating_sub(1).min(16)).min(self.max);
        bound.mul_f64(random)
    }
}

/// Whether a request may be sent twice without harm.
pub fn is_repeatable(method: &Method, headers: &HeaderMap) -> bool {
    method.is_idempotent() || headers.contains_key("idempotency-key")
}

/// The cause that a failure is; none for those after which no try makes sense.
pub fn cause_of(error: UpstreamError) -> Option<Cause> {
    match error {
        UpstreamError::Connect | UpstreamError::ConnectTimeout | UpstreamError::Tls => Some(Cause::Connect),
        UpstreamError::Broken | UpstreamError::Protocol => Some(Cause::Reset),
        UpstreamError::FirstByteTimeout | UpstreamError::TryTimeout => Some(Cause::Timeout),
        _ => None,
    }
}

/// How many repetitions a service is asked to bear, over all workers: a share of its requests, and a few in any case.
#[derive(Debug)]
pub struct Budget {
    settings: BudgetSettings,
    window: Window,
}

/// A budget's size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BudgetSettings {
    /// Of the requests of the last ten seconds.
    pub percent: u32,
    /// And so many a second.
    pub min_per_second: u32,
}

impl Budget {
    /// One of which nothing is spent.
    pub fn new(settings: BudgetSettings) -> Self {
        Self { settings, window: Window::new(BUDGET_WINDOW) }
    }

    /// Its size.
    pub fn settings(&self) -> BudgetSettings {
        self.settings
    }

    /// Counts a request, which pays in.
    pub fn request(&self, now_ns: u64) {
        self.window.add(Counts { all: 1, marked: 0 }, now_ns);
    }

    /// Takes one repetition out, if there is one left. Never gives more than there are; two that meet at the brink may
    /// both be refused.
    pub fn withdraw(&self, now_ns: u64) -> bool {
        let one = Counts { all: 0, marked: 1 };
        self.window.add(one, now_ns);
        let Counts { all, marked } = self.window.sum(now_ns);
        let BudgetSettings { percent, min_per_second } = self.settings;
        let there_are = all * u64::from(percent) / 100 + u64::from(min_per_second) * BUDGET_WINDOW.as_secs();
        if marked > there_are {
            self.window.take_back(one, now_ns);
            return false;
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn a_budget_gives_its_share_and_its_minimum() {
        let budget = Budget::new(BudgetSettings { percent: 20, min_per_second: 3 });
        let mut given = 0;
        // A service that fails everything for a minute at 1,000 requests a second.
        for millisecond in 0..60_000_u64 {
            let now = millisecond * SECOND / 1000;
            budget.request(now);
            given += u64::from(budget.withdraw(now));
        }
        let most = 60_000 / 5 + 3 * 60 + 3 * 10;
        assert!((12_000..=most).contains(&given), "{given}");
    }

    #[test]
    fn a_quiet_service_has_the_minimum_alone() {
        let budget = Budget::new(BudgetSettings { percent: 20, min_per_second: 3 });
        assert_eq!((0..100).filter(|_| budget.withdraw(0)).count(), 30);
        assert!(!budget.withdraw(9 * SECOND));
        assert_eq!((0..100).filter(|_| budget.withdraw(10 * SECOND)).count(), 30);
        let none = Budget::new(BudgetSettings { percent: 0, min_per_second: 0 });
        assert!(!none.withdraw(SECOND));
    }

    #[test]
    fn all_cores_share_one_budget() {
        let budget = Budget::new(BudgetSettings { percent: 0, min_per_second: 10 });
        let given = std::sync::atomic::AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let mine = (0..1000).filter(|_| budget.withdraw(SECOND)).count();
                    given.fetch_add(mine, std::sync::atomic::Ordering::Relaxed);
                });
            }
        });
        assert_eq!(given.into_inner(), 100);
    }

    #[test]
    fn rests_double_up_to_their_bound() {
        let backoff = Backoff { base: Duration::from_millis(25), max: Duration::from_millis(150) };
        let longest: Vec<_> = (1..6).map(|tries| backoff.rest(tries, 1.0).as_millis()).collect();
        assert_eq!(longest, [25, 50, 100, 150, 150]);
        assert_eq!(backoff.rest(3, 0.0), Duration::ZERO);
    }

    #[test]
    fn what_may_be_sent_twice() {
        let mut headers = HeaderMap::new();
        for (method, repeatable) in
            [(Method::GET, true), (Method::PUT, true), (Method::POST, false), (Method::PATCH, false)]
        {
            assert_eq!(is_repeatable(&method, &headers), repeatable, "{method}");
        }
        headers.insert("idempotency-key", http::HeaderValue::from_static("a"));
        assert!(is_repeatable(&Method::POST, &headers));
    }
}
