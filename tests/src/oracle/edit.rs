//! What a packet that is sent must look like, byte by byte, and how its checksums are judged. Pure.
//!
//! A checksum that came in as its sender computes it must go out as a sender would compute it, over every byte. One that
//! came in wrong must go out exactly as wrong: a balancer that repairs damage hides it from the receiver.

use std::net::IpAddr;

use super::read::{Ip, Part, Transport};
use super::sum::{checksum, pseudo_header, residue, sum, together};

/// A frame in the making.
#[derive(Clone, Debug)]
pub struct Edited {
    /// As expected.
    pub bytes: Vec<u8>,
    /// Checksums that came in wrong or cannot be known.
    pub damaged: Vec<Damaged>,
}

/// A checksum that is judged by what a receiver adds up to.
#[derive(Clone, Debug)]
pub struct Damaged {
    /// Where it stands.
    pub at: usize,
    /// What it covers.
    pub from: usize,
    /// See `from`.
    pub to: usize,
    /// The pseudo header's sum, as it goes out.
    pub pseudo: u16,
    /// What a receiver of the incoming packet adds up to.
    pub residue: u16,
    /// Zero means none.
    pub udp: bool,
}

/// New ends of a packet: address, and port where there is one.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ends {
    /// New source.
    pub source: Option<(IpAddr, u16)>,
    /// New destination.
    pub destination: Option<(IpAddr, u16)>,
}

impl Ends {
    fn address(end: Option<(IpAddr, u16)>, old: IpAddr) -> IpAddr {
        end.map_or(old, |(address, _)| address)
    }
}

fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    bytes[at..at + value.len()].copy_from_slice(value);
}

fn word(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

impl Edited {
    /// The frame as it came.
    pub fn new(frame: &[u8]) -> Self {
        Self { bytes: frame.to_vec(), damaged: Vec::new() }
    }

    /// Writes new ends into a TCP or UDP packet, with its checksum. `change` may write more of what that covers.
    pub fn ends(&mut self, transport: &Transport, ends: Ends, change: impl FnOnce(&mut [u8])) {
        let (ip, before) = (&transport.ip, self.bytes.clone());
        let source = Ends::address(ends.source, ip.source);
        let destination = Ends::address(ends.destination, ip.destination);
        self.addresses(ip, source, destination);
        if let Some((_, port)) = ends.source {
            put(&mut self.bytes, ip.l4, &port.to_be_bytes());
        }
        if let Some((_, port)) = ends.destination {
            put(&mut self.bytes, ip.l4 + 2, &port.to_be_bytes());
        }
        change(&mut self.bytes);
        let length = if transport.is_tcp() { ip.end - ip.l4 } else { usize::from(word(&before, ip.l4 + 4)) };
        let pseudo = |source, destination| pseudo_header(source, destination, ip.protocol, length);
        self.checksum(
            &before,
            transport.checksum_at(),
            (ip.l4, ip.l4 + transport.covered),
            (pseudo(ip.source, ip.destination), pseudo(source, destination)),
            !transport.is_tcp(),
            ip.part == Part::Whole,
        );
    }

    /// Writes new addresses into an IP header; its own checksum follows by [`Self::ip_checksum`].
    pub fn addresses(&mut self, ip: &Ip, source: IpAddr, destination: IpAddr) {
        match (source, destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                put(&mut self.bytes, ip.l3 + 12, &source.octets());
                put(&mut self.bytes, ip.l3 + 16, &destination.octets());
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                put(&mut self.bytes, ip.l3 + 8, &source.octets());
                put(&mut self.bytes, ip.l3 + 24, &destination.octets());
            }
            // No mode translates between families: such a configuration is refused, so nothing is expected of it.
            _ => {}
        }
    }

    /// Takes a hop off.
    pub fn hop(&mut self, ip: &Ip) {
        let at = ip.l3 + if ip.is_v6() { 7 } else { 8 };
        self.bytes[at] -= 1;
    }

    /// Makes an IPv4 header's checksum fit what was written; `before` is the frame as it came.
    pub fn ip_checksum(&mut self, ip: &Ip, before: &[u8]) {
        if !ip.is_v6() {
            let header_len = usize::from(before[ip.l3] & 15) * 4;
            self.checksum(before, ip.l3 + 10, (ip.l3, ip.l3 + header_len), (0, 0), false, true);
        }
    }

    /// Writes one checksum over `from..to`, or notes that it is judged by its residue.
    pub fn checksum(
        &mut self,
        before: &[u8],
        at: usize,
        (from, to): (usize, usize),
        (pseudo_before, pseudo): (u16, u16),
        udp: bool,
        all_here: bool,
    ) {
        let known = word(before, at);
        if udp && known == 0 {
            return;
        }
        let canonical = |bytes: &[u8], pseudo| match checksum(&bytes[from..to], at - from, pseudo) {
            0 if udp => 0xffff,
            sum => sum,
        };
        if all_here && canonical(before, pseudo_before) == known {
            let sum = canonical(&self.bytes, pseudo);
            put(&mut self.bytes, at, &sum.to_be_bytes());
        } else {
            let residue = residue(together(&[sum(&before[from..to]), pseudo_before]));
            self.damaged.push(Damaged { at, from, to, pseudo, residue, udp });
        }
    }

    /// Takes the checksums that cannot be known from what came out, which has `less` bytes in front of them.
    pub fn adopt(&mut self, out: &[u8], less: usize) {
        for damaged in &self.damaged {
            if let Some(seen) = out.get(damaged.at - less..damaged.at - less + 2) {
                put(&mut self.bytes, damaged.at, seen);
            }
        }
    }

    /// Gives the frame the link layer of its way out; tags go where it leaves by another interface.
    pub fn link(&mut self, tags: usize, source: [u8; 6], destination: [u8; 6], same_interface: bool) {
        if !same_interface && tags > 0 {
            self.bytes.drain(12..12 + 4 * tags);
            self.shift(4 * tags, 0);
        }
        put(&mut self.bytes, 0, &destination);
        put(&mut self.bytes, 6, &source);
    }

    /// Moves what is judged by residue by the bytes that were taken off and put in front.
    pub fn shift(&mut self, less: usize, more: usize) {
        for damaged in &mut self.damaged {
            for place in [&mut damaged.at, &mut damaged.from, &mut damaged.to] {
                *place = *place + more - less;
            }
        }
    }

    /// Compares with what came out; what is wrong, in words.
    pub fn compare(&self, out: &[u8]) -> Result<(), String> {
        let mut expected = self.bytes.clone();
        if out.len() != expected.len() {
            return Err(format!("{} bytes came out, expected {}", out.len(), expected.len()));
        }
        for damaged in &self.damaged {
            let seen = residue(together(&[sum(&out[damaged.from..damaged.to]), damaged.pseudo]));
            if seen != damaged.residue {
                return Err(format!(
                    "checksum at {}: a receiver adds up to {seen:04x}, before it was {:04x}",
                    damaged.at, damaged.residue
                ));
            }
            let value = word(out, damaged.at);
            if damaged.udp && value == 0 {
                return Err(format!("checksum at {}: none, though there was one", damaged.at));
            }
            put(&mut expected, damaged.at, &value.to_be_bytes());
        }
        match expected.iter().zip(out).position(|(one, other)| one != other) {
            None => Ok(()),
            Some(at) => {
                Err(format!("byte {at} is {:02x}, expected {:02x} ({})", out[at], expected[at], place(at)))
            }
        }
    }
}

fn place(at: usize) -> &'static str {
    match at {
        0..6 => "destination MAC",
        6..12 => "source MAC",
        12..14 => "EtherType",
        _ => "after the link layer",
    }
}
