//! The one place where the standard library's addresses become those of the maps, and back. Pure.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use lb_common::{Address, Port, Protocol, ServiceKey};

use super::Service;

/// The form that stands in the maps; IPv4 is mapped into IPv6.
pub fn to_map(address: IpAddr) -> Address {
    match address.to_canonical() {
        IpAddr::V4(v4) => Address::from_ipv4(v4.octets()),
        IpAddr::V6(v6) => {
            let bytes = v6.octets();
            let (words, _) = bytes.as_chunks::<4>();
            Address::from_words(std::array::from_fn(|at| u32::from_ne_bytes(words[at])))
        }
    }
}

/// From the form that stands in the maps.
pub fn from_map(address: Address) -> IpAddr {
    if address.is_ipv4() {
        return Ipv4Addr::from(address.ipv4_word().to_ne_bytes()).into();
    }
    let mut octets = [0; 16];
    for (chunk, word) in octets.chunks_exact_mut(4).zip(address.words()) {
        chunk.copy_from_slice(&word.to_ne_bytes());
    }
    Ipv6Addr::from(octets).into()
}

/// The key of `SERVICES` and `REPLIES` of exactly one address and port.
pub fn key(at: SocketAddr, protocol: Protocol) -> ServiceKey {
    ServiceKey { address: to_map(at.ip()), port: Port::new(at.port()), protocol: protocol as u8, width: 0 }
}

/// The key of a service, of one address and port or of several.
pub fn service_key(service: &Service) -> ServiceKey {
    let exact = key(SocketAddr::new(service.address.address, service.ports.first), service.protocol);
    ServiceKey { width: if service.is_wide() { service.address.mapped_bits() + 1 } else { 0 }, ..exact }
}

/// A backend as clients write it: without a port where it has none.
pub fn place(at: &SocketAddr) -> String {
    if at.port() == 0 { at.ip().to_string() } else { at.to_string() }
}

/// The reverse of [`place`].
pub fn parse_place(text: &str) -> Option<SocketAddr> {
    let portless = || Some(SocketAddr::new(text.parse().ok()?, 0));
    text.parse().ok().or_else(portless)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_come_back_in_network_order() {
        for text in ["10.1.2.3", "0.0.0.0", "2001:db8::1:2"] {
            let address: IpAddr = text.parse().unwrap();
            assert_eq!(from_map(to_map(address)), address);
        }
        assert_eq!(to_map("::ffff:10.0.0.1".parse().unwrap()), Address::from_ipv4([10, 0, 0, 1]));
        assert_eq!(key("10.0.0.1:80".parse().unwrap(), Protocol::Tcp).port.number(), 80);
    }

    #[test]
    fn places_come_back() {
        for text in ["10.0.0.1:80", "10.0.0.1", "[2001:db8::1]:80", "2001:db8::1"] {
            assert_eq!(place(&parse_place(text).unwrap()), text);
        }
        assert_eq!(parse_place("nonsense"), None);
    }
}
