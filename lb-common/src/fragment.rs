//! Where the first fragment of a packet went, so that the others follow.

use crate::{Address, BackendId, Mode};

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
    /// IPv4: the protocol number. IPv6: zero; there the identification is unique for two addresses, and what the fragment
    /// header names may be another extension header.
    pub protocol: u8,
    /// Zero.
    pub reserved: [u8; 3],
}

impl FragmentKey {
    /// A word of 24 bits by which an entry tells whose it is: entries are recycled without a grace period.
    #[inline(always)]
    pub const fn tag(&self) -> u32 {
        let ([a, b, c, d], [e, f, g, h]) = (self.source.words(), self.destination.words());
        let ends = (a ^ b ^ c ^ d).rotate_left(11) ^ (e ^ f ^ g ^ h).rotate_left(22);
        (self.identification ^ ends ^ self.protocol as u32).wrapping_mul(0x9e37_79b1) >> 8
    }
}

/// Where they go.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct FragmentWay {
    /// `full-nat` and replies: what the source becomes.
    pub source: Address,
    /// `full-nat` and replies: what the destination becomes.
    pub destination: Address,
    /// The hash of the flow: what tunnels spread by.
    pub hash: u64,
    /// The backend that they go to; [`BackendId::NONE`] for those that come from one.
    pub backend: u32,
    /// The number of its service.
    pub service: u32,
    /// The second of the monotonic clock in which the first fragment was seen.
    pub seen: u32,
    /// The service's mode in the low byte, and [`FragmentKey::tag`] above it.
    mode: u32,
}

impl FragmentWay {
    /// To `backend`, whose address is all that may be written over `ends`; `hash` is the flow's.
    #[inline(always)]
    pub const fn to_backend(
        ends: (Address, Address),
        backend: BackendId,
        mode: Mode,
        service: u32,
        hash: u64,
        seen: u32,
    ) -> Self {
        let (source, destination) = ends;
        Self { source, destination, hash, backend: backend.0, service, seen, mode: mode.byte() as u32 }
    }

    /// To `backend` in `full-nat`, or from one to a client ([`BackendId::NONE`]); both addresses are written.
    #[inline(always)]
    pub const fn rewritten(ends: (Address, Address), backend: BackendId, service: u32, seen: u32) -> Self {
        Self::to_backend(ends, backend, Mode::FullNat, service, 0, seen)
    }

    /// The same, of the packet whose [`FragmentKey::tag`] this is.
    #[inline(always)]
    pub const fn tagged(self, tag: u32) -> Self {
        Self { mode: self.mode & 0xff | tag << 8, ..self }
    }

    /// See [`Self::tagged`].
    #[inline(always)]
    pub const fn tag(&self) -> u32 {
        self.mode >> 8
    }

    /// The service's mode.
    #[inline(always)]
    pub const fn mode(&self) -> Mode {
        Mode::from_byte(self.mode as u8)
    }

    /// Whether they go from a backend to a client.
    #[inline(always)]
    pub const fn is_reply(&self) -> bool {
        self.backend == BackendId::NONE.0
    }
}

const _: () = assert!(size_of::<FragmentKey>() == 40 && size_of::<FragmentWay>() == 56);
