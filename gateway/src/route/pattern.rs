//! A path as a route writes it: segments between slashes, each a text, a parameter amid text, or the rest. Pure.

use crate::path;

/// Segments beyond which a mistake is more likely than a path.
const SEGMENTS_MAX: usize = 64;

/// A path with parameters, such as `/accounts/{id}` or `/files/{*rest}`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    /// Those between its slashes, in order.
    pub segments: Vec<Segment>,
    /// Names of its parameters, in order.
    pub parameters: Vec<String>,
}

/// What stands between two slashes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Segment {
    /// This text.
    Text(String),
    /// Any text that is not empty, with these around it.
    Parameter {
        /// Before it.
        prefix: String,
        /// After it.
        suffix: String,
    },
    /// All that is left, slashes included, but not nothing.
    Rest,
}

/// Why a text is no path of a route.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// It does not begin with a slash.
    #[error("begin with a slash")]
    NoSlash,
    /// A brace has no counterpart.
    #[error("a brace stands alone; write {{{{ or }}}} for a brace itself")]
    Brace,
    /// `{}` or `{*}`.
    #[error("a parameter has no name")]
    NoName,
    /// Two parameters of a name.
    #[error("{{{0}}} stands here twice")]
    Twice(String),
    /// Two parameters between two slashes.
    #[error("one parameter between two slashes: where two meet cannot be known")]
    Neighbours,
    /// `{*rest}` that something follows or precedes.
    #[error("{{*rest}} stands alone after the last slash")]
    RestNotLast,
    /// No request's path looks so once it is in its one form.
    #[error("no request has this path: {0}")]
    NeverAsked(String),
    /// Too many segments.
    #[error("at most {SEGMENTS_MAX} segments")]
    TooLong,
}

impl Pattern {
    /// Reads a path.
    ///
    /// # Errors
    /// [`PatternError`].
    pub fn parse(text: &str) -> Result<Self, PatternError> {
        let inner = text.strip_prefix('/').ok_or(PatternError::NoSlash)?;
        let (mut segments, mut parameters) = (Vec::new(), Vec::new());
        for written in inner.split('/') {
            if segments.len() == SEGMENTS_MAX {
                return Err(PatternError::TooLong);
            }
            if segments.last() == Some(&Segment::Rest) {
                return Err(PatternError::RestNotLast);
            }
            segments.push(segment(written, &mut parameters)?);
        }
        let pattern = Self { segments, parameters };
        let example = pattern.example();
        match path::canonical(&example) {
            Err(error) => Err(PatternError::NeverAsked(error.to_string())),
            Ok(one) if one != example => Err(PatternError::NeverAsked(format!("it is asked for as {one}"))),
            Ok(_) => Ok(pattern),
        }
    }

    /// A path that it takes.
    fn example(&self) -> String {
        let segment = |segment: &Segment| match segment {
            Segment::Text(text) => format!("/{text}"),
            Segment::Parameter { prefix, suffix } => format!("/{prefix}x{suffix}"),
            Segment::Rest => "/x".to_owned(),
        };
        self.segments.iter().map(segment).collect()
    }
}

fn segment(written: &str, parameters: &mut Vec<String>) -> Result<Segment, PatternError> {
    let (prefix, Some(inner)) = text(written)? else { return Ok(Segment::Text(text(written)?.0)) };
    let end = inner.find(['{', '}']).filter(|end| inner[*end..].starts_with('}'));
    let name = &inner[..end.ok_or(PatternError::Brace)?];
    let (suffix, further) = text(&inner[name.len() + 1..])?;
    if further.is_some() {
        return Err(PatternError::Neighbours);
    }
    let (rest, name) = (name.starts_with('*'), name.trim_start_matches('*'));
    if name.is_empty() {
        return Err(PatternError::NoName);
    }
    if parameters.iter().any(|known| known == name) {
        return Err(PatternError::Twice(name.to_owned()));
    }
    parameters.push(name.to_owned());
    match rest {
        true if prefix.is_empty() && suffix.is_empty() => Ok(Segment::Rest),
        true => Err(PatternError::RestNotLast),
        false => Ok(Segment::Parameter { prefix, suffix }),
    }
}

/// The text up to a parameter, with doubled braces read as one, and what follows the parameter's brace.
fn text(written: &str) -> Result<(String, Option<&str>), PatternError> {
    let (mut plain, mut rest) = (String::new(), written);
    while let Some(brace) = rest.find(['{', '}']) {
        plain.push_str(&rest[..brace]);
        rest = &rest[brace..];
        match rest.strip_prefix("{{").or_else(|| rest.strip_prefix("}}")) {
            Some(after) => {
                plain.push_str(&rest[..1]);
                rest = after;
            }
            None => return Ok((plain, Some(rest.strip_prefix('{').ok_or(PatternError::Brace)?))),
        }
    }
    plain.push_str(rest);
    Ok((plain, None))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_read_or_refused() {
        let parameter =
            |prefix: &str, suffix: &str| Segment::Parameter { prefix: prefix.into(), suffix: suffix.into() };
        let plain = |text: &str| Segment::Text(text.into());
        for (path, segments, parameters) in [
            ("/", vec![plain("")], vec![]),
            ("/a/", vec![plain("a"), plain("")], vec![]),
            ("/a/{id}/b", vec![plain("a"), parameter("", ""), plain("b")], vec!["id"]),
            ("/v{v}/{name}.json", vec![parameter("v", ""), parameter("", ".json")], vec!["v", "name"]),
            ("/files/{*rest}", vec![plain("files"), Segment::Rest], vec!["rest"]),
        ] {
            let pattern = Pattern::parse(path).unwrap_or_else(|error| panic!("{path}: {error}"));
            assert_eq!(
                (pattern.segments, pattern.parameters.iter().map(|name| &**name).collect()),
                (segments, parameters)
            );
        }
        for (path, error) in [
            ("a", PatternError::NoSlash),
            ("/{a", PatternError::Brace),
            ("/a}", PatternError::Brace),
            ("/{a{b}}", PatternError::Brace),
            ("/{}", PatternError::NoName),
            ("/{*}", PatternError::NoName),
            ("/{a}/{a}", PatternError::Twice("a".into())),
            ("/{a}{b}", PatternError::Neighbours),
            ("/{*rest}/b", PatternError::RestNotLast),
            ("/a{*rest}", PatternError::RestNotLast),
            ("/a//b", PatternError::NeverAsked("the path has an empty segment".into())),
            ("/a/../b", PatternError::NeverAsked("the path has a dot segment".into())),
            ("/%61", PatternError::NeverAsked("it is asked for as /a".into())),
        ] {
            assert_eq!(Pattern::parse(path), Err(error), "{path}");
        }
    }
}
