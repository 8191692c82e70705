//! The services that rows are about: what each remembers of its flows, and where it and its backends are.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use lb_common::{Algorithm, Features, Mode, ServiceSettings, Tracking};

use super::row::{Family, VIP_PORT, mode_name};

/// Longer than any measurement: no flow idles out.
const FLOW_IDLE_SECONDS: u32 = 3_600;
/// A client keeps to its backend for so long.
const AFFINITY_SECONDS: u32 = 600;

/// A service.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Offer {
    /// Tracked on change, by Maglev.
    OnChange(Mode),
    /// `nat`, tracked on change, slots by the client's address.
    Source,
    /// `nat`, every flow tracked.
    By(Algorithm),
    /// Every flow tracked, by Maglev.
    In(Mode),
    /// `nat`, every flow tracked, and a client keeps to its backend.
    Affinity,
}

impl Offer {
    /// All of them.
    pub fn all() -> Vec<Self> {
        const MODES: [Mode; 5] = [Mode::Nat, Mode::DsrL2, Mode::DsrIpip, Mode::DsrGue, Mode::FullNat];
        let mut all: Vec<_> = MODES.map(Self::OnChange).into();
        all.extend([Self::Source, Self::Affinity]);
        all.extend(Algorithm::ALL.map(Self::By));
        all.extend([Mode::DsrL2, Mode::DsrIpip, Mode::DsrGue].map(Self::In));
        all
    }

    /// How packets get to its backends.
    pub const fn mode(self) -> Mode {
        match self {
            Self::OnChange(mode) | Self::In(mode) => mode,
            Self::Source | Self::By(_) | Self::Affinity => Mode::Nat,
        }
    }

    /// What stands in a row before the scenario.
    pub const fn prefix(self) -> &'static str {
        match self {
            Self::OnChange(_) => "",
            Self::Source => "source-hash, ",
            Self::Affinity => "affinity, ",
            Self::In(_) => "tracked, ",
            Self::By(algorithm) => match algorithm {
                Algorithm::Maglev => "tracked, maglev, ",
                Algorithm::SourceHash => "tracked, source-hash, ",
                Algorithm::RoundRobin => "tracked, round-robin, ",
                Algorithm::Random => "tracked, random, ",
                Algorithm::LeastConnections => "tracked, least-connections, ",
                Algorithm::LeastResponseTime => "tracked, least-response-time, ",
                Algorithm::PowerOfTwo => "tracked, power-of-two, ",
            },
        }
    }

    /// Its settings.
    pub const fn settings(self) -> ServiceSettings {
        let (tracking, algorithm) = match self {
            Self::OnChange(_) => (Tracking::OnChange, Algorithm::Maglev),
            Self::Source => (Tracking::OnChange, Algorithm::SourceHash),
            Self::By(algorithm) => (Tracking::EveryFlow, algorithm),
            Self::In(_) | Self::Affinity => (Tracking::EveryFlow, Algorithm::Maglev),
        };
        let mut settings = ServiceSettings::new(self.mode(), tracking, FLOW_IDLE_SECONDS);
        settings.algorithm = algorithm;
        if matches!(self, Self::Affinity) {
            settings.affinity_seconds = AFFINITY_SECONDS;
        }
        settings
    }

    /// What the program is loaded for: as the controller would load it for this service alone.
    pub fn features(self, family: Family) -> Features {
        let settings = self.settings();
        let wanted = |is_wanted, feature| if is_wanted { feature } else { Features::NONE };
        let of_mode = match settings.mode {
            Mode::Nat | Mode::DsrL2 => Features::NONE,
            Mode::DsrIpip | Mode::DsrGue => Features::TUNNEL,
            Mode::FullNat => Features::FULL_NAT,
        };
        of_mode
            | wanted(family == Family::V6, Features::IPV6)
            | wanted(settings.tracking == Tracking::EveryFlow, Features::TRACKED)
            | wanted(settings.algorithm == Algorithm::SourceHash, Features::SOURCE)
    }

    /// Its mode's name as services spell it.
    pub const fn mode_name(self) -> &'static str {
        mode_name(self.mode())
    }

    /// Where clients reach it.
    pub const fn vip(self, family: Family) -> IpAddr {
        match family {
            Family::V4 => IpAddr::V4(Ipv4Addr::new(203, 0, 113, self.number())),
            Family::V6 => IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0x113, 0, 0, 0, 0, self.number() as u16)),
        }
    }

    /// Address and port of its backend `index`.
    pub const fn backend(self, family: Family, index: u8) -> SocketAddr {
        let port = if self.mode().keeps_destination() { VIP_PORT } else { 8080 };
        let address = match family {
            Family::V4 => IpAddr::V4(Ipv4Addr::new(10, 9, self.number(), 1 + index)),
            Family::V6 => {
                IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 9, 0, 0, 0, self.number() as u16, 1 + index as u16))
            }
        };
        SocketAddr::new(address, port)
    }

    const fn number(self) -> u8 {
        match self {
            Self::OnChange(mode) => of_mode(mode),
            Self::In(mode) => 8 + of_mode(mode),
            Self::By(algorithm) => 16 + algorithm as u8,
            Self::Affinity => 24,
            Self::Source => 25,
        }
    }
}

const fn of_mode(mode: Mode) -> u8 {
    match mode {
        Mode::Nat => 1,
        Mode::DsrL2 => 2,
        Mode::DsrIpip => 3,
        Mode::DsrGue => 4,
        Mode::FullNat => 5,
    }
}
