//! Where clients reach a service: a virtual address or a network of them, and a port or a range of ports. Pure.

use std::{fmt, net::IpAddr, net::Ipv4Addr, net::Ipv6Addr, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

/// A network in the form `203.0.113.0/24`, or one address. What is written may have host bits; rules refuse them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Network {
    /// The address as it was written.
    pub address: IpAddr,
    /// Bits of the prefix: up to 32 or 128.
    pub bits: u8,
}

impl Network {
    /// Exactly one address.
    pub const fn host(address: IpAddr) -> Self {
        Self { address, bits: Self::bits_max(address) }
    }

    /// Bits of an address of this family.
    pub const fn bits_max(address: IpAddr) -> u8 {
        match address {
            IpAddr::V4(_) => 32,
            IpAddr::V6(_) => 128,
        }
    }

    /// Whether it is exactly one address.
    pub const fn is_host(&self) -> bool {
        self.bits == Self::bits_max(self.address)
    }

    /// The same network with its host bits at zero.
    pub fn trimmed(&self) -> Self {
        let address = match self.address {
            IpAddr::V4(v4) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(self.bits)).unwrap_or(0);
                Ipv4Addr::from_bits(v4.to_bits() & mask).into()
            }
            IpAddr::V6(v6) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(self.bits)).unwrap_or(0);
                Ipv6Addr::from_bits(v6.to_bits() & mask).into()
            }
        };
        Self { address, bits: self.bits }
    }

    /// Whether an address is within.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.address.is_ipv4() == address.is_ipv4()
            && Self { address, bits: self.bits }.trimmed() == self.trimmed()
    }

    /// Bits of the prefix of the 128 that addresses have in the maps, where IPv4 is mapped into IPv6.
    pub const fn mapped_bits(&self) -> u8 {
        128 - (Self::bits_max(self.address) - self.bits)
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_host() { self.address.fmt(f) } else { write!(f, "{}/{}", self.address, self.bits) }
    }
}

/// What is no network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be an IP address, like 192.0.2.10, or a network, like 203.0.113.0/24")]
pub struct NoNetwork;

impl FromStr for Network {
    type Err = NoNetwork;

    fn from_str(text: &str) -> Result<Self, NoNetwork> {
        let (address, bits) = match text.split_once('/') {
            None => return text.parse().map(Self::host).map_err(|_| NoNetwork),
            Some((address, bits)) => (address.parse().map_err(|_| NoNetwork)?, bits),
        };
        let is_number = !bits.is_empty() && bits.bytes().all(|byte| byte.is_ascii_digit());
        let bits = bits.parse().ok().filter(|bits| is_number && *bits <= Self::bits_max(address));
        Ok(Self { address, bits: bits.ok_or(NoNetwork)? })
    }
}

/// Ports from `first` to `last`, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ports {
    /// The lowest.
    pub first: u16,
    /// The highest.
    pub last: u16,
}

impl Ports {
    /// All of them but 0, which nobody listens on.
    pub const ANY: Self = Self { first: 1, last: u16::MAX };

    /// Exactly one.
    pub const fn one(port: u16) -> Self {
        Self { first: port, last: port }
    }

    /// The only one, where there is only one.
    pub const fn single(&self) -> Option<u16> {
        if self.first == self.last { Some(self.first) } else { None }
    }

    /// Whether the two have a port in common.
    pub const fn overlap(&self, other: &Self) -> bool {
        self.first <= other.last && other.first <= self.last
    }
}

impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::ANY => f.write_str("any"),
            Self { first, last } if first == last => write!(f, "{first}"),
            Self { first, last } => write!(f, "{first}-{last}"),
        }
    }
}

/// What is no range of ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be the lowest and the highest port, like \"8000-8999\", or \"any\"")]
pub struct NoPorts;

impl FromStr for Ports {
    type Err = NoPorts;

    fn from_str(text: &str) -> Result<Self, NoPorts> {
        if text == "any" {
            return Ok(Self::ANY);
        }
        let number = |text: &str| {
            let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
            text.parse().ok().filter(|_| digits).ok_or(NoPorts)
        };
        let (first, last) = text.split_once('-').ok_or(NoPorts)?;
        let ports = Self { first: number(first)?, last: number(last)? };
        if 0 < ports.first && ports.first < ports.last { Ok(ports) } else { Err(NoPorts) }
    }
}

macro_rules! as_text {
    ($($name:ident)*) => {$(
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
            }
        }
    )*};
}
as_text!(Network Ports);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_are_read_and_written() {
        for (text, written, trimmed) in [
            ("10.0.0.1", "10.0.0.1", "10.0.0.1"),
            ("10.0.0.1/32", "10.0.0.1", "10.0.0.1"),
            ("203.0.113.9/24", "203.0.113.9/24", "203.0.113.0/24"),
            ("255.1.2.3/0", "255.1.2.3/0", "0.0.0.0/0"),
            ("2001:db8::1", "2001:db8::1", "2001:db8::1"),
            ("2001:db8:1:2:3::/64", "2001:db8:1:2:3::/64", "2001:db8:1:2::/64"),
            ("::1/0", "::1/0", "::/0"),
        ] {
            let network: Network = text.parse().unwrap();
            assert_eq!(
                (network.to_string(), network.trimmed().to_string()),
                (written.into(), trimmed.into())
            );
        }
        for text in ["", "10.0.0", "10.0.0.1/", "10.0.0.1/33", "10.0.0.1/+8", "::1/129", "a/8", "1.2.3.4/8/8"]
        {
            assert_eq!(text.parse::<Network>(), Err(NoNetwork), "{text}");
        }
    }

    #[test]
    fn a_network_contains_its_own_family_only() {
        let network: Network = "203.0.113.0/24".parse().unwrap();
        for (address, within) in [
            ("203.0.113.0", true),
            ("203.0.113.255", true),
            ("203.0.114.0", false),
            ("::ffff:203.0.113.1", false),
        ] {
            assert_eq!(network.contains(address.parse().unwrap()), within, "{address}");
        }
        for (text, bits) in [("203.0.113.0/24", 120), ("10.0.0.1", 128), ("::1", 128), ("fd00::/16", 16)] {
            assert_eq!(text.parse::<Network>().unwrap().mapped_bits(), bits, "{text}");
        }
    }

    #[test]
    fn ports_are_read_and_written() {
        for (text, expected) in [
            ("any", Ok(Ports::ANY)),
            ("1-65535", Ok(Ports::ANY)),
            ("8000-8999", Ok(Ports { first: 8000, last: 8999 })),
            ("80", Err(NoPorts)),
            ("80-80", Err(NoPorts)),
            ("0-80", Err(NoPorts)),
            ("90-80", Err(NoPorts)),
            ("1-65536", Err(NoPorts)),
            ("1-+9", Err(NoPorts)),
            ("1-2-3", Err(NoPorts)),
            ("", Err(NoPorts)),
        ] {
            assert_eq!(text.parse::<Ports>(), expected, "{text}");
        }
        for (ports, text) in [(Ports::ANY, "any"), (Ports::one(80), "80")] {
            assert_eq!(ports.to_string(), text);
        }
        let range = Ports { first: 8000, last: 8999 };
        for (other, overlap) in [(Ports::one(7999), false), (Ports::one(8999), true), (Ports::ANY, true)] {
            assert_eq!((range.overlap(&other), other.overlap(&range)), (overlap, overlap), "{other}");
        }
    }
}
