//! Headers that are removed, set and added, in this order.

use http::{HeaderMap, HeaderName, HeaderValue};

use super::template::{Lookup, Template};

/// The changes of one direction.
#[derive(Default)]
pub struct HeaderChanges {
    /// Taken away.
    pub remove: Vec<HeaderName>,
    /// Put in the place of what is there.
    pub set: Vec<(HeaderName, Value)>,
    /// Added beside what is there.
    pub add: Vec<(HeaderName, Value)>,
}

/// A header's value.
pub enum Value {
    /// Always the same.
    Fixed(HeaderValue),
    /// Made for each request; left out where the result is no header value.
    Made(Template),
}

impl HeaderChanges {
    /// Whether nothing is changed.
    pub fn is_empty(&self) -> bool {
        self.remove.is_empty() && self.set.is_empty() && self.add.is_empty()
    }

    /// Makes the changes.
    pub fn apply(&self, headers: &mut HeaderMap, values: &impl Lookup) {
        for name in &self.remove {
            headers.remove(name);
        }
        for (name, value) in &self.set {
            match value.of(values) {
                Some(value) => drop(headers.insert(name, value)),
                None => drop(headers.remove(name)),
            }
        }
        for (name, value) in &self.add {
            if let Some(value) = value.of(values) {
                headers.append(name, value);
            }
        }
    }
}

impl Value {
    fn of(&self, values: &impl Lookup) -> Option<HeaderValue> {
        match self {
            Self::Fixed(value) => Some(value.clone()),
            Self::Made(template) => HeaderValue::try_from(template.render(values)).ok(),
        }
    }
}
