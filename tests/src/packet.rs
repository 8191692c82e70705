//! Packets made, and their checksums computed in full, by etherparse: code that is not ours.

use std::net::{IpAddr, SocketAddr};

use etherparse::{IpNumber, PacketBuilder, PacketBuilderStep};

/// Flags of a TCP header, as they stand in its fourteenth byte.
pub mod flags {
    #![allow(missing_docs)]
    pub const FIN: u8 = 0x01;
    pub const SYN: u8 = 0x02;
    pub const RST: u8 = 0x04;
    pub const PSH: u8 = 0x08;
    pub const ACK: u8 = 0x10;
}

/// What stands below the transport header.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Frame {
    /// Ethernet addresses.
    pub source_mac: [u8; 6],
    /// See above.
    pub destination_mac: [u8; 6],
    /// VLAN ids, outermost first.
    pub tags: &'static [u16],
    /// Address and port.
    pub source: SocketAddr,
    /// Address and port, of the same family.
    pub destination: SocketAddr,
    /// Time to live, or hop limit.
    pub ttl: u8,
}

impl Frame {
    /// A TCP segment with these [`flags`].
    pub fn tcp(&self, flags: u8, payload: &[u8]) -> Vec<u8> {
        self.tcp_with(flags, &[], payload)
    }

    /// A TCP segment with options, whose length is a multiple of four.
    pub fn tcp_with(&self, flags: u8, options: &[u8], payload: &[u8]) -> Vec<u8> {
        let set = |flag: u8| flags & flag != 0;
        let mut step = self.ip().tcp(self.source.port(), self.destination.port(), 0x0102_0304, 64_000);
        for (flag, apply) in [
            (flags::FIN, (|s| s.fin()) as fn(PacketBuilderStep<_>) -> PacketBuilderStep<_>),
            (flags::SYN, |s| s.syn()),
            (flags::RST, |s| s.rst()),
            (flags::PSH, |s| s.psh()),
            (flags::ACK, |s| s.ack(0x0506_0708)),
        ] {
            if set(flag) {
                step = apply(step);
            }
        }
        if !options.is_empty() {
            step = step.options_raw(options).expect("options of a multiple of four bytes, at most 40");
        }
        let mut bytes = Vec::with_capacity(step.size(payload.len()));
        step.write(&mut bytes, payload).expect("a vector takes every byte");
        self.tagged(bytes)
    }

    /// A UDP datagram.
    pub fn udp(&self, payload: &[u8]) -> Vec<u8> {
        let step = self.ip().udp(self.source.port(), self.destination.port());
        let mut bytes = Vec::with_capacity(step.size(payload.len()));
        step.write(&mut bytes, payload).expect("a vector takes every byte");
        self.tagged(bytes)
    }

    /// An IP packet of another protocol.
    pub fn ip_with(&self, protocol: IpNumber, payload: &[u8]) -> Vec<u8> {
        let step = self.ip();
        let mut bytes = Vec::with_capacity(step.size(payload.len()));
        step.write(&mut bytes, protocol, payload).expect("a vector takes every byte");
        self.tagged(bytes)
    }

    /// Offset of the IP header.
    pub fn l3(&self) -> usize {
        14 + 4 * self.tags.len()
    }

    /// Offset of what follows the plain IP header.
    pub fn l4(&self) -> usize {
        self.l3() + if self.source.is_ipv4() { 20 } else { 40 }
    }

    fn ip(&self) -> PacketBuilderStep<etherparse::IpHeaders> {
        let ethernet = PacketBuilder::ethernet2(self.source_mac, self.destination_mac);
        match (self.source.ip(), self.destination.ip()) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                ethernet.ipv4(source.octets(), destination.octets(), self.ttl)
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                ethernet.ipv6(source.octets(), destination.octets(), self.ttl)
            }
            (source, destination) => panic!("{source} and {destination} are of two families"),
        }
    }

    /// Service tags outside, a customer tag inside (IEEE 802.1ad).
    fn tagged(&self, mut bytes: Vec<u8>) -> Vec<u8> {
        for (index, tag) in self.tags.iter().enumerate().rev() {
            let kind: u16 = if index + 1 < self.tags.len() { 0x88a8 } else { 0x8100 };
            bytes.splice(12..12, kind.to_be_bytes().into_iter().chain(tag.to_be_bytes()));
        }
        bytes
    }
}
