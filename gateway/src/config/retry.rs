//! When a request is sent once more, as it is written. Pure.

use std::fmt;

use serde::{Deserialize, Deserializer, de};
use serde_saphyr::Spanned;

use super::units::{Duration, Size};

/// Sending a request once more. Requests that were sent are repeated only if their method is idempotent or they have an
/// `Idempotency-Key`, and if their body is small.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RetryDocument {
    /// What is followed by another try.
    pub on: Vec<RetryOn>,
    /// Tries in all, the first included.
    pub tries: u32,
    /// Until a try's answer begins; by default as long as the request has.
    pub per_try_timeout: Option<Duration>,
    /// The rest before a request that was sent is sent again.
    pub backoff: BackoffDocument,
    /// How many repetitions there are. The upstream's alone: routes share it.
    pub budget: Option<Spanned<BudgetDocument>>,
    /// The largest body that is kept for a repetition. Larger ones, and those that do not say how large they are, are
    /// passed on as they come.
    pub body_bytes: Size,
}

/// What is followed by another try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RetryOn {
    /// `connect`: no connection.
    Connect,
    /// `reset`: a connection that broke before the answer.
    Reset,
    /// `timeout`: no answer within the time of a try.
    Timeout,
    /// An answer's status, such as 503.
    Status(u16),
}

/// The rest between two tries: at random, up to a bound that doubles with each try.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BackoffDocument {
    /// The first bound.
    pub base: Duration,
    /// The last one.
    pub max: Duration,
}

/// How many requests that were sent may be sent again, in the last ten seconds, over all workers.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BudgetDocument {
    /// Of the requests.
    pub percent: u32,
    /// And so many a second in any case.
    pub min: u32,
}

impl Default for RetryDocument {
    fn default() -> Self {
        use RetryOn::{Connect, Reset, Status, Timeout};
        Self {
            on: vec![Connect, Reset, Timeout, Status(502), Status(503), Status(504)],
            tries: 3,
            per_try_timeout: None,
            backoff: BackoffDocument::default(),
            budget: None,
            body_bytes: Size(64 << 10),
        }
    }
}

impl Default for BackoffDocument {
    fn default() -> Self {
        Self { base: Duration::ms(25), max: Duration::ms(250) }
    }
}

impl Default for BudgetDocument {
    fn default() -> Self {
        Self { percent: 20, min: 3 }
    }
}

impl<'de> Deserialize<'de> for RetryOn {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = RetryOn;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("connect, reset, timeout, or a status from 400 to 599")
            }

            fn visit_u64<E: de::Error>(self, status: u64) -> Result<RetryOn, E> {
                match u16::try_from(status) {
                    Ok(status @ 400..=599) => Ok(RetryOn::Status(status)),
                    _ => Err(E::invalid_value(de::Unexpected::Unsigned(status), &self)),
                }
            }

            fn visit_str<E: de::Error>(self, word: &str) -> Result<RetryOn, E> {
                match word {
                    "connect" => Ok(RetryOn::Connect),
                    "reset" => Ok(RetryOn::Reset),
                    "timeout" => Ok(RetryOn::Timeout),
                    _ => Err(E::invalid_value(de::Unexpected::Str(word), &self)),
                }
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}
