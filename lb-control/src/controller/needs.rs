//! What a target needs of the interfaces that the program runs on. Pure.

use lb_common::Mode;

use crate::target::{Target, TargetService};

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
    /// Of a target.
    pub fn of(target: &Target) -> Self {
        let pool = target.pool.iter().any(|address| !address.is_ipv4());
        let answers = |service: &TargetService| service.answer_arp && !service.key.address.is_ipv4();
        Self {
            ipv6_forwarding: target.services.iter().any(asks_for_ipv6_routes),
            all_multicast: pool || target.services.iter().any(answers),
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

    fn needs(mode: Mode, address: Address, answer_arp: bool, pool: &[Address]) -> (bool, bool) {
        let service = TargetService {
            key: ServiceKey { address, ..ServiceKey::default() },
            last_port: 0,
            settings: ServiceSettings::new(mode, Tracking::OnChange, 60),
            fragments: FragmentPolicy::Drop,
            answer_arp,
            answer_echo: false,
            backends: Vec::new(),
        };
        let needs = Needs::of(&Target { services: vec![service], pool: pool.to_vec(), ..Target::default() });
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
            (Mode::FullNat, IPV4, true, &[IPV4, ipv6], (false, true)),
        ] {
            assert_eq!(needs(mode, address, answers, pool), expected, "{mode:?} {address:?} {answers}");
        }
    }
}
