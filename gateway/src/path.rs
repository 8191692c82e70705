//! One form of a path for routing, policy, log and forwarding, so that we and the service cannot read different
//! things in it (RFC 3986, section 6.2.2). Pure.
//!
//! Percent-encoded unreserved characters are decoded, other encodings are written in capitals. What services
//! read differently is refused: dot segments, empty segments, encoded slashes, backslashes, zero bytes.

use std::borrow::Cow;

use crate::error::PathError;

/// The path as it is used, borrowed where it is used as it came.
///
/// # Errors
/// [`PathError`] for a path that is refused.
pub fn canonical(path: &str) -> Result<Cow<'_, str>, PathError> {
    let canonical = match memchr::memchr(b'%', path.as_bytes()) {
        None => Cow::Borrowed(path),
        Some(_) => Cow::Owned(decode_unreserved(path)?),
    };
    check_segments(canonical.as_bytes())?;
    Ok(canonical)
}

fn check_segments(path: &[u8]) -> Result<(), PathError> {
    // A segment is suspicious only if it begins with a dot or a slash, and those follow a slash.
    let mut rest = path;
    while let Some(slash) = memchr::memchr2(b'/', b'\\', rest) {
        if rest[slash] == b'\\' {
            return Err(PathError::Separator);
        }
        rest = &rest[slash + 1..];
        match rest {
            [b'/', ..] => return Err(PathError::EmptySegment),
            [b'.'] | [b'.', b'/', ..] | [b'.', b'.'] | [b'.', b'.', b'/', ..] => {
                return Err(PathError::DotSegment);
            }
            _ => {}
        }
    }
    Ok(())
}

fn decode_unreserved(path: &str) -> Result<String, PathError> {
    let bytes = path.as_bytes();
    let mut out = String::with_capacity(path.len());
    let mut index = 0;
    while index < bytes.len() {
        if bytes[index] != b'%' {
            // Everything between percent signs is ASCII already checked by the request's parser.
            out.push(char::from(bytes[index]));
            index += 1;
            continue;
        }
        let digits = bytes.get(index + 1..index + 3).ok_or(PathError::Encoding)?;
        let value = hex(digits[0]).zip(hex(digits[1])).map(|(high, low)| high << 4 | low);
        match value.ok_or(PathError::Encoding)? {
            0 | b'/' | b'\\' => return Err(PathError::Separator),
            byte if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) => out.push(char::from(byte)),
            _ => {
                out.push('%');
                out.extend(digits.iter().map(|digit| char::from(digit.to_ascii_uppercase())));
            }
        }
        index += 3;
    }
    Ok(out)
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_have_one_form_or_are_refused() {
        for (path, expected) in [
            ("/", Ok("/")),
            ("/a/b.c/..d/e..", Ok("/a/b.c/..d/e..")),
            ("/a/", Ok("/a/")),
            ("/%61dmin", Ok("/admin")),
            ("/%7Euser/%c3%a9", Ok("/~user/%C3%A9")),
            ("/a%20b%3f", Ok("/a%20b%3F")),
            ("/%2561", Ok("/%2561")),
            ("/a/../b", Err(PathError::DotSegment)),
            ("/a/..", Err(PathError::DotSegment)),
            ("/./a", Err(PathError::DotSegment)),
            ("/a/%2e%2e/b", Err(PathError::DotSegment)),
            ("/a/.%2E", Err(PathError::DotSegment)),
            ("//a", Err(PathError::EmptySegment)),
            ("/a//b", Err(PathError::EmptySegment)),
            ("/a%2fb", Err(PathError::Separator)),
            ("/a%5Cb", Err(PathError::Separator)),
            ("/a\\b", Err(PathError::Separator)),
            ("/a%00", Err(PathError::Separator)),
            ("/a%", Err(PathError::Encoding)),
            ("/a%4", Err(PathError::Encoding)),
            ("/a%zz", Err(PathError::Encoding)),
        ] {
            assert_eq!(canonical(path).as_deref(), expected.as_ref().map(|path| *path), "{path}");
        }
    }
}
