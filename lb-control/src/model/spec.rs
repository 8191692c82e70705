//! Services and backends as clients write them in JSON, and the constructors that turn them into the
//! validated types. Pure. Every rule that one service can break by itself is checked here.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};

use serde::{Deserialize, Serialize, de::IgnoredAny};

use super::{Backend, FieldError, Health, HealthCheck, Mode, OnFailure, Probe, Protocol, Service, object};

const NAME_LENGTH_MAX: usize = 63;
const WEIGHT_MAX: u32 = 1_000;
const FLOW_IDLE_SECONDS_MAX: u32 = 86_400;
const INTERVAL_MS: std::ops::RangeInclusive<u32> = 100..=3_600_000;
const IN_A_ROW: std::ops::RangeInclusive<u32> = 1..=100;
const PATH_LENGTH_MAX: usize = 1_024;

/// A service as clients write it. `generation` and `status`, which answers carry, are accepted and
/// ignored, so that what was read can be edited and sent back.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServiceSpec<B = BackendSpec> {
    /// Unique; taken from the path where that has it.
    #[serde(default)]
    pub name: String,
    /// The virtual address.
    pub address: IpAddr,
    /// The virtual port.
    pub port: u16,
    /// TCP by default.
    #[serde(default = "tcp")]
    pub protocol: ProtocolName,
    /// `nat` by default.
    #[serde(default = "nat")]
    pub mode: ModeName,
    /// UDP only: nothing is remembered.
    #[serde(default)]
    pub connectionless: bool,
    /// 300 for TCP, 60 for UDP by default.
    #[serde(default)]
    pub flow_idle_seconds: Option<u32>,
    /// Yes by default.
    #[serde(default = "yes")]
    pub answer_arp: bool,
    /// `resteer` by default.
    #[serde(default = "resteer")]
    pub on_failure: OnFailureName,
    /// None by default.
    #[serde(default, deserialize_with = "object::maybe")]
    pub health_check: Option<HealthCheckSpec>,
    /// Where its flows go.
    #[serde(
        default = "Vec::new",
        deserialize_with = "object::objects",
        bound(deserialize = "B: Deserialize<'de>")
    )]
    pub backends: Vec<B>,
    #[serde(default, skip_serializing, rename = "generation")]
    read_only_generation: IgnoredAny,
    #[serde(default, skip_serializing, rename = "status")]
    read_only_status: IgnoredAny,
}

/// A backend as clients write it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BackendSpec {
    /// Where it is reached.
    pub address: IpAddr,
    /// The service's port by default.
    #[serde(default)]
    pub port: Option<u16>,
    /// Its share of new flows relative to the others'; 1 by default.
    #[serde(default = "weight")]
    pub weight: u32,
    #[serde(default, skip_serializing, rename = "generation")]
    read_only_generation: IgnoredAny,
    #[serde(default, skip_serializing, rename = "status")]
    read_only_status: IgnoredAny,
}

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
    /// The backend's own by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
}

fn tcp() -> ProtocolName {
    ProtocolName::Tcp
}
fn nat() -> ModeName {
    ModeName::Nat
}
fn resteer() -> OnFailureName {
    OnFailureName::Resteer
}
fn yes() -> bool {
    true
}
fn weight() -> u32 {
    1
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

macro_rules! names {
    ($(#[$doc:meta])* $name:ident = $model:ident { $($variant:ident = $text:literal),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
        #[allow(missing_docs)]
        pub enum $name { $(#[serde(rename = $text)] $variant,)* }

        impl $name {
            /// The word in JSON.
            pub const fn text(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }
        }

        impl From<$model> for $name {
            fn from(value: $model) -> Self {
                match value { $($model::$variant => Self::$variant,)* }
            }
        }

        impl From<$name> for $model {
            fn from(name: $name) -> Self {
                match name { $($name::$variant => Self::$variant,)* }
            }
        }
    };
}

names! {
    /// A [`Protocol`] in JSON.
    ProtocolName = Protocol { Tcp = "tcp", Udp = "udp" }
}
names! {
    /// A [`Mode`] in JSON.
    ModeName = Mode {
        Nat = "nat",
        FullNat = "full-nat",
        DsrL2 = "dsr-l2",
        DsrIpip = "dsr-ipip",
        DsrGue = "dsr-gue",
    }
}
names! {
    /// An [`OnFailure`] in JSON.
    OnFailureName = OnFailure { Resteer = "resteer", Keep = "keep" }
}
names! {
    /// A [`Health`] in JSON.
    HealthName = Health { Unknown = "unknown", Up = "up", Down = "down" }
}

/// The kind of a [`Probe`] in JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)]
pub enum ProbeName {
    Tcp,
    Http,
}

impl Service {
    /// Validates a service; all broken rules at once.
    pub fn new(spec: &ServiceSpec) -> Result<Self, Vec<FieldError>> {
        let mut errors = Errors::default();
        errors.name(&spec.name);
        errors.address("address", spec.address);
        errors.port("port", spec.port);
        if !matches!(spec.mode, ModeName::Nat | ModeName::DsrL2) {
            errors.add("mode", format!("{} is not supported yet", spec.mode.text()));
        }
        let protocol: Protocol = spec.protocol.into();
        if spec.connectionless && protocol != Protocol::Udp {
            errors.add("connectionless", "is for udp: a tcp flow is a connection");
        }
        let idle_default = if protocol == Protocol::Tcp { 300 } else { 60 };
        let flow_idle_seconds = spec.flow_idle_seconds.unwrap_or(idle_default);
        errors.range("flow_idle_seconds", flow_idle_seconds, 1..=FLOW_IDLE_SECONDS_MAX);
        let health_check = spec.health_check.as_ref().map(|check| errors.health_check(check));
        let backends = errors.backends(spec);
        errors.done(Self {
            name: spec.name.clone(),
            address: spec.address,
            port: spec.port,
            protocol,
            mode: spec.mode.into(),
            connectionless: spec.connectionless,
            flow_idle_seconds,
            answer_arp: spec.answer_arp,
            on_failure: spec.on_failure.into(),
            health_check,
            backends,
        })
    }

    /// What clients would have written, with every default spelled out; `backend` writes a backend.
    pub fn spec_with<B>(&self, backend: impl Fn(&SocketAddr, &Backend) -> B) -> ServiceSpec<B> {
        ServiceSpec {
            name: self.name.clone(),
            address: self.address,
            port: self.port,
            protocol: self.protocol.into(),
            mode: self.mode.into(),
            connectionless: self.connectionless,
            flow_idle_seconds: Some(self.flow_idle_seconds),
            answer_arp: self.answer_arp,
            on_failure: self.on_failure.into(),
            health_check: self.health_check.as_ref().map(HealthCheck::spec),
            backends: self.backends.iter().map(|(at, one)| backend(at, one)).collect(),
            read_only_generation: IgnoredAny,
            read_only_status: IgnoredAny,
        }
    }

    /// See [`Service::spec_with`].
    pub fn spec(&self) -> ServiceSpec {
        self.spec_with(|at, backend| backend.spec(at))
    }
}

impl Backend {
    /// Validates a backend of `service`.
    pub fn new(spec: &BackendSpec, service: &Service) -> Result<(SocketAddr, Self), Vec<FieldError>> {
        let mut errors = Errors::default();
        let (at, backend) = errors.backend("", spec, service.port, service.mode);
        errors.done((at, backend))
    }

    /// What clients would have written.
    pub fn spec(&self, at: &SocketAddr) -> BackendSpec {
        BackendSpec::new(*at, self.weight)
    }
}

impl BackendSpec {
    /// A backend with a weight.
    pub fn new(at: SocketAddr, weight: u32) -> Self {
        Self {
            address: at.ip(),
            port: Some(at.port()),
            weight,
            read_only_generation: IgnoredAny,
            read_only_status: IgnoredAny,
        }
    }
}

impl HealthCheck {
    fn spec(&self) -> HealthCheckSpec {
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

    fn range(&mut self, field: impl Into<String>, value: u32, range: std::ops::RangeInclusive<u32>) {
        if !range.contains(&value) {
            self.add(field, format!("must be {} to {}", range.start(), range.end()));
        }
    }

    fn port(&mut self, field: impl Into<String>, port: u16) {
        self.range(field, port.into(), 1..=65_535);
    }

    fn name(&mut self, name: &str) {
        let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        if name.is_empty() {
            self.add("name", "is required");
        } else if name.len() > NAME_LENGTH_MAX || !name.bytes().all(allowed) {
            self.add("name", "must be 1 to 63 characters of a-z, 0-9 and -");
        }
    }

    fn address(&mut self, field: impl Into<String>, address: IpAddr) {
        let IpAddr::V4(v4) = address else {
            return self.add(field, "IPv6 is not supported yet");
        };
        if v4.is_unspecified() || v4.is_multicast() || v4.is_broadcast() || v4.is_loopback() {
            self.add(field, "must be a unicast address that other hosts can reach");
        }
    }

    fn backends(&mut self, spec: &ServiceSpec) -> BTreeMap<SocketAddr, Backend> {
        let mut first_at = BTreeMap::new();
        let mut backends = BTreeMap::new();
        for (index, one) in spec.backends.iter().enumerate() {
            let prefix = format!("backends[{index}]");
            let (at, backend) = self.backend(&format!("{prefix}."), one, spec.port, spec.mode.into());
            if let Some(first) = first_at.insert(at, index) {
                self.add(prefix, format!("is the same as backends[{first}]: {at}"));
            }
            backends.insert(at, backend);
        }
        backends
    }

    fn backend(&mut self, prefix: &str, spec: &BackendSpec, port: u16, mode: Mode) -> (SocketAddr, Backend) {
        let at = SocketAddr::new(spec.address, spec.port.unwrap_or(port));
        self.address(format!("{prefix}address"), at.ip());
        self.port(format!("{prefix}port"), at.port());
        if mode == Mode::DsrL2 && at.port() != port {
            let rule = format!("must be the service's port {port}: mode dsr-l2 does not rewrite ports");
            self.add(format!("{prefix}port"), rule);
        }
        self.range(format!("{prefix}weight"), spec.weight, 0..=WEIGHT_MAX);
        (at, Backend { weight: spec.weight, draining: None, health: Health::Unknown })
    }

    fn health_check(&mut self, spec: &HealthCheckSpec) -> HealthCheck {
        let field = |name: &str| format!("health_check.{name}");
        self.range(field("interval_ms"), spec.interval_ms, INTERVAL_MS);
        let timeout_ms = spec.timeout_ms.unwrap_or(1_000.min(spec.interval_ms));
        if timeout_ms == 0 || timeout_ms > spec.interval_ms {
            self.add(field("timeout_ms"), format!("must be 1 to the interval, {}", spec.interval_ms));
        }
        self.range(field("rise"), spec.rise, IN_A_ROW);
        self.range(field("fall"), spec.fall, IN_A_ROW);
        if let Some(port) = spec.port {
            self.port(field("port"), port);
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
