//! Packets per second on one core: from a generator over a virtual cable through a balancer, and over another to a
//! counting sink. Portcullis, the kernel's forwarding, nftables and IPVS in the same run, on the same cables.
//!
//! | module | what |
//! |---|---|
//! | [`world`] | three namespaces, two cables, and the rules of those who are not ours |
//! | [`stage`] | programs and maps; fills flow tables, sends, counts what arrives |
//! | [`report`] | medians, the table, the rows as JSON, and the bars in words |

pub mod report;
pub mod stage;
pub mod world;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use lb_common::{Features, Mode, ServiceSettings, Tracking};

use super::{
    recipe::{FRAME_LEN, Recipe},
    row::{self, FLOWS, Family},
};
use crate::packet::Frame;

/// Longer than any run: no flow idles out.
pub const FLOW_IDLE_SECONDS: u32 = 3_600;
/// Backends of a service.
pub const BACKENDS: u8 = 100;

/// Who sends packets on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum System {
    /// A program that redirects without a look: what generator, cables and sink cost by themselves.
    Relay,
    /// The kernel's IP forwarding, to an address that it has a route to.
    Kernel,
    /// nftables, which translates the destination, with connection tracking.
    Nftables,
    /// IPVS, which translates the destination.
    Ipvs,
    /// Portcullis.
    Portcullis(Way),
}

/// How Portcullis sends packets on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Way {
    /// A mode, slots settled, flows tracked on change.
    Mode(Mode),
    /// `nat`, every flow tracked.
    Tracked,
}

/// One thing that is measured.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Row {
    /// Who sends on.
    pub system: System,
    /// The packets' family.
    pub family: Family,
    /// Of how many flows they are.
    pub flows: u32,
}

impl Row {
    /// All rows, in the order in which a round runs them.
    pub fn all() -> Vec<Self> {
        let systems = [
            System::Relay,
            System::Kernel,
            System::Portcullis(Way::Mode(Mode::Nat)),
            System::Nftables,
            System::Ipvs,
            System::Portcullis(Way::Mode(Mode::DsrL2)),
            System::Portcullis(Way::Mode(Mode::DsrIpip)),
            System::Portcullis(Way::Mode(Mode::FullNat)),
            System::Portcullis(Way::Tracked),
        ];
        let mut rows = Vec::new();
        for family in [Family::V4, Family::V6] {
            for system in systems {
                // The table of translations takes a quarter of 1 Mi flows.
                let fits =
                    |flows: &u32| system != System::Portcullis(Way::Mode(Mode::FullNat)) || *flows < FLOWS[2];
                rows.extend(FLOWS.into_iter().filter(fits).map(|flows| Self { system, family, flows }));
            }
        }
        rows
    }

    /// System and mode, as rows spell them.
    pub const fn names(self) -> (&'static str, &'static str) {
        match self.system {
            System::Relay => ("relay", "redirect"),
            System::Kernel => ("kernel", "forward"),
            System::Nftables => ("nftables", "dnat"),
            System::Ipvs => ("ipvs", "nat"),
            System::Portcullis(Way::Mode(mode)) => ("portcullis", row::mode_name(mode)),
            System::Portcullis(Way::Tracked) => ("portcullis", "tracked"),
        }
    }

    /// Its packets: UDP, 12 bytes of payload.
    pub fn recipe(self, multiplier: u32) -> Recipe {
        let client = match self.family {
            Family::V4 => IpAddr::V4(Ipv4Addr::new(198, 18, 0, 0)),
            Family::V6 => IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0xc, 0, 0, 0, 0, 0)),
        };
        let destination = match self.system {
            System::Portcullis(way) => vip(way, self.family),
            System::Relay | System::Kernel => backend(Way::Mode(Mode::Nat), self.family, 0),
            System::Nftables | System::Ipvs => foreign_vip(self.family),
        };
        let frame = Frame {
            tags: &[],
            source_mac: [2, 0, 0, 0, 9, 9],
            destination_mac: world::BALANCER_MAC,
            source: SocketAddr::new(client, 40_000),
            destination,
            ttl: 64,
        };
        let (address_len, l4) = (if client.is_ipv4() { 4 } else { 16 }, frame.l4());
        Recipe {
            frame: row::words(frame.udp(&[0x55; 12])),
            flow_mask: self.flows - 1,
            flow: 0,
            multiplier,
            address_at: (l4 - address_len - 4) as u32,
            port_at: l4 as u32,
            grown: 0,
            ip_check_at: if client.is_ipv4() { (l4 - 10) as u32 } else { 0 },
            l4_check_at: (l4 + 6) as u32,
        }
    }
}

impl Way {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::Mode(Mode::Nat),
        Self::Mode(Mode::DsrL2),
        Self::Mode(Mode::DsrIpip),
        Self::Mode(Mode::FullNat),
        Self::Tracked,
    ];

    /// What the program is loaded for.
    pub fn features(self, family: Family) -> Features {
        let of_way = match self {
            Self::Mode(Mode::Nat | Mode::DsrL2) => Features::NONE,
            Self::Mode(Mode::DsrIpip | Mode::DsrGue) => Features::TUNNEL,
            Self::Mode(Mode::FullNat) => Features::FULL_NAT,
            Self::Tracked => Features::TRACKED,
        };
        if family == Family::V6 { of_way | Features::IPV6 } else { of_way }
    }

    /// The settings of its services.
    pub const fn settings(self) -> ServiceSettings {
        match self {
            Self::Mode(mode) => ServiceSettings::new(mode, Tracking::OnChange, FLOW_IDLE_SECONDS),
            Self::Tracked => ServiceSettings::new(Mode::Nat, Tracking::EveryFlow, FLOW_IDLE_SECONDS),
        }
    }

    const fn number(self) -> u8 {
        match self {
            Self::Mode(Mode::Nat) => 1,
            Self::Mode(Mode::DsrL2) => 2,
            Self::Mode(Mode::DsrIpip) => 3,
            Self::Mode(Mode::DsrGue) => 4,
            Self::Mode(Mode::FullNat) => 5,
            Self::Tracked => 6,
        }
    }
}

/// Where clients reach a service of Portcullis.
pub fn vip(way: Way, family: Family) -> SocketAddr {
    numbered_vip(way.number(), family)
}

/// Where they reach the one of the others.
pub fn foreign_vip(family: Family) -> SocketAddr {
    numbered_vip(7, family)
}

fn numbered_vip(number: u8, family: Family) -> SocketAddr {
    let address = match family {
        Family::V4 => IpAddr::V4(Ipv4Addr::new(203, 0, 113, number)),
        Family::V6 => IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0x113, 0, 0, 0, 0, number as u16)),
    };
    SocketAddr::new(address, row::VIP_PORT)
}

/// One of the backends behind it; the others' are those of `nat`.
pub fn backend(way: Way, family: Family, index: u8) -> SocketAddr {
    let keeps = matches!(way, Way::Mode(mode) if mode.keeps_destination());
    let number = way.number();
    let address = match family {
        Family::V4 => IpAddr::V4(Ipv4Addr::new(10, 9, number, 1 + index)),
        Family::V6 => IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 9, 0, 0, 0, number as u16, 1 + index as u16)),
    };
    SocketAddr::new(address, if keeps { row::VIP_PORT } else { 8080 })
}

const _: () = assert!(FRAME_LEN == 76);
