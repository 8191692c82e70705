//! A route's requests, divided among services by weight: each request by chance, or all of a client's alike.

use std::{
    hash::{DefaultHasher, Hash as _, Hasher as _},
    sync::Arc,
};

use http::{HeaderName, request::Parts};

use crate::{route::when::cookies, upstream::Upstream};

/// Services with weights.
pub struct Split {
    /// Each with the sum of the weights up to its own; the last has the sum of all.
    shares: Vec<(u32, Arc<Upstream>)>,
    sticky: Option<Sticky>,
}

/// What requests that meet the same service have in common.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sticky {
    /// A header's value.
    Header(HeaderName),
    /// A cookie's.
    Cookie(String),
}

impl Split {
    /// Of services and weights, whose sum is above 0 and no more than `u32` holds.
    pub fn new(weights: impl IntoIterator<Item = (u32, Arc<Upstream>)>, sticky: Option<Sticky>) -> Self {
        let mut sum = 0;
        let shares = weights.into_iter().map(|(weight, upstream)| {
            sum += weight;
            (sum, upstream)
        });
        Self { shares: shares.collect(), sticky }
    }

    /// The service of a request.
    pub fn choose(&self, head: &Parts) -> Option<&Arc<Upstream>> {
        let (sum, _) = self.shares.last()?;
        let value = self.sticky.as_ref().and_then(|sticky| sticky.value(head));
        let number = value.map_or_else(|| fastrand::u32(..), hash);
        // 0 to sum - 1, each as often.
        let place = (u64::from(number) * u64::from(*sum)) >> 32;
        let index = self.shares.partition_point(|(upto, _)| u64::from(*upto) <= place);
        self.shares.get(index).map(|(_, upstream)| upstream)
    }
}

impl Sticky {
    fn value<'r>(&self, head: &'r Parts) -> Option<&'r [u8]> {
        match self {
            Self::Header(name) => head.headers.get(name).map(|value| value.as_bytes()),
            Self::Cookie(name) => {
                cookies(head).find(|(key, _)| *key == name.as_bytes()).map(|(_, value)| value)
            }
        }
    }
}

/// The same in each process of one version, so that gateways beside each other agree.
fn hash(value: &[u8]) -> u32 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    (hasher.finish() >> 32) as u32
}
