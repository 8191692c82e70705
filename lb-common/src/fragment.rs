//! Where the first fragment of a packet went, so that the others follow.

use crate::Address;

/// What the fragments of one packet share (RFC 791, 3.2; RFC 8200, 4.5).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct FragmentKey {
    /// As it stands in the packet.
    pub source: Address,
    /// As it stands in the packet.
    pub destination: Address,
    /// The identification: the 16 bits of IPv4 or the 32 of IPv6, as one native word over the packet's bytes.
    pub identification: u32,
    /// IP protocol number; for IPv6 that of the first fragment's upper layer, which later ones repeat.
    pub protocol: u8,
    /// Zero.
    pub reserved: [u8; 3],
}

/// Where they go.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct FragmentWay {
    /// What the source becomes; unchanged where equal.
    pub source: Address,
    /// What the destination becomes; unchanged where equal.
    pub destination: Address,
    /// The backend that they go to or come from.
    pub backend: u32,
    /// The number of its service.
    pub service: u32,
    /// The second of the monotonic clock in which the first fragment was seen.
    pub seen: u32,
    /// 1: from a backend to a client.
    pub is_reply: u32,
}

const _: () = assert!(size_of::<FragmentKey>() == 40 && size_of::<FragmentWay>() == 48);
