//! Services and backends as clients write them in JSON, and the constructors that turn them into the
//! validated types. Pure. Every rule that one service can break by itself is checked here.

mod backend;
mod choice;
mod health_check;
mod names;
mod quic;
mod service;
mod wide;

use std::{net::IpAddr, ops::RangeInclusive};

pub use backend::BackendSpec;
pub use health_check::HealthCheckSpec;
pub use names::{
    AlgorithmName, FragmentsName, HealthName, ModeName, OnDeadlineName, OnFailureName, ProbeName,
    ProtocolName, SchemeName, TrackingName,
};
pub use quic::{QuicSpec, ServerIdSpec};
pub use service::ServiceSpec;

use super::FieldError;

/// Broken rules, collected.
#[derive(Default)]
struct Errors(Vec<FieldError>);

impl Errors {
    fn add(&mut self, field: impl Into<String>, rule: impl Into<String>) {
        self.0.push(FieldError::new(field, rule));
    }

    fn done<T>(self, value: T) -> Result<T, Vec<FieldError>> {
        if self.0.is_empty() { Ok(value) } else { Err(self.0) }
    }

    fn range(&mut self, field: impl Into<String>, value: u32, range: RangeInclusive<u32>) {
        if !range.contains(&value) {
            self.add(field, format!("must be {} to {}", range.start(), range.end()));
        }
    }

    fn port(&mut self, field: impl Into<String>, port: u16) {
        self.range(field, port.into(), 1..=65_535);
    }

    fn address(&mut self, field: impl Into<String>, address: IpAddr) {
        if let Some(rule) = address_rule(address) {
            self.add(field, rule);
        }
    }
}

/// The rule that an address breaks which other hosts are to reach: global, private and unique-local ones keep it.
pub fn address_rule(address: IpAddr) -> Option<&'static str> {
    const RULE: &str = "must be a unicast address that other hosts can reach";
    match address {
        IpAddr::V4(v4) => {
            let broken = v4.is_unspecified() || v4.is_multicast() || v4.is_broadcast() || v4.is_loopback();
            broken.then_some(RULE)
        }
        IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => Some("must be written as IPv4, without ::ffff:"),
        IpAddr::V6(v6) if v6.is_unicast_link_local() => {
            Some("must not be link-local: such an address means nothing beyond its link")
        }
        IpAddr::V6(v6) => (v6.is_unspecified() || v6.is_multicast() || v6.is_loopback()).then_some(RULE),
    }
}

#[cfg(test)]
mod tests;
