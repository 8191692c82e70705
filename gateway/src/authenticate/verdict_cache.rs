//! Tokens that were found true, so that the signature of a token is checked once a minute and not once a request.
//!
//! The key is the SHA-256 of the token, the issuer's number and its key set's generation: a changed configuration, a
//! withdrawn key and an altered token all miss. A verdict holds for at most [`VERDICT_AGE_MAX`] and never beyond the
//! token's `exp`. Only true tokens are kept: whoever sends false ones sends each only once, and would push out the
//! true ones.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use aws_lc_rs::digest::{Context, SHA256};
use quick_cache::sync::Cache;

use super::{Grant, jwt::Verified};

/// How long a verdict is good.
pub const VERDICT_AGE_MAX: Duration = Duration::from_secs(60);

/// Verdicts that are kept: about 400 bytes each, 6.5 MB in all.
pub const VERDICTS_MAX: usize = 16_384;

/// SHA-256 of what a verdict depends on.
pub type VerdictKey = [u8; 32];

/// Verdicts, shared by all workers.
pub struct VerdictCache {
    verdicts: Cache<VerdictKey, Verdict>,
    counts: [Counts; COUNTERS],
}

#[derive(Clone)]
struct Verdict {
    grant: Arc<Grant>,
    /// `exp`, seconds of Unix time.
    expires_s: u64,
    /// Of the monotonic clock, ns.
    until_ns: u64,
}

/// Counters of a few workers, so that not all write to one cache line.
#[derive(Default)]
#[repr(align(64))]
struct Counts {
    hits: AtomicU64,
    misses: AtomicU64,
}

const COUNTERS: usize = 32;

impl Default for VerdictCache {
    fn default() -> Self {
        Self { verdicts: Cache::new(VERDICTS_MAX), counts: Default::default() }
    }
}

impl VerdictCache {
    /// The key of a token under one generation of an issuer's keys.
    pub fn key(token: &str, issuer: u64, generation: u64) -> VerdictKey {
        let mut context = Context::new(&SHA256);
        context.update(&issuer.to_be_bytes());
        context.update(&generation.to_be_bytes());
        context.update(token.as_bytes());
        let mut key = [0; 32];
        key.copy_from_slice(context.finish().as_ref());
        key
    }

    /// What a token grants, if that is known and still holds at both clocks.
    pub fn get(&self, key: &VerdictKey, now_ns: u64, now_s: u64) -> Option<Arc<Grant>> {
        let fresh = |verdict: &Verdict| now_ns < verdict.until_ns && now_s < verdict.expires_s;
        let grant = self.verdicts.get(key).filter(fresh)?.grant;
        self.counts[counter()].hits.fetch_add(1, Relaxed);
        Some(grant)
    }

    /// Counts a token that had to be checked.
    pub fn missed(&self) {
        self.counts[counter()].misses.fetch_add(1, Relaxed);
    }

    /// Keeps a verdict.
    pub fn insert(&self, key: VerdictKey, verified: &Verified, now_ns: u64) {
        let until_ns = now_ns.saturating_add(VERDICT_AGE_MAX.as_nanos() as u64);
        let grant = verified.grant.clone();
        self.verdicts.insert(key, Verdict { grant, expires_s: verified.expires_s, until_ns });
    }

    /// Tokens that were known.
    pub fn hits(&self) -> u64 {
        self.counts.iter().map(|counts| counts.hits.load(Relaxed)).sum()
    }

    /// Tokens that were not known, or no longer, and were checked.
    pub fn misses(&self) -> u64 {
        self.counts.iter().map(|counts| counts.misses.load(Relaxed)).sum()
    }
}

/// This thread's place among the counters.
fn counter() -> usize {
    static THREADS: AtomicUsize = AtomicUsize::new(0);
    thread_local!(static PLACE: usize = THREADS.fetch_add(1, Relaxed) % COUNTERS);
    PLACE.with(|place| *place)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verified(expires_s: u64) -> Verified {
        Verified { grant: Arc::default(), expires_s }
    }

    #[test]
    fn a_verdict_holds_a_minute_and_never_beyond_exp() {
        let cache = VerdictCache::default();
        let (key, second_ns) = (VerdictCache::key("t", 1, 1), 1_000_000_000);
        for (expires_s, now_ns, now_s, known) in [
            (2_000, 0, 1_000, true),
            (2_000, 60 * second_ns - 1, 1_060, true),
            (2_000, 60 * second_ns, 1_060, false),
            (1_010, 9 * second_ns, 1_009, true),
            (1_010, 10 * second_ns, 1_010, false),
        ] {
            cache.insert(key, &verified(expires_s), 0);
            assert_eq!(cache.get(&key, now_ns, now_s).is_some(), known, "{expires_s} {now_ns}");
        }
        cache.missed();
        assert_eq!((cache.hits(), cache.misses()), (3, 1));
    }

    #[test]
    fn token_issuer_and_generation_make_the_key() {
        let key = VerdictCache::key("t", 1, 1);
        for other in
            [VerdictCache::key("u", 1, 1), VerdictCache::key("t", 2, 1), VerdictCache::key("t", 1, 2)]
        {
            assert_ne!(key, other);
        }
    }

    #[test]
    fn the_cache_is_bounded() {
        let cache = VerdictCache::default();
        for number in 0..100_000_u64 {
            cache.insert(VerdictCache::key("t", number, 0), &verified(u64::MAX), 0);
        }
        assert!(cache.verdicts.len() <= VERDICTS_MAX);
    }
}
