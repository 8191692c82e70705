//! Internet checksums in full (RFC 1071): over every byte, never by a difference. Pure.

use std::net::IpAddr;

/// The one's complement sum of big-endian words, the last padded with a zero; folded to 16 bits.
pub fn sum(bytes: &[u8]) -> u16 {
    let mut total = 0u64;
    let mut words = bytes.chunks_exact(2);
    for word in &mut words {
        total += u64::from(u16::from_be_bytes([word[0], word[1]]));
    }
    if let [last] = words.remainder() {
        total += u64::from(*last) << 8;
    }
    fold(total)
}

fn fold(mut total: u64) -> u16 {
    while total >> 16 != 0 {
        total = (total & 0xffff) + (total >> 16);
    }
    total as u16
}

/// The sum of several parts; each but the last has an even length.
pub fn together(parts: &[u16]) -> u16 {
    fold(parts.iter().map(|&part| u64::from(part)).sum())
}

/// The sum of the pseudo header (RFC 9293, 3.1; RFC 8200, 8.1).
pub fn pseudo_header(source: IpAddr, destination: IpAddr, protocol: u8, length: usize) -> u16 {
    let address = |address| match address {
        IpAddr::V4(address) => sum(&address.octets()),
        IpAddr::V6(address) => sum(&address.octets()),
    };
    let length = sum(&(length as u32).to_be_bytes());
    together(&[address(source), address(destination), u16::from(protocol), length])
}

/// What a receiver adds up to: all ones where nothing was damaged. Both representations of zero are one.
pub fn residue(sum: u16) -> u16 {
    if sum == 0 { 0xffff } else { sum }
}

/// The checksum that a sender writes over bytes whose field at `at` counts as zero; `pseudo` is added.
pub fn checksum(bytes: &[u8], at: usize, pseudo: u16) -> u16 {
    let before = sum(&bytes[..at]);
    let after = sum(&bytes[at + 2..]);
    !together(&[before, after, pseudo])
}
