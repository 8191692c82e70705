//! The monotonic clock as nanoseconds since the process began.

use std::{sync::LazyLock, time::Instant};

static ORIGIN: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Nanoseconds since the first call.
pub fn now_ns() -> u64 {
    since_origin(Instant::now())
}

/// Likewise, of a moment that was read before.
pub fn since_origin(moment: Instant) -> u64 {
    u64::try_from(moment.saturating_duration_since(*ORIGIN).as_nanos()).unwrap_or(u64::MAX)
}
