//! Packets from clients to a virtual address, and what tunnels put around them.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use etherparse::{IpNumber, Ipv4Header, Ipv6Header, PacketBuilder, TcpHeader};

/// Where a balancer's tunnels begin, by family.
pub const BALANCER_4: &str = "10.20.0.1";
const BALANCER_6: &str = "fd20::1";
/// Where they end: the backend.
pub const BACKEND_4: &str = "10.20.0.11";
pub const BACKEND_6: &str = "fd20::11";
/// What the clients know.
pub const VIP_4: &str = "10.10.0.100";
pub const VIP_6: &str = "fd10::100";
/// Whom the backend answers.
pub const CLIENT_4: &str = "192.0.2.1";
pub const CLIENT_6: &str = "2001:db8::1";
/// Where the backend's sockets are.
pub const PORT: u16 = 8_053;
/// Where clients' datagrams come from.
const CLIENT_PORT: u16 = 40_000;
const GUE_PORT: u16 = 6_080;
/// Ethernet addresses of both ends of the cable.
pub const BALANCER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
pub const BACKEND_MAC: [u8; 6] = [2, 0, 0, 0, 0, 11];
const TTL: u8 = 64;

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Family {
    V4,
    V6,
}

impl Family {
    pub const BOTH: [Self; 2] = [Self::V4, Self::V6];

    pub fn other(self) -> Self {
        if self == Self::V4 { Self::V6 } else { Self::V4 }
    }

    /// Where datagrams come from.
    pub fn client(self) -> SocketAddr {
        SocketAddr::new(self.pick(CLIENT_4, CLIENT_6), CLIENT_PORT)
    }

    /// Where they go.
    pub fn vip(self) -> SocketAddr {
        SocketAddr::new(self.pick(VIP_4, VIP_6), PORT)
    }

    fn pick(self, four: &str, six: &str) -> IpAddr {
        (if self == Self::V4 { four } else { six }).parse().expect("an address")
    }

    fn protocol(self) -> IpNumber {
        if self == Self::V4 { IpNumber::IPV4 } else { IpNumber::IPV6 }
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Tunnel {
    Ipip,
    /// GUE variant 1: nothing between UDP and IP.
    GueDirect,
    /// GUE variant 0: four bytes between.
    GueHeader,
}

pub const TUNNELS: [Tunnel; 3] = [Tunnel::Ipip, Tunnel::GueDirect, Tunnel::GueHeader];

/// A datagram from the client; `class` is DSCP and ECN.
pub fn datagram(family: Family, class: u8, payload: &[u8]) -> Vec<u8> {
    let builder = match (family.client().ip(), family.vip().ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => PacketBuilder::ipv4(from.octets(), to.octets(), TTL),
        (IpAddr::V6(from), IpAddr::V6(to)) => PacketBuilder::ipv6(from.octets(), to.octets(), TTL),
        _ => unreachable!("both of one family"),
    };
    let mut bytes = Vec::new();
    builder.udp(CLIENT_PORT, PORT).write(&mut bytes, payload).expect("a vector takes every byte");
    with_class(bytes, class)
}

/// A segment from the client.
pub fn segment(family: Family, header: TcpHeader, payload: &[u8]) -> Vec<u8> {
    let builder = match (family.client().ip(), family.vip().ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => PacketBuilder::ipv4(from.octets(), to.octets(), TTL),
        (IpAddr::V6(from), IpAddr::V6(to)) => PacketBuilder::ipv6(from.octets(), to.octets(), TTL),
        _ => unreachable!("both of one family"),
    };
    let mut bytes = Vec::new();
    builder.tcp_header(header).write(&mut bytes, payload).expect("a vector takes every byte");
    bytes
}

/// The frame that a balancer sends: `inner` in a tunnel of `around`, whose outer header has this class.
pub fn in_tunnel(tunnel: Tunnel, around: Family, within: Family, class: u8, inner: &[u8]) -> Vec<u8> {
    let (protocol, payload) = match tunnel {
        Tunnel::Ipip => (within.protocol(), inner.to_vec()),
        Tunnel::GueDirect => (IpNumber::UDP, in_udp(inner)),
        Tunnel::GueHeader => (IpNumber::UDP, in_udp(&[&[0, within.protocol().0, 0, 0], inner].concat())),
    };
    let ends = (around.pick(BALANCER_4, BALANCER_6), around.pick(BACKEND_4, BACKEND_6));
    let header = match ends {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let length = payload.len() as u16;
            let mut header =
                Ipv4Header::new(length, TTL, protocol, from.octets(), to.octets()).expect("it fits");
            header.header_checksum = header.calc_header_checksum();
            header.to_bytes().to_vec()
        }
        (from, to) => Ipv6Header {
            payload_length: payload.len() as u16,
            next_header: protocol,
            hop_limit: TTL,
            source: octets(from),
            destination: octets(to),
            ..Ipv6Header::default()
        }
        .to_bytes()
        .to_vec(),
    };
    frame(around, &with_class([header, payload].concat(), class))
}

/// A frame to the backend.
pub fn frame(family: Family, packet: &[u8]) -> Vec<u8> {
    let ether_type: [u8; 2] = if family == Family::V4 { [8, 0] } else { [0x86, 0xdd] };
    [&BACKEND_MAC, &BALANCER_MAC, ether_type.as_slice(), packet].concat()
}

/// A datagram of GUE, without a checksum.
fn in_udp(payload: &[u8]) -> Vec<u8> {
    let length = (8 + payload.len() as u16).to_be_bytes();
    [&50_000_u16.to_be_bytes(), &GUE_PORT.to_be_bytes(), &length, &[0, 0], payload].concat()
}

fn octets(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => Ipv6Addr::octets(&v6),
    }
}

/// The packet with another traffic class, and its checksum in full.
fn with_class(mut packet: Vec<u8>, class: u8) -> Vec<u8> {
    if packet[0] >> 4 == 6 {
        packet[0] = 0x60 | class >> 4;
        packet[1] = class << 4 | packet[1] & 15;
        return packet;
    }
    packet[1] = class;
    let (mut header, rest) = Ipv4Header::from_slice(&packet).expect("a header");
    header.header_checksum = header.calc_header_checksum();
    [&header.to_bytes(), rest].concat()
}
