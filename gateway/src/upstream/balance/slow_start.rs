//! The part of an instance that comes back: a tenth at first, all of it after a while, so that its caches fill and its
//! code is compiled before it has its full load.

use std::time::Duration;

use crate::{
    clock::now_ns,
    upstream::{Endpoint, affinity},
};

/// Of its requests at first; without any it would never get warm.
const SHARE_MIN: f64 = 0.1;

/// How long it takes.
#[derive(Clone, Copy, Debug)]
pub struct SlowStart {
    duration_ns: u64,
}

/// One request's luck. An instance that it does not admit once is not asked again for the same request, or
/// `least-request`, which looks several times, would find it too often.
pub struct Draw {
    slow_start: SlowStart,
    luck: u64,
}

impl SlowStart {
    /// So long.
    pub fn of(duration: Duration) -> Self {
        Self { duration_ns: u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX).max(1) }
    }

    /// For one request. Keys come back to their instance one by one, and stay.
    pub fn draw(self, key: Option<u64>) -> Draw {
        Draw { slow_start: self, luck: key.map_or_else(|| fastrand::u64(..), |key| !key) }
    }

    /// The part at `now_ns` of one that came back at `returned_ns`.
    fn share(self, returned_ns: u64, now_ns: u64) -> f64 {
        let since = now_ns.saturating_sub(returned_ns) as f64 / self.duration_ns as f64;
        SHARE_MIN + (1.0 - SHARE_MIN) * since.min(1.0)
    }
}

impl Draw {
    /// Whether the request may go there.
    pub fn admits(&self, endpoint: &Endpoint) -> bool {
        endpoint.returned_ns().is_none_or(|returned| {
            let share = self.slow_start.share(returned, now_ns());
            affinity::score(self.luck, endpoint.hash) as f64 <= share * u64::MAX as f64
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_part_grows_evenly() {
        let slow_start = SlowStart::of(Duration::from_nanos(1_000));
        for (now, share) in [(4_000, 0.1), (5_000, 0.1), (5_500, 0.55), (6_000, 1.0), (9_000, 1.0)] {
            assert!((slow_start.share(5_000, now) - share).abs() < 1e-9, "{now}");
        }
    }
}
