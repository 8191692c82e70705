//! What a request must have beside its host, path and method: headers, parameters of the query, cookies, and an
//! expression that holds. All of it must be so.

use std::net::IpAddr;

use form_urlencoded::parse;
use http::{HeaderName, header::COOKIE, request::Parts};
use regex::bytes::Regex;

use crate::policy::cel::{Expression, Undecided};

/// A request, as far as its route depends on it.
#[derive(Clone, Copy)]
pub struct Asked<'r> {
    /// Its line and headers; the path in its one form.
    pub head: &'r Parts,
    /// Its host in lower case, without port and closing dot.
    pub host: &'r str,
    /// Where it came from.
    pub client: IpAddr,
}

/// What must be so.
#[derive(Debug)]
pub struct When {
    /// Each of these.
    pub conditions: Vec<Condition>,
    /// And this.
    pub expression: Option<Expression>,
}

/// One thing that must be so.
#[derive(Debug)]
pub struct Condition {
    /// Where to look.
    pub place: Place,
    /// What must stand there.
    pub test: Test,
}

/// Where to look. What stands at a place several times meets a condition if one of them does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// A header.
    Header(HeaderName),
    /// A parameter of the query, decoded as forms are.
    Query(String),
    /// A cookie, as it came.
    Cookie(String),
}

/// What must stand at a place.
#[derive(Debug)]
pub enum Test {
    /// This.
    Exact(String),
    /// Something that begins so.
    Prefix(String),
    /// Something that is so from its beginning to its end; the text as it was written.
    Regex(Regex, String),
    /// Anything.
    Present,
    /// Nothing.
    Absent,
}

impl When {
    /// Whether it is so.
    ///
    /// # Errors
    /// [`Undecided`]: the expression came to no answer.
    pub fn holds(&self, asked: &Asked<'_>) -> Result<bool, Undecided> {
        if !self.conditions.iter().all(|condition| condition.holds(asked.head)) {
            return Ok(false);
        }
        self.expression.as_ref().map_or(Ok(true), |expression| expression.holds(asked))
    }

    /// Whether whatever meets `other` meets this: each thing that this asks for, `other` asks for.
    pub fn is_implied_by(&self, other: &Self) -> bool {
        self.conditions.iter().all(|condition| other.conditions.iter().any(|theirs| theirs.same(condition)))
            && self.expression.as_ref().is_none_or(|ours| {
                other.expression.as_ref().is_some_and(|theirs| theirs.text() == ours.text())
            })
    }

    /// Whether no request meets both, as far as that can be told; one that has two values at a place is left aside.
    pub fn excludes(&self, other: &Self) -> bool {
        self.conditions.iter().any(|ours| {
            let mut of_place = other.conditions.iter().filter(|theirs| theirs.place == ours.place);
            of_place.any(|theirs| ours.test.excludes(&theirs.test))
        })
    }
}

impl Condition {
    fn holds(&self, head: &Parts) -> bool {
        let test = &self.test;
        match &self.place {
            Place::Header(name) => {
                test.meets(head.headers.get_all(name).iter().map(|value| value.as_bytes()))
            }
            Place::Query(name) => {
                let pairs = parse(head.uri.query().unwrap_or_default().as_bytes());
                let values: Vec<_> = pairs.filter(|(key, _)| key == name).map(|(_, value)| value).collect();
                test.meets(values.iter().map(|value| value.as_bytes()))
            }
            Place::Cookie(name) => {
                test.meets(cookies(head).filter(|(key, _)| *key == name.as_bytes()).map(|(_, value)| value))
            }
        }
    }

    fn same(&self, other: &Self) -> bool {
        self.place == other.place
            && match (&self.test, &other.test) {
                (Test::Exact(one), Test::Exact(other))
                | (Test::Prefix(one), Test::Prefix(other))
                | (Test::Regex(_, one), Test::Regex(_, other)) => one == other,
                (Test::Present, Test::Present) | (Test::Absent, Test::Absent) => true,
                _ => false,
            }
    }
}

impl Test {
    fn meets<'v>(&self, mut values: impl Iterator<Item = &'v [u8]>) -> bool {
        match self {
            Self::Exact(text) => values.any(|value| value == text.as_bytes()),
            Self::Prefix(text) => values.any(|value| value.starts_with(text.as_bytes())),
            Self::Regex(regex, _) => values.any(|value| regex.is_match(value)),
            Self::Present => values.next().is_some(),
            Self::Absent => values.next().is_none(),
        }
    }

    fn excludes(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Absent, other) | (other, Self::Absent) => !matches!(other, Self::Absent),
            (Self::Exact(one), Self::Exact(other)) => one != other,
            (Self::Exact(text), Self::Prefix(prefix)) | (Self::Prefix(prefix), Self::Exact(text)) => {
                !text.starts_with(prefix.as_str())
            }
            (Self::Exact(text), Self::Regex(regex, _)) | (Self::Regex(regex, _), Self::Exact(text)) => {
                !regex.is_match(text.as_bytes())
            }
            (Self::Prefix(one), Self::Prefix(other)) => {
                !one.starts_with(other.as_str()) && !other.starts_with(one.as_str())
            }
            _ => false,
        }
    }
}

/// Names and values of cookies (RFC 6265, section 4.2), in all headers that carry them.
pub fn cookies(head: &Parts) -> impl Iterator<Item = (&[u8], &[u8])> {
    let headers = head.headers.get_all(COOKIE).iter();
    headers.flat_map(|header| header.as_bytes().split(|byte| *byte == b';')).filter_map(|pair| {
        let equals = memchr::memchr(b'=', pair)?;
        Some((pair[..equals].trim_ascii(), pair[equals + 1..].trim_ascii()))
    })
}
