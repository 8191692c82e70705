//! By what requests belong together, and how an instance is chosen for them: rendezvous hashing, so that an instance that
//! comes or goes moves only its own share of the keys.
//!
//! The hash is the same in every gateway and every version: gateways side by side send a key to the same instance.

use http::{HeaderName, header::COOKIE};

use super::{Caller, Head};

/// What is hashed of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Key {
    /// A header's value.
    Header(HeaderName),
    /// A cookie's value.
    Cookie(String),
    /// The client's address.
    Address,
    /// The path that is sent, without the query.
    Path,
}

impl Key {
    /// The key of a request; none, if it lacks what is hashed.
    pub fn of(&self, caller: &Caller<'_>, head: &Head) -> Option<u64> {
        match self {
            Self::Header(name) => head.headers.get(name).map(|value| hash(value.as_bytes())),
            Self::Cookie(name) => head.headers.get_all(COOKIE).iter().find_map(|cookies| {
                cookies.as_bytes().split(|byte| *byte == b';').find_map(|cookie| {
                    let value = cookie.trim_ascii().strip_prefix(name.as_bytes())?.strip_prefix(b"=")?;
                    Some(hash(value))
                })
            }),
            Self::Address => match caller.client {
                std::net::IpAddr::V4(address) => Some(hash(&address.octets())),
                std::net::IpAddr::V6(address) => Some(hash(&address.octets())),
            },
            Self::Path => Some(hash(head.target.path().as_bytes())),
        }
    }
}

/// FNV-1a, 64 bits, and a finaliser, for FNV alone leaves keys that differ in their last byte alike in their high bits.
pub fn hash(bytes: &[u8]) -> u64 {
    let fnv = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    mix(bytes.iter().fold(0xcbf2_9ce4_8422_2325, fnv))
}

/// How well a key and an instance fit; the best fit has the request.
pub fn score(key: u64, endpoint: u64) -> u64 {
    mix(key ^ endpoint)
}

/// A score among instances of different weights: each has the best one for its weight's part of the keys. Weighted
/// rendezvous hashing, as Schindelhauer and Schomaker's logarithmic method, 2005.
pub fn weighted(score: u64, weight: u32) -> f64 {
    // From 0 to 1, neither included, with the 53 bits that a double has.
    let unit = ((score >> 11) as f64 + 0.5) / (1_u64 << 53) as f64;
    -f64::from(weight) / unit.ln()
}

/// The finaliser of MurmurHash3: each bit of its input turns half of its output's.
fn mix(mut value: u64) -> u64 {
    value = (value ^ (value >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    value = (value ^ (value >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    value ^ (value >> 33)
}
