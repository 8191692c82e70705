//! What holds for every document, seen against serde_json.

use proptest::prelude::*;
use serde::de::IgnoredAny;
use serde_json::Value;

use super::*;

/// Numbers in spellings that a float would not keep.
fn number() -> impl Strategy<Value = String> {
    let fraction = prop_oneof![Just(String::new()), "\\.[0-9]{1,20}"];
    let exponent = prop_oneof![Just(String::new()), "[eE][+-]?[0-9]{1,2}"];
    ("-?(0|[1-9][0-9]{0,18})", fraction, exponent)
        .prop_map(|(whole, fraction, exponent)| whole + &fraction + &exponent)
}

/// String tokens, with escapes of all kinds.
fn string() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        4 => "[a-zA-Z0-9 ._é€😀]{0,12}",
        1 => r#"\\["\\/bfnrt]"#,
        1 => r"\\u00[0-9a-fA-F]{2}",
        1 => r"\\ud83d\\ude0[0-9]",
    ];
    prop::collection::vec(piece, 0..4).prop_map(|pieces| format!("\"{}\"", pieces.concat()))
}

fn leaf() -> impl Strategy<Value = String> {
    let literal = prop_oneof![Just("true".to_owned()), Just("false".to_owned()), Just("null".to_owned())];
    prop_oneof![number(), string(), literal]
}

fn space() -> impl Strategy<Value = &'static str> {
    prop_oneof![3 => Just(""), 1 => Just(" "), 1 => Just("\r\n\t ")]
}

/// Documents as text; an object may have a name twice, in which case only refusal is right.
fn document() -> impl Strategy<Value = String> {
    leaf().prop_recursive(5, 48, 6, |inner| {
        let array = (prop::collection::vec(inner.clone(), 0..6), space())
            .prop_map(|(elements, space)| format!("[{space}{}{space}]", elements.join(&format!("{space},"))));
        let object =
            (prop::collection::vec((string(), inner), 0..6), space()).prop_map(|(members, space)| {
                let members: Vec<_> =
                    members.into_iter().map(|(key, value)| format!("{key}{space}:{space}{value}")).collect();
                format!("{{{space}{}{space}}}", members.join(","))
            });
        prop_oneof![array, object]
    })
}

/// The leaves of a tree, in order.
fn leaves(node: &Node, found: &mut Vec<Bytes>) {
    match node {
        Node::Leaf(leaf) => found.push(leaf.clone()),
        Node::Array(elements) => elements.iter().for_each(|element| leaves(element, found)),
        Node::Object(members) => members.iter().for_each(|(_, value)| leaves(value, found)),
    }
}

/// The same by the other parser: numbers as floats, names decoded.
fn assert_same_value(ours: &Node, theirs: &Value) {
    match (ours, theirs) {
        (Node::Object(ours), Value::Object(theirs)) => {
            assert_eq!(ours.len(), theirs.len());
            for (key, value) in ours {
                let name = std::str::from_utf8(key.name()).expect("UTF-8");
                assert_same_value(value, &theirs[name]);
            }
        }
        (Node::Array(ours), Value::Array(theirs)) => {
            assert_eq!(ours.len(), theirs.len());
            ours.iter().zip(theirs).for_each(|(ours, theirs)| assert_same_value(ours, theirs));
        }
        (Node::Leaf(_), Value::String(theirs)) => assert_eq!(ours.text().expect("text"), theirs.as_str()),
        (Node::Leaf(leaf), Value::Null) => assert_eq!(leaf.as_ref(), b"null"),
        (Node::Leaf(_), theirs) => {
            assert_eq!(&serde_json::from_str::<Value>(&ours.text().expect("text")).expect("a leaf"), theirs)
        }
        (ours, theirs) => panic!("{ours:?} is not {theirs:?}"),
    }
}

/// Refusals beyond the grammar that serde_json, which reads over values here, does not make.
fn is_stricter(problem: Problem) -> bool {
    matches!(problem, Problem::DuplicateKey | Problem::Surrogate | Problem::Depth)
}

fn assert_agrees(bytes: Vec<u8>) {
    let theirs = std::str::from_utf8(&bytes).ok().map(serde_json::from_str::<IgnoredAny>);
    let bytes = Bytes::from(bytes);
    match (parse(&bytes, 100), theirs) {
        (Ok(_), Some(Ok(_))) => {}
        (Err(error), None) => assert_eq!(error.problem, Problem::Utf8),
        (Err(error), Some(theirs)) => {
            assert!(theirs.is_err() || is_stricter(error.problem), "{error}: {bytes:?}")
        }
        (Ok(_), theirs) => panic!("accepted {bytes:?}, against {theirs:?}"),
    }
}

/// Does an object anywhere in the text have a name twice? By serde_json alone: its map keeps fewer members.
fn has_duplicates(text: &str) -> bool {
    fn members(value: &Value) -> usize {
        match value {
            Value::Object(map) => map.len() + map.values().map(members).sum::<usize>(),
            Value::Array(elements) => elements.iter().map(members).sum(),
            _ => 0,
        }
    }
    /// Counts members without a map.
    struct Count(usize);
    impl<'de> serde::Deserialize<'de> for Count {
        fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Count, D::Error> {
            struct Visitor;
            impl<'de> serde::de::Visitor<'de> for Visitor {
                type Value = Count;
                fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                    f.write_str("JSON")
                }
                fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<Count, A::Error> {
                    let mut count = 0;
                    while let Some((_, Count(inner))) = map.next_entry::<IgnoredAny, Count>()? {
                        count += 1 + inner;
                    }
                    Ok(Count(count))
                }
                fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut seq: A) -> Result<Count, A::Error> {
                    let mut count = 0;
                    while let Some(Count(inner)) = seq.next_element()? {
                        count += inner;
                    }
                    Ok(Count(count))
                }
                fn visit_bool<E>(self, _: bool) -> Result<Count, E> {
                    Ok(Count(0))
                }
                fn visit_i64<E>(self, _: i64) -> Result<Count, E> {
                    Ok(Count(0))
                }
                fn visit_u64<E>(self, _: u64) -> Result<Count, E> {
                    Ok(Count(0))
                }
                fn visit_f64<E>(self, _: f64) -> Result<Count, E> {
                    Ok(Count(0))
                }
                fn visit_str<E>(self, _: &str) -> Result<Count, E> {
                    Ok(Count(0))
                }
                fn visit_unit<E>(self) -> Result<Count, E> {
                    Ok(Count(0))
                }
            }
            deserializer.deserialize_any(Visitor)
        }
    }
    let kept: Value = serde_json::from_str(text).expect("a document");
    let Count(written) = serde_json::from_str(text).expect("a document");
    written > members(&kept)
}

/// Objects of plain names, to be merged.
fn tree() -> impl Strategy<Value = Node> {
    let leaf = (0..9_u64).prop_map(Node::number);
    let members = |inner: BoxedStrategy<Node>| {
        prop::collection::btree_map("[a-d]", inner, 0..4).prop_map(|members| {
            Node::Object(members.into_iter().map(|(name, value)| (Key::new(&name), value)).collect())
        })
    };
    let inner = leaf.prop_recursive(3, 24, 4, move |inner| members(inner.boxed()));
    members(inner.boxed())
}

proptest! {
    #[test]
    fn documents_mean_what_serde_json_reads(text in document()) {
        match parse(&Bytes::from(text.clone()), 100) {
            Ok(node) => {
                assert_same_value(&node, &serde_json::from_str(&text).expect("also valid there"));
                prop_assert!(!has_duplicates(&text));
            }
            Err(error) => {
                prop_assert_eq!(error.problem, Problem::DuplicateKey);
                prop_assert!(has_duplicates(&text));
            }
        }
    }

    #[test]
    fn leaves_keep_their_bytes(leaf_texts in prop::collection::vec(leaf(), 1..20)) {
        let source = Bytes::from(format!("{{ \"a\" : [ {} ] }}", leaf_texts.join(" , ")));
        let node = parse(&source, 2).expect("valid");
        let mut found = Vec::new();
        leaves(&node, &mut found);
        prop_assert_eq!(&found, &leaf_texts);
        prop_assert_eq!(write(&node), format!("{{\"a\":[{}]}}", leaf_texts.join(",")));
    }

    #[test]
    fn writing_and_parsing_again_changes_nothing(text in document()) {
        if let Ok(node) = parse(&Bytes::from(text), 100) {
            let written = write(&node);
            let again = parse(&written, 100).expect("valid");
            prop_assert_eq!(write(&again), written);
            prop_assert_eq!(again, node);
        }
    }

    #[test]
    fn mutated_bytes_are_judged_as_by_serde_json(
        text in document(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0..3_u8), 1..4),
    ) {
        let mut bytes = text.into_bytes();
        for (place, byte, kind) in changes {
            let at = place.index(bytes.len() + 1);
            match kind {
                0 if at < bytes.len() => bytes[at] = byte,
                1 if at < bytes.len() => { bytes.remove(at); }
                _ => bytes.insert(at, byte),
            }
        }
        assert_agrees(bytes);
    }

    #[test]
    fn texts_of_json_characters_are_judged_as_by_serde_json(text in r#"[\[\]{}:,"\\ue0-9.+\-Etrufalsn ]{0,16}"#) {
        assert_agrees(text.into_bytes());
    }

    #[test]
    fn depth_is_capped_exactly(depth in 0..DEPTH_LIMIT, depth_max in 0..DEPTH_LIMIT) {
        let source = Bytes::from("[".repeat(depth) + "1" + &"]".repeat(depth));
        prop_assert_eq!(parse(&source, depth_max).is_ok(), depth <= depth_max);
    }

    #[test]
    fn merging_disjoint_documents_is_associative(trees in prop::collection::vec(tree(), 3)) {
        // Disjoint below the shared objects `x`: the third letter of each name is its document's.
        let mut trees = trees.into_iter().enumerate().map(|(place, tree)| {
            let own = Node::object([(["first", "second", "third"][place], tree)]);
            Node::object([("x", Node::object([("x", own)]))])
        });
        let mut next = || trees.next().expect("three");
        let (a, b, c) = (next(), next(), next());
        let join = |a: &Node, b: &Node| merge(a.clone(), b.clone(), Collision::Refuse).expect("disjoint");
        prop_assert_eq!(join(&join(&a, &b), &c), join(&a, &join(&b, &c)));
    }

    #[test]
    fn a_rule_that_takes_one_side_never_fails(trees in prop::collection::vec(tree(), 2)) {
        let [a, b] = &trees[..] else { unreachable!("two") };
        let join = |a: &Node, b: &Node, rule| merge(a.clone(), b.clone(), rule).expect("total");
        prop_assert_eq!(join(a, a, Collision::First), a.clone());
        prop_assert_eq!(join(b, b, Collision::Last), b.clone());
        for path in ["a", "a.b", "d"].map(|path| path.parse::<Path>().expect("a path")) {
            // Whichever side has a leaf or nothing there: the rule names the side that is heard.
            if let Some(Node::Leaf(leaf)) = path.get(b) {
                let joined = join(a, b, Collision::Last);
                prop_assert_eq!(path.get(&joined), Some(&Node::Leaf(leaf.clone())));
            }
            if let Some(Node::Leaf(leaf)) = path.get(a) {
                let joined = join(a, b, Collision::First);
                prop_assert_eq!(path.get(&joined), Some(&Node::Leaf(leaf.clone())));
            }
        }
    }
}

#[test]
fn the_text_of_leaves() {
    let cases = [
        ("1.50", Some("1.50")),
        (r#""a\u00e9""#, Some("aé")),
        ("true", Some("true")),
        ("null", None),
        ("[]", None),
    ];
    for (source, text) in cases {
        let node = parse(&Bytes::from_static(source.as_bytes()), 1).expect(source);
        assert_eq!(node.text().as_deref(), text, "{source}");
    }
}
