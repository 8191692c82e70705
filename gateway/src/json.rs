//! JSON for composition and reshaping: containers are taken apart, leaves keep the bytes they came with. Pure.
//!
//! A gateway that reads `1234567890123456.78` into a float changes a bank's answer. Here a number, a string or a
//! literal is a slice of the answer it came in and is written as that slice; member names are compared by what they
//! mean (`"é"` is `"\u00e9"`) and written as they came.
//!
//! | file | what |
//! |---|---|
//! | `parse.rs` | bytes to [`Node`], strictly, with a cap on depth |
//! | `write.rs` | [`Node`] to bytes, compact |
//! | `text.rs` | escapes of strings, both ways |
//! | `path.rs` | [`Path`]: `accounts[].balance` |
//! | `merge.rs` | [`merge`]: deep, in a given order, with a rule for collisions |
//! | `reshape.rs` | [`Reshape`]: pick, drop, rename |
//!
//! Invariant: a [`Node`] holds valid JSON, no object in it has two members of one name, and it is at most
//! [`DEPTH_LIMIT`] containers deep, plus what its owner wraps around it: recursion over it is bounded.

mod merge;
mod parse;
mod path;
mod reshape;
mod text;
mod write;

use std::borrow::Cow;
use std::fmt;

use bytes::Bytes;

pub use merge::{Collision, MergeError, merge};
pub use parse::{DEPTH_LIMIT, ParseError, Problem, parse};
pub use path::{InsertError, Path, PathError};
pub use reshape::{Reshape, ReshapeDocument, ReshapeError};
pub use write::write;

/// A JSON value. Equality is that of the document: members in the same order, leaves of the same bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Node {
    /// Members in the order of the document; no two of one name.
    Object(Vec<(Key, Node)>),
    /// Elements in order.
    Array(Vec<Node>),
    /// A number, a string with its quotes, `true`, `false` or `null`: the bytes of its source.
    Leaf(Bytes),
}

impl Node {
    /// A string, escaped as RFC 8259, section 7 asks.
    pub fn string(text: &str) -> Node {
        Node::Leaf(text::encode(text))
    }

    /// A whole number.
    pub fn number(number: u64) -> Node {
        Node::Leaf(number.to_string().into())
    }

    /// `true` or `false`.
    pub fn boolean(boolean: bool) -> Node {
        Node::Leaf(Bytes::from_static(if boolean { b"true" } else { b"false" }))
    }

    /// `null`.
    pub fn null() -> Node {
        Node::Leaf(Bytes::from_static(b"null"))
    }

    /// An object of these members. Of two members of one name the first stays.
    pub fn object<'n>(members: impl IntoIterator<Item = (&'n str, Node)>) -> Node {
        let mut object: Vec<(Key, Node)> = Vec::new();
        for (name, value) in members {
            if !object.iter().any(|(key, _)| key.name() == name.as_bytes()) {
                object.push((Key::new(name), value));
            }
        }
        Node::Object(object)
    }

    /// The member of an object, `None` for all else.
    pub fn member(&self, name: &str) -> Option<&Node> {
        let Node::Object(members) = self else { return None };
        members.iter().find(|(key, _)| key.name() == name.as_bytes()).map(|(_, value)| value)
    }

    /// What a leaf says as text: a string without quotes and escapes, a number, `true` or `false` as it stands.
    /// `None` for `null` and for containers, which say nothing that could stand in a path or a header.
    pub fn text(&self) -> Option<Cow<'_, str>> {
        let Node::Leaf(leaf) = self else { return None };
        match leaf.strip_prefix(b"\"").and_then(|rest| rest.strip_suffix(b"\"")) {
            Some(inner) if inner.contains(&b'\\') => {
                String::from_utf8(text::decode(inner)).ok().map(Cow::Owned)
            }
            Some(inner) => std::str::from_utf8(inner).ok().map(Cow::Borrowed),
            None if leaf.as_ref() == b"null" => None,
            None => std::str::from_utf8(leaf).ok().map(Cow::Borrowed),
        }
    }
}

/// A member's name: compared by what it means, written as it came.
#[derive(Clone)]
pub struct Key {
    /// As in the source, with quotes.
    written: Bytes,
    /// Only where the source has escapes.
    decoded: Option<Box<[u8]>>,
}

impl Key {
    /// A key of this name.
    pub fn new(name: &str) -> Key {
        Key::from_written(text::encode(name))
    }

    /// What the name means, in UTF-8.
    pub fn name(&self) -> &[u8] {
        match &self.decoded {
            Some(decoded) => decoded,
            None => &self.written[1..self.written.len() - 1],
        }
    }

    /// The name with quotes and escapes.
    pub fn written(&self) -> &[u8] {
        &self.written
    }

    /// A key from a valid string token with its quotes.
    fn from_written(written: Bytes) -> Key {
        let inner = &written[1..written.len() - 1];
        let decoded = inner.contains(&b'\\').then(|| text::decode(inner).into_boxed_slice());
        Key { written, decoded }
    }

    /// The same, from a token that is known to have no escapes.
    fn from_plain(written: Bytes) -> Key {
        Key { written, decoded: None }
    }
}

impl PartialEq for Key {
    fn eq(&self, other: &Key) -> bool {
        self.name() == other.name()
    }
}

impl Eq for Key {}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(&self.written))
    }
}

#[cfg(test)]
mod tests;
