//! The configuration as it is written. Every field has a unit, a default or a reason to be asked for; unknown
//! fields are refused. Pure.

use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf};

use ipnet::IpNet;
use serde::Deserialize;
use serde_saphyr::Spanned;

use super::{
    access_log::AccessLogDocument,
    credentials::{ApiKeyDocument, IssuerDocument},
    listen::{Http2Document, ListenDocument},
    rates::RateDocument,
    route::RouteDocument,
    traces::TracesDocument,
    units::{Duration, Size},
    upstream::UpstreamDocument,
};
use crate::forwarded::Family;

/// The whole file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Document {
    /// Where clients are served. Addresses change with a restart only.
    pub listen: Spanned<Vec<Spanned<ListenDocument>>>,
    /// Threads that serve, each with connections of its own; by default one for each core. Changes with a
    /// restart only.
    #[serde(default)]
    pub workers: Option<Spanned<u16>>,
    /// Where `/healthz`, `/readyz` and `/metrics` are served; nowhere by default. Changes with a restart only.
    #[serde(default)]
    pub admin: Option<Spanned<SocketAddr>>,
    /// A Unix socket, for its owner alone, where operators are also served what changes something: the configuration, the
    /// log's level, a stop. Nowhere by default. Changes with a restart only.
    #[serde(default)]
    pub control: Option<Spanned<PathBuf>>,
    /// The path at which clients' listeners tell balancers whether to send traffic: 200 or 503.
    #[serde(default = "health_path")]
    pub health_path: Spanned<String>,
    /// What stands between clients and this gateway.
    #[serde(default = "behind")]
    pub behind: Spanned<Behind>,
    /// Where lines about requests go, which have one, and what stands in it.
    #[serde(default = "access_log")]
    pub access_log: Spanned<AccessLogDocument>,
    /// Spans of requests, for a collector; none by default.
    #[serde(default)]
    pub traces: Option<Spanned<TracesDocument>>,
    /// Bounds of the whole gateway.
    #[serde(default)]
    pub limits: LimitsDocument,
    /// Times that clients are given.
    #[serde(default)]
    pub timeouts: TimeoutsDocument,
    /// Proxies in front whose word on the client's address is taken, as networks.
    #[serde(default)]
    pub trusted_proxies: Vec<IpNet>,
    /// In which headers they give it, and services are told it.
    #[serde(default)]
    pub forwarded: Family,
    /// Bounds of clients' HTTP/2 connections.
    #[serde(default)]
    pub http2: Http2Document,
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

/// Bounds of the whole gateway, counted over all workers.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LimitsDocument {
    /// Connections that clients may hold. One costs about 20 KiB. Changes with a restart only.
    pub connections: u32,
    /// TLS handshakes at the same time; connections beyond them are closed.
    pub handshakes: u32,
    /// Requests that are served at the same time; further ones are answered 503.
    pub in_flight: u32,
    /// Tunnels (WebSockets, other upgrades) that are open at the same time, besides the connections; further ones are
    /// answered 503.
    pub tunnels: u32,
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
            handshakes: 2_000,
            in_flight: 10_000,
            tunnels: 10_000,
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
    /// A tunnel without a byte in either direction.
    pub tunnel: Duration,
}

impl Default for TimeoutsDocument {
    fn default() -> Self {
        Self {
            header: Duration::s(10),
            keep_alive: Duration::s(75),
            request: Duration::s(30),
            stall: Duration::s(30),
            tunnel: Duration::s(600),
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

fn health_path() -> Spanned<String> {
    unwritten("/healthz".into())
}

fn access_log() -> Spanned<AccessLogDocument> {
    unwritten(AccessLogDocument::default())
}

fn behind() -> Spanned<Behind> {
    unwritten(Behind::default())
}

/// A default: it stands nowhere.
fn unwritten<T>(value: T) -> Spanned<T> {
    let nowhere = serde_saphyr::Location::UNKNOWN;
    Spanned::new(value, nowhere, nowhere)
}
