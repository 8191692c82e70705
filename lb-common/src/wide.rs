//! Services of several ports or of a prefix of addresses: found by the longest prefix where no exact service is.

use crate::{Address, ServiceKey};

/// The data of the trie's key: the protocol, then the address; the length of a prefix is in bits of both.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
pub struct WideKey {
    /// IP protocol number in the first byte, then zeroes.
    pub protocol: [u8; 4],
    /// The network; host bits are zero.
    pub network: Address,
}

impl WideKey {
    /// The key of a protocol and an address.
    #[inline(always)]
    pub const fn new(protocol: u8, network: Address) -> Self {
        Self { protocol: [protocol, 0, 0, 0], network }
    }

    /// Bits of the trie's key for a prefix of `bits` of the 128 of [`Address`].
    pub const fn prefix_len(bits: u8) -> u32 {
        32 + bits as u32
    }
}

/// Ports `first` to `last`, both included, in host order; `last` is 0 where the entry is unused.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct PortRange {
    /// The lowest.
    pub first: u16,
    /// The highest.
    pub last: u16,
}

/// The wide services of one (protocol, network).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Wide {
    /// The network.
    pub network: Address,
    /// IP protocol number.
    pub protocol: u8,
    /// [`ServiceKey::width`] of its services.
    pub width: u8,
    /// [`crate::FragmentPolicy`] of its fragments.
    pub fragments: u8,
    /// Zero.
    pub reserved: u8,
    /// Ports of each service; they do not overlap.
    pub ranges: [PortRange; Self::RANGES],
}

impl Wide {
    /// So many services of one protocol may share a network.
    pub const RANGES: usize = 8;

    /// The first port of the service that has `port`; both in host order.
    #[inline(always)]
    pub fn first_port(&self, port: u16) -> Option<u16> {
        for range in &self.ranges {
            if range.first <= port && port <= range.last {
                return Some(range.first);
            }
        }
        None
    }

    /// The key in `SERVICES` of the service that has `port` (host order).
    #[inline(always)]
    pub fn service_key(&self, port: u16) -> Option<ServiceKey> {
        let first = crate::Port::new(self.first_port(port)?);
        Some(ServiceKey { address: self.network, port: first, protocol: self.protocol, width: self.width })
    }
}

const _: () = assert!(size_of::<WideKey>() == 20 && size_of::<Wide>() == 52);
