//! The shape of a document changed: pick, then drop, then rename, at any depth and through arrays. Pure.
//!
//! * **pick** keeps what the paths lead to, in the document's order, with the containers on the way (`[{"x":1}]`
//!   picked by `[].a` is `[{}]`). A value that a path would have to go through but cannot is left out. A document of
//!   which nothing can be picked becomes `{}`. Without `pick` everything stays.
//! * **drop** takes away what the paths lead to.
//! * **rename** gives members new names in their place. All paths speak of the names before any renaming, so that
//!   two members can change names. The renamed member wins over a member that already has the name: a service that
//!   begins to send a field of that name must neither break the answer nor change what the client reads there.
//!
//! What can be found wrong without a document is found when compiled; applying cannot fail.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::path::Step;
use super::{Key, Node, Path, PathError};

/// How the configuration says it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReshapeDocument {
    /// Paths that stay.
    #[serde(default)]
    pub pick: Vec<String>,
    /// Paths that go.
    #[serde(default)]
    pub drop: Vec<String>,
    /// Paths of members, and their new names (a name, not a path).
    #[serde(default)]
    pub rename: BTreeMap<String, String>,
}

/// Why a reshaping cannot be compiled.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReshapeError {
    /// Not a path.
    #[error(transparent)]
    Path(#[from] PathError),
    /// A path within another of the same list, which says it already.
    #[error("`{inner}` is already covered by `{outer}`")]
    Covered {
        /// The path without effect.
        inner: Path,
        /// The one that covers it.
        outer: Path,
    },
    /// A renaming that ends in `[]`.
    #[error("`{0}` cannot be renamed: elements of an array have no names")]
    Nameless(Path),
    /// Two members of one object get the same name.
    #[error("`{first}` and `{second}` are both renamed to `{name}`")]
    SameName {
        /// One of them.
        first: Path,
        /// The other.
        second: Path,
        /// Their new name.
        name: String,
    },
}

impl ReshapeDocument {
    /// Checks and compiles.
    pub fn compile(&self) -> Result<Reshape, ReshapeError> {
        let parsed =
            |paths: &[String]| paths.iter().map(|path| path.parse()).collect::<Result<Vec<Path>, _>>();
        let renamed = self.rename.iter().map(|(path, name)| Ok((path.parse()?, name.clone())));
        Reshape::new(
            &parsed(&self.pick)?,
            &parsed(&self.drop)?,
            &renamed.collect::<Result<Vec<_>, PathError>>()?,
        )
    }
}

/// A compiled reshaping: each part is one walk over the document.
#[derive(Clone, Debug, Default)]
pub struct Reshape {
    pick: Option<Branch>,
    drop: Option<Branch>,
    rename: Option<Branch>,
}

impl Reshape {
    /// Compiles paths; an empty list means that its part does nothing.
    pub fn new(pick: &[Path], drop: &[Path], rename: &[(Path, String)]) -> Result<Reshape, ReshapeError> {
        refuse_covered(pick)?;
        refuse_covered(drop)?;
        refuse_renames(rename)?;
        let ends = |paths: &[Path]| Branch::of(paths.iter().map(|path| (path, None)));
        Ok(Reshape {
            pick: ends(pick),
            drop: ends(drop),
            rename: Branch::of(rename.iter().map(|(path, name)| (path, Some(Key::new(name))))),
        })
    }

    /// Does it leave every document as it is?
    pub fn is_identity(&self) -> bool {
        self.pick.is_none() && self.drop.is_none() && self.rename.is_none()
    }

    /// The document in its new shape.
    pub fn apply(&self, document: Node) -> Node {
        let mut document = match &self.pick {
            Some(branch) => pick(document, branch).unwrap_or_else(|| Node::Object(Vec::new())),
            None => document,
        };
        if let Some(branch) = &self.drop {
            drop_ends(&mut document, branch);
        }
        if let Some(branch) = &self.rename {
            rename(&mut document, branch);
        }
        document
    }
}

/// Paths grown together at their common beginnings.
#[derive(Clone, Debug, Default)]
struct Branch {
    members: Vec<(Box<str>, Branch)>,
    each: Option<Box<Branch>>,
    /// A path ends here.
    end: bool,
    /// The new name of what stands here.
    name: Option<Key>,
}

impl Branch {
    /// The branch at the root; `None` without paths.
    fn of<'p>(paths: impl Iterator<Item = (&'p Path, Option<Key>)>) -> Option<Branch> {
        let mut root = None;
        for (path, name) in paths {
            let mut branch = root.get_or_insert_with(Branch::default);
            for step in path.steps() {
                branch = branch.grow(step);
            }
            branch.end = true;
            branch.name = name;
        }
        root
    }

    fn grow(&mut self, step: &Step) -> &mut Branch {
        match step {
            Step::Each => self.each.get_or_insert_default(),
            Step::Member(name) => {
                let place = self.members.iter().position(|(known, _)| known == name).unwrap_or_else(|| {
                    self.members.push((name.clone(), Branch::default()));
                    self.members.len() - 1
                });
                &mut self.members[place].1
            }
        }
    }

    fn member(&self, key: &Key) -> Option<&Branch> {
        self.members.iter().find(|(name, _)| name.as_bytes() == key.name()).map(|(_, branch)| branch)
    }
}

/// What of `node` is picked; `None` if the branch cannot go into it.
fn pick(node: Node, branch: &Branch) -> Option<Node> {
    match (node, &branch.each) {
        (node, _) if branch.end => Some(node),
        (Node::Object(members), _) if !branch.members.is_empty() => {
            let picked = members.into_iter().filter_map(|(key, value)| {
                let value = pick(value, branch.member(&key)?)?;
                Some((key, value))
            });
            Some(Node::Object(picked.collect()))
        }
        (Node::Array(elements), Some(each)) => {
            Some(Node::Array(elements.into_iter().filter_map(|element| pick(element, each)).collect()))
        }
        _ => None,
    }
}

fn drop_ends(node: &mut Node, branch: &Branch) {
    match (node, &branch.each) {
        (Node::Object(members), _) if !branch.members.is_empty() => {
            members.retain_mut(|(key, value)| match branch.member(key) {
                Some(inner) if inner.end => false,
                Some(inner) => {
                    drop_ends(value, inner);
                    true
                }
                None => true,
            });
        }
        (Node::Array(elements), Some(each)) if each.end => elements.clear(),
        (Node::Array(elements), Some(each)) => {
            elements.iter_mut().for_each(|element| drop_ends(element, each));
        }
        _ => {}
    }
}

fn rename(node: &mut Node, branch: &Branch) {
    match (node, &branch.each) {
        (Node::Object(members), _) if !branch.members.is_empty() => rename_members(members, branch),
        (Node::Array(elements), Some(each)) => elements.iter_mut().for_each(|element| rename(element, each)),
        _ => {}
    }
}

fn rename_members(members: &mut Vec<(Key, Node)>, branch: &Branch) {
    let mut new_names: Vec<&Key> = Vec::new();
    for (key, value) in members.iter_mut() {
        if let Some(inner) = branch.member(key) {
            rename(value, inner);
            new_names.extend(&inner.name);
        }
    }
    if new_names.is_empty() {
        return;
    }
    members.retain_mut(|(key, _)| match branch.member(key).and_then(|inner| inner.name.as_ref()) {
        Some(name) => {
            *key = name.clone();
            true
        }
        None => !new_names.contains(&&*key),
    });
}

fn refuse_covered(paths: &[Path]) -> Result<(), ReshapeError> {
    for (place, inner) in paths.iter().enumerate() {
        let covers =
            |(other, outer): &(usize, &Path)| *other != place && inner.steps().starts_with(outer.steps());
        if let Some((_, outer)) = paths.iter().enumerate().find(covers) {
            return Err(ReshapeError::Covered { inner: inner.clone(), outer: outer.clone() });
        }
    }
    Ok(())
}

fn refuse_renames(renames: &[(Path, String)]) -> Result<(), ReshapeError> {
    for (place, (first, name)) in renames.iter().enumerate() {
        let Some((Step::Member(_), parent)) = first.steps().split_last() else {
            return Err(ReshapeError::Nameless(first.clone()));
        };
        let is_sibling = |path: &Path| path.steps().split_last().is_some_and(|(_, other)| other == parent);
        let twin = renames[place + 1..]
            .iter()
            .find(|(path, other)| is_sibling(path) && (other == name || path == first));
        if let Some((second, _)) = twin {
            return Err(ReshapeError::SameName {
                first: first.clone(),
                second: second.clone(),
                name: name.clone(),
            });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::super::{parse, write};
    use super::*;

    fn reshape(pick: &[&str], drop: &[&str], rename: &[(&str, &str)]) -> Result<Reshape, ReshapeError> {
        let owned = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
        let rename = rename.iter().map(|(path, name)| ((*path).to_owned(), (*name).to_owned())).collect();
        ReshapeDocument { pick: owned(pick), drop: owned(drop), rename }.compile()
    }

    #[test]
    fn documents_change_their_shape() {
        type Case<'c> = (&'c str, &'c [&'c str], &'c [&'c str], &'c [(&'c str, &'c str)], &'c str);
        let cases: &[Case<'_>] = &[
            (r#"{"a":1,"b":2}"#, &[], &[], &[], r#"{"a":1,"b":2}"#),
            (r#"{"a":1.0,"b":{"c":2,"d":3}}"#, &["b.d", "a"], &[], &[], r#"{"a":1.0,"b":{"d":3}}"#),
            (r#"{"t":[{"a":1,"b":2},{"b":3},4]}"#, &["t[].a"], &[], &[], r#"{"t":[{"a":1},{}]}"#),
            (r#"[{"a":1,"b":2}]"#, &["[].a"], &[], &[], r#"[{"a":1}]"#),
            (r#"{"a":1,"b":2}"#, &["a.x", "b"], &[], &[], r#"{"b":2}"#),
            ("null", &["a"], &[], &[], "{}"),
            (r#"[[1,2],[3]]"#, &["[][]"], &[], &[], "[[1,2],[3]]"),
            (r#"{"t":[{"a":1,"b":2},{"a":3}],"c":4}"#, &[], &["t[].a", "c"], &[], r#"{"t":[{"b":2},{}]}"#),
            (r#"{"t":[1,2]}"#, &[], &["t[]"], &[], r#"{"t":[]}"#),
            (r#"{"t":[{"a":1},{"a":2}]}"#, &[], &[], &[("t[].a", "x y")], r#"{"t":[{"x y":1},{"x y":2}]}"#),
            (r#"{"a":1,"b":2}"#, &[], &[], &[("a", "b"), ("b", "a")], r#"{"b":1,"a":2}"#),
            (r#"{"b":0,"a":1}"#, &[], &[], &[("a", "b")], r#"{"b":1}"#),
            (r#"{"b":0}"#, &[], &[], &[("a", "b")], r#"{"b":0}"#),
            (r#"{"a":{"b":1}}"#, &[], &[], &[("a", "x"), ("a.b", "y")], r#"{"x":{"y":1}}"#),
            (r#"{"a":{"b":1,"c":2,"d":3}}"#, &["a"], &["a.c"], &[("a.d", "c")], r#"{"a":{"b":1,"c":3}}"#),
            (r#"{"\u0061":1,"b":2}"#, &["a"], &[], &[], r#"{"\u0061":1}"#),
        ];
        for (source, pick, drop, rename, expected) in cases {
            let reshape = reshape(pick, drop, rename).expect("compiles");
            let node = parse(&Bytes::from_static(source.as_bytes()), 8).expect(source);
            assert_eq!(write(&reshape.apply(node)), expected, "{source}");
        }
    }

    #[test]
    fn what_cannot_mean_anything_is_refused() {
        let cases = [
            (reshape(&["a.b", "a"], &[], &[]), "`a.b` is already covered by `a`"),
            (reshape(&["a", "a"], &[], &[]), "`a` is already covered by `a`"),
            (reshape(&[], &["a[].b", "a[]"], &[]), "`a[].b` is already covered by `a[]`"),
            (
                reshape(&[], &[], &[("a[]", "b")]),
                "`a[]` cannot be renamed: elements of an array have no names",
            ),
            (reshape(&[], &[], &[("x.a", "c"), ("x.b", "c")]), "`x.a` and `x.b` are both renamed to `c`"),
            (
                reshape(&["a..b"], &[], &[]),
                "`a..b`: a name is missing at character 3; write \"\" for an empty name",
            ),
        ];
        for (result, message) in cases {
            assert_eq!(result.expect_err(message).to_string(), message);
        }
        assert!(reshape(&[], &[], &[("x.a", "c"), ("y.a", "c")]).is_ok());
    }
}
