//! One thing that is measured, and the list of all.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use lb_common::Mode;

use super::recipe::{FRAME_LEN, Recipe};
use crate::packet::{Frame, flags};

/// How many flows the packets are of.
pub const FLOWS: [u32; 3] = [1, 1 << 16, 1 << 20];
/// Where clients reach the service of each mode; `Udp` too.
pub const VIP_NAT: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);
/// See [`VIP_NAT`].
pub const VIP_DSR: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 2);
/// The services' port.
pub const VIP_PORT: u16 = 80;
/// Low 16 bits zero: the flow's number fills them.
const CLIENTS: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 0);
/// Low 4 bits zero.
const CLIENT_PORT: u16 = 40_000;
/// The order of flows by which tables are filled: a hash map hands out its elements in the order of insertion,
/// so flows that are looked up in that same order would walk through memory, and a prefetcher run ahead.
const IN_TURN: u32 = 1;
/// Another order, to measure with.
const SHUFFLED: u32 = 0x4c95_7f2d;

/// What is run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Row {
    /// A part only, to compare with.
    Floor(Floor, u32),
    /// The shipped program: mode, scenario, flows.
    Shipped(Mode, Scenario, u32),
}

/// Programs that do only a part.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Floor {
    /// Run without the wrapper: the kernel's own loop.
    Loop,
    /// The wrapper and nothing: its cost, which is taken off every other row.
    Empty,
    /// The shipped parser.
    Parse,
    /// And one lookup of the service.
    ParseService,
    /// And, in its place, one lookup in a plain hash of 1 Mi flows.
    ParseFlow,
}

/// What the packets are and what the tables hold.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Scenario {
    /// Mid-flow, in a settled slot.
    Settled,
    /// Mid-flow, in a moving slot, of a flow that is not remembered yet: it is inserted.
    MovingInsert,
    /// The same once it is remembered.
    MovingHit,
    /// Mid-flow, in a pinned slot, of a flow that is not remembered.
    PinnedMiss,
    /// SYN in a settled slot.
    Syn,
    /// A datagram in a settled slot.
    Udp,
    /// A backend's reply, by the kernel's routes.
    Reply,
    /// For the virtual address, but a port without a service.
    NotOurs,
    /// A fragment for the virtual address.
    Drop,
}

/// Program, mode, scenario.
pub type Names = (&'static str, &'static str, &'static str);

impl Scenario {
    /// As it stands in a row.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Settled => "settled",
            Self::MovingInsert => "moving-insert",
            Self::MovingHit => "moving-hit",
            Self::PinnedMiss => "pinned-miss",
            Self::Syn => "syn",
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
        use Scenario::*;
        let mut rows = vec![Self::Floor(Floor::Loop, 1)];
        for flows in FLOWS {
            for floor in [Floor::Empty, Floor::Parse, Floor::ParseService, Floor::ParseFlow] {
                rows.push(Self::Floor(floor, flows));
            }
        }
        for mode in [Mode::Nat, Mode::DsrL2] {
            for scenario in [Settled, Syn, Udp, Reply, NotOurs, Drop, PinnedMiss] {
                if scenario == Reply && mode == Mode::DsrL2 {
                    continue;
                }
                rows.extend(FLOWS.map(|flows| Self::Shipped(mode, scenario, flows)));
            }
            for flows in FLOWS {
                // One flow is inserted once, which cannot be timed.
                if flows > 1 {
                    rows.push(Self::Shipped(mode, MovingInsert, flows));
                }
                rows.push(Self::Shipped(mode, MovingHit, flows));
            }
        }
        rows
    }

    /// What it is called.
    pub const fn names(self) -> Names {
        match self {
            Self::Floor(floor, _) => (
                "floor",
                "-",
                match floor {
                    Floor::Loop => "loop",
                    Floor::Empty => "empty",
                    Floor::Parse => "parse",
                    Floor::ParseService => "parse+service",
                    Floor::ParseFlow => "parse+plain-hash",
                },
            ),
            Self::Shipped(mode, scenario, _) => ("portcullis", mode_name(mode), scenario.name()),
        }
    }

    /// Of how many flows its packets are.
    pub const fn flows(self) -> u32 {
        match self {
            Self::Floor(_, flows) | Self::Shipped(_, _, flows) => flows,
        }
    }

    /// Its packets.
    pub fn recipe(self) -> Recipe {
        let (mode, scenario) = match self {
            Self::Floor(..) => (Mode::Nat, Scenario::Settled),
            Self::Shipped(mode, scenario, _) => (mode, scenario),
        };
        let client = SocketAddr::new(IpAddr::V4(CLIENTS), CLIENT_PORT);
        let vip = match mode {
            Mode::Nat | Mode::FullNat => VIP_NAT,
            Mode::DsrL2 | Mode::DsrIpip | Mode::DsrGue => VIP_DSR,
        };
        let port = if scenario == Scenario::NotOurs { VIP_PORT + 1 } else { VIP_PORT };
        let to_vip = Frame {
            tags: &[],
            source_mac: [2, 0, 0, 0, 9, 9],
            destination_mac: [2, 0, 0, 0, 9, 1],
            source: client,
            destination: SocketAddr::new(IpAddr::V4(vip), port),
            ttl: 64,
        };
        let bytes = match scenario {
            Scenario::Udp => to_vip.udp(&[0x55; 18]),
            Scenario::Syn => to_vip.tcp(flags::SYN, &[0x55; 6]),
            Scenario::Reply => {
                Frame { source: backend(mode, 0), destination: client, ..to_vip }.tcp(flags::ACK, &[0x55; 6])
            }
            Scenario::Drop => {
                let mut bytes = to_vip.tcp(flags::ACK, &[0x55; 6]);
                const MORE_FRAGMENTS: u8 = 0x20;
                bytes[20] = MORE_FRAGMENTS;
                bytes
            }
            Scenario::Settled
            | Scenario::MovingInsert
            | Scenario::MovingHit
            | Scenario::PinnedMiss
            | Scenario::NotOurs => to_vip.tcp(flags::ACK, &[0x55; 6]),
        };
        let multiplier = if scenario == Scenario::MovingInsert { IN_TURN } else { SHUFFLED };
        recipe(&bytes, self.flows(), multiplier, scenario == Scenario::Reply)
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

/// Address and port of backend `number` of the services of a mode.
pub fn backend(mode: Mode, number: u8) -> SocketAddr {
    match mode {
        Mode::Nat | Mode::FullNat => SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 9, 1, 1 + number)), 8080),
        Mode::DsrL2 | Mode::DsrIpip | Mode::DsrGue => {
            SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 9, 2, 1 + number)), VIP_PORT)
        }
    }
}

fn recipe(bytes: &[u8], flows: u32, multiplier: u32, towards_client: bool) -> Recipe {
    assert_eq!(bytes.len(), FRAME_LEN);
    let mut frame = [0; FRAME_LEN / 4];
    for (word, chunk) in frame.iter_mut().zip(bytes.chunks_exact(4)) {
        *word = u32::from_ne_bytes([chunk[0], chunk[1], chunk[2], chunk[3]]);
    }
    let (source_mask, destination_mask) = if towards_client { (0, u32::MAX) } else { (u32::MAX, 0) };
    Recipe { frame, flow_mask: flows - 1, flow: 0, source_mask, destination_mask, multiplier }
}
