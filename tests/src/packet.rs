//! Packets made, and their checksums computed in full, by etherparse: code that is not ours.

use std::net::SocketAddrV4;

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
    /// Address and port.
    pub source: SocketAddrV4,
    /// Address and port.
    pub destination: SocketAddrV4,
    /// Time to live.
    pub ttl: u8,
}

impl Frame {
    /// A TCP segment with these [`flags`].
    pub fn tcp(&self, flags: u8, payload: &[u8]) -> Vec<u8> {
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
        let mut bytes = Vec::with_capacity(step.size(payload.len()));
        step.write(&mut bytes, payload).expect("a vector takes every byte");
        bytes
    }

    /// A UDP datagram.
    pub fn udp(&self, payload: &[u8]) -> Vec<u8> {
        let step = self.ip().udp(self.source.port(), self.destination.port());
        let mut bytes = Vec::with_capacity(step.size(payload.len()));
        step.write(&mut bytes, payload).expect("a vector takes every byte");
        bytes
    }

    /// An IPv4 packet of another protocol.
    pub fn ipv4(&self, protocol: IpNumber, payload: &[u8]) -> Vec<u8> {
        let step = self.ip();
        let mut bytes = Vec::with_capacity(step.size(payload.len()));
        step.write(&mut bytes, protocol, payload).expect("a vector takes every byte");
        bytes
    }

    fn ip(&self) -> PacketBuilderStep<etherparse::IpHeaders> {
        PacketBuilder::ethernet2(self.source_mac, self.destination_mac).ipv4(
            self.source.ip().octets(),
            self.destination.ip().octets(),
            self.ttl,
        )
    }
}
