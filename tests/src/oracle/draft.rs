//! Packets by their fields, with lengths and checksums that are right: what mutations then spoil. Pure.

use std::net::IpAddr;

use super::sum::{checksum, pseudo_header};

/// A frame to be written.
#[derive(Clone, Debug)]
pub struct Draft {
    /// Destination MAC.
    pub to: [u8; 6],
    /// Source MAC.
    pub from: [u8; 6],
    /// Tags: what announces each, and its control information.
    pub tags: Vec<(u16, u16)>,
    /// Source address.
    pub source: IpAddr,
    /// Destination address, of the same family.
    pub destination: IpAddr,
    /// DSCP and ECN.
    pub class: u8,
    /// Time to live.
    pub ttl: u8,
    /// Identification of IPv4, and of fragments.
    pub identification: u32,
    /// IPv4: don't fragment.
    pub dont_fragment: bool,
    /// IPv4 options, padded to words.
    pub options: Vec<u8>,
    /// IPv6 extension headers: number, and all but the first two bytes, of 6 + 8n.
    pub extensions: Vec<(u8, Vec<u8>)>,
    /// Protocol number.
    pub protocol: u8,
    /// TCP or UDP with its payload, or whatever the protocol says.
    pub upper: Vec<u8>,
    /// Bytes after the IP packet, as Ethernet pads short frames.
    pub trailer: usize,
}

/// Part of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cut {
    /// First byte of the upper layer, a multiple of 8.
    pub at: usize,
    /// Bytes.
    pub len: usize,
    /// Whether more follow.
    pub more: bool,
}

/// A TCP segment with its checksum.
pub fn tcp(
    ends: (IpAddr, IpAddr),
    ports: (u16, u16),
    flags: u8,
    sequence: u64,
    options: &[u8],
    payload: &[u8],
) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(20 + options.len() + payload.len());
    bytes.extend(ports.0.to_be_bytes());
    bytes.extend(ports.1.to_be_bytes());
    bytes.extend(sequence.to_be_bytes());
    bytes.push((((20 + options.len()) / 4) << 4) as u8);
    bytes.push(flags);
    bytes.extend([0xfa, 0x00, 0, 0, 0, 0]);
    bytes.extend(options);
    bytes.extend(payload);
    let sum = checksum(&bytes, 16, pseudo_header(ends.0, ends.1, 6, bytes.len()));
    bytes[16..18].copy_from_slice(&sum.to_be_bytes());
    bytes
}

/// A UDP datagram, with its checksum or none.
pub fn udp(ends: (IpAddr, IpAddr), ports: (u16, u16), with_checksum: bool, payload: &[u8]) -> Vec<u8> {
    let length = 8 + payload.len();
    let mut bytes = Vec::with_capacity(length);
    bytes.extend(ports.0.to_be_bytes());
    bytes.extend(ports.1.to_be_bytes());
    bytes.extend((length as u16).to_be_bytes());
    bytes.extend([0, 0]);
    bytes.extend(payload);
    if with_checksum {
        let sum = checksum(&bytes, 6, pseudo_header(ends.0, ends.1, 17, length));
        bytes[6..8].copy_from_slice(&(if sum == 0 { 0xffff } else { sum }).to_be_bytes());
    }
    bytes
}

/// An ICMP message of either family: type, code, the four bytes after the checksum, and the rest.
pub fn icmp(ends: (IpAddr, IpAddr), kind: (u8, u8), word: [u8; 4], rest: &[u8]) -> Vec<u8> {
    let mut bytes = vec![kind.0, kind.1, 0, 0];
    bytes.extend(word);
    bytes.extend(rest);
    let pseudo = if ends.0.is_ipv6() { pseudo_header(ends.0, ends.1, 58, bytes.len()) } else { 0 };
    let sum = checksum(&bytes, 2, pseudo);
    bytes[2..4].copy_from_slice(&sum.to_be_bytes());
    bytes
}

impl Draft {
    /// The whole frame.
    pub fn whole(&self) -> Vec<u8> {
        self.write(None)
    }

    /// A fragment's frame.
    pub fn fragment(&self, cut: Cut) -> Vec<u8> {
        self.write(Some(cut))
    }

    /// The IP packet alone.
    pub fn packet(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.ip(&mut bytes, None);
        bytes
    }

    fn write(&self, cut: Option<Cut>) -> Vec<u8> {
        let mut frame = Vec::with_capacity(100 + self.upper.len());
        frame.extend(self.to);
        frame.extend(self.from);
        for &(kind, control) in &self.tags {
            frame.extend(kind.to_be_bytes());
            frame.extend(control.to_be_bytes());
        }
        frame.extend(if self.source.is_ipv4() { [0x08, 0x00] } else { [0x86, 0xdd] });
        self.ip(&mut frame, cut);
        frame.resize(frame.len() + self.trailer, 0);
        frame
    }

    fn ip(&self, frame: &mut Vec<u8>, cut: Option<Cut>) {
        let upper = match cut {
            Some(cut) => &self.upper[cut.at..cut.at + cut.len],
            None => &self.upper[..],
        };
        match (self.source, self.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let start = frame.len();
                let header = 20 + self.options.len();
                let length = (header + upper.len()) as u16;
                let flags = u16::from(self.dont_fragment) << 14
                    | cut.map_or(0, |cut| u16::from(cut.more) << 13 | (cut.at / 8) as u16);
                frame.extend([0x40 | (header / 4) as u8, self.class]);
                frame.extend(length.to_be_bytes());
                frame.extend((self.identification as u16).to_be_bytes());
                frame.extend(flags.to_be_bytes());
                frame.extend([self.ttl, self.protocol, 0, 0]);
                frame.extend(source.octets());
                frame.extend(destination.octets());
                frame.extend(&self.options);
                let sum = checksum(&frame[start..], 10, 0);
                frame[start + 10..start + 12].copy_from_slice(&sum.to_be_bytes());
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                let extensions: usize = self.extensions.iter().map(|(_, body)| 2 + body.len()).sum();
                let fragment = if cut.is_some() { 8 } else { 0 };
                let mut numbers: Vec<u8> = self.extensions.iter().map(|&(number, _)| number).collect();
                if cut.is_some() {
                    numbers.push(44);
                }
                numbers.push(self.protocol);
                let class = u32::from(self.class) << 20;
                frame.extend((0x6000_0000 | class | (self.identification & 0xf_ffff)).to_be_bytes());
                frame.extend(((extensions + fragment + upper.len()) as u16).to_be_bytes());
                frame.extend([numbers[0], self.ttl]);
                frame.extend(source.octets());
                frame.extend(destination.octets());
                for (index, (_, body)) in self.extensions.iter().enumerate() {
                    frame.extend([numbers[index + 1], ((body.len() - 6) / 8) as u8]);
                    frame.extend(body);
                }
                if let Some(cut) = cut {
                    frame.extend([self.protocol, 0]);
                    frame.extend((cut.at as u16 | u16::from(cut.more)).to_be_bytes());
                    frame.extend(self.identification.to_be_bytes());
                }
            }
            // A draft is made with both ends of one family.
            _ => {}
        }
        frame.extend(upper);
    }
}
