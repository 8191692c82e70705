//! The escapes of JSON strings, both ways (RFC 8259, section 7). Pure.
//!
//! Decoding trusts that the parser has checked the escapes; what it cannot read it leaves out rather than fail.

use bytes::Bytes;

/// `text` as a string token, with quotes. Only what must be escaped is.
pub fn encode(text: &str) -> Bytes {
    let mut token = Vec::with_capacity(text.len() + 2);
    token.push(b'"');
    for byte in text.bytes() {
        match byte {
            b'"' => token.extend_from_slice(b"\\\""),
            b'\\' => token.extend_from_slice(b"\\\\"),
            b'\n' => token.extend_from_slice(b"\\n"),
            b'\r' => token.extend_from_slice(b"\\r"),
            b'\t' => token.extend_from_slice(b"\\t"),
            0..0x20 => token.extend_from_slice(format!("\\u{byte:04x}").as_bytes()),
            _ => token.push(byte),
        }
    }
    token.push(b'"');
    token.into()
}

/// What stands between the quotes of a checked string token, in UTF-8 without escapes.
pub fn decode(inner: &[u8]) -> Vec<u8> {
    let mut text = Vec::with_capacity(inner.len());
    let mut rest = inner;
    while let Some(at) = memchr::memchr(b'\\', rest) {
        text.extend_from_slice(&rest[..at]);
        rest = decode_escape(&rest[at + 1..], &mut text);
    }
    text.extend_from_slice(rest);
    text
}

/// The 16-bit unit of four hexadecimal digits, `None` if `digits` does not begin with four.
pub fn unit(digits: &[u8]) -> Option<u16> {
    digits.first_chunk::<4>()?.iter().try_fold(0_u16, |unit, digit| {
        let value = char::from(*digit).to_digit(16)?;
        Some(unit << 4 | value as u16)
    })
}

/// The character of one `\u` escape or of a pair of them, and how many bytes after the first `\u` it takes.
/// `None` for a surrogate without its other half, and for digits that are none.
pub fn unicode(after_u: &[u8]) -> Option<(char, usize)> {
    let first = unit(after_u)?;
    if let Some(single) = char::from_u32(first.into()) {
        return Some((single, 4));
    }
    let second = unit(after_u[4..].strip_prefix(b"\\u")?)?;
    let pair = char::decode_utf16([first, second]).next()?.ok()?;
    Some((pair, 10))
}

/// Decodes the escape that begins after its backslash; returns what follows it.
fn decode_escape<'s>(escape: &'s [u8], text: &mut Vec<u8>) -> &'s [u8] {
    let Some((kind, rest)) = escape.split_first() else { return escape };
    let plain = match kind {
        b'b' => 0x08,
        b'f' => 0x0c,
        b'n' => b'\n',
        b'r' => b'\r',
        b't' => b'\t',
        b'u' => {
            let Some((character, length)) = unicode(rest) else { return rest };
            text.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
            return &rest[length..];
        }
        other => *other,
    };
    text.push(plain);
    rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_encoded_decodes_to_itself() {
        for text in ["", "plain", "a\"b\\c/d", "\u{0}\u{1f}\n\r\t\u{8}", "é€😀"] {
            let token = encode(text);
            assert_eq!(decode(&token[1..token.len() - 1]), text.as_bytes(), "{text:?}");
            assert_eq!(serde_json::from_slice::<String>(&token).expect("valid"), text);
        }
    }

    #[test]
    fn every_escape_is_read() {
        assert_eq!(decode(br#"\"\\\/\b\f\n\r\t\u00e9\uD83d\uDE00."#), "\"\\/\u{8}\u{c}\n\r\té😀.".as_bytes());
    }
}
