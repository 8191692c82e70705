//! A composed answer as it is written. Pure.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_saphyr::Spanned;

use super::units::{Duration, Size};
use crate::json::ReshapeDocument;

/// Calls whose answers are merged into one.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ComposeDocument {
    /// The calls, merged in this order.
    pub steps: Spanned<Vec<Spanned<StepDocument>>>,
    /// What happens when two answers have the same member: `refuse`, `first`, `last`, `append`.
    #[serde(default)]
    pub collision: Option<Spanned<String>>,
    /// The member of a partial answer that says what failed; `_partial` by default.
    #[serde(default)]
    pub note: Option<Spanned<String>>,
    /// The deepest nesting of an answer; 64 by default.
    #[serde(default)]
    pub depth: Option<Spanned<u16>>,
}

/// One call.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StepDocument {
    /// Its name, for `after`, templates and notes.
    pub name: Spanned<String>,
    /// The service that is called.
    pub upstream: Spanned<String>,
    /// `GET`, the default, or `POST`; no body is sent.
    #[serde(default)]
    pub method: Option<Spanned<String>>,
    /// Path and query, with the route's parameters, `{consumer}` and values of earlier answers, as those services gave
    /// them: `/rates/{account.currency}`.
    pub path: Spanned<String>,
    /// Headers that are sent, with the same templates.
    #[serde(default)]
    pub headers: BTreeMap<String, Spanned<String>>,
    /// Steps that must have ended before.
    #[serde(default)]
    pub after: Vec<Spanned<String>>,
    /// Whether the whole can do without it; it cannot by default.
    #[serde(default)]
    pub optional: bool,
    /// JSON in the place of an answer that does not come, as text; it is read and changed as the answer would be.
    #[serde(default)]
    pub fallback: Option<Spanned<String>>,
    /// Where its answer stands in the whole, as `customer.account`; at the top by default.
    #[serde(default)]
    pub at: Option<Spanned<String>>,
    /// What is changed in its answer.
    #[serde(default)]
    pub json: Option<Spanned<ReshapeDocument>>,
    /// At most so long; never longer than the route's time that is left.
    #[serde(default)]
    pub timeout: Option<Duration>,
    /// The largest answer; 1 MiB by default.
    #[serde(default)]
    pub bytes: Option<Size>,
}
