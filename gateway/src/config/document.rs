//! The configuration as it is written. Every field has a unit, a default or a reason to be asked for; unknown
//! fields are refused. Pure.

use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf};

use serde::Deserialize;
use serde_saphyr::Spanned;

use super::{
    compose::ComposeDocument,
    credentials::{ApiKeyDocument, IssuerDocument},
    rates::RateDocument,
    units::{Duration, Size},
};
use crate::json::ReshapeDocument;

/// The whole file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Document {
    /// Where clients are served, HTTP/1.1. Changes with a restart only.
    pub listen: Spanned<Vec<SocketAddr>>,
    /// Threads that serve, each with connections of its own; by default one for each core. Changes with a
    /// restart only.
    #[serde(default)]
    pub workers: Option<Spanned<u16>>,
    /// Where `/healthz`, `/readyz` and `/metrics` are served; nowhere by default. Changes with a restart only.
    #[serde(default)]
    pub admin: Option<Spanned<SocketAddr>>,
    /// The path at which clients' listeners tell balancers whether to send traffic: 200 or 503.
    #[serde(default = "health_path")]
    pub health_path: Spanned<String>,
    /// What stands between clients and this gateway.
    #[serde(default = "behind")]
    pub behind: Spanned<Behind>,
    /// Where a line for each request goes.
    #[serde(default)]
    pub access_log: AccessLog,
    /// Bounds of the whole gateway.
    #[serde(default)]
    pub limits: LimitsDocument,
    /// Times that clients are given.
    #[serde(default)]
    pub timeouts: TimeoutsDocument,
    /// How a stop goes.
    #[serde(default)]
    pub drain: DrainDocument,
    /// API keys, by their digests.
    #[serde(default)]
    pub api_keys: Vec<Spanned<ApiKeyDocument>>,
    /// Where API keys are looked for.
    #[serde(default)]
    pub api_key_in: super::credentials::ApiKeyInDocument,
    /// Issuers of tokens (JWT), by the name that routes use.
    #[serde(default)]
    pub issuers: BTreeMap<String, Spanned<IssuerDocument>>,
    /// Rate limits, by the name that routes use. Routes that name the same one share its budget.
    #[serde(default)]
    pub rates: BTreeMap<String, Spanned<RateDocument>>,
    /// Services, by the name that routes use.
    pub upstreams: BTreeMap<String, Spanned<UpstreamDocument>>,
    /// What is served.
    pub routes: Spanned<Vec<Spanned<RouteDocument>>>,
}

/// What stands between clients and the gateway, as far as the client's address is concerned.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Behind {
    /// Nothing, or a balancer that leaves the client's address as it is: modes `nat`, `dsr-l2`, `dsr-ipip`.
    #[default]
    Direct,
    /// A balancer that puts its own address in the client's place, mode `full-nat`: all clients look alike.
    FullNat,
}

/// Where access lines go: `off`, `stdout`, or a file's path. Changes with a restart only.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum AccessLog {
    /// Nowhere.
    Off,
    /// To standard output.
    #[default]
    Stdout,
    /// To this file, opened anew on SIGHUP.
    File(PathBuf),
}

/// Bounds of the whole gateway, counted over all workers.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LimitsDocument {
    /// Connections that clients may hold. One costs about 20 KiB. Changes with a restart only.
    pub connections: u32,
    /// Requests that are served at the same time; further ones are answered 503.
    pub in_flight: u32,
    /// A request's line and headers. Changes with a restart only.
    pub header_bytes: Size,
    /// A request's headers. Changes with a restart only.
    pub header_count: u16,
    /// A request's body, unless the route says otherwise.
    pub body_bytes: Size,
}

impl Default for LimitsDocument {
    fn default() -> Self {
        Self {
            connections: 20_000,
            in_flight: 10_000,
            header_bytes: Size(16 << 10),
            header_count: 100,
            body_bytes: Size(1 << 20),
        }
    }
}

/// Times that clients are given.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TimeoutsDocument {
    /// From the first byte of a request to the end of its headers, and from the connection to the first byte.
    /// Changes with a restart only.
    pub header: Duration,
    /// A connection between two requests. Changes with a restart only.
    pub keep_alive: Duration,
    /// From the end of a request's headers to the beginning of its answer, unless the route says otherwise.
    pub request: Duration,
    /// Without a byte of a body, in either direction.
    pub stall: Duration,
}

impl Default for TimeoutsDocument {
    fn default() -> Self {
        Self {
            header: Duration::s(10),
            keep_alive: Duration::s(75),
            request: Duration::s(30),
            stall: Duration::s(30),
        }
    }
}

/// How a stop (SIGTERM) goes. The times add up.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DrainDocument {
    /// Unready, but served as before: until the balancer in front knows.
    pub unready: Duration,
    /// Every answer closes its connection; idle connections are left alone.
    pub close: Duration,
    /// Idle connections are closed; requests may end. What is left then is cut.
    pub end: Duration,
}

impl Default for DrainDocument {
    fn default() -> Self {
        Self { unready: Duration::s(5), close: Duration::s(10), end: Duration::s(20) }
    }
}

/// A service: endpoints that answer alike.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UpstreamDocument {
    /// Where its instances listen, HTTP/1.1.
    pub endpoints: Spanned<Vec<SocketAddr>>,
    /// Which instance a request goes to.
    #[serde(default)]
    pub balance: BalanceDocument,
    /// `Host` that is sent; by default the client's.
    #[serde(default)]
    pub host: Option<Spanned<String>>,
    /// Asking each instance whether it is well; not done by default.
    #[serde(default)]
    pub health: Option<HealthDocument>,
    /// Leaving out an instance that fails.
    #[serde(default)]
    pub ejection: EjectionDocument,
    /// Connections that are kept.
    #[serde(default)]
    pub pool: PoolDocument,
    /// Until a connection stands.
    #[serde(default = "connect")]
    pub connect_timeout: Duration,
}

/// Which instance a request goes to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BalanceDocument {
    /// One after the other.
    #[default]
    RoundRobin,
    /// The one with fewer requests in flight, of two taken at random.
    LeastRequest,
}

/// Asking each instance whether it is well: `GET path`, 2xx is well.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HealthDocument {
    /// Path and query.
    pub path: Spanned<String>,
    /// From one question to the next.
    #[serde(default = "interval")]
    pub interval: Duration,
    /// Until the answer's headers.
    #[serde(default = "check_timeout")]
    pub timeout: Duration,
    /// Good answers in a row until an instance is well again.
    #[serde(default = "rise")]
    pub rise: u32,
    /// Bad answers in a row until it is not.
    #[serde(default = "fall")]
    pub fall: u32,
}

/// Leaving out an instance that fails: no connection, a broken one, no answer in time, 502, 503 or 504.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EjectionDocument {
    /// Failures in a row until it is left out; 0: never.
    pub failures: u32,
    /// For how long at first; each time longer, up to ten times.
    pub duration: Duration,
}

impl Default for EjectionDocument {
    fn default() -> Self {
        Self { failures: 5, duration: Duration::s(5) }
    }
}

/// Connections to an instance that are kept for the next request, by each worker.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PoolDocument {
    /// Idle connections to one instance.
    pub idle_max: u16,
    /// Without a request.
    pub idle_timeout: Duration,
    /// A connection's age after which it serves no further request. Where the endpoint is a virtual address,
    /// only new connections follow the balancer's weights and drains.
    pub max_age: Duration,
}

impl Default for PoolDocument {
    fn default() -> Self {
        Self { idle_max: 128, idle_timeout: Duration::s(30), max_age: Duration::s(60) }
    }
}

/// What is served at a path.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RouteDocument {
    /// Its name in logs, metrics and limits. Unique.
    pub name: Spanned<String>,
    /// The host, without a port: `api.example`, or `*.example` for one label more. By default any.
    #[serde(default)]
    pub host: Option<Spanned<String>>,
    /// The path, with parameters: `/accounts/{id}`, `/files/{*rest}`.
    pub path: Spanned<String>,
    /// The methods; by default any.
    #[serde(default)]
    pub methods: Option<Spanned<Vec<String>>>,
    /// Ways in, tried in this order: `api-key`, `jwt:ISSUER`, `anonymous`.
    pub authenticate: Spanned<Vec<String>>,
    /// What the caller must be allowed.
    #[serde(default)]
    pub scopes: ScopesDocument,
    /// Rate limits by name; each must admit the request.
    #[serde(default)]
    pub rates: Vec<Spanned<String>>,
    /// Requests on this route that are served at the same time.
    #[serde(default)]
    pub in_flight: Option<u32>,
    /// Instead of `limits.body_bytes`.
    #[serde(default)]
    pub body_bytes: Option<Size>,
    /// Instead of `timeouts.request`.
    #[serde(default)]
    pub timeout: Option<Spanned<Duration>>,
    /// Send the caller's key or token on to the upstream.
    #[serde(default)]
    pub forward_credentials: bool,
    /// What is changed on the way to the upstream.
    #[serde(default)]
    pub request: RequestDocument,
    /// What is changed on the way back.
    #[serde(default)]
    pub response: ResponseDocument,
    /// The service that answers; or
    #[serde(default)]
    pub upstream: Option<Spanned<String>>,
    /// several whose answers are merged.
    #[serde(default)]
    pub compose: Option<Spanned<ComposeDocument>>,
}

/// What a caller must be allowed: every one of `all`, and at least one of `any` if there are some.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ScopesDocument {
    /// Every one of these.
    pub all: Vec<Spanned<String>>,
    /// At least one of these.
    pub any: Vec<Spanned<String>>,
}

/// What is changed on the way to the upstream.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RequestDocument {
    /// Another path, with the route's parameters: `/v1/accounts/{id}`. The query stays.
    pub path: Option<Spanned<String>>,
    /// Headers.
    pub headers: HeadersDocument,
    /// The JSON body.
    pub json: Option<Spanned<ReshapeDocument>>,
}

/// What is changed on the way back.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ResponseDocument {
    /// Headers.
    pub headers: HeadersDocument,
    /// The JSON body.
    pub json: Option<Spanned<ReshapeDocument>>,
    /// The largest body that is reshaped.
    pub json_bytes: Option<Size>,
}

/// Changes of headers, done in this order. Values may name route parameters, and for requests the caller:
/// `{id}`, `{consumer}`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HeadersDocument {
    /// Taken away.
    pub remove: Vec<Spanned<String>>,
    /// Put in the place of what is there.
    pub set: BTreeMap<String, Spanned<String>>,
    /// Added beside what is there.
    pub add: BTreeMap<String, Spanned<String>>,
}

fn health_path() -> Spanned<String> {
    unwritten("/healthz".into())
}

fn behind() -> Spanned<Behind> {
    unwritten(Behind::default())
}

/// A default: it stands nowhere.
fn unwritten<T>(value: T) -> Spanned<T> {
    let nowhere = serde_saphyr::Location::UNKNOWN;
    Spanned::new(value, nowhere, nowhere)
}

fn connect() -> Duration {
    Duration::s(2)
}

fn interval() -> Duration {
    Duration::s(2)
}

fn check_timeout() -> Duration {
    Duration::s(1)
}

fn rise() -> u32 {
    2
}

fn fall() -> u32 {
    3
}

impl<'de> Deserialize<'de> for AccessLog {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Ok(match text.as_str() {
            "off" => Self::Off,
            "stdout" => Self::Stdout,
            path => Self::File(path.into()),
        })
    }
}
