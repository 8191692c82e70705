//! What a route does beside asking one service, as it is written: redirections, fixed answers, weights, copies. Pure.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_saphyr::Spanned;

use super::units::Size;

/// A redirection: `location`, or parts of the request's own address that are replaced; its query stays then.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RedirectDocument {
    /// 301, 302, 303, 307 (the default: temporary, with the same method) or 308.
    #[serde(default = "temporary")]
    pub status: u16,
    /// All of it, with the route's parameters: `https://new.example/{rest}`.
    #[serde(default)]
    pub location: Option<Spanned<String>>,
    /// `http` or `https`; the port of the request's host is left out then.
    #[serde(default)]
    pub scheme: Option<SchemeDocument>,
    /// Another host, and port if it is not the scheme's own.
    #[serde(default)]
    pub host: Option<Spanned<String>>,
    /// Another path, with the route's parameters.
    #[serde(default)]
    pub path: Option<Spanned<String>>,
}

/// A scheme.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SchemeDocument {
    /// In the clear.
    Http,
    /// Over TLS.
    Https,
}

/// An answer that is always the same.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RespondDocument {
    /// 200 to 599.
    pub status: u16,
    /// Its headers; a body without `content-type` is plain text.
    #[serde(default)]
    pub headers: BTreeMap<String, Spanned<String>>,
    /// Its body.
    #[serde(default)]
    pub body: String,
}

/// A service and its share.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WeightDocument {
    /// The service.
    pub name: Spanned<String>,
    /// Its share, beside those of the others; 0: none.
    pub weight: u16,
}

/// What requests that meet the same service have in common: exactly one of these. A request without it goes by chance.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StickyDocument {
    /// A header's value.
    #[serde(default)]
    pub header: Option<String>,
    /// A cookie's value.
    #[serde(default)]
    pub cookie: Option<String>,
}

/// Another service that gets copies of requests, and whose answers are thrown away.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MirrorDocument {
    /// The service.
    pub upstream: Spanned<String>,
    /// How many of a hundred requests are copied: above 0, to 100.
    #[serde(default = "all")]
    pub percent: f64,
    /// The largest body that is copied; a request with a larger one is not.
    #[serde(default = "small")]
    pub body_bytes: Size,
    /// Copies that are gathered, sent or answered at the same time; more are left out.
    #[serde(default = "some")]
    pub in_flight: u32,
}

fn all() -> f64 {
    100.0
}

fn small() -> Size {
    Size(64 << 10)
}

fn some() -> u32 {
    64
}

fn temporary() -> u16 {
    307
}
