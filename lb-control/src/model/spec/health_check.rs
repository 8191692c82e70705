//! Health checks as clients write them.

use std::ops::RangeInclusive;

use serde::{Deserialize, Serialize};

use super::{Errors, ProbeName};
use crate::model::{HealthCheck, Ports, Probe};

const INTERVAL_MS: RangeInclusive<u32> = 100..=3_600_000;
const IN_A_ROW: RangeInclusive<u32> = 1..=100;
const PATH_LENGTH_MAX: usize = 1_024;

/// A health check as clients write it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HealthCheckSpec {
    /// What a check does.
    #[serde(rename = "type")]
    pub kind: ProbeName,
    /// HTTP only; `/` by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// HTTP only: the Host header; the backend's address by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// HTTP only: the lowest and the highest status that is a success; 200 and 399 by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<[u16; 2]>,
    /// 2,000 by default.
    #[serde(default = "interval_ms")]
    pub interval_ms: u32,
    /// 1,000 or the interval by default, whichever is shorter.
    #[serde(default)]
    pub timeout_ms: Option<u32>,
    /// 2 by default.
    #[serde(default = "rise")]
    pub rise: u32,
    /// 3 by default.
    #[serde(default = "fall")]
    pub fall: u32,
    /// The backend's own by default; a service of several ports needs it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
}

fn interval_ms() -> u32 {
    2_000
}
fn rise() -> u32 {
    2
}
fn fall() -> u32 {
    3
}

impl HealthCheck {
    pub(super) fn spec(&self) -> HealthCheckSpec {
        let (kind, path, host, status) = match &self.probe {
            Probe::Tcp => (ProbeName::Tcp, None, None, None),
            Probe::Http { path, host, status } => {
                (ProbeName::Http, Some(path.clone()), host.clone(), Some([status.0, status.1]))
            }
        };
        HealthCheckSpec {
            kind,
            path,
            host,
            status,
            interval_ms: self.interval_ms,
            timeout_ms: Some(self.timeout_ms),
            rise: self.rise,
            fall: self.fall,
            port: self.port,
        }
    }
}

impl Errors {
    /// Checks the health check of a service of these ports.
    pub(super) fn health_check(&mut self, spec: &HealthCheckSpec, ports: Ports) -> HealthCheck {
        let field = |name: &str| format!("health_check.{name}");
        self.range(field("interval_ms"), spec.interval_ms, INTERVAL_MS);
        let timeout_ms = spec.timeout_ms.unwrap_or(1_000.min(spec.interval_ms));
        if timeout_ms == 0 || timeout_ms > spec.interval_ms {
            self.add(field("timeout_ms"), format!("must be 1 to the interval, {}", spec.interval_ms));
        }
        self.range(field("rise"), spec.rise, IN_A_ROW);
        self.range(field("fall"), spec.fall, IN_A_ROW);
        match spec.port {
            Some(port) => self.port(field("port"), port),
            None if ports.single().is_none() => {
                self.add(
                    field("port"),
                    "is required: the service has several ports, and one is to be checked",
                );
            }
            None => {}
        }
        HealthCheck {
            probe: self.probe(spec),
            interval_ms: spec.interval_ms,
            timeout_ms,
            rise: spec.rise,
            fall: spec.fall,
            port: spec.port,
        }
    }

    fn probe(&mut self, spec: &HealthCheckSpec) -> Probe {
        if spec.kind == ProbeName::Tcp {
            let given = [
                ("path", spec.path.is_some()),
                ("host", spec.host.is_some()),
                ("status", spec.status.is_some()),
            ];
            for (name, _) in given.into_iter().filter(|(_, given)| *given) {
                self.add(format!("health_check.{name}"), "is for type http");
            }
            return Probe::Tcp;
        }
        let path = spec.path.clone().unwrap_or_else(|| "/".into());
        // Both end up in the head of a request: no byte may end a line or begin another part.
        let graphic = |text: &str| text.bytes().all(|byte| byte.is_ascii_graphic());
        if !path.starts_with('/') || path.len() > PATH_LENGTH_MAX || !graphic(&path) {
            self.add(
                "health_check.path",
                "must begin with / and have up to 1024 printable characters, no spaces",
            );
        }
        if spec.host.as_deref().is_some_and(|host| host.is_empty() || host.len() > 255 || !graphic(host)) {
            self.add("health_check.host", "must have 1 to 255 printable characters, no spaces");
        }
        let [low, high] = spec.status.unwrap_or([200, 399]);
        if !(100 <= low && low <= high && high <= 599) {
            self.add("health_check.status", "must be the lowest and the highest status, within 100 to 599");
        }
        Probe::Http { path, host: spec.host.clone(), status: (low, high) }
    }
}
