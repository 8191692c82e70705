//! Text with parameters: `/v1/accounts/{id}`; `{{` and `}}` stand for braces. Pure.

use std::fmt::Write as _;

use crate::{limit::Admitted, snapshot::Route};

/// A compiled text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template(Vec<Part>);

/// A part of a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// As it stands.
    Text(String),
    /// What a parameter of this name is replaced by.
    Parameter(String),
}

/// Why a text is no template.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// A brace has no counterpart.
    #[error("a brace stands alone; write {{{{ or }}}} for a brace itself")]
    Brace,
    /// `{}`.
    #[error("a parameter has no name")]
    NoName,
}

/// Where values come from.
pub trait Lookup {
    /// The value of a parameter, if there is one.
    fn value(&self, name: &str) -> Option<&str>;
}

/// A request's values: the path's parameters as they came, and `consumer`.
pub struct Values<'a> {
    /// The request.
    pub admitted: &'a Admitted,
    /// Its route.
    pub route: &'a Route,
}

/// No values.
pub struct Nothing;

impl Template {
    /// Compiles a text.
    ///
    /// # Errors
    /// [`TemplateError`].
    pub fn parse(text: &str) -> Result<Self, TemplateError> {
        let (mut parts, mut plain, mut rest) = (Vec::new(), String::new(), text);
        while let Some(brace) = rest.find(['{', '}']) {
            plain.push_str(&rest[..brace]);
            rest = &rest[brace..];
            if let Some(after) = rest.strip_prefix("{{").or_else(|| rest.strip_prefix("}}")) {
                plain.push_str(&rest[..1]);
                rest = after;
                continue;
            }
            let inner = rest.strip_prefix('{').ok_or(TemplateError::Brace)?;
            let end = inner.find(['{', '}']).filter(|end| inner[*end..].starts_with('}'));
            let name = &inner[..end.ok_or(TemplateError::Brace)?];
            if name.is_empty() {
                return Err(TemplateError::NoName);
            }
            if !plain.is_empty() {
                parts.push(Part::Text(std::mem::take(&mut plain)));
            }
            parts.push(Part::Parameter(name.to_owned()));
            rest = &inner[name.len() + 1..];
        }
        plain.push_str(rest);
        if !plain.is_empty() {
            parts.push(Part::Text(plain));
        }
        Ok(Self(parts))
    }

    /// Its parts in order.
    pub fn parts(&self) -> &[Part] {
        &self.0
    }

    /// The names of its parameters.
    pub fn parameters(&self) -> impl Iterator<Item = &str> {
        self.0.iter().filter_map(|part| match part {
            Part::Parameter(name) => Some(name.as_str()),
            Part::Text(_) => None,
        })
    }

    /// The text with values in place of parameters; one without a value is empty.
    pub fn render(&self, values: &impl Lookup) -> String {
        let mut out = String::new();
        for part in &self.0 {
            let _ = match part {
                Part::Text(text) => out.write_str(text),
                Part::Parameter(name) => out.write_str(values.value(name).unwrap_or_default()),
            };
        }
        out
    }

    /// The text, if it has no parameters.
    pub fn plain(&self) -> Option<&str> {
        match self.0.as_slice() {
            [] => Some(""),
            [Part::Text(text)] => Some(text),
            _ => None,
        }
    }
}

impl Lookup for Values<'_> {
    fn value(&self, name: &str) -> Option<&str> {
        let routed = &self.admitted.routed;
        match routed.parameters.get(self.route, routed.request.head.uri.path(), name) {
            None if name == "consumer" => self.admitted.identity.consumer.as_deref(),
            value => value,
        }
    }
}

impl Lookup for Nothing {
    fn value(&self, _name: &str) -> Option<&str> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Letters;

    impl Lookup for Letters {
        fn value(&self, name: &str) -> Option<&str> {
            match name {
                "a" => Some("1"),
                "b" => Some("{a}"),
                _ => None,
            }
        }
    }

    #[test]
    fn parameters_are_replaced_once() {
        for (text, expected) in [
            ("", Ok("")),
            ("/x", Ok("/x")),
            ("/{a}/{b}/{c}.", Ok("/1/{a}/.")),
            ("{{a}}{a}", Ok("{a}1")),
            ("{a", Err(TemplateError::Brace)),
            ("a}", Err(TemplateError::Brace)),
            ("{a{b}}", Err(TemplateError::Brace)),
            ("{}", Err(TemplateError::NoName)),
        ] {
            let rendered = Template::parse(text).map(|template| template.render(&Letters));
            assert_eq!(rendered.as_deref(), expected.as_ref().map(|text| *text), "{text}");
        }
    }
}
