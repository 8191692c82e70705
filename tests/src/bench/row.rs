//! One thing that is measured, and the list of all.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use lb_common::{Algorithm, Features, Mode};

use super::{
    offer::Offer,
    recipe::{FRAME_LEN, Recipe},
};
use crate::packet::{Frame, flags};

/// How many flows the packets are of.
pub const FLOWS: [u32; 3] = [1, 1 << 16, 1 << 20];
/// The services' port.
pub const VIP_PORT: u16 = 80;
/// Low 4 bits zero.
const CLIENT_PORT: u16 = 40_000;
/// The order of flows by which tables are filled: a hash map hands out its elements in the order of insertion,
/// so flows that are looked up in that same order would walk through memory, and a prefetcher run ahead.
pub const IN_TURN: u32 = 1;
/// Another order, to measure with.
pub const SHUFFLED: u32 = 0x4c95_7f2d;

/// The family of packets and of what carries them.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// What is run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Row {
    /// A part only, to compare with.
    Floor(Floor, u32),
    /// The shipped program: service, family, scenario, flows.
    Shipped(Offer, Family, Scenario, u32),
}

/// Programs that do only a part.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Floor {
    /// Run without the wrapper: the kernel's own loop.
    Loop,
    /// The wrapper and nothing: its cost, which is taken off every other row.
    Empty,
    /// The wrapper takes off what the program put in front, so many bytes; half of what that costs more than `Empty`
    /// is the wrapper's.
    Grow(u32),
    /// The shipped parser.
    Parse(Family),
    /// And one lookup of the service.
    ParseService(Family),
    /// And, in its place, one lookup in a plain hash of 1 Mi flows.
    ParseFlow,
}

/// What the packets are and what the tables hold.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Scenario {
    /// Mid-flow, in a settled slot; of `full-nat`, a translated flow.
    Settled,
    /// The same with a program that is loaded for every feature.
    AllFeatures,
    /// Mid-flow, in a moving slot, of a flow that is not remembered yet: it is inserted.
    MovingInsert,
    /// The same once it is remembered.
    MovingHit,
    /// Mid-flow, in a pinned slot, of a flow that is not remembered.
    PinnedMiss,
    /// SYN in a settled slot.
    Syn,
    /// Mid-flow, of a flow that is remembered because every flow is.
    Established,
    /// SYN of a new flow of a service that tracks every flow: a backend is chosen, and it is remembered.
    Open,
    /// FIN of a flow that is remembered: it is one of its backend's live connections no more.
    Close,
    /// A datagram in a settled slot.
    Udp,
    /// A backend's reply, by the kernel's routes.
    Reply,
    /// For the virtual address, but a port without a service.
    NotOurs,
    /// A later fragment for the virtual address, of an unknown packet.
    Drop,
}

/// Program, mode, family, scenario.
pub type Names = (&'static str, &'static str, &'static str, String);

impl Scenario {
    /// Whether each of its packets is of a flow that is not remembered yet, and will be.
    pub const fn inserts(self) -> bool {
        matches!(self, Self::MovingInsert | Self::Open)
    }

    /// Whether it can be run but once over each flow.
    pub const fn runs_once(self) -> bool {
        self.inserts() || matches!(self, Self::Close)
    }

    /// As it stands in a row.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Settled => "settled",
            Self::AllFeatures => "settled, all features",
            Self::MovingInsert => "moving-insert",
            Self::MovingHit => "moving-hit",
            Self::PinnedMiss => "pinned-miss",
            Self::Syn => "syn",
            Self::Established => "established",
            Self::Open => "new flow",
            Self::Close => "fin",
            Self::Udp => "udp",
            Self::Reply => "reply",
            Self::NotOurs => "not-ours",
            Self::Drop => "drop",
        }
    }
}

impl Row {
    /// All rows, in the order in which a round runs them: what inserts flows before what finds them.
    pub fn all() -> Vec<Self> {
        use Family::{V4, V6};
        use Mode::{DsrGue, DsrIpip, DsrL2, FullNat, Nat};
        use Scenario::*;
        let mut rows = vec![Self::Floor(Floor::Loop, 1)];
        for flows in FLOWS {
            for floor in [
                Floor::Empty,
                Floor::Parse(V4),
                Floor::Parse(V6),
                Floor::ParseService(V4),
                Floor::ParseService(V6),
                Floor::ParseFlow,
            ] {
                rows.push(Self::Floor(floor, flows));
            }
            for mode in [DsrIpip, DsrGue] {
                rows.extend([V4, V6].map(|family| Self::Floor(Floor::Grow(overhead(mode, family)), flows)));
            }
        }
        let tables: [(Mode, Family, &[Scenario]); 10] = [
            (
                Nat,
                V4,
                &[Settled, AllFeatures, Syn, Udp, Reply, NotOurs, Drop, PinnedMiss, MovingInsert, MovingHit],
            ),
            (Nat, V6, &[Settled, Syn, Udp, Reply, NotOurs, MovingInsert, MovingHit]),
            (DsrL2, V4, &[Settled, Syn, Udp, MovingInsert, MovingHit]),
            (DsrL2, V6, &[Settled]),
            (DsrIpip, V4, &[Settled, AllFeatures, Syn, Udp, MovingInsert, MovingHit]),
            (DsrIpip, V6, &[Settled, Syn]),
            (DsrGue, V4, &[Settled, Syn, Udp]),
            (DsrGue, V6, &[Settled, Syn]),
            (FullNat, V4, &[Settled]),
            (FullNat, V6, &[Settled]),
        ];
        let of = |offer, family, scenarios: &[Scenario]| {
            let mut rows = Vec::new();
            for &scenario in scenarios {
                let flows = FLOWS.into_iter().filter(|&flows| measurable(offer, family, scenario, flows));
                rows.extend(flows.map(|flows| Self::Shipped(offer, family, scenario, flows)));
            }
            rows
        };
        rows.extend(
            tables
                .iter()
                .flat_map(|(mode, family, scenarios)| of(Offer::OnChange(*mode), *family, scenarios)),
        );
        rows.extend([V4, V6].iter().flat_map(|&family| of(Offer::Source, family, &[Settled, Syn])));
        for algorithm in Algorithm::ALL {
            rows.extend(of(Offer::By(algorithm), V4, &[Open, Established, Close]));
        }
        rows.extend(of(Offer::By(Algorithm::Maglev), V6, &[Open, Established, Close]));
        for mode in [DsrL2, DsrIpip, DsrGue] {
            for family in [V4, V6] {
                rows.extend(of(Offer::In(mode), family, &[Open, Established]));
            }
        }
        for family in [V4, V6] {
            rows.extend(of(Offer::Affinity, family, &[Open, Established]));
        }
        rows
    }

    /// What it is called.
    pub fn names(self) -> Names {
        match self {
            Self::Floor(floor, _) => {
                let (family, name) = match floor {
                    Floor::Loop => ("-", "loop"),
                    Floor::Empty => ("-", "empty"),
                    Floor::Grow(20) => ("ipv4", "grow by 20"),
                    Floor::Grow(28) => ("ipv4", "grow by 28"),
                    Floor::Grow(40) => ("ipv6", "grow by 40"),
                    Floor::Grow(_) => ("ipv6", "grow by 48"),
                    Floor::Parse(family) => (family.name(), "parse"),
                    Floor::ParseService(family) => (family.name(), "parse+service"),
                    Floor::ParseFlow => ("ipv4", "parse+plain-hash"),
                };
                ("floor", "-", family, name.to_owned())
            }
            Self::Shipped(offer, family, scenario, _) => (
                "portcullis",
                offer.mode_name(),
                family.name(),
                format!("{}{}", offer.prefix(), scenario.name()),
            ),
        }
    }

    /// Of how many flows its packets are.
    pub const fn flows(self) -> u32 {
        match self {
            Self::Floor(_, flows) | Self::Shipped(.., flows) => flows,
        }
    }

    /// Bytes that the program puts in front of a packet.
    pub const fn grown(self) -> u32 {
        match self {
            Self::Floor(Floor::Grow(bytes), _) => bytes,
            Self::Floor(..) => 0,
            Self::Shipped(offer, family, ..) => overhead(offer.mode(), family),
        }
    }

    /// What the program is loaded for: as the controller would load it for this row's service alone.
    pub fn features(self) -> Features {
        match self {
            Self::Floor(..) => Features::NONE,
            Self::Shipped(_, _, Scenario::AllFeatures, _) => Features::ALL,
            Self::Shipped(offer, family, ..) => offer.features(family),
        }
    }

    /// Its packets.
    pub fn recipe(self) -> Recipe {
        let (offer, family, scenario) = match self {
            Self::Floor(Floor::Parse(family) | Floor::ParseService(family), _) => {
                (Offer::OnChange(Mode::Nat), family, Scenario::Settled)
            }
            Self::Floor(..) => (Offer::OnChange(Mode::Nat), Family::V4, Scenario::Settled),
            Self::Shipped(offer, family, scenario, _) => (offer, family, scenario),
        };
        let client = SocketAddr::new(clients(family), CLIENT_PORT);
        let port = if scenario == Scenario::NotOurs { VIP_PORT + 1 } else { VIP_PORT };
        let to_vip = Frame {
            tags: &[],
            source_mac: [2, 0, 0, 0, 9, 9],
            destination_mac: [2, 0, 0, 0, 9, 1],
            source: client,
            destination: SocketAddr::new(offer.vip(family), port),
            ttl: 64,
        };
        let towards_client = scenario == Scenario::Reply;
        let bytes = match scenario {
            Scenario::Udp => to_vip.udp(&[0x55; 12]),
            Scenario::Syn | Scenario::Open => to_vip.tcp(flags::SYN, &[]),
            Scenario::Close => to_vip.tcp(flags::FIN | flags::ACK, &[]),
            Scenario::Reply => {
                Frame { source: offer.backend(family, 0), destination: client, ..to_vip }.tcp(flags::ACK, &[])
            }
            Scenario::Drop => {
                let mut bytes = to_vip.tcp(flags::ACK, &[]);
                const OFFSET_LOW: usize = 21;
                bytes[OFFSET_LOW] = 1;
                bytes
            }
            Scenario::Settled
            | Scenario::AllFeatures
            | Scenario::MovingInsert
            | Scenario::MovingHit
            | Scenario::PinnedMiss
            | Scenario::Established
            | Scenario::NotOurs => to_vip.tcp(flags::ACK, &[]),
        };
        let multiplier = if scenario.inserts() { IN_TURN } else { SHUFFLED };
        let (source_at, l4) = match family {
            Family::V4 => (26, 34),
            Family::V6 => (22, 54),
        };
        let address_len = if family == Family::V4 { 4 } else { 16 };
        let (address_at, port_at) = if towards_client {
            (source_at + 2 * address_len - 4, l4 + 2)
        } else {
            (source_at + address_len - 4, l4)
        };
        Recipe {
            frame: words(bytes),
            flow_mask: self.flows() - 1,
            flow: 0,
            multiplier,
            address_at,
            port_at,
            grown: self.grown(),
            ip_check_at: 0,
            l4_check_at: 0,
        }
    }
}

impl Row {
    /// Packets that fill a table with its flows.
    pub fn filling(self) -> Recipe {
        let row = match self {
            Self::Shipped(offer, family, Scenario::Close, flows) => {
                Self::Shipped(offer, family, Scenario::Established, flows)
            }
            other => other,
        };
        Recipe { multiplier: IN_TURN, ..row.recipe() }
    }
}

impl Family {
    /// As rows spell it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::V4 => "ipv4",
            Self::V6 => "ipv6",
        }
    }
}

/// Bytes that a mode puts in front of a packet on its way to backends of this family.
pub const fn overhead(mode: Mode, family: Family) -> u32 {
    match (mode, family) {
        (Mode::DsrIpip, Family::V4) => 20,
        (Mode::DsrGue, Family::V4) => 28,
        (Mode::DsrIpip, Family::V6) => 40,
        (Mode::DsrGue, Family::V6) => 48,
        (Mode::Nat | Mode::FullNat | Mode::DsrL2, _) => 0,
    }
}

/// The name of a mode as services spell it.
pub const fn mode_name(mode: Mode) -> &'static str {
    match mode {
        Mode::Nat => "nat",
        Mode::FullNat => "full-nat",
        Mode::DsrL2 => "dsr-l2",
        Mode::DsrIpip => "dsr-ipip",
        Mode::DsrGue => "dsr-gue",
    }
}

/// Whether a row says what it is meant to.
fn measurable(offer: Offer, family: Family, scenario: Scenario, flows: u32) -> bool {
    let (one, many) = (flows == FLOWS[0], flows == FLOWS[2]);
    match offer {
        // Translations are fewer than 1 Mi.
        Offer::OnChange(Mode::FullNat) => !many,
        // One flow is inserted, and closed, once, which cannot be timed.
        _ if scenario.runs_once() && one => false,
        Offer::OnChange(_) | Offer::Source => true,
        // To fill the table takes seconds, and what it costs is told by the other rows.
        Offer::By(_) => !many || (scenario == Scenario::Established && family == Family::V4),
        Offer::In(_) | Offer::Affinity => !many,
    }
}

/// Low 16 bits zero: the flow's number fills them.
const fn clients(family: Family) -> IpAddr {
    match family {
        Family::V4 => IpAddr::V4(Ipv4Addr::new(198, 18, 0, 0)),
        Family::V6 => IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0xc, 0, 0, 0, 0, 0)),
    }
}

/// A frame, padded to the length that all have.
pub fn words(mut bytes: Vec<u8>) -> [u32; FRAME_LEN / 4] {
    assert!(bytes.len() <= FRAME_LEN);
    bytes.resize(FRAME_LEN, 0);
    let mut frame = [0; FRAME_LEN / 4];
    for (word, chunk) in frame.iter_mut().zip(bytes.chunks_exact(4)) {
        *word = u32::from_ne_bytes([chunk[0], chunk[1], chunk[2], chunk[3]]);
    }
    frame
}
