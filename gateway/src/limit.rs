//! Rate limits: one [`Limiter`] per rule, shared by all cores, exact over all of them.
//!
//! The rule says what a key is (a consumer, a claim, a client's address, a route); here keys are bytes. A key
//! is never unlimited: what has no key, and what finds no room in the table, shares one bucket each.
//!
//! The answer's headers follow draft-ietf-httpapi-ratelimit-headers-10 (structured fields) and RFC 9110,
//! 10.2.3 (`Retry-After`).

pub mod gcra;
pub mod stage;
pub mod table;

use std::io::Write;
use std::sync::atomic::AtomicU64;

use http::HeaderValue;
use thiserror::Error;

use gcra::{Rate, Verdict};
pub use stage::{Admitted, Exceeded, Permit, RouteLimits, compile, limit};
use table::{Request, Table};

/// One rule's rate and the state of its keys.
#[derive(Debug)]
pub struct Limiter {
    table: Table,
    capacity: usize,
    /// The bucket of all requests without a key.
    keyless: AtomicU64,
    /// `"name"`, quoted, as both headers begin.
    quoted: Box<str>,
    policy: HeaderValue,
}

/// What a limiter says about one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    /// Requests per period that the rule allows.
    pub limit: u64,
    /// Requests that would pass right now.
    pub remaining: u64,
    /// Until the bucket is full, whole seconds, rounded up.
    pub reset_seconds: u64,
    /// Until the request would pass, whole seconds, rounded up, at least 1; `None` if it passes.
    pub retry_after_seconds: Option<u64>,
}

/// Why a rule's name cannot stand in a header.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("a limit's name is 1 to {NAME_MAX} letters, digits, '-', '_' or '.', not \"{0}\"")]
pub struct NameError(String);

/// The longest name of a rule, bytes.
pub const NAME_MAX: usize = 64;

impl Limiter {
    /// A limiter whose keys all have full buckets, with room for about `capacity` keys
    /// ([`table::CAPACITY_DEFAULT`]).
    pub fn new(name: &str, rate: Rate, capacity: usize) -> Result<Self, NameError> {
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        if name.is_empty() || name.len() > NAME_MAX || !name.bytes().all(fits) {
            return Err(NameError(name.to_owned()));
        }
        let per = rate.per_period();
        let policy = format!("\"{name}\";q={};w={}", per.count, per.period.seconds());
        Ok(Self {
            table: Table::new(rate, capacity),
            capacity,
            keyless: AtomicU64::new(0),
            quoted: format!("\"{name}\"").into(),
            policy: HeaderValue::try_from(policy).map_err(|_| NameError(name.to_owned()))?,
        })
    }

    /// Counts one request of the key at `now_ns`, ns of a monotonic clock.
    pub fn take(&self, key: &[u8], now_ns: u64) -> Decision {
        self.decision(self.table.take(key, now_ns, 1))
    }

    /// Counts one request that has no key: all of them share one bucket.
    pub fn take_without_key(&self, now_ns: u64) -> Decision {
        let rate = self.table.rate();
        self.decision(Request { rate, now: rate.ticks(now_ns), cost: 1 }.take_from(&self.keyless))
    }

    /// Requests decided by the shared overflow bucket, because the table was full of live keys.
    pub fn overflowed(&self) -> u64 {
        self.table.overflowed()
    }

    /// For how many keys it was made.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// The rate of every key.
    pub fn rate(&self) -> &Rate {
        self.table.rate()
    }

    /// `RateLimit-Policy`: the same for every request.
    pub fn policy_header(&self) -> &HeaderValue {
        &self.policy
    }

    /// `RateLimit`: what is left for the key of this decision.
    pub fn rate_limit_header(&self, decision: &Decision) -> HeaderValue {
        // The name, two numbers of at most 20 digits, and "\"\";r=;t=".
        let mut buffer = [0_u8; NAME_MAX + 48];
        let mut rest = &mut buffer[..];
        let written = write!(rest, "{};r={};t={}", self.quoted, decision.remaining, decision.reset_seconds)
            .map(|()| rest.len());
        let length = buffer.len() - written.unwrap_or(0);
        HeaderValue::from_bytes(&buffer[..length]).unwrap_or_else(|_| self.policy.clone())
    }

    fn decision(&self, verdict: Verdict) -> Decision {
        let limit = u64::from(self.table.rate().per_period().count);
        match verdict {
            Verdict::Admit { remaining, reset_ns, .. } => {
                let reset_seconds = whole_seconds(reset_ns);
                Decision { limit, remaining, reset_seconds, retry_after_seconds: None }
            }
            Verdict::Refuse { remaining, reset_ns, retry_after_ns } => Decision {
                limit,
                remaining,
                reset_seconds: whole_seconds(reset_ns),
                retry_after_seconds: Some(whole_seconds(retry_after_ns).max(1)),
            },
        }
    }
}

impl Decision {
    /// Whether the request passes.
    pub fn admitted(&self) -> bool {
        self.retry_after_seconds.is_none()
    }

    /// `Retry-After`, for a request that does not pass.
    pub fn retry_after_header(&self) -> Option<HeaderValue> {
        self.retry_after_seconds.map(HeaderValue::from)
    }
}

fn whole_seconds(ns: u64) -> u64 {
    ns.div_ceil(1_000_000_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND_NS: u64 = 1_000_000_000;

    fn limiter(name: &str, per: &str, burst: u32) -> Limiter {
        Limiter::new(name, Rate::new(per.parse().unwrap(), burst).unwrap(), 100).unwrap()
    }

    #[test]
    fn decisions_and_headers_say_the_same() {
        let limiter = limiter("per-consumer", "100/m", 2);
        assert_eq!(limiter.policy_header(), "\"per-consumer\";q=100;w=60");
        // One request per 600 ms.
        for (now_ms, admitted, header, retry_after) in [
            (1_000, true, "\"per-consumer\";r=1;t=1", None),
            (1_000, true, "\"per-consumer\";r=0;t=2", None),
            (1_100, false, "\"per-consumer\";r=0;t=2", Some("1")),
            (1_600, true, "\"per-consumer\";r=0;t=2", None),
            (9_000, true, "\"per-consumer\";r=1;t=1", None),
        ] {
            let decision = limiter.take(b"ann", now_ms * 1_000_000);
            assert_eq!(decision.limit, 100);
            assert_eq!(decision.admitted(), admitted, "at {now_ms}");
            assert_eq!(limiter.rate_limit_header(&decision), header, "at {now_ms}");
            let value = decision.retry_after_header();
            assert_eq!(value.as_ref().map(|value| value.to_str().unwrap()), retry_after, "at {now_ms}");
        }
    }

    #[test]
    fn the_largest_numbers_fit_the_header() {
        let name = "n".repeat(NAME_MAX);
        let limiter = limiter(&name, "1/s", 1);
        let decision =
            Decision { limit: 1, remaining: u64::MAX, reset_seconds: u64::MAX, retry_after_seconds: None };
        let expected = format!("\"{name}\";r={0};t={0}", u64::MAX);
        assert_eq!(limiter.rate_limit_header(&decision), expected);
    }

    #[test]
    fn a_wait_is_rounded_up_to_whole_seconds() {
        let limiter = limiter("slow", "1/m", 1);
        assert!(limiter.take(b"k", SECOND_NS).admitted());
        for (now_ns, seconds) in
            [(SECOND_NS, 60), (SECOND_NS + 1, 60), (2 * SECOND_NS, 59), (61 * SECOND_NS - 1, 1)]
        {
            assert_eq!(limiter.take(b"k", now_ns).retry_after_seconds, Some(seconds), "at {now_ns}");
        }
    }

    #[test]
    fn what_has_no_key_shares_one_bucket() {
        let limiter = limiter("by-claim", "1/s", 3);
        assert_eq!((0..10).filter(|_| limiter.take_without_key(SECOND_NS).admitted()).count(), 3);
        assert!(limiter.take(b"", SECOND_NS).admitted(), "an empty key is a key");
    }

    #[test]
    fn names_that_break_a_header_are_refused() {
        let rate = Rate::new("1/s".parse().unwrap(), 1).unwrap();
        for name in ["", "a b", "a\"b", "a;b", "ä", &"n".repeat(NAME_MAX + 1)] {
            assert!(Limiter::new(name, rate, 10).is_err(), "{name}");
        }
    }
}
