//! Traces as they are written: where spans go and how many. Pure.

use serde::Deserialize;
use serde_saphyr::Spanned;

/// Where spans go.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TracesDocument {
    /// A collector's OTLP over HTTP, such as `http://127.0.0.1:4318/v1/traces`.
    pub endpoint: Spanned<String>,
    /// The part of traces that begin here and are recorded, from 0 to 1. Of others the caller has decided.
    #[serde(default = "sample")]
    pub sample: f64,
    /// `service.name` of the spans.
    #[serde(default = "service")]
    pub service: String,
}

fn sample() -> f64 {
    0.01
}

fn service() -> String {
    "gateway".into()
}
