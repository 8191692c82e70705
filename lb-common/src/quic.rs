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

/// The octets of a connection id that may name a server: the first, and the eight after it as a big-endian number.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct IdStart {
    /// The first octet.
    pub first: u8,
    /// The next eight.
    pub rest: u64,
}

/// QUIC-LB: a configuration of these bits says that the id names no server.
const UNROUTABLE: u8 = 7;
/// Katran's ids have eight octets.
const KATRAN_LEN: u8 = 8;

impl QuicScheme {
    /// The fewest octets of a connection id that names a server; `server_id_len` as in the service's entry.
    #[inline(always)]
    pub const fn id_len_min(self, server_id_len: u8) -> u8 {
        match self {
            Self::None => u8::MAX,
            Self::QuicLb => 1 + server_id_len,
            Self::KatranV1 | Self::KatranV2 => KATRAN_LEN,
        }
    }

    /// The server id in a connection id of at least [`Self::id_len_min`] octets; `None` where the first of them says
    /// that it is of another scheme or configuration. `server_id_len` is 1 to 8, `config` 0 to 6.
    #[inline(always)]
    pub const fn server_id(self, id: IdStart, server_id_len: u8, config: u8) -> Option<u64> {
        let IdStart { first, rest } = id;
        match self {
            Self::QuicLb if first >> 5 == config && config != UNROUTABLE => {
                Some(rest >> (64u32.wrapping_sub(8 * server_id_len as u32) & 63))
            }
            Self::KatranV1 if first >> 6 == 0b01 => Some((first as u64 & 0x3f) << 10 | rest >> 54),
            Self::KatranV2 if first >> 6 == 0b10 => Some(rest >> 40),
            _ => None,
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

#[cfg(test)]
mod tests {
    use super::{
        QuicScheme::{KatranV1, KatranV2, QuicLb},
        *,
    };

    /// (scheme, length of server ids, configuration, id, server)
    type Case = (QuicScheme, u8, u8, [u8; 9], Option<u64>);

    #[test]
    fn a_server_is_read_from_an_id() {
        let cases: [Case; 14] = [
            (QuicLb, 1, 0, [0x07, 0xa1, 2, 3, 4, 5, 6, 7, 8], Some(0xa1)),
            (QuicLb, 2, 1, [0x3f, 0xa1, 0xb2, 3, 4, 5, 6, 7, 8], Some(0xa1b2)),
            (QuicLb, 3, 6, [0xc0, 0xa1, 0xb2, 0xc3, 4, 5, 6, 7, 8], Some(0xa1_b2c3)),
            (QuicLb, 8, 2, [0x40, 1, 2, 3, 4, 5, 6, 7, 8], Some(0x0102_0304_0506_0708)),
            (QuicLb, 1, 1, [0x00, 0xa1, 2, 3, 4, 5, 6, 7, 8], None),
            (QuicLb, 1, 0, [0xe0, 0xa1, 2, 3, 4, 5, 6, 7, 8], None),
            (QuicLb, 1, 7, [0xe0, 0xa1, 2, 3, 4, 5, 6, 7, 8], None),
            (KatranV1, 0, 0, [0x7f, 0xff, 0xc0, 0, 0, 0, 0, 0, 0], Some(0xffff)),
            (KatranV1, 0, 0, [0x48, 0xd1, 0x40, 0, 0, 0, 0, 0, 0], Some(0x2345)),
            (KatranV1, 0, 0, [0x40, 0x00, 0x7f, 0xff, 0, 0, 0, 0, 0], Some(1)),
            (KatranV1, 0, 0, [0x88, 0xd1, 0x40, 0, 0, 0, 0, 0, 0], None),
            (KatranV2, 0, 0, [0xbf, 0x12, 0x34, 0x56, 0xff, 0, 0, 0, 0], Some(0x12_3456)),
            (KatranV2, 0, 0, [0x48, 0x12, 0x34, 0x56, 0xff, 0, 0, 0, 0], None),
            (QuicScheme::None, 1, 0, [0x00, 0xa1, 2, 3, 4, 5, 6, 7, 8], None),
        ];
        for (scheme, len, config, id, server) in cases {
            let [first, rest @ ..] = id;
            let start = IdStart { first, rest: u64::from_be_bytes(rest) };
            assert_eq!(scheme.server_id(start, len, config), server, "{scheme:?} {len} {config} {id:02x?}");
        }
    }
}
