//! Sets of methods, compared by a bit each. Pure.

use http::Method;

/// Methods that a route takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Methods {
    /// One for each of [`KNOWN`].
    bits: u16,
    /// Those without a bit; rarely any.
    others: Vec<Method>,
    any: bool,
}

/// Those that have a bit. CONNECT and TRACE are never served.
const KNOWN: [Method; 7] =
    [Method::GET, Method::HEAD, Method::POST, Method::PUT, Method::DELETE, Method::PATCH, Method::OPTIONS];

impl Methods {
    /// All of them.
    pub const ANY: Self = Self { bits: u16::MAX, others: Vec::new(), any: true };

    /// These.
    pub fn of(methods: &[Method]) -> Self {
        let bits = methods.iter().fold(0, |bits, method| bits | bit(method));
        let others = methods.iter().filter(|method| bit(method) == 0).cloned().collect();
        Self { bits, others, any: false }
    }

    /// Whether they are all that there are.
    pub fn is_any(&self) -> bool {
        self.any
    }

    /// Whether this is one of them.
    pub fn takes(&self, method: &Method) -> bool {
        let served = *method != Method::TRACE && *method != Method::CONNECT;
        (self.any && served) || self.bits & bit(method) != 0 || self.others.contains(method)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        !self.any && self.bits == 0 && self.others.is_empty()
    }

    /// Those of both.
    pub fn intersection(&self, other: &Self) -> Self {
        match (self.any, other.any) {
            (true, _) => other.clone(),
            (_, true) => self.clone(),
            (false, false) => Self {
                bits: self.bits & other.bits,
                others: self.others.iter().filter(|method| other.others.contains(method)).cloned().collect(),
                any: false,
            },
        }
    }

    /// Those that `other` does not have; all without some are still all.
    pub fn without(&self, other: &Self) -> Self {
        match (self.any, other.any) {
            (_, true) => Self::of(&[]),
            (true, false) => self.clone(),
            (false, false) => Self {
                bits: self.bits & !other.bits,
                others: self.others.iter().filter(|method| !other.others.contains(method)).cloned().collect(),
                any: false,
            },
        }
    }

    /// Their names, those with a bit first; for any, those that are well known.
    pub fn names(&self) -> Vec<&str> {
        let known = KNOWN.iter().filter(|method| self.bits & bit(method) != 0);
        known.chain(&self.others).map(Method::as_str).collect()
    }
}

fn bit(method: &Method) -> u16 {
    KNOWN.iter().position(|known| known == method).map_or(0, |index| 1 << index)
}
