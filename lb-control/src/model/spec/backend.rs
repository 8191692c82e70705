//! Backends as clients write them.

use std::{
    collections::{BTreeMap, HashMap},
    net::{IpAddr, SocketAddr},
};

use serde::{Deserialize, Serialize, de::IgnoredAny};

use super::{Errors, ModeName, ServerIdSpec};
use crate::model::{Backend, FieldError, FragmentPolicy, Health, Mode, Service, Tracking, address::place};

const WEIGHT_MAX: u32 = 1_000;
/// As many as the largest flow table holds flows.
const CONNECTIONS_MAX: u32 = 64 << 20;
const PRIORITY_MAX: u32 = 15;

/// A backend as clients write it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BackendSpec {
    /// Where it is reached.
    pub address: IpAddr,
    /// The service's port by default; none where the service has several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// Its share of new flows relative to the others'; 1 by default.
    #[serde(default = "weight")]
    pub weight: u32,
    /// So many live connections it takes; any number by default.
    #[serde(default)]
    pub max_connections: u32,
    /// Its group; 0, the first, by default.
    #[serde(default)]
    pub priority: u8,
    /// Of the last group; no by default.
    #[serde(default)]
    pub fallback: bool,
    /// Its id in QUIC connection ids; without one it is reached by the hash only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server_id: Option<ServerIdSpec>,
    #[serde(default, skip_serializing, rename = "generation")]
    read_only_generation: IgnoredAny,
    #[serde(default, skip_serializing, rename = "status")]
    read_only_status: IgnoredAny,
}

fn weight() -> u32 {
    1
}

impl Backend {
    /// Validates a backend of `service`.
    pub fn new(spec: &BackendSpec, service: &Service) -> Result<(SocketAddr, Self), Vec<FieldError>> {
        let mut errors = Errors::default();
        let (at, backend) = errors.backend("", spec, service);
        let same = |(other_at, other): &(&SocketAddr, &Self)| {
            **other_at != at && other.server_id.is_some() && other.server_id == backend.server_id
        };
        if let Some((other, _)) = service.backends.iter().find(same) {
            errors.add("server_id", format!("is the server id of {} too", place(other)));
        }
        errors.done((at, backend))
    }

    /// What clients would have written.
    pub fn spec(&self, at: &SocketAddr, service: &Service) -> BackendSpec {
        BackendSpec {
            address: at.ip(),
            port: (at.port() != 0).then_some(at.port()),
            weight: self.weight,
            max_connections: self.max_connections,
            priority: self.priority,
            fallback: self.fallback,
            server_id: self.server_id.and_then(|id| Some(service.quic?.server_id(id))),
            read_only_generation: IgnoredAny,
            read_only_status: IgnoredAny,
        }
    }
}

impl Errors {
    /// Checks the backends of `service`, which has none yet.
    pub(super) fn backends(
        &mut self,
        specs: &[BackendSpec],
        service: &Service,
    ) -> BTreeMap<SocketAddr, Backend> {
        let (mut first_at, mut first_with_id) = (HashMap::new(), HashMap::new());
        let mut backends = BTreeMap::new();
        for (index, one) in specs.iter().enumerate() {
            let prefix = format!("backends[{index}]");
            let (at, backend) = self.backend(&format!("{prefix}."), one, service);
            if let Some(first) = first_at.insert(at, index) {
                self.add(prefix, format!("is the same as backends[{first}]: {}", place(&at)));
            } else if let Some(id) = backend.server_id
                && let Some(first) = first_with_id.insert(id, index)
            {
                self.add(format!("{prefix}.server_id"), format!("is the server id of backends[{first}] too"));
            }
            backends.insert(at, backend);
        }
        backends
    }

    fn backend(&mut self, prefix: &str, spec: &BackendSpec, service: &Service) -> (SocketAddr, Backend) {
        let field = |name: &str| format!("{prefix}{name}");
        let mode = ModeName::from(service.mode).text();
        self.address(field("address"), spec.address);
        let is_tunnel = matches!(service.mode, Mode::DsrIpip | Mode::DsrGue);
        if !is_tunnel && spec.address.is_ipv4() != service.address.address.is_ipv4() {
            let family = if spec.address.is_ipv4() { "IPv6" } else { "IPv4" };
            let rule = format!(
                "must be {family} like the service's: mode {mode} translates no family, tunnels take any"
            );
            self.add(field("address"), rule);
        }
        match (spec.port, service.ports.single()) {
            (Some(_), None) => {
                self.add(
                    field("port"),
                    "must be left out: packets of a service of several ports keep theirs",
                );
            }
            (Some(port), Some(of_service)) if service.mode.keeps_destination() && port != of_service => {
                let rule =
                    format!("must be the service's port {of_service}: mode {mode} does not rewrite ports");
                self.add(field("port"), rule);
            }
            (Some(port), Some(_)) => self.port(field("port"), port),
            (None, _) => {}
        }
        self.range(field("weight"), spec.weight, 0..=WEIGHT_MAX);
        self.range(field("priority"), spec.priority.into(), 0..=PRIORITY_MAX);
        if spec.fallback && spec.priority != 0 {
            self.add(field("priority"), "must be left out beside fallback: fallbacks are the last group");
        }
        self.max_connections(field("max_connections"), spec.max_connections, service);
        let server_id = self.server_id(&field("server_id"), spec.server_id.as_ref(), service.quic);
        let at =
            SocketAddr::new(spec.address, service.ports.single().map_or(0, |port| spec.port.unwrap_or(port)));
        let backend = Backend {
            weight: spec.weight,
            max_connections: spec.max_connections,
            priority: spec.priority,
            fallback: spec.fallback,
            server_id,
            draining: None,
            health: Health::Unknown,
            up_since_unix: None,
        };
        (at, backend)
    }

    fn max_connections(&mut self, field: String, most: u32, service: &Service) {
        self.range(&field, most, 0..=CONNECTIONS_MAX);
        if most == 0 {
            return;
        }
        if service.fragments == FragmentPolicy::ByAddress {
            self.add(
                field,
                "must be left out beside fragments by-address, where clients and not connections go",
            );
        } else if service.tracking == Tracking::OnChange {
            self.add(field, "needs tracking every-flow: what is not remembered is not counted");
        } else if service.is_connectionless() {
            self.add(field, "must be left out of a connectionless service, which counts nothing");
        }
    }
}
