//! Waiting for a condition: polled, with a deadline, and with the last reason in the error.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, anyhow};

/// Between two looks: short against what is waited for, long against what a look costs.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// Calls `look` until it succeeds; after `limit` fails with `what` and the last look's reason.
pub fn eventually<T>(what: &str, limit: Duration, mut look: impl FnMut() -> Result<T>) -> Result<T> {
    let deadline = Instant::now() + limit;
    loop {
        match look() {
            Ok(found) => return Ok(found),
            Err(reason) if Instant::now() >= deadline => {
                return Err(anyhow!("{what}: not within {limit:?}: {reason:#}"));
            }
            Err(_) => thread::sleep(POLL_INTERVAL),
        }
    }
}

/// [`eventually`] for a condition without a value; `look` says what it saw instead.
pub fn eventually_true(what: &str, limit: Duration, mut look: impl FnMut() -> Result<bool>) -> Result<()> {
    eventually(what, limit, || if look()? { Ok(()) } else { Err(anyhow!("not yet")) })
}
