//! Ethernet, IPv4, TCP and UDP: what a packet is and where its headers stand.

use core::mem::offset_of;

use lb_common::{Address, FlowKey, Port, Protocol};
use network_types::{
    eth::{EthHdr, EtherType},
    ip::Ipv4Hdr,
    tcp::TcpHdr,
    udp::UdpHdr,
};

use crate::packet::Packet;

/// What arrived.
pub enum Parsed {
    /// TCP or UDP over IPv4, whole as far as its headers say.
    Transport(Transport),
    /// IPv4 that cannot be balanced, and why not.
    Unbalanceable(Address, Obstacle),
    /// ARP; its fields begin at the offset.
    Arp(usize),
    /// Anything else.
    Other,
}

/// Why an IPv4 packet has no ports to go by.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Obstacle {
    /// A fragment, first or later.
    Fragment,
    /// A header longer than 20 bytes.
    Options,
    /// Lengths or versions that contradict each other.
    Malformed,
    /// Neither TCP nor UDP.
    Protocol,
    /// Sent to a group of hosts by its Ethernet address.
    NotUnicast,
}

/// What a segment or datagram means for its flow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event {
    /// TCP: SYN without ACK.
    Open,
    /// TCP: FIN or RST.
    Close,
    /// TCP: anything else.
    Continue,
    /// UDP, which does not say.
    Datagram,
}

/// A TCP segment or UDP datagram.
pub struct Transport {
    /// The tuple as its sender wrote it: `client` is the source, `vip` the destination.
    pub tuple: FlowKey,
    /// TCP or UDP.
    pub protocol: Protocol,
    /// What it means for its flow.
    pub event: Event,
    /// Bytes from the IP header on, by the IP header.
    pub length: u16,
    /// Time to live and protocol number as they stand in the header, one native word.
    pub ttl_word: u16,
    /// Offset of the IP header.
    pub l3: usize,
    /// Offset of the TCP or UDP header.
    pub l4: usize,
}

impl Transport {
    /// Hops that the packet may still take.
    #[inline(always)]
    pub const fn ttl(&self) -> u8 {
        self.ttl_word.to_ne_bytes()[0]
    }

    /// The same word with one hop fewer.
    #[inline(always)]
    pub const fn ttl_word_after_hop(&self) -> u16 {
        let [ttl, protocol] = self.ttl_word.to_ne_bytes();
        u16::from_ne_bytes([ttl.wrapping_sub(1), protocol])
    }

    /// Offset of the TCP or UDP checksum.
    #[inline(always)]
    pub const fn checksum_offset(&self) -> usize {
        match self.protocol {
            Protocol::Tcp => self.l4 + offset_of!(TcpHdr, check),
            Protocol::Udp => self.l4 + offset_of!(UdpHdr, check),
        }
    }
}

/// Of an Ethernet address' first byte (IEEE 802).
const GROUP_BIT: u8 = 0x01;
const FIN: u8 = 0x01;
const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const ACK: u8 = 0x10;

/// What `packet` is.
#[inline(always)]
pub fn parse<P: Packet + ?Sized>(packet: &P) -> Parsed {
    const L3: usize = EthHdr::LEN;
    let Some(ether_type) = packet.load::<u16>(offset_of!(EthHdr, ether_type)) else { return Parsed::Other };
    if ether_type == EtherType::Ipv4 as u16 {
        parse_ipv4(packet, L3).unwrap_or(Parsed::Other)
    } else if ether_type == EtherType::Arp as u16 {
        Parsed::Arp(L3)
    } else {
        Parsed::Other
    }
}

/// `None` where the packet ends before the IP header does.
#[inline(always)]
fn parse_ipv4<P: Packet + ?Sized>(packet: &P, l3: usize) -> Option<Parsed> {
    let header = packet.load::<[u32; Ipv4Hdr::LEN / 4]>(l3)?;
    let [version_ihl, _, length_high, length_low] = header[0].to_ne_bytes();
    let length = u16::from_be_bytes([length_high, length_low]);
    let [_, _, fragment_high, fragment_low] = header[1].to_ne_bytes();
    let [ttl, protocol, _, _] = header[2].to_ne_bytes();
    let (source, destination) = (Address::from_ipv4_word(header[3]), Address::from_ipv4_word(header[4]));
    let obstacle = |obstacle| Some(Parsed::Unbalanceable(destination, obstacle));

    // Broadcast and multicast frames are for every host of the link, and so not for a balancer among them.
    if packet.load::<u8>(offset_of!(EthHdr, dst_addr))? & GROUP_BIT != 0 {
        return obstacle(Obstacle::NotUnicast);
    }
    let Some(protocol) = Protocol::from_number(protocol) else { return obstacle(Obstacle::Protocol) };
    if version_ihl != 0x45 {
        let options = version_ihl >> 4 == 4 && version_ihl & 15 > 5;
        return obstacle(if options { Obstacle::Options } else { Obstacle::Malformed });
    }
    if l3 + length as usize > packet.len() {
        return obstacle(Obstacle::Malformed);
    }
    // More-fragments or an offset; "don't fragment" alone does not make a fragment.
    if u16::from_be_bytes([fragment_high, fragment_low]) & 0x3fff != 0 {
        return obstacle(Obstacle::Fragment);
    }
    let l4 = l3 + Ipv4Hdr::LEN;
    let (ports, event) = match protocol {
        Protocol::Tcp => {
            let Some(header) = packet.load::<[u32; TcpHdr::LEN / 4]>(l4) else {
                return obstacle(Obstacle::Malformed);
            };
            let [data_offset, flags, _, _] = header[3].to_ne_bytes();
            let header_len = (data_offset >> 4) as u16 * 4;
            if header_len < TcpHdr::LEN as u16 || Ipv4Hdr::LEN as u16 + header_len > length {
                return obstacle(Obstacle::Malformed);
            }
            let event = if flags & (FIN | RST) != 0 {
                Event::Close
            } else if flags & (SYN | ACK) == SYN {
                Event::Open
            } else {
                Event::Continue
            };
            (header[0], event)
        }
        Protocol::Udp => {
            let Some(header) = packet.load::<[u32; UdpHdr::LEN / 4]>(l4) else {
                return obstacle(Obstacle::Malformed);
            };
            let [length_high, length_low, _, _] = header[1].to_ne_bytes();
            let datagram = u16::from_be_bytes([length_high, length_low]);
            if (datagram as usize) < UdpHdr::LEN || Ipv4Hdr::LEN + datagram as usize > length as usize {
                return obstacle(Obstacle::Malformed);
            }
            (header[0], Event::Datagram)
        }
    };
    let [source_high, source_low, destination_high, destination_low] = ports.to_ne_bytes();
    Some(Parsed::Transport(Transport {
        tuple: FlowKey {
            client: source,
            vip: destination,
            client_port: Port::from_word(u16::from_ne_bytes([source_high, source_low])),
            vip_port: Port::from_word(u16::from_ne_bytes([destination_high, destination_low])),
            protocol: protocol as u8,
            // Not `[0; 3]`, which becomes a call of memset for every packet.
            reserved: [0, 0, 0],
        },
        protocol,
        event,
        length,
        ttl_word: u16::from_ne_bytes([ttl, protocol as u8]),
        l3,
        l4,
    }))
}
