//! What a request must have beside path and method, as it is written: hosts, headers, parameters of the query, cookies,
//! an expression. Pure.

use std::{collections::BTreeMap, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{self, value::MapAccessDeserializer},
};
use serde_saphyr::Spanned;

/// Hosts: one, or a list.
#[derive(Clone, Debug)]
pub struct HostsDocument(pub Vec<String>);

/// What must be so: all of it.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct WhenDocument {
    /// Headers, by name.
    pub headers: BTreeMap<String, Spanned<TestDocument>>,
    /// Parameters of the query, by name.
    pub query: BTreeMap<String, Spanned<TestDocument>>,
    /// Cookies, by name.
    pub cookies: BTreeMap<String, Spanned<TestDocument>>,
    /// An expression (CEL) that is true.
    pub expression: Option<Spanned<String>>,
}

/// What a value must be: a text, or one of the fields of [`TestKindDocument`].
#[derive(Clone, Debug)]
pub enum TestDocument {
    /// This text.
    Exact(String),
    /// Of this kind.
    Kind(TestKindDocument),
}

/// Exactly one of these.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TestKindDocument {
    /// It begins so.
    pub prefix: Option<String>,
    /// The expression describes all of it.
    pub regex: Option<String>,
    /// It is there, or with `false` it is not.
    pub present: Option<bool>,
    /// It is not there, or with `false` it is.
    pub absent: Option<bool>,
}

impl<'de> Deserialize<'de> for HostsDocument {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> de::Visitor<'de> for Visitor {
            type Value = HostsDocument;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a host such as api.example, or a list of hosts")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<HostsDocument, E> {
                Ok(HostsDocument(vec![text.to_owned()]))
            }

            fn visit_seq<A: de::SeqAccess<'de>>(self, mut items: A) -> Result<HostsDocument, A::Error> {
                let mut hosts = Vec::new();
                while let Some(host) = items.next_element()? {
                    hosts.push(host);
                }
                Ok(HostsDocument(hosts))
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

impl<'de> Deserialize<'de> for TestDocument {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> de::Visitor<'de> for Visitor {
            type Value = TestDocument;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a text in quotes, or one of prefix, regex, present and absent")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<TestDocument, E> {
                Ok(TestDocument::Exact(text.to_owned()))
            }

            fn visit_map<A: de::MapAccess<'de>>(self, map: A) -> Result<TestDocument, A::Error> {
                TestKindDocument::deserialize(MapAccessDeserializer::new(map)).map(TestDocument::Kind)
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}
