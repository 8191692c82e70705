//! The access log as it is written: where lines go, which requests have one, what stands in it. Pure.

use std::path::PathBuf;

use serde::{
    Deserialize, Deserializer,
    de::{self, MapAccess, value::MapAccessDeserializer},
};

use super::units::Duration;
use crate::access_log::Field;

/// A destination alone, or a mapping.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, remote = "Self")]
pub struct AccessLogDocument {
    /// Where lines go.
    pub to: Destination,
    /// The part of requests that have a line, from 0 to 1.
    pub sample: Option<f64>,
    /// Requests that have one whatever the sample says.
    pub always: Vec<Always>,
    /// From when on a request is slow.
    pub slow: Option<Duration>,
    /// What stands in a line; by default everything that is known, but for the query.
    pub fields: Option<Vec<Field>>,
    /// Parameters of the query whose values may be read; those of all others are hidden. Without it, no query is logged.
    pub query: Option<Vec<String>>,
}

/// Where access lines go: `off`, `stdout`, or a file's path. Changes with a restart only.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Destination {
    /// Nowhere.
    Off,
    /// To standard output.
    #[default]
    Stdout,
    /// To this file, opened anew on SIGHUP.
    File(PathBuf),
}

/// Requests that always have a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Always {
    /// Those that were refused or broke off, or that a service answered 5xx.
    Errors,
    /// Those that took as long as `slow`.
    Slow,
}

impl From<String> for Destination {
    fn from(text: String) -> Self {
        match text.as_str() {
            "off" => Self::Off,
            "stdout" => Self::Stdout,
            path => Self::File(path.into()),
        }
    }
}

impl<'de> Deserialize<'de> for Destination {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(Self::from)
    }
}

impl<'de> Deserialize<'de> for AccessLogDocument {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> de::Visitor<'de> for Visitor {
            type Value = AccessLogDocument;

            fn expecting(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
                f.write_str("off, stdout, a file's path, or a mapping with to")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<AccessLogDocument, E> {
                Ok(AccessLogDocument {
                    to: Destination::from(text.to_owned()),
                    ..AccessLogDocument::default()
                })
            }

            /// Without quotes YAML reads `off` as a truth value.
            fn visit_bool<E: de::Error>(self, on: bool) -> Result<AccessLogDocument, E> {
                match on {
                    false => self.visit_str("off"),
                    true => Err(E::invalid_value(de::Unexpected::Bool(on), &self)),
                }
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<AccessLogDocument, A::Error> {
                AccessLogDocument::deserialize(MapAccessDeserializer::new(map))
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}
