//! What a frame is, read by etherparse alone. Pure.
//!
//! The rules that etherparse does not know are stated here: what the balancer takes for whole, for malformed and for
//! nobody's. See docs/proof.md.

use std::net::IpAddr;

use etherparse::{
    EtherType, Ethernet2HeaderSlice, IpNumber, Ipv4HeaderSlice, Ipv6FragmentHeaderSlice, Ipv6HeaderSlice,
    Ipv6RawExtHeaderSlice, SingleVlanHeaderSlice, TcpHeaderSlice, UdpHeaderSlice,
};

/// Bytes of an Ethernet header.
pub const ETHERNET: usize = 14;
const TAG: usize = 4;
const IPV4_MIN: usize = 20;
const IPV6: usize = 40;
/// More extension headers are refused.
const EXTENSIONS_MAX: usize = 6;
/// Upper layers that begin later are refused.
const DEEPEST: usize = 0x7ff;

/// A frame.
#[derive(Clone, Debug, PartialEq)]
pub enum Frame {
    /// Neither IP nor ARP, or too short for its header.
    Foreign,
    /// ARP that begins here.
    Arp(usize),
    /// IP to this address that cannot be balanced.
    Hindered(IpAddr, Hindrance),
    /// A fragment but the first.
    Later(Ip),
    /// ICMP of the family, whole.
    Icmp(Ip),
    /// TCP or UDP.
    Transport(Transport),
}

/// Why it cannot be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hindrance {
    /// Lengths that lie.
    Malformed,
    /// Extension headers that hide the ports or lead elsewhere.
    Extension,
    /// Another protocol.
    Protocol,
    /// To a group of hosts.
    Group,
}

/// Which part of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// All.
    Whole,
    /// The first fragment.
    First,
    /// A later one.
    Later,
}

/// An IP header.
#[derive(Clone, Debug, PartialEq)]
pub struct Ip {
    /// Where it begins.
    pub l3: usize,
    /// Where the upper layer begins.
    pub l4: usize,
    /// Where the packet ends by its header.
    pub end: usize,
    /// Source address.
    pub source: IpAddr,
    /// Destination address.
    pub destination: IpAddr,
    /// The upper layer's.
    pub protocol: u8,
    /// Time to live, or hop limit.
    pub ttl: u8,
    /// DSCP and ECN.
    pub class: u8,
    /// IPv4's flag; IPv6: always.
    pub dont_fragment: bool,
    /// See [`Part`].
    pub part: Part,
    /// Of fragments.
    pub identification: u32,
    /// Of a later fragment: bytes before it.
    pub offset: usize,
}

impl Ip {
    /// Bytes of the IP packet.
    pub fn length(&self) -> usize {
        self.end - self.l3
    }

    /// What a packet's fragments share; of IPv6 the identification alone tells two packets of the same ends apart.
    pub fn fragment_key(&self) -> super::memory::FragmentKey {
        let protocol = if self.is_v6() { 0 } else { self.protocol };
        (self.source, self.destination, self.identification, protocol)
    }

    /// Whether it is IPv6.
    pub fn is_v6(&self) -> bool {
        self.source.is_ipv6()
    }
}

/// What a packet means for its flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// SYN.
    Open,
    /// SYN and ACK.
    Accept,
    /// FIN.
    Close,
    /// RST.
    Reset,
    /// Any other segment.
    Continue,
    /// UDP.
    Datagram,
}

/// TCP or UDP.
#[derive(Clone, Debug, PartialEq)]
pub struct Transport {
    /// Its IP header.
    pub ip: Ip,
    /// Source port.
    pub source_port: u16,
    /// Destination port.
    pub destination_port: u16,
    /// See [`Event`].
    pub event: Event,
    /// Bytes that the checksum covers from `l4` on, and what the pseudo header says.
    pub covered: usize,
}

impl Transport {
    /// TCP, not UDP.
    pub fn is_tcp(&self) -> bool {
        self.ip.protocol == 6
    }

    /// Where the checksum stands.
    pub fn checksum_at(&self) -> usize {
        self.ip.l4 + if self.is_tcp() { 16 } else { 6 }
    }
}

/// How many tags a frame has, up to two; anything after them is what it carries.
pub fn tags(frame: &[u8]) -> usize {
    let is_tag =
        |at: usize| matches!(frame.get(at..at + 2), Some([0x81, 0x00] | [0x88, 0xa8] | [0x91, 0x00]));
    match (is_tag(12), is_tag(12 + TAG)) {
        (false, _) => 0,
        (true, false) => 1,
        (true, true) => 2,
    }
}

/// Reads a frame.
pub fn read(frame: &[u8]) -> Frame {
    let Ok(ethernet) = Ethernet2HeaderSlice::from_slice(frame) else { return Frame::Foreign };
    let mut ether_type = ethernet.ether_type();
    let mut l3 = ETHERNET;
    for _ in 0..tags(frame) {
        let Ok(tag) = SingleVlanHeaderSlice::from_slice(&frame[l3..]) else { return Frame::Foreign };
        ether_type = tag.ether_type();
        l3 += TAG;
    }
    let group = ethernet.destination()[0] & 1 == 1;
    match ether_type {
        EtherType::ARP => Frame::Arp(l3),
        EtherType::IPV4 => ipv4(frame, l3, group),
        EtherType::IPV6 => ipv6(frame, l3, group),
        _ => Frame::Foreign,
    }
}

fn ipv4(frame: &[u8], l3: usize, group: bool) -> Frame {
    let Some(fixed) = frame[l3..].first_chunk::<IPV4_MIN>() else { return Frame::Foreign };
    let destination = IpAddr::from([fixed[16], fixed[17], fixed[18], fixed[19]]);
    if group {
        return Frame::Hindered(destination, Hindrance::Group);
    }
    let malformed = Frame::Hindered(destination, Hindrance::Malformed);
    let Ok(header) = Ipv4HeaderSlice::from_slice(&frame[l3..]) else { return malformed };
    let (length, header_len) = (usize::from(header.total_len()), header.slice().len());
    if length < header_len || l3 + length > frame.len() {
        return malformed;
    }
    if header.source_addr() == header.destination_addr() || is_source_routed(header.options()) {
        return malformed;
    }
    let part = match (header.fragments_offset().value(), header.more_fragments()) {
        (0, false) => Part::Whole,
        (0, true) => Part::First,
        _ => Part::Later,
    };
    upper(
        frame,
        Ip {
            l3,
            l4: l3 + header_len,
            end: l3 + length,
            source: IpAddr::V4(header.source_addr()),
            destination,
            protocol: header.protocol().0,
            ttl: header.ttl(),
            class: header.dcp().value() << 2 | header.ecn().value(),
            dont_fragment: header.dont_fragment(),
            part,
            identification: u32::from(header.identification()),
            offset: usize::from(header.fragments_offset().value()) * 8,
        },
    )
}

/// Whether options name the routers to go by: loose or strict (RFC 791, 3.1).
fn is_source_routed(options: &[u8]) -> bool {
    match options {
        [] | [0, ..] => false,
        [1, rest @ ..] => is_source_routed(rest),
        [131 | 137, ..] => true,
        [_, len, ..] if *len >= 2 => options.get(usize::from(*len)..).is_some_and(is_source_routed),
        _ => false,
    }
}

fn ipv6(frame: &[u8], l3: usize, group: bool) -> Frame {
    let Some(fixed) = frame[l3..].first_chunk::<IPV6>() else { return Frame::Foreign };
    let mut octets = [0; 16];
    octets.copy_from_slice(&fixed[24..]);
    let destination = IpAddr::from(octets);
    // No host sends from or to an IPv4 address in its mapped form (RFC 4038, 4.2).
    let is_mapped = |octets: &[u8]| octets[..10] == [0; 10] && octets[10..12] == [0xff; 2];
    if is_mapped(&fixed[8..24]) || is_mapped(&fixed[24..]) {
        return Frame::Hindered(destination, Hindrance::Protocol);
    }
    // Neighbour solicitations go to groups.
    if group && IpNumber(fixed[6]) != IpNumber::IPV6_ICMP {
        return Frame::Hindered(destination, Hindrance::Group);
    }
    let malformed = Frame::Hindered(destination, Hindrance::Malformed);
    let Ok(header) = Ipv6HeaderSlice::from_slice(&frame[l3..]) else { return malformed };
    let end = l3 + IPV6 + usize::from(header.payload_length());
    if end > frame.len() || header.source_addr() == header.destination_addr() {
        return malformed;
    }
    let mut ip = Ip {
        l3,
        l4: l3 + IPV6,
        end,
        source: IpAddr::V6(header.source_addr()),
        destination,
        protocol: header.next_header().0,
        ttl: header.hop_limit(),
        class: header.traffic_class(),
        dont_fragment: true,
        part: Part::Whole,
        identification: 0,
        offset: 0,
    };
    match extensions(&frame[..end], &mut ip) {
        Ok(()) => upper(frame, ip),
        Err(hindrance) => Frame::Hindered(destination, hindrance),
    }
}

/// Walks up to the upper layer, or to a later fragment's header.
pub fn extensions(packet: &[u8], ip: &mut Ip) -> Result<(), Hindrance> {
    for walked in 0.. {
        let number = IpNumber(ip.protocol);
        if !matches!(
            number,
            IpNumber::IPV6_HEADER_HOP_BY_HOP
                | IpNumber::IPV6_ROUTE_HEADER
                | IpNumber::IPV6_FRAGMENTATION_HEADER
                | IpNumber::IPV6_DESTINATION_OPTIONS
        ) {
            return Ok(());
        }
        if walked == EXTENSIONS_MAX {
            return Err(Hindrance::Extension);
        }
        let rest = &packet[ip.l4..];
        if number == IpNumber::IPV6_FRAGMENTATION_HEADER {
            let header = Ipv6FragmentHeaderSlice::from_slice(rest).map_err(|_| Hindrance::Malformed)?;
            ip.protocol = header.next_header().0;
            if header.is_fragmenting_payload() {
                ip.identification = header.identification();
                ip.offset = usize::from(header.fragment_offset().value()) * 8;
                ip.part = if header.fragment_offset().value() == 0 { Part::First } else { Part::Later };
            }
            if ip.part == Part::Later {
                return Ok(());
            }
            ip.l4 += header.slice().len();
        } else {
            let fixed = rest.first_chunk::<8>().ok_or(Hindrance::Malformed)?;
            if number == IpNumber::IPV6_ROUTE_HEADER && fixed[3] != 0 {
                return Err(Hindrance::Extension);
            }
            let header = Ipv6RawExtHeaderSlice::from_slice(rest).map_err(|_| Hindrance::Malformed)?;
            ip.protocol = header.next_header().0;
            ip.l4 += header.slice().len();
        }
        if ip.l4 > DEEPEST {
            return Err(Hindrance::Extension);
        }
    }
    Ok(())
}

fn upper(frame: &[u8], ip: Ip) -> Frame {
    if ip.part == Part::Later {
        return Frame::Later(ip);
    }
    let destination = ip.destination;
    let icmp = if ip.is_v6() { IpNumber::IPV6_ICMP } else { IpNumber::ICMP };
    match IpNumber(ip.protocol) {
        IpNumber::TCP | IpNumber::UDP => match transport(&frame[..ip.end], ip) {
            Some(transport) => Frame::Transport(transport),
            None => Frame::Hindered(destination, Hindrance::Malformed),
        },
        protocol if protocol == icmp && ip.part == Part::Whole => Frame::Icmp(ip),
        _ => Frame::Hindered(destination, Hindrance::Protocol),
    }
}

/// The ports; nothing where the header does not fit, or a datagram says that it is longer than its packet.
fn transport(packet: &[u8], ip: Ip) -> Option<Transport> {
    let rest = &packet[ip.l4..];
    if IpNumber(ip.protocol) == IpNumber::TCP {
        let header = TcpHeaderSlice::from_slice(rest).ok()?;
        let event = match (header.rst(), header.fin(), header.syn(), header.ack()) {
            (true, ..) => Event::Reset,
            (_, true, ..) => Event::Close,
            (_, _, true, false) => Event::Open,
            (_, _, true, true) => Event::Accept,
            _ => Event::Continue,
        };
        let (source_port, destination_port) = (header.source_port(), header.destination_port());
        return Some(Transport { covered: rest.len(), ip, source_port, destination_port, event });
    }
    let header = UdpHeaderSlice::from_slice(rest).ok()?;
    let length = usize::from(header.length());
    if length < 8 || (ip.part == Part::Whole && length > rest.len()) {
        return None;
    }
    let (source_port, destination_port) = (header.source_port(), header.destination_port());
    let covered = length.min(rest.len());
    Some(Transport { covered, ip, source_port, destination_port, event: Event::Datagram })
}
