//! TCP (RFC 9293) and UDP (RFC 768): the tuple, and what a packet means for its flow.

use core::mem::offset_of;

use lb_common::{FlowKey, Protocol};
use network_types::{tcp::TcpHdr, udp::UdpHdr};

use super::{FLAGS_SHIFT, Ip, Part};
use crate::packet::Packet;

/// Protocol number.
pub const TCP: u8 = Protocol::Tcp as u8;
/// Protocol number.
pub const UDP: u8 = Protocol::Udp as u8;
/// The flag.
pub(crate) const FIN: u8 = 0x01;
/// The flag.
pub(crate) const SYN: u8 = 0x02;
/// The flag.
pub(crate) const RST: u8 = 0x04;
/// The flag.
pub(crate) const ACK: u8 = 0x10;
/// No TCP flag of these: a datagram.
const DATAGRAM: u8 = 0x40;
/// The data offset, in the high bits.
const DATA_OFFSET: usize = 12;

/// What a segment or datagram means for its flow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event {
    /// TCP: SYN without ACK.
    Open,
    /// TCP: SYN and ACK, from a server.
    Accept,
    /// TCP: FIN.
    Close,
    /// TCP: RST.
    Reset,
    /// TCP: anything else.
    Continue,
    /// UDP, which does not say.
    Datagram,
}

/// A TCP segment or UDP datagram.
pub struct Transport {
    /// The IP header.
    pub ip: Ip,
    /// The tuple as its sender wrote it: `client` is the source, `vip` the destination.
    pub tuple: FlowKey,
}

impl Transport {
    #[inline(always)]
    pub(super) const fn new(ip: Ip, ports: u32) -> Self {
        Self { tuple: ip.tuple(ports), ip }
    }

    /// Of a fragment but the first, which has no ports: zeroes.
    #[inline(always)]
    pub(crate) const fn of_later(mut ip: Ip) -> Self {
        if ip.protocol() != TCP {
            ip.shape = ip.shape.with_flags(DATAGRAM);
        }
        Self::new(ip, 0)
    }

    /// TCP or UDP.
    #[inline(always)]
    pub const fn protocol(&self) -> Protocol {
        if self.ip.protocol() == TCP { Protocol::Tcp } else { Protocol::Udp }
    }

    /// What it means for its flow.
    #[inline(always)]
    pub const fn event(&self) -> Event {
        let flags = (self.ip.shape.0 >> FLAGS_SHIFT) as u8;
        if flags & DATAGRAM != 0 {
            Event::Datagram
        } else if flags & RST != 0 {
            Event::Reset
        } else if flags & FIN != 0 {
            Event::Close
        } else if flags & SYN == 0 {
            Event::Continue
        } else if flags & ACK == 0 {
            Event::Open
        } else {
            Event::Accept
        }
    }

    /// Whether it carries data; UDP always does.
    #[inline(always)]
    pub fn has_payload<P: Packet + ?Sized>(&self, packet: &P) -> bool {
        if matches!(self.protocol(), Protocol::Udp) {
            return true;
        }
        let Some(offset) = packet.load::<u16>(self.ip.l4() + DATA_OFFSET) else { return false };
        let header = (u16::from_be(offset) >> 12) as usize * 4;
        self.ip.l4() + header < self.ip.l3() + self.ip.length as usize
    }

    /// Offset of the TCP or UDP checksum.
    #[inline(always)]
    pub const fn checksum_offset(&self) -> usize {
        checksum_offset(self.protocol(), self.ip.l4())
    }
}

/// Offset of the checksum in a header that begins at `l4`.
#[inline(always)]
pub const fn checksum_offset(protocol: Protocol, l4: usize) -> usize {
    match protocol {
        Protocol::Tcp => l4 + offset_of!(TcpHdr, check),
        Protocol::Udp => l4 + offset_of!(UdpHdr, check),
    }
}

/// Both ports as one native word, and the flags by which [`Transport::event`] goes; `None` where lengths contradict
/// each other.
#[inline(always)]
pub(super) fn parse<P: Packet + ?Sized>(packet: &P, ip: &Ip) -> Option<(u32, u8)> {
    let l4 = ip.l4();
    let end = ip.l3() + ip.length as usize;
    if ip.protocol() == TCP {
        let header = packet.load::<[u32; TcpHdr::LEN / 4]>(l4)?;
        let [data_offset, flags, _, _] = header[3].to_ne_bytes();
        let header_len = (data_offset >> 4) as usize * 4;
        if header_len < TcpHdr::LEN || l4 + header_len > end {
            return None;
        }
        Some((header[0], flags & (FIN | SYN | RST | ACK)))
    } else {
        let header = packet.load::<[u32; UdpHdr::LEN / 4]>(l4)?;
        let [length_high, length_low, _, _] = header[1].to_ne_bytes();
        let datagram = u16::from_be_bytes([length_high, length_low]) as usize;
        // A first fragment holds only the beginning of the datagram.
        let here = if matches!(ip.part(), Part::First) { UdpHdr::LEN } else { datagram };
        if datagram < UdpHdr::LEN || l4 + here > end {
            return None;
        }
        Some((header[0], DATAGRAM))
    }
}
