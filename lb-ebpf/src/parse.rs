//! What a packet is and where its headers stand: IPv4 ([`ipv4`]), IPv6 ([`ipv6`]), TCP and UDP ([`transport`]).

pub mod ipv4;
pub mod ipv6;
pub mod transport;

use lb_common::{Address, Features, FlowKey, Port};

pub use self::transport::{Event, Transport};
use crate::{
    link::{self, Link},
    packet::Packet,
};

/// What arrived.
pub enum Parsed {
    /// TCP or UDP, whole as far as its headers say, or the first fragment of it.
    Transport(Transport),
    /// A fragment but the first, of whatever protocol.
    LaterFragment(Ip),
    /// ICMP over IPv4 or ICMPv6 over IPv6, not fragmented.
    Icmp(Ip),
    /// IPv6 with extension headers or IPv4 with options, which the caller did not want to look at.
    Extended,
    /// IP that cannot be balanced: its destination, and why not.
    Unbalanceable(Address, Obstacle),
    /// ARP; its fields begin at the offset.
    Arp(usize),
    /// Anything else.
    Other,
}

/// Why an IP packet has no ports to go by.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Obstacle {
    /// Extension headers that hide the upper layer, or say that the packet is bound elsewhere.
    Extension,
    /// Lengths or versions that contradict each other.
    Malformed,
    /// Neither TCP, UDP nor the family's ICMP.
    Protocol,
    /// Sent to a group of hosts by its Ethernet address.
    NotUnicast,
}

/// The version of a packet's IP header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Family {
    /// RFC 791.
    V4,
    /// RFC 8200.
    V6,
}

/// Which part of a packet arrived.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Part {
    /// All of it.
    Whole,
    /// The first fragment of several.
    First,
    /// Another one.
    Later,
}

/// Forms of a packet in one word, so that what follows the parser can be made to forget which of its many ways led
/// there: see [`crate::tables::Tables::launder`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Shape(u64);

const L4_SHIFT: u32 = 8;
const PROTOCOL_SHIFT: u32 = 20;
const FLAGS_SHIFT: u32 = 28;
const IPV6_BIT: u64 = 1 << 36;
const DONT_FRAGMENT_BIT: u64 = 1 << 37;
const FIRST_BIT: u64 = 1 << 38;
const LATER_BIT: u64 = 1 << 39;
/// Headers must end before this; it keeps offsets small enough for the verifier.
pub const L4_MAX: usize = 0x7ff;

impl Shape {
    #[inline(always)]
    const fn new(
        family: Family,
        protocol: u8,
        dont_fragment: bool,
        part: Part,
        l3: usize,
        l4: usize,
    ) -> Self {
        let family = match family {
            Family::V4 => 0,
            Family::V6 => IPV6_BIT,
        };
        let part = match part {
            Part::Whole => 0,
            Part::First => FIRST_BIT,
            Part::Later => LATER_BIT,
        };
        let dont_fragment = if dont_fragment { DONT_FRAGMENT_BIT } else { 0 };
        Self(
            l3 as u64
                | (l4 as u64) << L4_SHIFT
                | (protocol as u64) << PROTOCOL_SHIFT
                | family
                | dont_fragment
                | part,
        )
    }

    #[inline(always)]
    const fn with_flags(self, flags: u8) -> Self {
        Self(self.0 | (flags as u64) << FLAGS_SHIFT)
    }
}

/// An IP header.
#[derive(Clone, Copy)]
pub struct Ip {
    /// As it stands there.
    pub source: Address,
    /// As it stands there.
    pub destination: Address,
    /// Bytes from the IP header on, by the IP header.
    pub length: u32,
    /// Of a fragment: what it shares with the packet's others, one native word over the packet's bytes.
    pub identification: u32,
    /// The time to live and the byte after it (IPv4), or the byte before it and the hop limit (IPv6), one native word
    /// over the packet's bytes.
    pub ttl_word: u16,
    /// All else.
    pub shape: Shape,
}

impl Ip {
    /// The same header, with its forms laundered: see [`crate::tables::Tables::launder`].
    #[inline(always)]
    pub fn laundered(self, launder: impl Fn(u64) -> u64) -> Self {
        Self { shape: Shape(launder(self.shape.0)), ..self }
    }

    /// The version.
    #[inline(always)]
    pub const fn family(&self) -> Family {
        if self.shape.0 & IPV6_BIT == 0 { Family::V4 } else { Family::V6 }
    }

    /// The upper layer's protocol number, after any extension headers.
    #[inline(always)]
    pub const fn protocol(&self) -> u8 {
        (self.shape.0 >> PROTOCOL_SHIFT) as u8
    }

    /// IPv4: whether it must not be fragmented on its way. IPv6: always.
    #[inline(always)]
    pub const fn dont_fragment(&self) -> bool {
        self.shape.0 & DONT_FRAGMENT_BIT != 0
    }

    /// Which part of a packet it is.
    #[inline(always)]
    pub const fn part(&self) -> Part {
        if self.shape.0 & (FIRST_BIT | LATER_BIT) == 0 {
            Part::Whole
        } else if self.shape.0 & FIRST_BIT != 0 {
            Part::First
        } else {
            Part::Later
        }
    }

    /// Offset of the IP header: 14, 18 or 22.
    #[inline(always)]
    pub const fn l3(&self) -> usize {
        self.shape.0 as usize & 0x1f
    }

    /// Offset of the upper layer, at most [`L4_MAX`]; meaningless for a later fragment.
    #[inline(always)]
    pub const fn l4(&self) -> usize {
        (self.shape.0 >> L4_SHIFT) as usize & L4_MAX
    }

    /// The tuple of its sender; `ports` is one native word over both.
    #[inline(always)]
    pub(crate) const fn tuple(&self, ports: u32) -> FlowKey {
        let [source_high, source_low, destination_high, destination_low] = ports.to_ne_bytes();
        FlowKey {
            client: self.source,
            vip: self.destination,
            client_port: Port::from_word(u16::from_ne_bytes([source_high, source_low])),
            vip_port: Port::from_word(u16::from_ne_bytes([destination_high, destination_low])),
            protocol: self.protocol(),
            // Not `[0; 3]`, which becomes a call of memset for every packet.
            reserved: [0, 0, 0],
        }
    }

    /// Hops that the packet may still take.
    #[inline(always)]
    pub const fn ttl(&self) -> u8 {
        let [first, second] = self.ttl_word.to_ne_bytes();
        match self.family() {
            Family::V4 => first,
            Family::V6 => second,
        }
    }

    /// The same word with one hop fewer.
    #[inline(always)]
    pub const fn ttl_word_after_hop(&self) -> u16 {
        let [first, second] = self.ttl_word.to_ne_bytes();
        match self.family() {
            Family::V4 => u16::from_ne_bytes([first.wrapping_sub(1), second]),
            Family::V6 => u16::from_ne_bytes([first, second.wrapping_sub(1)]),
        }
    }
}

/// What `packet` is; `launder` is [`crate::tables::Tables::launder`]. Takes IPv6 extension headers and IPv4 options if `EXTENSIONS`.
#[inline(always)]
pub fn parse<P: Packet + ?Sized, const EXTENSIONS: bool>(
    packet: &P,
    features: Features,
    launder: impl Fn(u64) -> u64,
) -> Parsed {
    let header = match link::parse(packet) {
        Link::Ipv4(l3) => ipv4::parse::<P, EXTENSIONS>(packet, l3),
        Link::Ipv6(l3) if features.contains(Features::IPV6) => {
            ipv6::parse::<P, EXTENSIONS>(packet, l3, &launder)
        }
        Link::Arp(offset) => return Parsed::Arp(offset),
        Link::Ipv6(_) | Link::Other => return Parsed::Other,
    };
    let mut ip = match header {
        Header::Ip(ip) => ip,
        Header::Extended => return Parsed::Extended,
        Header::Not(destination, obstacle) => return Parsed::Unbalanceable(destination, obstacle),
        Header::Cut => return Parsed::Other,
    };
    ip.shape = Shape(launder(ip.shape.0));
    if EXTENSIONS {
        ip.identification = launder(ip.identification as u64) as u32;
    }
    if matches!(ip.part(), Part::Later) {
        return Parsed::LaterFragment(ip);
    }
    match ip.protocol() {
        transport::TCP | transport::UDP => match transport::parse(packet, &ip) {
            Some((ports, flags)) => {
                ip.shape = Shape(launder(ip.shape.with_flags(flags).0));
                Parsed::Transport(Transport::new(ip, ports))
            }
            None => Parsed::Unbalanceable(ip.destination, Obstacle::Malformed),
        },
        protocol => {
            let icmp = match ip.family() {
                Family::V4 => ipv4::ICMP,
                Family::V6 => ipv6::ICMPV6,
            };
            if protocol == icmp && matches!(ip.part(), Part::Whole) {
                Parsed::Icmp(ip)
            } else {
                Parsed::Unbalanceable(ip.destination, Obstacle::Protocol)
            }
        }
    }
}

/// What an IP header turned out to be.
pub enum Header {
    /// A header.
    Ip(Ip),
    /// IPv6 with extension headers or IPv4 with options that were not looked at.
    Extended,
    /// None that could be balanced: the destination, and why not.
    Not(Address, Obstacle),
    /// The packet ends before it does.
    Cut,
}
