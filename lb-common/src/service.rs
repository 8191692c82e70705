//! Services, the sources of their replies, and what is counted of them.

use crate::{Address, Algorithm, BackendId, FlowKey, HashKeys, Port, PortRange, QuicScheme};

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
    /// 0: exactly this address and port. Else one more than the bits of the prefix that `address` is, of 128, and
    /// `port` is the first of a range: see [`crate::Wide`].
    pub width: u8,
}

/// How packets get to a backend.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Mode {
    /// Destination address and port are rewritten; replies come back through the balancer.
    Nat,
    /// Source and destination are rewritten; replies come back to the balancer's own address.
    FullNat,
    /// Only the destination MAC is rewritten; the backend owns the virtual address and answers the client itself.
    DsrL2,
    /// Within IP (RFC 2003, RFC 2473, RFC 4213); the backend takes it out and answers the client itself.
    DsrIpip,
    /// Within UDP (draft-ietf-intarea-gue, variant 1), likewise.
    DsrGue,
}

impl Mode {
    pub(crate) const fn byte(self) -> u8 {
        match self {
            Self::Nat => 0,
            Self::DsrL2 => 1,
            Self::DsrIpip => 2,
            Self::DsrGue => 3,
            Self::FullNat => 4,
        }
    }

    #[inline(always)]
    pub(crate) const fn from_byte(byte: u8) -> Self {
        match byte {
            0 => Self::Nat,
            1 => Self::DsrL2,
            2 => Self::DsrIpip,
            3 => Self::DsrGue,
            _ => Self::FullNat,
        }
    }

    /// Whether the backend sees the virtual address and port.
    pub const fn keeps_destination(self) -> bool {
        matches!(self, Self::DsrL2 | Self::DsrIpip | Self::DsrGue)
    }
}

/// What happens to fragments of which no first one was seen.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum FragmentPolicy {
    /// They are dropped and counted.
    #[default]
    Drop,
    /// They are left to the stack.
    Pass,
    /// They go by addresses alone, and so does every packet of the service, or its fragments would go elsewhere.
    ByAddress,
}

impl FragmentPolicy {
    /// The byte in an entry.
    pub const fn byte(self) -> u8 {
        match self {
            Self::Drop => 0,
            Self::Pass => 1,
            Self::ByAddress => 2,
        }
    }

    /// From the byte in an entry.
    #[inline(always)]
    pub const fn from_byte(byte: u8) -> Self {
        match byte {
            1 => Self::Pass,
            2 => Self::ByAddress,
            _ => Self::Drop,
        }
    }
}

/// What a service remembers of its flows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Tracking {
    /// Only what a change of the table could break.
    OnChange,
    /// Nothing: every packet goes to the slot's current owner.
    Connectionless,
    /// Every flow.
    EveryFlow,
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
    quic: u8,
    /// A remembered flow without a packet for longer than this is forgotten.
    pub flow_idle_seconds: u32,
    /// TCP: the largest segment that a SYN may announce, bytes, host order; 0 leaves it as it is.
    pub mss: u16,
    /// QUIC: bytes of a server id, 1 to 8.
    pub quic_server_id_len: u8,
    /// QUIC: the configuration id that QUIC-LB connection ids begin with, 0 to 6.
    pub quic_config: u8,
    by_address: u8,
    algorithm: u8,
    /// Of 128: how much of a client's address counts, in [`Algorithm::SourceHash`] and for affinity.
    pub client_bits: u8,
    flags: u8,
    /// A client's network keeps to its backend until it sent nothing for so long; 0: it does not.
    pub affinity_seconds: u32,
}

/// Response times are taken of its replies.
const MEASURED: u8 = 1;

/// The parts of a [`Service`] that configuration decides.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ServiceSettings {
    /// See [`Mode`].
    pub mode: Mode,
    /// See [`Tracking`].
    pub tracking: Tracking,
    /// See [`Service::flow_idle_seconds`].
    pub flow_idle_seconds: u32,
    /// See [`Algorithm`].
    pub algorithm: Algorithm,
    /// See [`Service::client_bits`].
    pub client_bits: u8,
    /// See [`Service::affinity_seconds`].
    pub affinity_seconds: u32,
    /// See [`Service::by_address`].
    pub by_address: bool,
    /// See [`Service::mss`].
    pub mss: u16,
    /// See [`QuicScheme`].
    pub quic: QuicScheme,
    /// See [`Service::quic_server_id_len`].
    pub quic_server_id_len: u8,
    /// See [`Service::quic_config`].
    pub quic_config: u8,
}

impl ServiceSettings {
    /// A mode and what it remembers; the rest off.
    pub const fn new(mode: Mode, tracking: Tracking, flow_idle_seconds: u32) -> Self {
        Self {
            mode,
            tracking,
            flow_idle_seconds,
            algorithm: Algorithm::Maglev,
            client_bits: 128,
            affinity_seconds: 0,
            by_address: false,
            mss: 0,
            quic: QuicScheme::None,
            quic_server_id_len: 0,
            quic_config: 0,
        }
    }
}

impl ServiceSettings {
    /// Whether response times are taken of its replies, which pass here in two modes only.
    pub const fn measures(&self) -> bool {
        let returns = matches!(self.mode, Mode::Nat | Mode::FullNat);
        returns && matches!(self.algorithm, Algorithm::LeastResponseTime)
    }
}

impl Service {
    /// An entry of these parts; `slots` is a power of two of at least 2.
    pub const fn new(id: u32, slots_start: u32, slots: u32, settings: ServiceSettings) -> Self {
        Self {
            id,
            slots_start,
            slots_shift: (32 - slots.trailing_zeros()) as u8,
            mode: settings.mode.byte(),
            tracking: match settings.tracking {
                Tracking::OnChange => 0,
                Tracking::Connectionless => 1,
                Tracking::EveryFlow => 2,
            },
            quic: settings.quic.byte(),
            flow_idle_seconds: settings.flow_idle_seconds,
            mss: settings.mss,
            quic_server_id_len: settings.quic_server_id_len,
            quic_config: settings.quic_config,
            by_address: settings.by_address as u8,
            algorithm: settings.algorithm.byte(),
            client_bits: settings.client_bits,
            flags: if settings.measures() { MEASURED } else { 0 },
            affinity_seconds: settings.affinity_seconds,
        }
    }

    /// The parts that configuration decides.
    pub const fn settings(&self) -> ServiceSettings {
        ServiceSettings {
            mode: self.mode(),
            tracking: self.tracking(),
            flow_idle_seconds: self.flow_idle_seconds,
            algorithm: self.algorithm(),
            client_bits: self.client_bits,
            affinity_seconds: self.affinity_seconds,
            by_address: self.by_address(),
            mss: self.mss,
            quic: self.quic(),
            quic_server_id_len: self.quic_server_id_len,
            quic_config: self.quic_config,
        }
    }

    /// See [`Mode`].
    #[inline(always)]
    pub const fn mode(&self) -> Mode {
        Mode::from_byte(self.mode)
    }

    /// See [`Tracking`].
    #[inline(always)]
    pub const fn tracking(&self) -> Tracking {
        match self.tracking {
            0 => Tracking::OnChange,
            1 => Tracking::Connectionless,
            _ => Tracking::EveryFlow,
        }
    }

    /// See [`Algorithm`].
    #[inline(always)]
    pub const fn algorithm(&self) -> Algorithm {
        Algorithm::from_byte(self.algorithm)
    }

    /// Whether response times are taken of its replies.
    #[inline(always)]
    pub const fn is_measured(&self) -> bool {
        self.flags & MEASURED != 0
    }

    /// The tuple under which a flow is remembered: without ports where the service goes by addresses alone.
    #[inline(always)]
    pub const fn flow_key(&self, tuple: &FlowKey) -> FlowKey {
        let mut key = *tuple;
        if self.by_address() {
            (key.client_port, key.vip_port) = (Port::new(0), Port::new(0));
        }
        key
    }

    /// The tuple whose hash finds a flow's slot, and whose tag it is remembered with.
    #[inline(always)]
    pub const fn slot_key(&self, tuple: &FlowKey) -> FlowKey {
        let mut key = self.flow_key(tuple);
        if matches!(self.algorithm(), Algorithm::SourceHash) {
            (key.client, key.client_port) = (tuple.client.network(self.client_bits), Port::new(0));
        }
        key
    }

    /// Under which the backend of a client's network is remembered.
    #[inline(always)]
    pub const fn affinity_key(&self, tuple: &FlowKey) -> FlowKey {
        FlowKey {
            client: tuple.client.network(self.client_bits),
            client_port: Port::new(0),
            reserved: FlowKey::AFFINITY,
            ..self.flow_key(tuple)
        }
    }

    /// Whether its flows go by addresses alone: ports are taken for zero.
    #[inline(always)]
    pub const fn by_address(&self) -> bool {
        self.by_address != 0
    }

    /// See [`QuicScheme`].
    #[inline(always)]
    pub const fn quic(&self) -> QuicScheme {
        QuicScheme::from_byte(self.quic)
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
    /// The service's port; 0: the backend's ports are the service's.
    pub port: Port,
    /// TCP: as [`Service::mss`].
    pub mss: u16,
    /// Where `port` is 0: the service's ports.
    pub ports: PortRange,
    flags: u32,
}

/// The backend's connections are to be ended.
const CUT: u32 = 2;

impl Reply {
    /// A reply of `backend` in the name of `vip`:`port`.
    pub const fn new(vip: Address, port: Port, backend: BackendId, service: u32, mss: u16) -> Self {
        Self { vip, backend: backend.0, service, port, mss, ports: PortRange { first: 0, last: 0 }, flags: 0 }
    }

    /// A reply of `backend` in the name of `vip`, from any of these ports and with its port as it is.
    pub const fn of_range(
        vip: Address,
        ports: PortRange,
        backend: BackendId,
        service: u32,
        mss: u16,
    ) -> Self {
        Self { vip, backend: backend.0, service, port: Port::new(0), mss, ports, flags: 0 }
    }

    /// The same, of a service whose response times are measured or not.
    pub const fn measured(self, measured: bool) -> Self {
        let flags = if measured { self.flags | MEASURED as u32 } else { self.flags & !(MEASURED as u32) };
        Self { flags, ..self }
    }

    /// The same, of a backend whose connections are to be ended or not.
    pub const fn cut(self, cut: bool) -> Self {
        let flags = if cut { self.flags | CUT } else { self.flags & !CUT };
        Self { flags, ..self }
    }

    /// See [`Self::measured`].
    #[inline(always)]
    pub const fn is_measured(&self) -> bool {
        self.flags & MEASURED as u32 != 0
    }

    /// See [`Self::cut`].
    #[inline(always)]
    pub const fn is_cut(&self) -> bool {
        self.flags & CUT != 0
    }
}

/// A virtual address, or an address of the `full-nat` pool.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct VirtualAddress {
    /// 1: the program answers ARP and neighbour solicitations for it.
    pub answer_arp: u8,
    /// 1: the program answers echo requests to it.
    pub answer_echo: u8,
    /// [`FragmentPolicy`] of its TCP and UDP services.
    pub fragments: [u8; 2],
    /// How many services use it.
    pub services: u32,
    /// Where [`FragmentPolicy::ByAddress`]: the port of the one TCP and the one UDP service.
    pub by_address: [Port; 2],
    /// Zero.
    pub reserved: u32,
}

impl VirtualAddress {
    /// The policy of a protocol's fragments.
    #[inline(always)]
    pub const fn fragment_policy(&self, protocol: Protocol) -> FragmentPolicy {
        FragmentPolicy::from_byte(match protocol {
            Protocol::Tcp => self.fragments[0],
            Protocol::Udp => self.fragments[1],
        })
    }

    /// The port of the service that fragments go to by address.
    #[inline(always)]
    pub const fn by_address_port(&self, protocol: Protocol) -> Port {
        match protocol {
            Protocol::Tcp => self.by_address[0],
            Protocol::Udp => self.by_address[1],
        }
    }
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
    /// New flows that went past a backend with as many connections as it may have.
    pub overflowed: u64,
}

/// Settings of the program as a whole, the single element of `SETTINGS`.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Settings {
    /// Keys of the flow hash: secret, and constant for the life of the maps.
    pub hash_keys: HashKeys,
    /// The network of tunnels' IPv4 sources; host bits are filled from the flow's hash.
    pub tunnel_ipv4: Address,
    /// The network of tunnels' IPv6 sources, likewise.
    pub tunnel_ipv6: Address,
    /// Host bits of `tunnel_ipv4`: a native word over the packet's bytes.
    pub tunnel_ipv4_hosts: u32,
    /// Host bits of the last word of `tunnel_ipv6`, likewise.
    pub tunnel_ipv6_hosts: u32,
    /// UDP port of GUE.
    pub gue_port: Port,
    /// `full-nat`: the lowest port of the pool, host order.
    pub pool_first_port: u16,
    /// `full-nat`: how many ports an address of the pool has.
    pub pool_ports: u16,
    /// `full-nat`: how many IPv4 addresses stand in `POOL` from index 0 on.
    pub pool_ipv4: u8,
    /// `full-nat`: how many IPv6 addresses stand in `POOL` from index [`crate::limits::POOL_ADDRESSES`] on.
    pub pool_ipv6: u8,
    /// ICMP errors that a CPU may send in a second.
    pub answers_per_second: u32,
    /// Zero.
    pub reserved: u32,
}

const _: () = assert!(
    size_of::<ServiceKey>() == 20
        && size_of::<Service>() == 28
        && size_of::<Reply>() == 36
        && size_of::<VirtualAddress>() == 16
        && size_of::<Settings>() == 72
);
