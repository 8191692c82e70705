//! What a service is spared, as it is written. Pure.

use serde::Deserialize;
use serde_saphyr::Spanned;

use super::units::Duration;

/// Bounds of what is sent to a service, over all its endpoints and all workers. What is beyond is answered 503 at once.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BreakerDocument {
    /// Requests in flight, to the last byte of their answers.
    pub requests: Option<u32>,
    /// Requests in flight that were sent before; what is beyond is not repeated.
    pub retries: Option<u32>,
    /// Sending nothing for a while when most requests fail; not done by default.
    pub open: Option<Spanned<CircuitDocument>>,
}

/// When nothing is sent. A failure is no answer, or one from 500 to 599, after all repetitions.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CircuitDocument {
    /// Failures of a hundred requests.
    pub percent: u32,
    /// In so long.
    pub window: Duration,
    /// Of at least so many requests.
    pub volume: u32,
    /// For so long nothing is sent.
    pub duration: Duration,
    /// Then so many requests must succeed, no more at the same time, before all are sent again.
    pub probes: u32,
}

impl Default for CircuitDocument {
    fn default() -> Self {
        Self { percent: 50, window: Duration::s(10), volume: 20, duration: Duration::s(5), probes: 3 }
    }
}
