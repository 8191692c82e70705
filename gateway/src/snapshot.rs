//! One configuration, compiled: what a request reads. Immutable but for counters and states, which a reload
//! hands on (endpoints by upstream and address, limits by name), so that swapping it changes nothing in flight.

use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use ipnet::IpNet;

use crate::{
    accept::http2::Http2Settings,
    access_log::Choice,
    authenticate::{Credentials, Ways},
    authorise::Scopes,
    compose::Composition,
    config::{access_log::Destination, document::Behind, listen::ListenAddress},
    direct::Direct,
    forwarded::Forwarding,
    in_flight::InFlight,
    limit::{Limiter, RouteLimits},
    mirror::Mirror,
    route::RouteTable,
    split::Split,
    tls::server::ServerTls,
    trace::Tracer,
    transform::{RequestTransform, ResponseTransform},
    upgrade::Upgrades,
    upstream::Upstream,
};

/// The whole.
pub struct Snapshot {
    /// Grows with every configuration that is taken.
    pub generation: u64,
    /// What concerns all requests.
    pub settings: Settings,
    /// Where clients are served, and what is spoken there; in the order of [`Fixed::listen`].
    pub listeners: Vec<Arc<Listener>>,
    /// Records spans, where that is asked for.
    pub tracer: Option<Arc<Tracer>>,
    /// Which route has a host, path and method.
    pub routes: RouteTable,
    /// API keys and issuers.
    pub credentials: Arc<Credentials>,
    /// Services by name.
    pub upstreams: BTreeMap<String, Arc<Upstream>>,
    /// Rate limits by name.
    pub limiters: BTreeMap<String, Arc<Limiter>>,
    /// Requests in flight on all routes, under this and earlier snapshots.
    pub in_flight: Arc<InFlight>,
    /// How many may be, from this snapshot's publication on.
    pub in_flight_max: u32,
    /// Open tunnels, under this and earlier snapshots.
    pub tunnels: Arc<InFlight>,
    /// How many may be, from this snapshot's publication on.
    pub tunnels_max: u32,
}

impl Snapshot {
    /// Files of certificates and keys, which change without the configuration.
    pub fn certificate_files(&self) -> impl Iterator<Item = PathBuf> {
        let servers = self.listeners.iter().filter_map(|listener| listener.tls.as_ref());
        servers.flat_map(|tls| tls.files.iter().cloned())
    }
}

/// What concerns all requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// What changes with a restart only.
    pub fixed: Fixed,
    /// How long a body may stand still.
    pub stall: Duration,
    /// TLS handshakes at the same time.
    pub handshakes: u32,
    /// Which proxies are believed, and how services are told of clients.
    pub forwarding: Forwarding,
    /// Bounds of HTTP/2 connections.
    pub http2: Http2Settings,
    /// Which requests have an access line, and what stands in it.
    pub access_lines: Choice,
    /// Phases of a stop.
    pub drain: DrainTimes,
    /// What stands in front.
    pub behind: Behind,
}

/// What changes with a restart only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fixed {
    /// Where clients are served.
    pub listen: Vec<Place>,
    /// Threads.
    pub workers: usize,
    /// Where operators are served what they may read.
    pub admin: Option<SocketAddr>,
    /// Where they are served everything.
    pub control: Option<PathBuf>,
    /// What balancers ask.
    pub health_path: String,
    /// Where access lines go.
    pub access_log: Destination,
    /// Connections of clients.
    pub connections: u32,
    /// A request's line and headers, in bytes.
    pub header_bytes: usize,
    /// A request's headers.
    pub header_count: usize,
    /// Until a request's headers are there.
    pub header_timeout: Duration,
    /// Between two requests.
    pub keep_alive: Duration,
}

/// An address, and what is spoken there.
#[derive(Debug)]
pub struct Listener {
    /// Where.
    pub place: Place,
    /// TLS, if it is spoken.
    pub tls: Option<ServerTls>,
    /// HTTP/2 as well.
    pub http2: bool,
    /// Whose connections begin with a PROXY header.
    pub proxy_protocol: Option<ProxyProtocol>,
}

/// Whose connections begin with a PROXY header.
#[derive(Debug)]
pub struct ProxyProtocol {
    /// Theirs.
    pub from: Vec<IpNet>,
    /// All of theirs; otherwise one that does not is served as it is.
    pub required: bool,
}

/// Where clients are served. Changes with a restart only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Its address.
    pub address: ListenAddress,
    /// Permissions of a Unix socket's file.
    pub mode: u32,
}

/// Phases of a stop, one after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DrainTimes {
    /// Unready, but served as before.
    pub unready: Duration,
    /// Every answer closes its connection.
    pub close: Duration,
    /// Idle connections are closed, requests may end.
    pub end: Duration,
}

/// What is served at a path.
pub struct Route {
    /// Its name.
    pub name: Arc<str>,
    /// Its position among the routes that ever had a name, for counters.
    pub metrics: Arc<crate::metrics::RouteMetrics>,
    /// Names of the path's parameters, in their order.
    pub parameters: Vec<String>,
    /// How callers say who they are.
    pub ways: Ways,
    /// What they must be allowed.
    pub scopes: Scopes,
    /// How often they may come.
    pub limits: RouteLimits,
    /// Requests in flight on this route, where that is bounded.
    pub in_flight: Option<Arc<InFlight>>,
    /// The largest body.
    pub body_bytes: u64,
    /// Until the answer begins.
    pub timeout: Duration,
    /// Without a byte of the answer's body, instead of the upstream's.
    pub stall: Option<Duration>,
    /// Other protocols that are let through, if any.
    pub upgrades: Option<Upgrades>,
    /// When a request is sent once more, instead of the upstream's rule.
    pub retry: Option<crate::upstream::retry::Retry>,
    /// Keys and tokens go on to the upstream.
    pub forward_credentials: bool,
    /// Changes on the way in.
    pub request: RequestTransform,
    /// Changes on the way back.
    pub response: ResponseTransform,
    /// Who gets copies of requests, if anybody.
    pub mirror: Option<Arc<Mirror>>,
    /// Who answers.
    pub action: Action,
}

/// Who answers.
pub enum Action {
    /// One service.
    Proxy(Arc<Upstream>),
    /// One of several, by weight.
    Split(Split),
    /// Several, merged.
    Compose(Composition),
    /// None: the route itself.
    Direct(Direct),
}
