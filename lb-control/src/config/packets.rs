//! Settings of the packet path as a whole: tunnels, the pool of `full-nat`, ICMP errors. Pure.

use std::{net::IpAddr, ops::RangeInclusive};

use lb_common::limits::POOL_ADDRESSES;
use serde::Deserialize;
use toml::Spanned;

use super::file::Faults;
use crate::model::{Network, Ports, address_rule};

/// Per CPU and second; the highest is more than a CPU forwards.
const ICMP_ERRORS: RangeInclusive<u32> = 0..=10_000_000;

/// Checked settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packets {
    /// See [`Tunnel`].
    pub tunnel: Tunnel,
    /// See [`FullNat`].
    pub full_nat: FullNat,
    /// ICMP errors that a CPU may send in a second.
    pub icmp_errors_per_second: u32,
}

/// The modes `dsr-ipip` and `dsr-gue`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tunnel {
    /// Sources of outer IPv4 packets; the flow's hash fills the host bits.
    pub source_ipv4: Network,
    /// Sources of outer IPv6 packets; the flow's hash fills the host bits, at most the last 32.
    pub source_ipv6: Network,
    /// UDP port that backends take GUE on.
    pub gue_port: u16,
}

/// The mode `full-nat`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FullNat {
    /// What the balancer sends from: IPv4 first, then IPv6.
    pub addresses: Vec<IpAddr>,
    /// With which ports.
    pub ports: Ports,
}

impl Default for Packets {
    fn default() -> Self {
        let network = |address: [u8; 4], bits| Network { address: address.into(), bits };
        // Discard-only (RFC 6666): nobody answers to it, and nothing needs to.
        let source_ipv6 = Network { address: [0x100u16, 0, 0, 0, 0, 0, 0, 0].into(), bits: 64 };
        Self {
            tunnel: Tunnel { source_ipv4: network([172, 16, 0, 0], 16), source_ipv6, gue_port: 6_080 },
            full_nat: FullNat { addresses: Vec::new(), ports: Ports { first: 1_024, last: u16::MAX } },
            icmp_errors_per_second: 1_000,
        }
    }
}

/// `[tunnel]` as it is written.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WrittenTunnel {
    source_ipv4: Option<Spanned<Network>>,
    source_ipv6: Option<Spanned<Network>>,
    gue_port: Option<Spanned<u16>>,
}

/// `[full_nat]` as it is written.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WrittenFullNat {
    addresses: Option<Spanned<Vec<IpAddr>>>,
    ports: Option<Spanned<Ports>>,
}

impl Packets {
    /// Checks what is written; what is wrong becomes a fault.
    pub(super) fn checked(
        tunnel: &WrittenTunnel,
        full_nat: &WrittenFullNat,
        icmp_errors: Option<&Spanned<u32>>,
        faults: &mut Faults<'_>,
    ) -> Self {
        let mut packets = Self::default();
        for (field, written, kept) in [
            ("tunnel.source_ipv4", &tunnel.source_ipv4, &mut packets.tunnel.source_ipv4),
            ("tunnel.source_ipv6", &tunnel.source_ipv6, &mut packets.tunnel.source_ipv6),
        ] {
            let Some(written) = written else { continue };
            if let Some(rule) = source_rule(*written.get_ref(), kept.address.is_ipv4()) {
                faults.add(written.span().start, field, &rule);
            }
            *kept = *written.get_ref();
        }
        if let Some(port) = &tunnel.gue_port {
            if *port.get_ref() == 0 {
                faults.add(port.span().start, "tunnel.gue_port", "must be 1 to 65535");
            }
            packets.tunnel.gue_port = *port.get_ref();
        }
        if let Some(addresses) = &full_nat.addresses {
            if let Some((index, rule)) = pool_rule(addresses.get_ref()) {
                faults.add(addresses.span().start, &format!("full_nat.addresses[{index}]"), &rule);
            }
            packets.full_nat.addresses.clone_from(addresses.get_ref());
            packets.full_nat.addresses.sort_by_key(|address| address.is_ipv6());
        }
        if let Some(ports) = &full_nat.ports {
            packets.full_nat.ports = *ports.get_ref();
        }
        if let Some(errors) = icmp_errors {
            if !ICMP_ERRORS.contains(errors.get_ref()) {
                let rule = format!("must be {} to {}", ICMP_ERRORS.start(), ICMP_ERRORS.end());
                faults.add(errors.span().start, "icmp_errors_per_second", &rule);
            }
            packets.icmp_errors_per_second = *errors.get_ref();
        }
        packets
    }
}

fn source_rule(network: Network, of_ipv4: bool) -> Option<String> {
    let (family, least, most) = if of_ipv4 { ("IPv4", 8, 32) } else { ("IPv6", 16, 128) };
    if network.address.is_ipv4() != of_ipv4 {
        Some(format!("must be {family}"))
    } else if network.bits < least {
        Some(format!("must have a prefix of {least} to {most} bits"))
    } else if network != network.trimmed() {
        Some(format!("has bits beyond its prefix: write {}", network.trimmed()))
    } else {
        address_rule(network.address).map(str::to_owned)
    }
}

/// What is wrong with the pool: the index and the rule.
fn pool_rule(addresses: &[IpAddr]) -> Option<(usize, String)> {
    addresses.iter().enumerate().find_map(|(index, address)| {
        let before = &addresses[..index];
        let of_family = before.iter().filter(|other| other.is_ipv4() == address.is_ipv4()).count();
        let rule = if let Some(rule) = address_rule(*address) {
            rule.to_owned()
        } else if before.contains(address) {
            "is given twice".to_owned()
        } else if of_family >= POOL_ADDRESSES as usize {
            format!("is one too many: at most {POOL_ADDRESSES} of each family")
        } else {
            return None;
        };
        Some((index, rule))
    })
}
