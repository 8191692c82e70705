//! Which requests have a line, and what stands in it.

use std::time::Duration;

use serde::Deserialize;

use crate::record::Record;

macro_rules! fields {
    ($($(#[$doc:meta])* $variant:ident $name:literal,)*) => {
        /// What may stand in a line.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
        #[repr(u8)]
        pub enum Field {
            $($(#[$doc])* #[serde(rename = $name)] $variant,)*
        }

        impl Field {
            /// Its name in the line.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }
        }
    };
}

fields! {
    /// When the request was over.
    Time "time",
    /// The request's name.
    Id "id",
    /// The client's address.
    Client "client",
    /// Its method.
    Method "method",
    /// `Host`.
    Host "host",
    /// The target's path.
    Path "path",
    /// The target's query, where it is chosen.
    Query "query",
    /// The route.
    Route "route",
    /// The answer's status.
    Status "status",
    /// Why it was refused or broke off.
    Reason "reason",
    /// More about that.
    Detail "detail",
    /// Who asked.
    Consumer "consumer",
    /// The certificate by which the client's connection is known.
    Certificate "certificate",
    /// The instance.
    Upstream "upstream",
    /// Bytes of the answer's body.
    Bytes "bytes",
    /// Bytes from the client through a tunnel.
    Received "received",
    /// From the request's head to the last byte of its answer.
    DurationUs "duration_us",
}

/// Fields by their numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fields(u32);

/// Which requests have a line, and what stands in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// Of 2^32 requests so many have a line.
    pub sample: u64,
    /// Those that failed have one in any case.
    pub errors: bool,
    /// Those that took so long have one in any case.
    pub slow: Option<Duration>,
    /// What stands in it.
    pub fields: Fields,
    /// Parameters of the query whose values may be read; no query without it.
    pub query: Option<Vec<String>>,
}

/// All requests, everything but the query.
pub static ALL: Choice =
    Choice { sample: 1 << 32, errors: false, slow: None, fields: Fields(u32::MAX), query: None };

impl Fields {
    /// Whether `field` is one of them.
    pub fn has(self, field: Field) -> bool {
        self.0 & 1 << field as u32 != 0
    }
}

impl FromIterator<Field> for Fields {
    fn from_iter<I: IntoIterator<Item = Field>>(fields: I) -> Self {
        Self(fields.into_iter().fold(0, |bits, field| bits | 1 << field as u32))
    }
}

impl Choice {
    /// Whether a request that is over has a line.
    pub fn takes(&self, record: &Record) -> bool {
        // Names are counted up: multiplied, neighbours lie far apart.
        u64::from(record.id.count().wrapping_mul(0x9e37_79b9)) < self.sample
            || (self.errors && (record.reason.is_some() || record.status.is_server_error()))
            || self.slow.is_some_and(|slow| record.begun.elapsed() >= slow)
    }
}

/// A query whose values stand only for parameters in `shown`; the others' are replaced by `-`.
pub fn redacted(query: &str, shown: &[String]) -> String {
    let part = |part: &str| match part.split_once('=') {
        Some((name, _)) if !shown.iter().any(|shown| shown == name) => format!("{name}=-"),
        // Without a name it may be a secret all the same.
        None if !shown.iter().any(|shown| shown == part) => "-".to_owned(),
        _ => part.to_owned(),
    };
    query.split('&').map(part).collect::<Vec<_>>().join("&")
}

#[cfg(test)]
mod tests {
    use http::StatusCode;

    use super::*;

    fn record() -> Box<Record> {
        crate::access_log::line::tests::record("/")
    }

    #[test]
    fn a_sample_has_its_part() {
        let choice = Choice { sample: (1 << 32) / 10, ..ALL.clone() };
        let taken = (0..10_000).filter(|_| choice.takes(&record())).count();
        assert!((900..1100).contains(&taken), "{taken} of 10,000");
        assert!((0..100).all(|_| ALL.takes(&record())));
    }

    #[test]
    fn errors_and_slow_ones_have_a_line_in_any_case() {
        let none = Choice { sample: 0, ..ALL.clone() };
        let (errors, slow) = (
            Choice { errors: true, ..none.clone() },
            Choice { slow: Some(Duration::from_secs(1)), ..none.clone() },
        );
        let (mut refused, mut failed, mut late) = (record(), record(), record());
        refused.reason = Some("rate_limited");
        failed.status = StatusCode::BAD_GATEWAY;
        late.begun -= Duration::from_secs(1);
        assert!(errors.takes(&refused) && errors.takes(&failed) && slow.takes(&late));
        assert!(
            !errors.takes(&late) && !slow.takes(&refused) && !slow.takes(&record()) && !none.takes(&late)
        );
    }

    #[test]
    fn values_stand_only_where_they_are_asked_for() {
        let shown = ["page".to_owned()];
        for (query, expected) in [
            ("page=2&token=secret", "page=2&token=-"),
            ("secret", "-"),
            ("page", "page"),
            ("token=a=b&page=1&PAGE=2&", "token=-&page=1&PAGE=-&-"),
            ("%70age=x", "%70age=-"),
        ] {
            assert_eq!(redacted(query, &shown), expected);
        }
    }
}
