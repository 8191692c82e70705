//! What the wrapper writes before each run. Shared with the measuring program, which includes this file.

/// Bytes of a frame: a TCP segment over IPv6 without options, and room for the same over IPv4.
pub const FRAME_LEN: usize = 76;

/// A frame and how it varies with the number of the flow. One for each CPU: two that measure at once share nothing.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Recipe {
    /// The frame of flow 0, as native words over its bytes.
    pub frame: [u32; FRAME_LEN / 4],
    /// Flows less one: a power of two less one.
    pub flow_mask: u32,
    /// The flow that was written last.
    pub flow: u32,
    /// Of [`next_flow`].
    pub multiplier: u32,
    /// Offset of the last word of the address that varies with the flow.
    pub address_at: u32,
    /// Offset of the port that does.
    pub port_at: u32,
    /// Bytes that the program under test puts in front, which the wrapper takes off again.
    pub grown: u32,
    /// Offset of the IPv4 header's checksum; 0: there is none. The generator alone keeps checksums right.
    pub ip_check_at: u32,
    /// Offset of the upper layer's.
    pub l4_check_at: u32,
}

/// Linear congruential step: the increment is odd and `multiplier` is of the form 4n + 1, so that modulo any
/// power of two it visits every number once before it repeats (Hull and Dobell 1962).
#[inline(always)]
pub const fn next_flow(flow: u32, multiplier: u32, mask: u32) -> u32 {
    flow.wrapping_mul(multiplier).wrapping_add(0xf767_814f) & mask
}

/// What a flow's number adds to an address whose low 16 bits and to a port whose low 4 bits are zero.
#[inline(always)]
pub const fn flow_parts(flow: u32) -> (u32, u16) {
    ((flow >> 4).to_be(), ((flow & 15) as u16).to_be())
}

/// A checksum once these bytes, where zeroes were, are part of what it covers (RFC 1624); words as they lie in memory.
#[inline(always)]
pub const fn with_added(checksum: u16, address: u32, port: u16) -> u16 {
    let sum = !checksum as u32 + (address & 0xffff) + (address >> 16) + port as u32;
    let sum = (sum & 0xffff) + (sum >> 16);
    !((sum & 0xffff) + (sum >> 16)) as u16
}

const _: () = assert!(size_of::<Recipe>() == 108);
