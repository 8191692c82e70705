//! Targets and headers of steps that are made of values: of the route's parameters, the consumer, and what earlier
//! steps answered. Pure.
//!
//! Invariant: a value stays where it was put. In a path it is one segment's text or part of it, whatever characters it
//! has; in a query it is one parameter's text; a value that cannot be held so (`..`, a slash, a line break in a header)
//! fails its step.

use http::{HeaderValue, Uri, uri::PathAndQuery};

use crate::{error::StepError, path};

/// Text that is made for each request, or was made when the configuration was compiled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Text<T> {
    /// Always the same.
    Fixed(T),
    /// Made of these.
    Made(Vec<Part>),
}

/// A part of a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// As configured.
    Fixed(Box<str>),
    /// A value.
    Value(Source, Place),
}

/// Where a value comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The path's parameter at this position. It comes percent-encoded.
    Parameter(usize),
    /// The caller's name.
    Consumer,
    /// A value of a step's answer.
    Answer {
        /// The step's position.
        step: usize,
        /// The position among the values that others read of it.
        value: usize,
    },
}

/// Where a value goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Before the question mark.
    Path,
    /// After it.
    Query,
    /// A header.
    Header,
}

/// Who knows the values.
pub trait Values {
    /// A value, or why there is none.
    ///
    /// # Errors
    /// [`StepError::MissingValue`], [`StepError::Dependency`].
    fn value(&self, source: Source) -> Result<&str, StepError>;
}

impl Part {
    /// The text of a part that is no value.
    pub fn fixed(&self) -> Option<&str> {
        match self {
            Self::Fixed(text) => Some(text),
            Self::Value(..) => None,
        }
    }
}

impl Text<Uri> {
    /// The target for these values.
    ///
    /// # Errors
    /// [`StepError::MissingValue`] where a value is missing or cannot stand in a target, [`StepError::Dependency`].
    pub fn target(&self, values: &impl Values) -> Result<Uri, StepError> {
        match self {
            Self::Fixed(target) => Ok(target.clone()),
            Self::Made(parts) => parse_target(make(parts, values)?).ok_or(StepError::MissingValue),
        }
    }
}

impl Text<HeaderValue> {
    /// The header's value for these values.
    ///
    /// # Errors
    /// As for a target.
    pub fn header(&self, values: &impl Values) -> Result<HeaderValue, StepError> {
        match self {
            Self::Fixed(value) => Ok(value.clone()),
            Self::Made(parts) => {
                let value = make(parts, values)?;
                HeaderValue::from_bytes(value.as_bytes()).map_err(|_| StepError::MissingValue)
            }
        }
    }
}

/// A target that the service reads as we do; `None` for one that could mean two things.
pub fn parse_target(target: String) -> Option<Uri> {
    let end = target.find('?').unwrap_or(target.len());
    if !target.starts_with('/') || target.contains('#') || path::canonical(&target[..end]).is_err() {
        return None;
    }
    PathAndQuery::try_from(target).ok().map(Uri::from)
}

fn make(parts: &[Part], values: &impl Values) -> Result<String, StepError> {
    let mut text = String::with_capacity(64);
    for part in parts {
        match part {
            Part::Fixed(fixed) => text.push_str(fixed),
            Part::Value(source, place) => put(values.value(*source)?, *source, *place, &mut text)?,
        }
    }
    Ok(text)
}

fn put(value: &str, source: Source, place: Place, text: &mut String) -> Result<(), StepError> {
    match (place, source) {
        // It would make `/rates/` of `/rates/{currency}`: mostly another resource, the list of all.
        (Place::Path, _) if value.is_empty() => return Err(StepError::MissingValue),
        (Place::Path, Source::Parameter(_)) | (Place::Header, _) => text.push_str(value),
        // In a path `&` and `=` stand for themselves.
        (Place::Query, Source::Parameter(_)) => encode(&decode(value), text),
        (Place::Path | Place::Query, _) => encode(value.as_bytes(), text),
    }
    Ok(())
}

/// Percent-encodes all but unreserved characters (RFC 3986, section 2.3).
fn encode(value: &[u8], text: &mut String) {
    const DIGITS: [char; 16] =
        ['0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'A', 'B', 'C', 'D', 'E', 'F'];
    for byte in value {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(byte) {
            text.push(char::from(*byte));
        } else {
            text.extend(['%', DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]);
        }
    }
}

/// Undoes percent-encoding; what is none stays.
fn decode(value: &str) -> Vec<u8> {
    let mut decoded = Vec::with_capacity(value.len());
    let mut rest = value.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let digits = after.first_chunk::<2>().filter(|_| *first == b'%');
        let byte = digits.and_then(|digits| {
            let digit = |digit: u8| char::from(digit).to_digit(16);
            u8::try_from(digit(digits[0])? << 4 | digit(digits[1])?).ok()
        });
        decoded.push(byte.unwrap_or(*first));
        rest = if byte.is_some() { &after[2..] } else { after };
    }
    decoded
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every value is the same text.
    struct Same(&'static str);

    impl Values for Same {
        fn value(&self, _source: Source) -> Result<&str, StepError> {
            Ok(self.0)
        }
    }

    fn target(source: Source, place: Place, value: &'static str) -> Result<String, StepError> {
        let prefix = if place == Place::Path { "/rates/" } else { "/rates?of=" };
        let parts = vec![Part::Fixed(prefix.into()), Part::Value(source, place)];
        Text::<Uri>::Made(parts).target(&Same(value)).map(|target| target.to_string())
    }

    #[test]
    fn values_stay_in_their_place() {
        const ANSWER: Source = Source::Answer { step: 0, value: 0 };
        const PARAMETER: Source = Source::Parameter(0);
        let missing = Err(StepError::MissingValue);
        for (source, place, value, expected) in [
            (ANSWER, Place::Path, "EUR", Ok("/rates/EUR")),
            (ANSWER, Place::Path, "a b?c#d%é&+;=", Ok("/rates/a%20b%3Fc%23d%25%C3%A9%26%2B%3B%3D")),
            (ANSWER, Place::Path, "", missing),
            (ANSWER, Place::Path, ".", missing),
            (ANSWER, Place::Path, "..", missing),
            (ANSWER, Place::Path, "a/b", missing),
            (ANSWER, Place::Path, "../admin", missing),
            (ANSWER, Place::Path, "..\\admin", missing),
            (ANSWER, Place::Path, "a\0", missing),
            (ANSWER, Place::Path, "%2e%2e", Ok("/rates/%252e%252e")),
            (ANSWER, Place::Query, "EUR&admin=1", Ok("/rates?of=EUR%26admin%3D1")),
            (ANSWER, Place::Query, "", Ok("/rates?of=")),
            (ANSWER, Place::Query, "a/../b", Ok("/rates?of=a%2F..%2Fb")),
            (PARAMETER, Place::Path, "a%20b", Ok("/rates/a%20b")),
            (PARAMETER, Place::Path, "a&b=1", Ok("/rates/a&b=1")),
            (PARAMETER, Place::Query, "a%20b", Ok("/rates?of=a%20b")),
            (PARAMETER, Place::Query, "a&b=1", Ok("/rates?of=a%26b%3D1")),
            (PARAMETER, Place::Query, "50%", Ok("/rates?of=50%25")),
            (Source::Consumer, Place::Path, "ada@bank", Ok("/rates/ada%40bank")),
        ] {
            let made = target(source, place, value);
            assert_eq!(made.as_deref(), expected.as_ref().map(|text| *text), "{value} in {place:?}");
        }
    }

    #[test]
    fn a_header_holds_no_second_header() {
        let text = Text::<HeaderValue>::Made(vec![Part::Value(Source::Consumer, Place::Header)]);
        assert_eq!(text.header(&Same("ada")), Ok(HeaderValue::from_static("ada")));
        assert_eq!(text.header(&Same("ada\r\nx-admin: 1")), Err(StepError::MissingValue));
    }
}
