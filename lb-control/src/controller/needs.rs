//! What a target needs of the interfaces that the program runs on. Pure.

use std::net::IpAddr;

use lb_common::Mode;

use crate::target::TargetService;

/// See the fields.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Needs {
    /// The kernel's routes for IPv6: for backends without a known neighbour, and for replies to clients.
    pub ipv6_forwarding: bool,
    /// Every multicast frame: neighbour solicitations for virtual addresses are sent to groups that the host did not
    /// join.
    pub all_multicast: bool,
}

impl Needs {
    /// Of a service.
    pub fn of(service: &TargetService) -> Self {
        Self {
            ipv6_forwarding: asks_for_ipv6_routes(service),
            all_multicast: service.answer_arp && !service.key.address.is_ipv4(),
        }
    }

    /// Of the pool of `full-nat`, whose addresses are answered for.
    pub fn of_pool(pool: &[IpAddr]) -> Self {
        Self { all_multicast: pool.iter().any(IpAddr::is_ipv6), ..Self::default() }
    }

    /// Of both.
    pub fn and(self, other: Self) -> Self {
        Self {
            ipv6_forwarding: self.ipv6_forwarding || other.ipv6_forwarding,
            all_multicast: self.all_multicast || other.all_multicast,
        }
    }
}

fn asks_for_ipv6_routes(service: &TargetService) -> bool {
    let backends = service.backends.iter().map(|backend| backend.address);
    service.settings.mode != Mode::DsrL2
        && backends.chain([service.key.address]).any(|address| !address.is_ipv4())
}

#[cfg(test)]
mod tests {
    use lb_common::{Address, FragmentPolicy, ServiceKey, ServiceSettings, Tracking};

    use super::*;

    const IPV4: Address = Address::from_ipv4([10, 0, 0, 1]);

    fn needs(mode: Mode, address: Address, answer_arp: bool, pool: &[&str]) -> (bool, bool) {
        let service = TargetService {
            key: ServiceKey { address, ..ServiceKey::default() },
            last_port: 0,
            settings: ServiceSettings::new(mode, Tracking::OnChange, 60),
            fragments: FragmentPolicy::Drop,
            answer_arp,
            answer_echo: false,
            backends: Vec::new(),
        };
        let pool: Vec<IpAddr> = pool.iter().map(|text| text.parse().expect("an address")).collect();
        let needs = Needs::of_pool(&pool).and(Needs::of(&service));
        (needs.ipv6_forwarding, needs.all_multicast)
    }

    #[test]
    fn ipv6_needs_forwarding_and_solicitations_need_multicast() {
        let ipv6 = Address::from_words([1, 2, 3, 4]);
        for (mode, address, answers, pool, expected) in [
            (Mode::Nat, IPV4, true, &[][..], (false, false)),
            (Mode::Nat, ipv6, true, &[], (true, true)),
            (Mode::FullNat, ipv6, false, &[], (true, false)),
            (Mode::DsrL2, ipv6, true, &[], (false, true)),
            (Mode::FullNat, IPV4, true, &["10.0.0.9", "2001:db8::9"], (false, true)),
        ] {
            assert_eq!(needs(mode, address, answers, pool), expected, "{mode:?} {address:?} {answers}");
        }
    }
}
