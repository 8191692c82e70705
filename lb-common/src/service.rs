//! Services, the sources of their replies, and what is counted of them.

use crate::{Address, BackendId, HashKeys, Port};

/// The protocols that are balanced, by their IP protocol number.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
#[repr(u8)]
pub enum Protocol {
    /// RFC 9293.
    Tcp = 6,
    /// RFC 768.
    Udp = 17,
}

impl Protocol {
    /// The protocol of an IP protocol number, if it is balanced.
    #[inline(always)]
    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            6 => Some(Self::Tcp),
            17 => Some(Self::Udp),
            _ => None,
        }
    }
}

/// An (address, port, protocol): a service as clients name it, or a backend as the source of replies.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
pub struct ServiceKey {
    /// The address.
    pub address: Address,
    /// The port.
    pub port: Port,
    /// IP protocol number.
    pub protocol: u8,
    /// Zero.
    pub reserved: u8,
}

/// How packets get to a backend.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    /// Destination address and port are rewritten; replies come back through the balancer.
    Nat,
    /// Only the destination MAC is rewritten; the backend owns the virtual address and answers the client itself.
    DsrL2,
}

/// What a service remembers of its flows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Tracking {
    /// Only what a change of the table could break.
    OnChange,
    /// Nothing: every packet goes to the slot's current owner.
    Connectionless,
}

/// A service's entry: replaced whole by one update of the hash map, which readers see before or after.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Service {
    /// Its number: the index of its counters.
    pub id: u32,
    /// Its region's first slot.
    pub slots_start: u32,
    /// `32 - log2(slots)`: the slot is the hash shifted right by this.
    pub slots_shift: u8,
    mode: u8,
    tracking: u8,
    reserved: u8,
    /// A remembered flow without a packet for longer than this is forgotten.
    pub flow_idle_seconds: u32,
}

impl Service {
    /// An entry of these parts; `slots` is a power of two of at least 2.
    pub const fn new(
        id: u32,
        slots_start: u32,
        slots: u32,
        mode: Mode,
        tracking: Tracking,
        flow_idle_seconds: u32,
    ) -> Self {
        Self {
            id,
            slots_start,
            slots_shift: (32 - slots.trailing_zeros()) as u8,
            mode: match mode {
                Mode::Nat => 0,
                Mode::DsrL2 => 1,
            },
            tracking: match tracking {
                Tracking::OnChange => 0,
                Tracking::Connectionless => 1,
            },
            reserved: 0,
            flow_idle_seconds,
        }
    }

    /// See [`Mode`].
    #[inline(always)]
    pub const fn mode(&self) -> Mode {
        match self.mode {
            0 => Mode::Nat,
            _ => Mode::DsrL2,
        }
    }

    /// See [`Tracking`].
    #[inline(always)]
    pub const fn tracking(&self) -> Tracking {
        match self.tracking {
            0 => Tracking::OnChange,
            _ => Tracking::Connectionless,
        }
    }

    /// How many slots its table has.
    pub const fn slots(&self) -> u32 {
        1 << (32 - self.slots_shift as u32)
    }

    /// The slot of a flow: the top bits of its hash, so that a table that grows nests in the old one.
    #[inline(always)]
    pub const fn slot_index(&self, hash: u64) -> u32 {
        self.slots_start + ((hash >> 32) as u32 >> (self.slots_shift & 31))
    }
}

/// What a `nat` reply is given for its source: the service as the client knows it.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Reply {
    /// The virtual address.
    pub vip: Address,
    /// The backend that replies.
    pub backend: u32,
    /// The number of its service.
    pub service: u32,
    /// The service's port.
    pub port: Port,
    /// Zero.
    pub reserved: [u16; 3],
}

impl Reply {
    /// A reply of `backend` in the name of `vip`:`port`.
    pub const fn new(vip: Address, port: Port, backend: BackendId, service: u32) -> Self {
        Self { vip, backend: backend.0, service, port, reserved: [0; 3] }
    }
}

/// A virtual address.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct VirtualAddress {
    /// 1: the program answers ARP for it.
    pub answer_arp: u32,
    /// How many services use it.
    pub services: u32,
}

/// What is counted of a service and of a backend, per CPU.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counters {
    /// Packets from clients that were sent on.
    pub packets: u64,
    /// Their bytes from the IP header on.
    pub bytes: u64,
    /// TCP: SYNs among them. UDP: flows that were remembered anew.
    pub new_flows: u64,
    /// Flows that the full table refused to remember.
    pub refused_flows: u64,
}

/// Settings of the program as a whole, the single element of `SETTINGS`.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Settings {
    /// Keys of the flow hash: secret, and constant for the life of the maps.
    pub hash_keys: HashKeys,
}

const _: () =
    assert!(size_of::<ServiceKey>() == 20 && size_of::<Service>() == 16 && size_of::<Reply>() == 32);
