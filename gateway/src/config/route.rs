//! Routes as they are written: what they match, what they ask for, what they change, who answers. Pure.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_saphyr::Spanned;

use super::{
    action::{MirrorDocument, RedirectDocument, RespondDocument, StickyDocument, WeightDocument},
    compose::ComposeDocument,
    predicate::{HostsDocument, WhenDocument},
    retry::RetryDocument,
    units::{Duration, Size},
};
use crate::json::ReshapeDocument;

/// What is served at a path.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RouteDocument {
    /// Its name in logs, metrics and limits. Unique.
    pub name: Spanned<String>,
    /// The host, or a list of hosts, without ports: `api.example`, `*.example` for one label more, `**.example` for any
    /// number of labels more. By default any.
    #[serde(default)]
    pub host: Option<Spanned<HostsDocument>>,
    /// The path, with parameters: `/accounts/{id}`, `/files/{*rest}`; or `regex:` and an expression for the whole path,
    /// whose named groups are parameters: `regex:/v[0-9]+/(?<id>[^/]+)`.
    pub path: Spanned<String>,
    /// The methods; by default any.
    #[serde(default)]
    pub methods: Option<Spanned<Vec<String>>>,
    /// What else must be so.
    #[serde(default)]
    pub when: Option<Spanned<WhenDocument>>,
    /// Among routes of the same host and path, the higher is tried first; by default 0.
    #[serde(default)]
    pub priority: i32,
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
    /// Instead of `timeouts.stall`, for the body of the service's answer.
    #[serde(default)]
    pub stall: Option<Spanned<Duration>>,
    /// Other protocols that a request may switch to (RFC 9110, section 7.8): `websocket`, or any other by its name. By
    /// default none: `Upgrade` is not sent on. What goes through a tunnel is neither read nor limited.
    #[serde(default)]
    pub upgrades: Vec<Spanned<String>>,
    /// Instead of the upstream's `retry`; the budget stays the upstream's.
    #[serde(default)]
    pub retry: Option<Spanned<RetryDocument>>,
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
    /// several among which requests are divided by weight; or
    #[serde(default)]
    pub upstreams: Option<Spanned<Vec<WeightDocument>>>,
    /// several whose answers are merged; or
    #[serde(default)]
    pub compose: Option<Spanned<ComposeDocument>>,
    /// an address elsewhere; or
    #[serde(default)]
    pub redirect: Option<Spanned<RedirectDocument>>,
    /// an answer that is always the same.
    #[serde(default)]
    pub respond: Option<Spanned<RespondDocument>>,
    /// Another service that gets copies of requests.
    #[serde(default)]
    pub mirror: Option<Spanned<MirrorDocument>>,
    /// Which requests meet the same one of `upstreams`; by default each goes by chance.
    #[serde(default)]
    pub sticky: Option<Spanned<StickyDocument>>,
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
    /// Another method.
    pub method: Option<Spanned<String>>,
    /// Another `Host`, instead of the upstream's too.
    pub host: Option<Spanned<String>>,
    /// Another path, with the route's parameters: `/v1/accounts/{id}`. The query stays; or
    pub path: Option<Spanned<String>>,
    /// the path without these segments at its beginning: `/api/v1`; or
    pub strip_prefix: Option<Spanned<String>>,
    /// the path with other text where an expression meets it.
    pub replace: Option<Spanned<ReplaceDocument>>,
    /// The query.
    pub query: Option<Spanned<QueryDocument>>,
    /// Headers.
    pub headers: HeadersDocument,
    /// The JSON body.
    pub json: Option<Spanned<ReshapeDocument>>,
}

/// Other text where an expression meets a path, each time that it does.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReplaceDocument {
    /// The expression, as of the crate `regex`; not anchored.
    pub regex: Spanned<String>,
    /// The text, with the expression's groups: `$1`, `${name}`.
    pub with: Spanned<String>,
}

/// Changes of a query, done in this order.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct QueryDocument {
    /// Parameters that are taken away.
    pub remove: Vec<Spanned<String>>,
    /// Parameters that are put in the place of those of the same name. Values may name the route's parameters and
    /// `{consumer}`, and are percent-encoded.
    pub set: BTreeMap<String, Spanned<String>>,
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
