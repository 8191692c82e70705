//! Several documents made one, deeply and in a given order. Pure.
//!
//! Members of objects are joined, those of the earlier document first. Where two values meet that are not both objects
//! there is a collision, and the rule decides. The answer depends on the documents and their order alone.

use super::{Key, Node, path};

/// Objects with more members than this are joined by means of a sorted index.
const SEARCHED_MEMBERS_MAX: usize = 16;

/// What becomes of two values at one place that are not both objects.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Collision {
    /// The merge fails, even if both values are equal.
    #[default]
    Refuse,
    /// The earlier value stays.
    First,
    /// The later value takes its place.
    Last,
    /// Two arrays become one, the earlier elements first; all else is refused.
    Append,
}

/// Two values met that the rule does not let meet.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("two values at `{place}`")]
pub struct MergeError {
    /// The path of both; empty for the documents themselves.
    pub place: String,
}

/// `earlier` with what `later` adds to it.
pub fn merge(earlier: Node, later: Node, rule: Collision) -> Result<Node, MergeError> {
    let mut merged = earlier;
    match merge_into(&mut merged, later, rule) {
        Ok(()) => Ok(merged),
        Err(Met { mut names }) => {
            names.reverse();
            Err(MergeError { place: names.join(".") })
        }
    }
}

/// Names on the way to a refused collision, innermost first.
struct Met {
    names: Vec<String>,
}

fn merge_into(earlier: &mut Node, later: Node, rule: Collision) -> Result<(), Met> {
    match (earlier, later, rule) {
        (Node::Object(earlier), Node::Object(later), _) => merge_members(earlier, later, rule),
        (_, _, Collision::First) => Ok(()),
        (earlier, later, Collision::Last) => {
            *earlier = later;
            Ok(())
        }
        (Node::Array(earlier), Node::Array(later), Collision::Append) => {
            earlier.extend(later);
            Ok(())
        }
        (_, _, Collision::Refuse | Collision::Append) => Err(Met { names: Vec::new() }),
    }
}

fn merge_members(
    earlier: &mut Vec<(Key, Node)>,
    later: Vec<(Key, Node)>,
    rule: Collision,
) -> Result<(), Met> {
    let index = Index::of(earlier);
    for (key, value) in later {
        match index.find(earlier, key.name()) {
            None => earlier.push((key, value)),
            Some(place) => merge_into(&mut earlier[place].1, value, rule).map_err(|mut met| {
                met.names.push(path::shown(&String::from_utf8_lossy(key.name())));
                met
            })?,
        }
    }
    Ok(())
}

/// Finds the members that an object had when the index was made: names that are added later are no concern of
/// one merge, for a document has no name twice.
enum Index {
    /// Look at that many members one by one.
    Search(usize),
    /// Places in the order of the names.
    Sorted(Vec<usize>),
}

impl Index {
    fn of(members: &[(Key, Node)]) -> Index {
        if members.len() <= SEARCHED_MEMBERS_MAX {
            return Index::Search(members.len());
        }
        let mut places: Vec<usize> = (0..members.len()).collect();
        places.sort_unstable_by_key(|place| members[*place].0.name());
        Index::Sorted(places)
    }

    fn find(&self, members: &[(Key, Node)], name: &[u8]) -> Option<usize> {
        match self {
            Index::Search(count) => members[..*count].iter().position(|(key, _)| key.name() == name),
            Index::Sorted(places) => {
                let found = places.binary_search_by_key(&name, |place| members[*place].0.name()).ok()?;
                Some(places[found])
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::super::{parse, write};
    use super::*;

    fn document(source: &str) -> Node {
        parse(&Bytes::copy_from_slice(source.as_bytes()), 16).expect(source)
    }

    #[test]
    fn collisions_are_decided_by_the_rule() {
        use Collision::{Append, First, Last, Refuse};
        let cases = [
            (r#"{"a":1}"#, r#"{"b":2}"#, Refuse, Ok(r#"{"a":1,"b":2}"#)),
            (r#"{"a":{"b":1}}"#, r#"{"a":{"c":2}}"#, Refuse, Ok(r#"{"a":{"b":1,"c":2}}"#)),
            (r#"{"a":{"b.c":1}}"#, r#"{"a":{"b.c":1}}"#, Refuse, Err(r#"two values at `a."b.c"`"#)),
            (r#"{"a":{"b":1}}"#, r#"{"a":{"b":2,"c":3}}"#, First, Ok(r#"{"a":{"b":1,"c":3}}"#)),
            (r#"{"a":{"b":1}}"#, r#"{"a":{"b":2,"c":3}}"#, Last, Ok(r#"{"a":{"b":2,"c":3}}"#)),
            (r#"{"a":{"b":1}}"#, r#"{"a":2}"#, First, Ok(r#"{"a":{"b":1}}"#)),
            (r#"{"a":{"b":1}}"#, r#"{"a":2}"#, Last, Ok(r#"{"a":2}"#)),
            (r#"{"a":{"b":1}}"#, r#"{"a":2}"#, Append, Err("two values at `a`")),
            (r#"{"a":[1]}"#, r#"{"a":[2,3]}"#, Append, Ok(r#"{"a":[1,2,3]}"#)),
            (r#"{"a":[1]}"#, r#"{"a":[2,3]}"#, Last, Ok(r#"{"a":[2,3]}"#)),
            (r#"{"a":[1]}"#, r#"{"a":[2,3]}"#, Refuse, Err("two values at `a`")),
            (r#"{"a":1}"#, r#"{"\u0061":2}"#, Last, Ok(r#"{"a":2}"#)),
            ("1", "2", Refuse, Err("two values at ``")),
            ("[1]", "[2]", Append, Ok("[1,2]")),
        ];
        for (earlier, later, rule, expected) in cases {
            let merged = merge(document(earlier), document(later), rule);
            let merged = merged.map(|node| write(&node)).map_err(|error| error.to_string());
            assert_eq!(
                merged,
                expected.map(Bytes::from).map_err(str::to_owned),
                "{earlier} {later} {rule:?}"
            );
        }
    }

    #[test]
    fn large_objects_are_joined_like_small_ones() {
        let object = |range: std::ops::Range<u32>| {
            let members: Vec<_> = range.map(|number| format!("\"{number}\":{number}")).collect();
            document(&format!("{{{}}}", members.join(",")))
        };
        let merged = merge(object(0..3000), object(2000..5000), Collision::First).expect("a rule");
        assert_eq!(write(&merged), write(&object(0..5000)));
    }
}
