//! Another method, host, path or query for the service than the client's. Pure.

use http::{HeaderValue, Method};
use regex::Regex;

use super::template::{Lookup, Template};
use crate::{authenticate::ways::is_named, error::Refusal, path};

/// What is written anew.
#[derive(Default)]
pub struct Rewrite {
    /// Another method.
    pub method: Option<Method>,
    /// Another `Host`, instead of the upstream's too.
    pub host: Option<HeaderValue>,
    /// Another path.
    pub path: Option<PathRewrite>,
    /// Another query.
    pub query: QueryChanges,
}

/// How a path is written anew.
pub enum PathRewrite {
    /// All of it.
    Whole(Template),
    /// Without these segments at its beginning, where they are there.
    Without(String),
    /// Each place that the expression meets is replaced, with its groups (`$1`, `${name}`).
    Replaced(Regex, String),
}

/// Changes of a query, done in this order.
#[derive(Default)]
pub struct QueryChanges {
    /// Parameters that are taken away.
    pub remove: Vec<String>,
    /// Parameters that are put in the place of those of the same name, at the end.
    pub set: Vec<(String, Template)>,
}

impl Rewrite {
    /// Whether all stays as it is.
    pub fn is_empty(&self) -> bool {
        let Self { method, host, path, query } = self;
        method.is_none() && host.is_none() && path.is_none() && query.is_empty()
    }
}

impl PathRewrite {
    /// The path that is sent, in its one form.
    ///
    /// # Errors
    /// [`Refusal::Path`], where services could read different things in it: parameters and groups are the client's.
    /// [`Refusal::Internal`], where the replacement took its first slash.
    pub fn apply(&self, path: &str, values: &impl Lookup) -> Result<String, Refusal> {
        let written = match self {
            Self::Whole(template) => template.render(values),
            Self::Without(prefix) => match path.strip_prefix(&**prefix) {
                Some("") => "/".to_owned(),
                Some(rest) if rest.starts_with('/') => rest.to_owned(),
                _ => path.to_owned(),
            },
            Self::Replaced(regex, replacement) => regex.replace_all(path, replacement).into_owned(),
        };
        if !written.starts_with('/') {
            return Err(Refusal::Internal);
        }
        Ok(path::canonical(&written).map_err(Refusal::Path)?.into_owned())
    }
}

impl QueryChanges {
    /// Whether all stays as it is.
    pub fn is_empty(&self) -> bool {
        self.remove.is_empty() && self.set.is_empty()
    }

    /// The query that is sent.
    pub fn apply(&self, query: &str, values: &impl Lookup) -> String {
        let names = || self.remove.iter().chain(self.set.iter().map(|(name, _)| name));
        let stays = |part: &&str| !part.is_empty() && !names().any(|name| is_named(part, name));
        let mut out = query.split('&').filter(stays).collect::<Vec<_>>().join("&");
        for (name, value) in &self.set {
            if !out.is_empty() {
                out.push('&');
            }
            encode(name, &mut out);
            out.push('=');
            encode(&value.render(values), &mut out);
        }
        out
    }
}

/// Percent-encodes all but unreserved characters (RFC 3986, section 2.3); what is encoded already stays so, as values
/// of paths are. No value can become a second parameter.
fn encode(text: &str, out: &mut String) {
    let bytes = text.as_bytes();
    for (at, byte) in bytes.iter().enumerate() {
        let is_digit = |offset: usize| bytes.get(at + offset).is_some_and(u8::is_ascii_hexdigit);
        let is_encoding = *byte == b'%' && is_digit(1) && is_digit(2);
        match is_encoding || byte.is_ascii_alphanumeric() || b"-._~".contains(byte) {
            true => out.push(char::from(*byte)),
            false => out.push_str(&format!("%{byte:02X}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Value(&'static str);

    impl Lookup for Value {
        fn value(&self, _name: &str) -> Option<&str> {
            Some(self.0)
        }
    }

    #[test]
    fn what_a_client_writes_makes_no_dot_segment_and_no_second_parameter() {
        let whole = PathRewrite::Whole(Template::parse("/a/{x}").expect("a template"));
        let replaced = PathRewrite::Replaced(Regex::new("-").expect("an expression"), String::new());
        for (rewrite, value, path, written) in [
            (&whole, "b", "/", Some("/a/b")),
            (&whole, "..", "/", None),
            (&whole, "", "/", Some("/a/")),
            (&replaced, "", "/a-b/-c", Some("/ab/c")),
            (&replaced, "", "/a/.-./b", None),
            (&replaced, "", "/-/b", None),
        ] {
            let got = rewrite.apply(path, &Value(value));
            assert_eq!(got.ok().as_deref(), written, "{path} with {value}");
        }
        let query = QueryChanges {
            remove: vec!["old".to_owned()],
            set: vec![("id".to_owned(), Template::parse("{x}").expect("a template"))],
        };
        for (asked, value, written) in [
            ("", "1", "id=1"),
            ("a=b&old=1&%6fld&id=0&&c", "1", "a=b&c&id=1"),
            ("a=b", "x&admin=1+2", "a=b&id=x%26admin%3D1%2B2"),
            ("", "%C3%A9%", "id=%C3%A9%25"),
        ] {
            assert_eq!(query.apply(asked, &Value(value)), written, "{asked} with {value}");
        }
    }
}
