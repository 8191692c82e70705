//! A document's bytes, without white space between tokens. Pure.

use bytes::Bytes;

use super::Node;

/// The document in one allocation: its length is known before the first byte is written.
pub fn write(node: &Node) -> Bytes {
    let mut document = Vec::with_capacity(length(node));
    append(node, &mut document);
    document.into()
}

/// Bytes that [`append`] writes.
fn length(node: &Node) -> usize {
    match node {
        Node::Leaf(leaf) => leaf.len(),
        Node::Array(elements) => {
            brackets_and_commas(elements.len()) + elements.iter().map(length).sum::<usize>()
        }
        Node::Object(members) => {
            let of_member = |(key, value): &(super::Key, Node)| key.written().len() + 1 + length(value);
            brackets_and_commas(members.len()) + members.iter().map(of_member).sum::<usize>()
        }
    }
}

fn brackets_and_commas(entries: usize) -> usize {
    2 + entries.saturating_sub(1)
}

fn append(node: &Node, document: &mut Vec<u8>) {
    match node {
        Node::Leaf(leaf) => document.extend_from_slice(leaf),
        Node::Array(elements) => {
            document.push(b'[');
            for (place, element) in elements.iter().enumerate() {
                if place > 0 {
                    document.push(b',');
                }
                append(element, document);
            }
            document.push(b']');
        }
        Node::Object(members) => {
            document.push(b'{');
            for (place, (key, value)) in members.iter().enumerate() {
                if place > 0 {
                    document.push(b',');
                }
                document.extend_from_slice(key.written());
                document.push(b':');
                append(value, document);
            }
            document.push(b'}');
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::parse;
    use super::*;

    #[test]
    fn what_is_written_is_what_was_read_without_white_space() {
        let cases = [
            (" 1234567890123456.78 ", "1234567890123456.78"),
            ("[ 1.0e5 , -0 , 1E+2 ]", "[1.0e5,-0,1E+2]"),
            (r#"{ "\u00e9" : "\u00e9" , "b" : [ ] , "c" : { } }"#, r#"{"\u00e9":"\u00e9","b":[],"c":{}}"#),
            ("\r\n\t[true,false,null]\r\n", "[true,false,null]"),
        ];
        for (source, written) in cases {
            let node = parse(&Bytes::from_static(source.as_bytes()), 8).expect(source);
            assert_eq!(write(&node), written);
            assert_eq!(length(&node), written.len());
        }
    }
}
