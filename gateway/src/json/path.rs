//! Paths into a document: `account.owner`, `transactions[].amount`, `"odd.key".value`. Pure.
//!
//! A path is a list of steps: a member of an object by name, or `[]`, every element of an array. Names of letters,
//! digits, `_`, `-`, `$` and `@` stand as they are, all others as JSON strings. A step that does not fit the value
//! it meets (a name at an array, `[]` at an object) leads nowhere; that is no error.

use std::fmt;
use std::str::FromStr;

use bytes::Bytes;

use super::{Key, Node, parse};

/// The longest path accepted, in steps: it bounds how deep an insertion makes a document.
pub const STEPS_MAX: usize = 32;

/// A parsed path of at least one step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Path {
    steps: Vec<Step>,
}

/// One step of a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// The member of this name.
    Member(Box<str>),
    /// Every element.
    Each,
}

/// Why a text is not a path.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// No steps.
    #[error("the path is empty")]
    Empty,
    /// A dot with no name before or after it.
    #[error("`{path}`: a name is missing at character {at}; write \"\" for an empty name")]
    NameMissing {
        /// The whole path.
        path: String,
        /// Characters from the beginning, from 1.
        at: usize,
    },
    /// A character that names have only in quotes.
    #[error("`{path}`: `{found}` at character {at}; a name with it stands in double quotes")]
    Character {
        /// The whole path.
        path: String,
        /// Characters from the beginning, from 1.
        at: usize,
        /// What stands there.
        found: char,
    },
    /// A bracket that is not followed by its other half.
    #[error("`{path}`: only `[]`, every element of an array, may stand in brackets (character {at})")]
    Brackets {
        /// The whole path.
        path: String,
        /// Characters from the beginning, from 1.
        at: usize,
    },
    /// A name in quotes that is no JSON string.
    #[error("`{path}`: the name in quotes at character {at} is not closed, or not a JSON string")]
    Quotes {
        /// The whole path.
        path: String,
        /// Characters from the beginning, from 1.
        at: usize,
    },
    /// More than [`STEPS_MAX`].
    #[error("`{0}` has more than {STEPS_MAX} steps")]
    TooLong(String),
}

/// Why a value could not be inserted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InsertError {
    /// The path names every element of an array, not one place.
    #[error("`{0}` names many places")]
    ManyPlaces(Path),
    /// Something stands there already, or a value that is no object stands in the way.
    #[error("`{0}` is taken")]
    Taken(Path),
}

impl Path {
    /// Does the path contain `[]`?
    pub fn names_many(&self) -> bool {
        self.steps.contains(&Step::Each)
    }

    /// The first value in the order of the document that the path leads to.
    pub fn get<'n>(&self, root: &'n Node) -> Option<&'n Node> {
        find_first(root, &self.steps)
    }

    /// All values that the path leads to, in the order of the document.
    pub fn get_all<'n>(&self, root: &'n Node) -> Vec<&'n Node> {
        let mut found = Vec::new();
        collect(root, &self.steps, &mut found);
        found
    }

    /// Puts `value` at the path, with the objects on the way that are missing. On an error `root` is as it was.
    pub fn insert(&self, root: &mut Node, value: Node) -> Result<(), InsertError> {
        if self.names_many() {
            return Err(InsertError::ManyPlaces(self.clone()));
        }
        insert(root, &self.steps, value).map_err(|Taken| InsertError::Taken(self.clone()))
    }

    /// The document that has `value` at the path and nothing else.
    pub fn wrap(&self, value: Node) -> Result<Node, InsertError> {
        let mut root = Node::Object(Vec::new());
        self.insert(&mut root, value)?;
        Ok(root)
    }

    /// Takes away what the path leads to, and says how many values that were. `a[]` empties the array `a`.
    pub fn remove(&self, root: &mut Node) -> usize {
        remove(root, &self.steps)
    }

    pub(super) fn steps(&self) -> &[Step] {
        &self.steps
    }
}

impl FromStr for Path {
    type Err = PathError;

    fn from_str(path: &str) -> Result<Path, PathError> {
        let mut reader = Reader { path, at: 0 };
        let mut steps = Vec::new();
        if path.is_empty() {
            return Err(PathError::Empty);
        }
        while let Some(step) = reader.step(steps.is_empty())? {
            if steps.len() == STEPS_MAX {
                return Err(PathError::TooLong(path.to_owned()));
            }
            steps.push(step);
        }
        Ok(Path { steps })
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, step) in self.steps.iter().enumerate() {
            match step {
                Step::Each => f.write_str("[]")?,
                Step::Member(name) => {
                    f.write_str(if place > 0 { "." } else { "" })?;
                    f.write_str(&shown(name))?;
                }
            }
        }
        Ok(())
    }
}

/// A member's name as it stands in a path: in quotes if it must.
pub(super) fn shown(name: &str) -> String {
    if !name.is_empty() && name.chars().all(stands_bare) {
        return name.to_owned();
    }
    String::from_utf8_lossy(Key::new(name).written()).into_owned()
}

fn stands_bare(character: char) -> bool {
    character.is_alphanumeric() || matches!(character, '_' | '-' | '$' | '@')
}

struct Reader<'p> {
    path: &'p str,
    /// Bytes read.
    at: usize,
}

impl<'p> Reader<'p> {
    /// The next step, `None` at the end. A name follows a dot, but for the first step.
    fn step(&mut self, first: bool) -> Result<Option<Step>, PathError> {
        match self.rest().chars().next() {
            None => Ok(None),
            Some('[' | ']') => self.each().map(Some),
            Some('.') if !first => {
                self.at += 1;
                self.member().map(Some)
            }
            Some(_) if first => self.member().map(Some),
            Some(found) => Err(self.unfit(found)),
        }
    }

    fn each(&mut self) -> Result<Step, PathError> {
        if !self.rest().starts_with("[]") {
            return Err(PathError::Brackets { path: self.path.to_owned(), at: self.character() });
        }
        self.at += 2;
        Ok(Step::Each)
    }

    fn member(&mut self) -> Result<Step, PathError> {
        let rest = self.rest();
        if rest.starts_with('"') {
            return self.quoted();
        }
        let length = rest.find(|character| !stands_bare(character)).unwrap_or(rest.len());
        match rest[length..].chars().next() {
            _ if length > 0 => {
                self.at += length;
                Ok(Step::Member(rest[..length].into()))
            }
            None | Some('.' | '[' | ']') => {
                Err(PathError::NameMissing { path: self.path.to_owned(), at: self.character() })
            }
            Some(found) => Err(self.unfit(found)),
        }
    }

    fn quoted(&mut self) -> Result<Step, PathError> {
        let error = || PathError::Quotes { path: self.path.to_owned(), at: self.character() };
        let rest = self.rest();
        let mut escaped = true;
        let closing = rest.bytes().position(|byte| {
            let closes = byte == b'"' && !escaped;
            escaped = byte == b'\\' && !escaped;
            closes
        });
        let token = &rest[..=closing.ok_or_else(error)?];
        let name = parse(&Bytes::copy_from_slice(token.as_bytes()), 0).map_err(|_| error())?;
        let name = name.text().ok_or_else(error)?.into();
        self.at += token.len();
        Ok(Step::Member(name))
    }

    fn rest(&self) -> &'p str {
        &self.path[self.at..]
    }

    /// The number of the character that is read next, from 1.
    fn character(&self) -> usize {
        self.path[..self.at].chars().count() + 1
    }

    fn unfit(&self, found: char) -> PathError {
        PathError::Character { path: self.path.to_owned(), at: self.character(), found }
    }
}

fn find_first<'n>(node: &'n Node, steps: &[Step]) -> Option<&'n Node> {
    let Some((step, rest)) = steps.split_first() else { return Some(node) };
    match (step, node) {
        (Step::Member(name), _) => find_first(node.member(name)?, rest),
        (Step::Each, Node::Array(elements)) => elements.iter().find_map(|element| find_first(element, rest)),
        (Step::Each, _) => None,
    }
}

fn collect<'n>(node: &'n Node, steps: &[Step], found: &mut Vec<&'n Node>) {
    let Some((step, rest)) = steps.split_first() else { return found.push(node) };
    match (step, node) {
        (Step::Member(name), _) => {
            if let Some(member) = node.member(name) {
                collect(member, rest, found);
            }
        }
        (Step::Each, Node::Array(elements)) => {
            elements.iter().for_each(|element| collect(element, rest, found))
        }
        (Step::Each, _) => {}
    }
}

struct Taken;

fn insert(node: &mut Node, steps: &[Step], value: Node) -> Result<(), Taken> {
    let Some((Step::Member(name), rest)) = steps.split_first() else { return Err(Taken) };
    let Node::Object(members) = node else { return Err(Taken) };
    if let Some((_, member)) = members.iter_mut().find(|(key, _)| key.name() == name.as_bytes()) {
        return insert(member, rest, value);
    }
    let value = rest.iter().rev().fold(value, |inner, step| match step {
        Step::Member(name) => Node::object([(name.as_ref(), inner)]),
        Step::Each => inner,
    });
    members.push((Key::new(name), value));
    Ok(())
}

fn remove(node: &mut Node, steps: &[Step]) -> usize {
    match (steps, node) {
        ([Step::Member(name)], Node::Object(members)) => {
            let before = members.len();
            members.retain(|(key, _)| key.name() != name.as_bytes());
            before - members.len()
        }
        ([Step::Each], Node::Array(elements)) => std::mem::take(elements).len(),
        ([Step::Member(name), rest @ ..], Node::Object(members)) => {
            let member = members.iter_mut().find(|(key, _)| key.name() == name.as_bytes());
            member.map_or(0, |(_, member)| remove(member, rest))
        }
        ([Step::Each, rest @ ..], Node::Array(elements)) => {
            elements.iter_mut().map(|element| remove(element, rest)).sum()
        }
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::super::write;
    use super::*;

    fn document(source: &str) -> Node {
        parse(&Bytes::copy_from_slice(source.as_bytes()), 16).expect(source)
    }

    fn path(path: &str) -> Path {
        path.parse().expect(path)
    }

    #[test]
    fn a_path_is_shown_as_it_is_read() {
        for text in [
            "a",
            "a.b",
            "a[].b",
            "[].a",
            "[]",
            "a[][].b",
            r#""a.b".c"#,
            r#"a."""#,
            r#"a."\"\\""#,
            "größe.$id",
        ] {
            assert_eq!(path(text).to_string(), text);
        }
        assert_eq!(path(r#""plain"."\u0061""#).to_string(), "plain.a");
    }

    #[test]
    fn what_is_wrong_with_a_path_is_said() {
        let cases = [
            ("", "the path is empty"),
            (".a", "`.a`: a name is missing at character 1; write \"\" for an empty name"),
            ("a..b", "`a..b`: a name is missing at character 3; write \"\" for an empty name"),
            ("a.", "`a.`: a name is missing at character 3; write \"\" for an empty name"),
            ("a.[]", "`a.[]`: a name is missing at character 3; write \"\" for an empty name"),
            ("a b", "`a b`: ` ` at character 2; a name with it stands in double quotes"),
            ("ä.{", "`ä.{`: `{` at character 3; a name with it stands in double quotes"),
            ("[]a", "`[]a`: `a` at character 3; a name with it stands in double quotes"),
            ("a[0]", "`a[0]`: only `[]`, every element of an array, may stand in brackets (character 2)"),
            ("a]", "`a]`: only `[]`, every element of an array, may stand in brackets (character 2)"),
            ("\"a", "`\"a`: the name in quotes at character 1 is not closed, or not a JSON string"),
            (
                r#"b."\x""#,
                "`b.\"\\x\"`: the name in quotes at character 3 is not closed, or not a JSON string",
            ),
        ];
        for (text, message) in cases {
            assert_eq!(text.parse::<Path>().expect_err(text).to_string(), message);
        }
        assert!(matches!("a.".repeat(40).parse::<Path>(), Err(PathError::TooLong(_))));
    }

    #[test]
    fn values_are_found() {
        let root = document(r#"{"a":{"b.c":1,"\u0064":[{"e":2},3,{"e":4}]},"f":[[5],[6,7]]}"#);
        let cases = [
            (r#"a."b.c""#, vec!["1"]),
            ("a.d[].e", vec!["2", "4"]),
            ("f[][]", vec!["5", "6", "7"]),
            ("f[]", vec!["[5]", "[6,7]"]),
            ("a.x", vec![]),
            ("a[]", vec![]),
            ("f.e", vec![]),
        ];
        for (text, values) in cases {
            let found: Vec<_> = path(text).get_all(&root).into_iter().map(write).collect();
            assert_eq!(found, values, "{text}");
            assert_eq!(path(text).get(&root).map(write), found.first().cloned(), "{text}");
        }
    }

    #[test]
    fn values_are_inserted_where_nothing_stands() {
        let cases = [
            ("{}", "a.b", Ok(r#"{"a":{"b":9}}"#)),
            (r#"{"a":{"c":1}}"#, "a.b", Ok(r#"{"a":{"c":1,"b":9}}"#)),
            (r#"{"a":1}"#, "a.b", Err("`a.b` is taken")),
            (r#"{"a":{"b":1}}"#, "a.b", Err("`a.b` is taken")),
            ("[]", "a", Err("`a` is taken")),
            ("{}", "a[]", Err("`a[]` names many places")),
        ];
        for (source, at, expected) in cases {
            let mut root = document(source);
            let result = path(at).insert(&mut root, Node::number(9)).map_err(|error| error.to_string());
            assert_eq!(result.err(), expected.err().map(str::to_owned), "{source} {at}");
            assert_eq!(write(&root), expected.unwrap_or(source));
        }
    }

    #[test]
    fn values_are_removed() {
        let source = r#"{"a":[{"b":1,"c":2},{"b":3},4],"d":{"e":5}}"#;
        let cases = [
            ("a[].b", 2, r#"{"a":[{"c":2},{},4],"d":{"e":5}}"#),
            ("a[]", 3, r#"{"a":[],"d":{"e":5}}"#),
            ("d.e", 1, r#"{"a":[{"b":1,"c":2},{"b":3},4],"d":{}}"#),
            ("d", 1, r#"{"a":[{"b":1,"c":2},{"b":3},4]}"#),
            ("x.y", 0, source),
        ];
        for (text, count, left) in cases {
            let mut root = document(source);
            assert_eq!(path(text).remove(&mut root), count, "{text}");
            assert_eq!(write(&root), left, "{text}");
        }
    }
}
