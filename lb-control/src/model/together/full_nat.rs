//! Services against the balancer's own addresses that `full-nat` sends from. Pure.

use std::net::IpAddr;

use crate::model::{BackendError, Desired, Mode, Refusal};

/// Checks the services named in `changed` against the pool of the controller's configuration.
pub fn check_full_nat(after: &Desired, changed: &[String], pool: &[IpAddr]) -> Result<(), Refusal> {
    let mut errors = Vec::new();
    for service in changed.iter().filter_map(|name| after.services.get(name)) {
        if let Some(own) = pool.iter().find(|own| service.address.contains(**own)) {
            let rule = format!("{own} is one of full_nat.addresses in the controller's configuration");
            return Err(Refusal::field("address", rule));
        }
        let is_ipv4 = service.address.address.is_ipv4();
        if service.mode == Mode::FullNat && !pool.iter().any(|own| own.is_ipv4() == is_ipv4) {
            let family = if is_ipv4 { "IPv4" } else { "IPv6" };
            let rule = format!(
                "full-nat sends from {family} addresses of the balancer: set full_nat.addresses in the controller's \
                 configuration"
            );
            return Err(Refusal::field("mode", rule));
        }
        for at in service.backends.keys().filter(|at| pool.contains(&at.ip())) {
            let rule = format!("{} is one of full_nat.addresses in the controller's configuration", at.ip());
            let service = service.name.clone();
            errors.push(BackendError { service, backend: *at, field: "address", rule });
        }
    }
    if errors.is_empty() { Ok(()) } else { Err(Refusal::Backends(errors)) }
}
