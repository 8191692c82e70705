//! A service and its instances: which one a request goes to, and the call itself.
//!
//! | module | what |
//! |---|---|
//! | [`attempts`] | the call: one try after the other |
//! | [`retry`] | when a request is sent once more |
//! | [`breaker`] | what a service is spared: bounds, and a circuit that opens |
//! | [`endpoint`] | one instance: in flight, health, ejection |
//! | [`balance`], [`affinity`] | which instance is next, which belongs to a key |
//! | [`latency`] | how long an instance takes |
//! | [`schedule`] | turns in proportion to weights |
//! | [`connect`] | the way to an instance: socket, TLS |
//! | [`pool`] | connections that are kept, by each worker its own |
//! | [`answer`] | the answer's body; puts its connection back when it is over |
//! | [`outgoing`] | the body that is sent |
//! | [`health`] | asking instances whether they are well |
//! | [`window`], [`counters`] | counts of the last while, counts for metrics |
//!
//! Invariant: whoever calls holds a [`Permit`], which only the limits give out.

pub mod affinity;
pub mod answer;
mod attempts;
pub mod balance;
pub mod breaker;
pub mod connect;
pub mod counters;
pub mod endpoint;
pub mod health;
mod latency;
pub mod outgoing;
pub mod pool;
pub mod retry;
pub mod schedule;
pub mod window;

use std::{net::IpAddr, sync::Arc, time::Duration};

use http::{HeaderMap, HeaderValue, Method, Request, Response, Uri};
use tokio::time::Instant;

pub use answer::{AnswerBody, AnswerStream};
use connect::Connector;
pub use endpoint::Endpoint;
pub use outgoing::Outgoing;

use crate::{error::UpstreamError, limit::Admitted, limit::Permit};
use balance::Balance;
use breaker::Breaker;
use counters::Counters;
use retry::{Budget, Retry};

/// A service.
pub struct Upstream {
    /// Its name.
    pub name: Arc<str>,
    /// Its instances.
    pub endpoints: Vec<Arc<Endpoint>>,
    /// Which is next.
    pub balance: Balance,
    /// `Host` that is sent instead of the client's.
    pub host: Option<HeaderValue>,
    /// How its instances are reached.
    pub connector: Arc<Connector>,
    /// How its connections are kept.
    pub pool: PoolSettings,
    /// When an instance is left out.
    pub ejection: Ejection,
    /// How instances are asked, if they are.
    pub health: Option<HealthSettings>,
    /// Until a connection stands.
    pub connect_timeout: Duration,
    /// From a request that was sent to its answer's head, where that is bounded.
    pub first_byte_timeout: Option<Duration>,
    /// When a request is sent once more, unless the route says otherwise.
    pub retry: Retry,
    /// How often that may be, where it is bounded.
    pub budget: Option<Arc<Budget>>,
    /// What it is spared, where that is bounded.
    pub breaker: Option<Arc<Breaker>>,
    /// What its policies did.
    pub counters: Arc<Counters>,
    /// Without a byte of a body.
    pub stall: Duration,
}

/// How connections are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolSettings {
    /// Idle ones to one instance, by one worker, HTTP/1.1.
    pub idle_max: usize,
    /// Requests at the same time on one, HTTP/2.
    pub streams_max: usize,
    /// Those to one instance, by one worker, HTTP/2.
    pub connections_max: usize,
    /// Between two questions whether one is alive, HTTP/2.
    pub ping: Option<Duration>,
    /// Without a request.
    pub idle_timeout: Duration,
    /// Age after which none serves again.
    pub max_age: Duration,
}

/// When an instance is left out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ejection {
    /// After so many failures in a row; 0: never.
    pub failures: u32,
    /// After so many among its requests, where that is asked for.
    pub ratio: Option<Ratio>,
    /// For so long at first.
    pub duration: Duration,
    /// So many of a hundred endpoints at once, where that is bounded.
    pub percent_max: Option<u8>,
}

/// How many requests may fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ratio {
    /// Fewer of a hundred.
    pub percent: u8,
    /// Of at least so many.
    pub volume: u32,
    /// In so long.
    pub window: Duration,
}

/// How instances are asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthSettings {
    /// Path and query.
    pub path: String,
    /// From one question to the next.
    pub interval: Duration,
    /// Until the answer's headers.
    pub timeout: Duration,
    /// Good answers in a row until it is well.
    pub rise: u32,
    /// Bad ones until it is not.
    pub fall: u32,
}

/// A request as it is sent, without its body.
#[derive(Clone, Debug, Default)]
pub struct Head {
    /// The method.
    pub method: Method,
    /// Path and query.
    pub target: Uri,
    /// All headers but those of one connection; `Host` included.
    pub headers: HeaderMap,
}

/// A request as it is sent.
#[derive(Debug, Default)]
pub struct Message {
    /// Its line and headers.
    pub head: Head,
    /// Its body.
    pub body: Outgoing,
}

/// Makes the head once more, for a request that is repeated; rarely, so that no spare one is made each time.
pub type Again<'a> = &'a (dyn Fn() -> Option<Head> + Send + Sync);

/// On whose behalf a service is called.
#[derive(Clone, Copy)]
pub struct Caller<'a> {
    /// Leave to call.
    pub permit: &'a Permit,
    /// The client's address.
    pub client: IpAddr,
    /// When the request is sent once more, instead of the service's own rule.
    pub retry: Option<&'a Retry>,
    /// When the answer must begin.
    pub deadline: Instant,
}

/// An answer, and who gave it.
pub struct Answer {
    /// Status, headers without those of one connection, body.
    pub response: Response<AnswerBody>,
    /// The instance.
    pub endpoint: Arc<Endpoint>,
}

/// A call that failed, and where, if it got so far.
pub struct CallFailed {
    /// Why.
    pub error: UpstreamError,
    /// The instance that was tried last.
    pub endpoint: Option<Arc<Endpoint>>,
}

impl Message {
    /// The request, which is not here any more then.
    fn take(&mut self) -> Request<Outgoing> {
        let Self { head, body } = std::mem::take(self);
        let mut request = Request::new(body);
        *request.method_mut() = head.method;
        *request.uri_mut() = head.target;
        *request.headers_mut() = head.headers;
        request
    }
}

impl<'a> Caller<'a> {
    /// Whoever sent this request.
    pub fn of(admitted: &'a Admitted, deadline: Instant) -> Self {
        Self {
            permit: &admitted.permit,
            client: admitted.routed.request.peer.address.ip(),
            retry: admitted.routed.route.retry.as_ref(),
            deadline,
        }
    }
}

impl From<Request<Outgoing>> for Message {
    fn from(request: Request<Outgoing>) -> Self {
        let (parts, body) = request.into_parts();
        Self { head: Head { method: parts.method, target: parts.uri, headers: parts.headers }, body }
    }
}
