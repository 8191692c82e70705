//! Rate limits as they are written. Pure.

use serde::Deserialize;
use serde_saphyr::Spanned;

/// A rate limit: `rate` over time, `burst` at once, counted for each value of `key`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RateDocument {
    /// Requests in a unit of time: `10/s`, `100/m`, `5000/h`.
    pub rate: Spanned<String>,
    /// Requests at once, after a rest.
    pub burst: Spanned<u32>,
    /// Whom it counts: `consumer` (the name of the key, or the token's subject), `claim:NAME`, `address`
    /// (IPv6: its /64), `header:NAME`, `route` (everybody on that route together) or `all`.
    pub key: Spanned<String>,
    /// Keys that are told apart at the same time; further ones share one budget.
    #[serde(default)]
    pub keys_max: Option<Spanned<u32>>,
}
