//! Services as clients write them.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize, de::IgnoredAny};

use super::{
    AlgorithmName, BackendSpec, Errors, FragmentsName, HealthCheckSpec, ModeName, OnFailureName,
    ProtocolName, QuicSpec, TrackingName,
};
use crate::model::{
    FieldError, FragmentPolicy, HealthCheck, Mode, Network, Ports, Protocol, Quic, Service, object,
};

const NAME_LENGTH_MAX: usize = 63;
const FLOW_IDLE_SECONDS_MAX: u32 = 86_400;
/// Every IPv4 host takes segments of 536 bytes (RFC 9293, 3.7.1).
const MSS_LEAST_IPV4: u32 = 536;
/// Every IPv6 link takes packets of 1,280 bytes: less 60 of headers.
const MSS_LEAST_IPV6: u32 = 1_220;
const MSS_MOST: u32 = 9_000;

/// A service as clients write it. `generation` and `status`, which answers carry, are accepted and
/// ignored, so that what was read can be edited and sent back.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServiceSpec<B = BackendSpec> {
    /// Unique; taken from the path where that has it.
    #[serde(default)]
    pub name: String,
    /// The virtual address, or a network of them.
    pub address: Network,
    /// The virtual port; or `ports`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// Several ports: `8000-8999` or `any`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ports: Option<Ports>,
    /// TCP by default.
    #[serde(default = "tcp")]
    pub protocol: ProtocolName,
    /// `nat` by default.
    #[serde(default = "nat")]
    pub mode: ModeName,
    /// `maglev` by default.
    #[serde(default = "maglev")]
    pub algorithm: AlgorithmName,
    /// By default `on-change`, or `every-flow` where something asks for it; not for a connectionless service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tracking: Option<TrackingName>,
    /// UDP only: nothing is remembered.
    #[serde(default)]
    pub connectionless: bool,
    /// All bits by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_prefix: Option<u8>,
    /// None by default.
    #[serde(default)]
    pub affinity_seconds: u32,
    /// None by default.
    #[serde(default)]
    pub slow_start_seconds: u32,
    /// Off by default.
    #[serde(default)]
    pub panic_threshold_percent: u8,
    /// 1 by default.
    #[serde(default = "one")]
    pub min_active_backends: u32,
    /// 300 for TCP, 60 for UDP by default.
    #[serde(default)]
    pub flow_idle_seconds: Option<u32>,
    /// `drop` by default.
    #[serde(default = "drop")]
    pub fragments: FragmentsName,
    /// Yes by default for one address; no for a network.
    #[serde(default)]
    pub answer_arp: Option<bool>,
    /// No by default.
    #[serde(default)]
    pub answer_echo: bool,
    /// TCP only; SYNs stay as they are by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mss: Option<u16>,
    /// UDP only; flows go by their addresses by default.
    #[serde(default, deserialize_with = "object::maybe", skip_serializing_if = "Option::is_none")]
    pub quic: Option<QuicSpec>,
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

fn maglev() -> AlgorithmName {
    AlgorithmName::Maglev
}
fn one() -> u32 {
    1
}
fn tcp() -> ProtocolName {
    ProtocolName::Tcp
}
fn nat() -> ModeName {
    ModeName::Nat
}
fn drop() -> FragmentsName {
    FragmentsName::Drop
}
fn resteer() -> OnFailureName {
    OnFailureName::Resteer
}

impl ServiceSpec {
    /// Where a backend of it would be, whether or not it keeps the rules.
    pub fn place_of(&self, backend: &BackendSpec) -> SocketAddr {
        let port = if self.ports.is_some() { None } else { backend.port.or(self.port) };
        SocketAddr::new(backend.address, port.unwrap_or(0))
    }

    /// Leaves out what is only spelled out because it follows from the rest, so that it follows from what a patch says.
    pub fn without_consequences(self) -> Self {
        let tracking = self.tracking.filter(|tracking| *tracking != self.tracking_default());
        Self { tracking, ..self }
    }
}

impl Service {
    /// Validates a service; all broken rules at once.
    pub fn new(spec: &ServiceSpec) -> Result<Self, Vec<FieldError>> {
        let mut errors = Errors::default();
        errors.name(&spec.name);
        let (address, ports) = (errors.network(spec), errors.ports(spec));
        let protocol: Protocol = spec.protocol.into();
        let tracking = errors.tracking(spec);
        errors.choice(spec);
        let idle_default = if protocol == Protocol::Tcp { 300 } else { 60 };
        let flow_idle_seconds = spec.flow_idle_seconds.unwrap_or(idle_default);
        errors.range("flow_idle_seconds", flow_idle_seconds, 1..=FLOW_IDLE_SECONDS_MAX);
        errors.fragments(spec);
        errors.mss(spec);
        let mut service = Self {
            name: spec.name.clone(),
            address,
            ports,
            protocol,
            mode: spec.mode.into(),
            algorithm: spec.algorithm.into(),
            tracking,
            client_prefix: spec.client_prefix.unwrap_or(Network::bits_max(address.address)),
            affinity_seconds: spec.affinity_seconds,
            slow_start_seconds: spec.slow_start_seconds,
            panic_threshold_percent: spec.panic_threshold_percent,
            min_active_backends: spec.min_active_backends,
            flow_idle_seconds,
            fragments: spec.fragments.into(),
            answer_arp: spec.answer_arp.unwrap_or(address.is_host()),
            answer_echo: spec.answer_echo,
            mss: spec.mss,
            quic: spec.quic.as_ref().map(|quic| errors.quic(quic, protocol)),
            on_failure: spec.on_failure.into(),
            health_check: spec.health_check.as_ref().map(|check| errors.health_check(check, ports)),
            backends: [].into(),
        };
        service.backends = errors.backends(&spec.backends, &service);
        errors.done(service)
    }

    /// What clients would have written, with every default spelled out.
    pub fn spec(&self) -> ServiceSpec {
        self.spec_with(self.backends.iter().map(|(at, backend)| backend.spec(at, self)).collect())
    }

    /// Likewise, with backends as `backends` has them.
    pub fn spec_with<B>(&self, backends: Vec<B>) -> ServiceSpec<B> {
        let port = self.ports.single();
        ServiceSpec {
            name: self.name.clone(),
            address: self.address,
            port,
            ports: port.is_none().then_some(self.ports),
            protocol: self.protocol.into(),
            mode: self.mode.into(),
            algorithm: self.algorithm.into(),
            tracking: TrackingName::of(self.tracking),
            connectionless: self.is_connectionless(),
            client_prefix: Some(self.client_prefix)
                .filter(|bits| *bits < Network::bits_max(self.address.address)),
            affinity_seconds: self.affinity_seconds,
            slow_start_seconds: self.slow_start_seconds,
            panic_threshold_percent: self.panic_threshold_percent,
            min_active_backends: self.min_active_backends,
            flow_idle_seconds: Some(self.flow_idle_seconds),
            fragments: self.fragments.into(),
            answer_arp: Some(self.answer_arp),
            answer_echo: self.answer_echo,
            mss: self.mss,
            quic: self.quic.as_ref().map(Quic::spec),
            on_failure: self.on_failure.into(),
            health_check: self.health_check.as_ref().map(HealthCheck::spec),
            backends,
            read_only_generation: IgnoredAny,
            read_only_status: IgnoredAny,
        }
    }
}

impl Errors {
    fn name(&mut self, name: &str) {
        let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        if name.is_empty() {
            self.add("name", "is required");
        } else if name.len() > NAME_LENGTH_MAX || !name.bytes().all(allowed) {
            self.add("name", "must be 1 to 63 characters of a-z, 0-9 and -");
        }
    }

    fn fragments(&mut self, spec: &ServiceSpec) {
        if FragmentPolicy::from(spec.fragments) != FragmentPolicy::ByAddress {
            return;
        }
        if Mode::from(spec.mode) == Mode::FullNat {
            let rule =
                "must not be by-address in mode full-nat, where the client's port decides on the source";
            self.add("fragments", rule);
        }
        if spec.quic.is_some() {
            self.add("fragments", "must not be by-address beside quic: a packet cannot go by both");
        }
    }

    fn mss(&mut self, spec: &ServiceSpec) {
        let Some(mss) = spec.mss else { return };
        if Protocol::from(spec.protocol) != Protocol::Tcp {
            self.add("mss", "is for tcp");
        }
        let is_ipv4 = spec.address.address.is_ipv4();
        let least = if is_ipv4 { MSS_LEAST_IPV4 } else { MSS_LEAST_IPV6 };
        self.range("mss", mss.into(), least..=MSS_MOST);
    }
}
