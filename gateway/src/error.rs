//! Every way in which a request ends without the answer that it asked for: one closed list. What the client is
//! told of it stands in [`crate::respond`] alone; [`Refusal::reason`] is the word for logs and metrics.

use std::sync::Arc;

use http::HeaderValue;
use thiserror::Error;

use crate::{authenticate::AuthError, limit::Exceeded, screen::Malformed};

/// Why a request was not served.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Refusal {
    /// It is not HTTP/1.1 as we read it.
    #[error("{0}")]
    Malformed(Malformed),
    /// Its path could mean different things to us and to the service.
    #[error("{0}")]
    Path(PathError),
    /// As many requests are in flight as the gateway may have.
    #[error("the gateway has as many requests in flight as it may")]
    Overloaded,
    /// As many requests are in flight on the route as it may have.
    #[error("the route has as many requests in flight as it may")]
    RouteOverloaded,
    /// No route has this host and path.
    #[error("no route has this host and path")]
    NoRoute,
    /// The path takes other methods.
    #[error("this path does not take the method")]
    MethodNotAllowed {
        /// Those that it takes, as `Allow` lists them.
        allow: HeaderValue,
    },
    /// The body is larger than the route takes.
    #[error("the body is larger than {limit} bytes")]
    BodyTooLarge {
        /// The route's limit.
        limit: u64,
    },
    /// The body did not arrive, or not in time.
    #[error("the body did not arrive")]
    BodyLost,
    /// The body is to be reshaped and is not JSON.
    #[error("the body is not JSON: {0}")]
    BodyNotJson(String),
    /// The caller did not say who it is, or not truly.
    #[error("{error}")]
    Unauthenticated {
        /// Why.
        error: AuthError,
        /// The route's `WWW-Authenticate`.
        challenge: HeaderValue,
    },
    /// The caller is known and may not do this.
    #[error("the caller lacks a scope")]
    Forbidden {
        /// `WWW-Authenticate`, with the scopes that are asked for.
        challenge: HeaderValue,
    },
    /// A rate limit is exceeded.
    #[error("rate limit {} is exceeded", .0.rule())]
    RateLimited(Box<Exceeded>),
    /// It asks for another protocol in a way that nobody may answer.
    #[error("{0}")]
    Handshake(HandshakeError),
    /// As many tunnels are open as the gateway may have.
    #[error("the gateway has as many tunnels open as it may")]
    TunnelsFull,
    /// The service did not answer as it should.
    #[error("{0}")]
    Upstream(#[from] UpstreamError),
    /// A step that the composed answer cannot do without failed.
    #[error("step {step}: {error}")]
    Step {
        /// The step's name.
        step: Arc<str>,
        /// Why.
        error: StepError,
    },
    /// Answers of two steps have the same member, and the configuration says to refuse that.
    #[error("two steps answer {0}")]
    Collision(String),
    /// A defect of ours.
    #[error("a defect in the gateway")]
    Internal,
}

/// Why a path is not served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum PathError {
    /// `/./` or `/../`, encoded or not.
    #[error("the path has a dot segment")]
    DotSegment,
    /// `//`.
    #[error("the path has an empty segment")]
    EmptySegment,
    /// `%2F`, `%5C`, `%00` or a backslash.
    #[error("the path has an encoded slash, a backslash or a zero byte")]
    Separator,
    /// `%` without two hexadecimal digits.
    #[error("the path has a broken percent-encoding")]
    Encoding,
}

/// What is wrong with a WebSocket's first request (RFC 6455, section 4.2.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum HandshakeError {
    /// Another method than GET.
    #[error("a WebSocket begins with GET")]
    Method,
    /// Another version than 13.
    #[error("Sec-WebSocket-Version is not 13")]
    Version,
    /// No key, more than one, or not 16 bytes in base64.
    #[error("Sec-WebSocket-Key is not 16 bytes in base64")]
    Key,
}

/// Why a service gave no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum UpstreamError {
    /// No instance is well.
    #[error("no instance of the service is well")]
    NoEndpoint,
    /// As many requests are in flight on the service as it may have.
    #[error("the service has as many requests in flight as it may")]
    Full,
    /// Most requests to the service failed lately.
    #[error("the service is spared: most requests to it failed")]
    CircuitOpen,
    /// No connection.
    #[error("no connection to the service")]
    Connect,
    /// No connection in time.
    #[error("no connection to the service in time")]
    ConnectTimeout,
    /// No TLS: mostly a certificate that is not believed.
    #[error("no TLS with the service")]
    Tls,
    /// The connection broke before the answer.
    #[error("the service broke off")]
    Broken,
    /// No answer within the route's time.
    #[error("the service did not answer in time")]
    Timeout,
    /// No answer within the time of a try, and no further try.
    #[error("the service did not answer a try in time")]
    TryTimeout,
    /// No answer within the service's own time.
    #[error("the service did not begin to answer in time")]
    FirstByteTimeout,
    /// What came back is not HTTP/1.1.
    #[error("the service did not speak HTTP")]
    Protocol,
    /// The answer is larger than may be kept in memory.
    #[error("the service's answer is too large")]
    TooLarge,
    /// The answer is to be reshaped or merged and is not JSON.
    #[error("the service's answer is not JSON")]
    NotJson,
}

/// Why a step failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum StepError {
    /// No answer.
    #[error("{0}")]
    Upstream(#[from] UpstreamError),
    /// An answer that is not a success.
    #[error("the service answered {0}")]
    Status(u16),
    /// An earlier answer lacks what the step's request is made of, or the value cannot stand where it should.
    #[error("a value that the step needs is missing")]
    MissingValue,
    /// An answer without members that has no place of its own in the whole.
    #[error("the service's answer is no JSON object")]
    NotObject,
    /// A step that it waits for failed.
    #[error("an earlier step failed")]
    Dependency,
}

impl Refusal {
    /// One word for logs and metrics; stable.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Malformed(_) => "malformed",
            Self::Path(_) => "path",
            Self::Overloaded => "overloaded",
            Self::RouteOverloaded => "route_overloaded",
            Self::NoRoute => "no_route",
            Self::MethodNotAllowed { .. } => "method_not_allowed",
            Self::BodyTooLarge { .. } => "body_too_large",
            Self::BodyLost => "body_lost",
            Self::BodyNotJson(_) => "body_not_json",
            Self::Unauthenticated { error: AuthError::Ambiguous, .. } => "credential_ambiguous",
            Self::Unauthenticated { error: AuthError::KeySetUnavailable, .. } => "key_set_unavailable",
            Self::Unauthenticated { .. } => "unauthenticated",
            Self::Forbidden { .. } => "forbidden",
            Self::RateLimited(_) => "rate_limited",
            Self::Handshake(_) => "handshake",
            Self::TunnelsFull => "tunnels_full",
            Self::Upstream(error) => error.reason(),
            Self::Step { .. } => "step_failed",
            Self::Collision(_) => "collision",
            Self::Internal => "internal",
        }
    }
}

impl UpstreamError {
    /// One word for logs, metrics and notes; stable.
    pub fn reason(self) -> &'static str {
        match self {
            Self::NoEndpoint => "no_endpoint",
            Self::Full => "service_full",
            Self::CircuitOpen => "circuit_open",
            Self::Connect => "connect",
            Self::ConnectTimeout => "connect_timeout",
            Self::Tls => "tls",
            Self::Broken => "broken",
            Self::Timeout => "timeout",
            Self::TryTimeout => "try_timeout",
            Self::FirstByteTimeout => "first_byte_timeout",
            Self::Protocol => "protocol",
            Self::TooLarge => "too_large",
            Self::NotJson => "not_json",
        }
    }
}

impl StepError {
    /// One word for logs, metrics and notes; stable.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Upstream(error) => error.reason(),
            Self::Status(_) => "status",
            Self::MissingValue => "missing_value",
            Self::NotObject => "not_object",
            Self::Dependency => "dependency",
        }
    }
}
