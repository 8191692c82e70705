//! QUIC connection ids that name a server (draft-ietf-quic-load-balancers, plaintext; Katran's two layouts).

/// How a service's connection ids name their server.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum QuicScheme {
    /// They do not: flows go by their addresses.
    #[default]
    None,
    /// QUIC-LB: three bits of configuration, five of length, then the server id in the clear.
    QuicLb,
    /// Katran, version 1: two bits `01`, then 16 of server id.
    KatranV1,
    /// Katran, version 2: two bits `10`, six unused, then 24 of server id.
    KatranV2,
}

impl QuicScheme {
    /// The byte in a service's entry.
    pub const fn byte(self) -> u8 {
        match self {
            Self::None => 0,
            Self::QuicLb => 1,
            Self::KatranV1 => 2,
            Self::KatranV2 => 3,
        }
    }

    /// From the byte in a service's entry.
    #[inline(always)]
    pub const fn from_byte(byte: u8) -> Self {
        match byte {
            1 => Self::QuicLb,
            2 => Self::KatranV1,
            3 => Self::KatranV2,
            _ => Self::None,
        }
    }
}

/// A server of a service.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
pub struct QuicKey {
    /// The number of the service.
    pub service: u32,
    /// Zero.
    pub reserved: u32,
    /// The server id: its bytes as a big-endian number.
    pub server: u64,
}

const _: () = assert!(size_of::<QuicKey>() == 16);
