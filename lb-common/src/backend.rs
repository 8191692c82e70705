//! Backends, the way to them, and the interfaces that lead there.

use crate::{Address, Mac, Port};

/// The number of a (service, address, port). Zero names no backend; a number is not given to another
/// backend until no slot and no remembered flow names it.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
pub struct BackendId(pub u32);

impl BackendId {
    /// No backend: the owner of a slot whose service has nobody to send to.
    pub const NONE: Self = Self(0);
}

/// What may be sent to a backend.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BackendState {
    /// Nothing: it failed, was deleted, or the id is unused.
    Down,
    /// New flows and old ones.
    Up,
    /// Old flows only: the table no longer names it.
    Draining,
    /// Nothing: who still sends TCP to it, or it to whom, is answered with a reset.
    Cut,
}

impl BackendState {
    /// The word that stands in the map.
    pub const fn word(self) -> u32 {
        match self {
            Self::Down => 0,
            Self::Up => 1,
            Self::Draining => 2,
            Self::Cut => 3,
        }
    }

    /// From the word in the map; unknown words are `Down`.
    #[inline(always)]
    pub const fn from_word(word: u32) -> Self {
        match word {
            1 => Self::Up,
            2 => Self::Draining,
            3 => Self::Cut,
            _ => Self::Down,
        }
    }
}

/// A backend's entry, one cache line. Address, port and service never change while the id is in use;
/// `state`, `next_hop` and (`weight`, `max_connections`) change by one aligned store each, so that no reader sees a half.
#[repr(C, align(64))]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Backend {
    /// Where it is reached.
    pub address: Address,
    /// [`NextHop::word`]; zero where the controller has not resolved it.
    pub next_hop: u64,
    /// The number of its service.
    pub service: u32,
    /// [`BackendState::word`].
    pub state: u32,
    /// Its port; equal to the service's in the modes that do not rewrite it.
    pub port: Port,
    /// Its share relative to the others', by which live connections are compared.
    pub weight: u16,
    /// So many live connections it takes; 0: any number. In one word with `port` and `weight`.
    pub max_connections: u32,
    /// Zero.
    pub reserved: [u64; 3],
}

impl Backend {
    /// Whether flows that it owns are still sent to it.
    #[inline(always)]
    pub const fn serves(&self) -> bool {
        matches!(self.state(), BackendState::Up | BackendState::Draining)
    }

    /// Whether its connections are ended where they send.
    #[inline(always)]
    pub const fn is_cut(&self) -> bool {
        matches!(self.state(), BackendState::Cut)
    }

    #[inline(always)]
    const fn state(&self) -> BackendState {
        BackendState::from_word(self.state)
    }
}

/// The neighbour that packets for a backend are handed to, and the interface that leads there, in one
/// word: MAC in the low 48 bits, index into `INTERFACES` plus one in the high 16.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NextHop {
    /// The neighbour's Ethernet address.
    pub mac: Mac,
    /// Index into `INTERFACES`.
    pub interface: u16,
}

impl NextHop {
    /// The word that stands in a backend's entry.
    pub const fn word(self) -> u64 {
        self.mac.word() | (self.interface as u64 + 1) << 48
    }

    /// From a backend's entry; `None` while unresolved.
    #[inline(always)]
    pub const fn from_word(word: u64) -> Option<Self> {
        match word >> 48 {
            0 => None,
            index => Some(Self { mac: Mac::from_word(word), interface: (index - 1) as u16 }),
        }
    }
}

/// An interface that packets leave through. `mac` and the rest are written before any next hop names it.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Interface {
    /// [`Mac::word`] of the interface itself.
    pub mac: u64,
    /// The kernel's number; zero where the entry is unused.
    pub ifindex: u32,
    /// Largest IP packet in bytes, without the Ethernet header.
    pub mtu: u32,
}

const _: () = assert!(size_of::<Backend>() == 64 && size_of::<Interface>() == 16);
