//! The services that rows are about, as a table.

use std::net::SocketAddr;

use lb_common::{FragmentPolicy, Mode, Port, Protocol, QuicScheme, ServiceKey, ServiceSettings, Tracking};
use lb_control::target::{TargetBackend, TargetService};

use crate::world::{IDLE_SECONDS, Who, address, v4, v6};
use Mode::{DsrGue, DsrIpip, DsrL2, FullNat, Nat};
use Protocol::{Tcp, Udp};

macro_rules! services {
    ($($(#[$doc:meta])* $name:ident: $mode:ident $protocol:ident $vip:expr => $a:expr, $b:expr;)*) => {
        /// The services.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        pub enum Svc { $($(#[$doc])* $name,)* }

        impl Svc {
            pub const ALL: [Self; [$(stringify!($name),)*].len()] = [$(Self::$name,)*];

            pub fn mode(self) -> Mode {
                match self { $(Self::$name => $mode,)* }
            }

            pub fn protocol(self) -> Protocol {
                match self { $(Self::$name => $protocol,)* }
            }

            /// Where its clients send to; a wide service has more.
            pub fn vip(self) -> SocketAddr {
                match self { $(Self::$name => $vip,)* }
            }

            /// Where a backend is reached.
            pub fn backend(self, who: Who) -> SocketAddr {
                let (a, b) = match self { $(Self::$name => ($a, $b),)* };
                if who == Who::A { a } else { b }
            }
        }
    };
}

services! {
    NatTcp: Nat Tcp vip(1, 80) => near(1, 1, 8_080), near(1, 2, 8_080);
    NatUdp: Nat Udp vip(1, 4_433) => near(1, 1, 8_443), near(1, 2, 8_443);
    /// Remembers nothing.
    Connectionless: Nat Udp vip(1, 53) => near(1, 1, 5_353), near(1, 2, 5_353);
    DsrTcp: DsrL2 Tcp vip(2, 80) => near(2, 1, 80), near(2, 2, 80);
    DsrUdp: DsrL2 Udp vip(2, 80) => near(2, 1, 80), near(2, 2, 80);
    /// Has no backends.
    Empty: Nat Tcp vip(3, 80) => near(1, 1, 8_080), near(1, 2, 8_080);
    Nat6Tcp: Nat Tcp vip6(1, 80) => near6(0x11, 8_080), near6(0x12, 8_080);
    Nat6Udp: Nat Udp vip6(1, 4_433) => near6(0x11, 8_443), near6(0x12, 8_443);
    Dsr6Tcp: DsrL2 Tcp vip6(2, 80) => near6(0x21, 80), near6(0x22, 80);
    Dsr6Udp: DsrL2 Udp vip6(2, 80) => near6(0x21, 80), near6(0x22, 80);
    Ipip44: DsrIpip Tcp vip(4, 80) => near(4, 1, 80), near(4, 2, 80);
    /// IPv4 within IPv6.
    Ipip46: DsrIpip Tcp vip(4, 81) => near6(0x41, 81), near6(0x42, 81);
    /// IPv6 within IPv4.
    Ipip64: DsrIpip Udp vip6(4, 80) => near(4, 1, 80), near(4, 2, 80);
    Ipip66: DsrIpip Tcp vip6(4, 81) => near6(0x41, 81), near6(0x42, 81);
    Gue44: DsrGue Tcp vip(5, 80) => near(5, 1, 80), near(5, 2, 80);
    Gue46: DsrGue Udp vip(5, 81) => near6(0x51, 81), near6(0x52, 81);
    Gue64: DsrGue Tcp vip6(5, 80) => near(5, 1, 80), near(5, 2, 80);
    Gue66: DsrGue Udp vip6(5, 81) => near6(0x51, 81), near6(0x52, 81);
    FullNatTcp: FullNat Tcp vip(6, 80) => near(6, 1, 8_080), near(6, 2, 8_080);
    FullNatUdp: FullNat Udp vip(6, 53) => near(6, 1, 5_353), near(6, 2, 5_353);
    /// Its segments are clamped.
    FullNatMss: FullNat Tcp vip(6, 81) => near(6, 1, 8_081), near(6, 2, 8_081);
    FullNat6Tcp: FullNat Tcp vip6(6, 80) => near6(0x61, 8_080), near6(0x62, 8_080);
    FullNat6Udp: FullNat Udp vip6(6, 53) => near6(0x61, 5_353), near6(0x62, 5_353);
    /// Its fragments go by addresses alone.
    ByAddress: Nat Udp vip(7, 53) => near(7, 1, 5_353), near(7, 2, 5_353);
    ByAddress6: DsrIpip Udp vip6(7, 53) => near6(0x71, 53), near6(0x72, 53);
    ByAddressTcp: Nat Tcp vip(7, 80) => near(7, 1, 8_080), near(7, 2, 8_080);
    /// Its fragments are passed.
    PassFragments: Nat Udp vip(8, 53) => near(8, 1, 5_353), near(8, 2, 5_353);
    QuicLb: Nat Udp vip(9, 443) => near(9, 1, 8_443), near(9, 2, 8_443);
    QuicKatranV1: DsrIpip Udp vip(10, 443) => near(10, 1, 443), near(10, 2, 443);
    QuicKatranV2: DsrL2 Udp vip6(10, 443) => near6(0xa1, 443), near6(0xa2, 443);
    /// Its segments are clamped.
    Mss: Nat Tcp vip(11, 80) => near(11, 1, 8_080), near(11, 2, 8_080);
    Mss6: Nat Tcp vip6(11, 80) => near6(0xb1, 8_080), near6(0xb2, 8_080);
    /// Ports 8,000 to 8,999, which packets keep.
    Range: Nat Tcp vip(12, 8_500) => near(12, 1, 0), near(12, 2, 0);
    /// Within that range.
    InRange: Nat Tcp vip(12, 8_700) => near(14, 1, 8_080), near(14, 2, 8_080);
    /// Every port of 100.64.8.0/24.
    Prefix: DsrL2 Tcp v4([100, 64, 8, 77], 1_234) => near(13, 1, 0), near(13, 2, 0);
    /// Ports 1,000 to 1,999 of the upper half of that.
    Longer: DsrL2 Tcp v4([100, 64, 8, 177], 1_234) => near(15, 1, 0), near(15, 2, 0);
    /// Ports 50,000 to 65,535 of 2001:db8:64::/64.
    Prefix6: DsrIpip Udp v6([0x2001, 0xdb8, 0x64, 0, 1, 2, 3, 4], 50_000) => near6(0xd1, 0), near6(0xd2, 0);
}

const fn vip(last: u8, port: u16) -> SocketAddr {
    v4([203, 0, 113, last], port)
}

const fn vip6(last: u16, port: u16) -> SocketAddr {
    v6([0x2001, 0xdb8, 0x113, 0, 0, 0, 0, last], port)
}

const fn near(network: u8, last: u8, port: u16) -> SocketAddr {
    v4([10, 9, network, last], port)
}

const fn near6(last: u16, port: u16) -> SocketAddr {
    v6([0x2001, 0xdb8, 9, 0, 0, 0, 0, last], port)
}

impl Svc {
    /// Under which the service stands in the map.
    pub fn key(self) -> ServiceKey {
        let (network, first_port, width) = match self {
            Self::Range => (address(self.vip().ip()), 8_000, 129),
            Self::Prefix => (address(self.vip().ip()).network(96 + 24), 1, 96 + 24 + 1),
            Self::Longer => (address(self.vip().ip()).network(96 + 25), 1_000, 96 + 25 + 1),
            Self::Prefix6 => (address(self.vip().ip()).network(64), 50_000, 65),
            _ => (address(self.vip().ip()), self.vip().port(), 0),
        };
        ServiceKey { address: network, port: Port::new(first_port), protocol: self.protocol() as u8, width }
    }

    /// The id of a backend in QUIC connection ids.
    pub fn server_id(self, who: Who) -> Option<u64> {
        let (a, b) = match self {
            Self::QuicLb => (0x0a1b2c, 0x0a1b2d),
            Self::QuicKatranV1 => (0x0102, 0xfffe),
            Self::QuicKatranV2 => (0x010203, 0xfffefd),
            _ => return None,
        };
        Some(if who == Who::A { a } else { b })
    }

    /// As the controller would install it.
    pub fn target(self, backends: Vec<TargetBackend>) -> TargetService {
        let tracking =
            if self == Self::Connectionless { Tracking::Connectionless } else { Tracking::OnChange };
        let mut settings = ServiceSettings::new(self.mode(), tracking, IDLE_SECONDS);
        let mut fragments = FragmentPolicy::Drop;
        match self {
            Self::ByAddress | Self::ByAddress6 | Self::ByAddressTcp => {
                settings.by_address = true;
                fragments = FragmentPolicy::ByAddress;
            }
            Self::PassFragments => fragments = FragmentPolicy::Pass,
            Self::QuicLb => {
                (settings.quic, settings.quic_server_id_len, settings.quic_config) =
                    (QuicScheme::QuicLb, 3, 2);
            }
            Self::QuicKatranV1 => settings.quic = QuicScheme::KatranV1,
            Self::QuicKatranV2 => settings.quic = QuicScheme::KatranV2,
            Self::Mss | Self::FullNatMss => settings.mss = 1_400,
            Self::Mss6 => settings.mss = 1_220,
            _ => {}
        }
        let last_port = match self {
            Self::Range => 8_999,
            Self::Longer => 1_999,
            Self::Prefix | Self::Prefix6 => 65_535,
            _ => 0,
        };
        let answers = !matches!(self.mode(), DsrL2) && self.key().width <= 1;
        TargetService {
            key: self.key(),
            last_port,
            settings,
            fragments,
            answer_echo: answers,
            answer_arp: answers,
            backends,
        }
    }
}
