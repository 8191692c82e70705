//! Where clients reach a service, and the rules of services of several addresses or ports.

use super::{Errors, ServiceSpec, address_rule};
use crate::model::{Mode, Network, Ports};

impl Errors {
    /// Checks the address or network, with what only one address can have.
    pub(super) fn network<B>(&mut self, spec: &ServiceSpec<B>) -> Network {
        let network = spec.address.trimmed();
        if let Some(rule) = address_rule(network.address) {
            self.add("address", rule);
        }
        if network.is_host() {
            return network;
        }
        let least = if network.address.is_ipv4() { 8 } else { 16 };
        if network.bits < least {
            let most = Network::bits_max(network.address);
            self.add("address", format!("must have a prefix of {least} to {most} bits"));
        } else if network != spec.address {
            self.add("address", format!("has bits beyond its prefix: write {network}"));
        }
        let mode: Mode = spec.mode.into();
        if !mode.keeps_destination() {
            let rule = format!(
                "must be one address in mode {}: replies could not be given the right source",
                spec.mode.text()
            );
            self.add("address", rule);
        }
        for (field, asked) in
            [("answer_arp", spec.answer_arp == Some(true)), ("answer_echo", spec.answer_echo)]
        {
            if asked {
                self.add(field, "is for one address: a router must send a network here");
            }
        }
        network
    }

    /// Checks that exactly one of `port` and `ports` is given.
    pub(super) fn ports<B>(&mut self, spec: &ServiceSpec<B>) -> Ports {
        match (spec.port, spec.ports) {
            (Some(port), None) => {
                self.port("port", port);
                Ports::one(port)
            }
            (None, Some(ports)) => ports,
            (Some(_), Some(ports)) => {
                self.add("ports", "must not stand beside port: a service has one port or several");
                ports
            }
            (None, None) => {
                self.add("port", "is required; or ports, for a service of several");
                Ports::one(0)
            }
        }
    }
}
