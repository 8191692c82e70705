//! Which instance a request goes to, as it is written. Pure.

use http::HeaderName;
use serde::{Deserialize, Deserializer, de};

use crate::upstream::affinity::Key;

/// Which instance a request goes to.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BalanceDocument {
    /// One after the other.
    #[default]
    RoundRobin,
    /// The one with fewer requests in flight, of two taken at random.
    LeastRequest,
    /// The one that is expected to answer sooner, of two taken at random.
    PeakEwma,
    /// Always the same for a key.
    ConsistentHash(ConsistentHashDocument),
}

/// Always the same instance for a key, as long as it has room.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConsistentHashDocument {
    /// `header:NAME`, `cookie:NAME`, `address` or `path`. Requests without it are spread.
    pub key: Key,
    /// An instance has at most so many times the mean of the requests in flight; further ones of its keys go to the
    /// instance that fits next. From 1 to 10.
    #[serde(default)]
    pub load: Load,
}

/// How many times the mean.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Load(pub f64);

impl Default for Load {
    fn default() -> Self {
        Self(1.25)
    }
}

impl<'de> Deserialize<'de> for Load {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let load = f64::deserialize(deserializer)?;
        match (1.0..=10.0).contains(&load) {
            true => Ok(Self(load)),
            false => Err(de::Error::custom(format!("load {load} is not from 1 to 10"))),
        }
    }
}

impl<'de> Deserialize<'de> for Key {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let key = match text.split_once(':') {
            Some(("header", name)) => HeaderName::from_bytes(name.as_bytes()).ok().map(Self::Header),
            Some(("cookie", name)) => {
                let fits = HeaderName::from_bytes(name.as_bytes()).is_ok();
                fits.then(|| Self::Cookie(name.to_owned()))
            }
            Some(_) => None,
            None if text == "address" => Some(Self::Address),
            None if text == "path" => Some(Self::Path),
            None => None,
        };
        key.ok_or_else(|| {
            de::Error::custom(format!("{text:?} is no key; write header:NAME, cookie:NAME, address or path"))
        })
    }
}
