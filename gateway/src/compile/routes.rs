//! Routes: what they match, what they ask for, what they change, who answers.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use http::{HeaderName, HeaderValue};

use super::{Context, actions, matching, policies, rewrites};
use crate::{
    authenticate::{Credentials, Ways},
    authorise::Scopes,
    config::{
        Document, Findings, Spanned,
        action::MirrorDocument,
        connect::Protocol,
        route::{HeadersDocument, ResponseDocument, RouteDocument},
    },
    in_flight::InFlight,
    json::{Reshape, ReshapeDocument},
    limit::{Limiter, RouteLimits},
    mirror::Mirror,
    route::{RouteTable, TableBuilder},
    snapshot::Route,
    transform::{
        RequestTransform, ResponseTransform,
        headers::{HeaderChanges, Value},
        template::Template,
    },
    upgrade::Upgrades,
    upstream::Upstream,
};

/// The largest answer that is reshaped, unless the route says otherwise.
const JSON_BYTES: usize = 1 << 20;
/// The largest body of which a copy may be held.
const MIRROR_BODY_BYTES_MAX: u64 = 1 << 20;

/// What routes refer to.
pub struct Parts<'a> {
    /// Services.
    pub upstreams: &'a BTreeMap<String, Arc<Upstream>>,
    /// Rate limits.
    pub limiters: &'a BTreeMap<String, Arc<Limiter>>,
    /// API keys and issuers.
    pub credentials: &'a Arc<Credentials>,
    /// Open tunnels.
    pub tunnels: &'a Arc<InFlight>,
}

/// One route while it is compiled: where findings go, and under which name.
pub struct Scene<'a> {
    /// What is wrong so far.
    pub findings: &'a mut Findings,
    /// The route, as `routes[2]`.
    pub field: String,
    /// Names that templates may use: the path's parameters.
    pub parameters: Vec<String>,
}

/// All routes.
pub fn compile(
    document: &Document,
    context: Context<'_>,
    parts: &Parts<'_>,
    findings: &mut Findings,
) -> RouteTable {
    let mut table = TableBuilder::default();
    let mut names = BTreeSet::new();
    if document.routes.value.is_empty() {
        findings.error(&document.routes, "routes", "name at least one route");
    }
    for (index, written) in document.routes.value.iter().enumerate() {
        let field = format!("routes[{index}]");
        let route = &written.value;
        if route.name.value.is_empty() || !names.insert(&route.name.value) {
            findings.error(&route.name, format!("{field}.name"), "a name of its own for each route");
        }
        if route.path.value == document.health_path.value {
            findings.error(&route.path, format!("{field}.path"), "this is the health path");
        }
        let mut scene = Scene { findings, field, parameters: Vec::new() };
        let matched = matching::compile(route, &mut scene);
        let Some(compiled) = compile_route(document, context, parts, written, &mut scene) else { continue };
        if let Some(matched) = matched {
            matched.enter(&mut table, &Arc::new(compiled), index, route.priority);
        }
    }
    let (table, clashes) = table.finish();
    matching::report(&clashes, document, findings);
    table
}

fn compile_route(
    document: &Document,
    context: Context<'_>,
    parts: &Parts<'_>,
    written: &Spanned<RouteDocument>,
    scene: &mut Scene<'_>,
) -> Option<Route> {
    let route = &written.value;
    if let Some(timeout) = route.timeout.as_ref().filter(|timeout| timeout.value.0.is_zero()) {
        scene.error(timeout, "timeout", "longer than 0s");
    }
    if let Some(stall) = &route.stall {
        if stall.value.0.is_zero() {
            scene.error(stall, "stall", "longer than 0s");
        }
        if route.upstream.is_none() && route.upstreams.is_none() {
            scene.error(stall, "stall", "only one service's answer is handed on as it comes");
        }
    }
    let previous = context.previous.and_then(|previous| previous.routes.by_name(&route.name.value));
    let ways = Ways::compile(&route.authenticate, parts.credentials, scene);
    let action = actions::compile(written, parts, scene)?;
    Some(Route {
        name: route.name.value.as_str().into(),
        metrics: previous.as_ref().map(|previous| previous.metrics.clone()).unwrap_or_default(),
        parameters: scene.parameters.clone(),
        ways,
        scopes: Scopes::compile(&route.scopes, &route.authenticate, scene),
        limits: RouteLimits::compile(&route.rates, parts.limiters, document, scene),
        in_flight: route.in_flight.map(|limit| {
            in_flight(limit, previous.as_ref().and_then(|previous| previous.in_flight.as_ref()))
        }),
        body_bytes: route.body_bytes.unwrap_or(document.limits.body_bytes).0,
        timeout: route.timeout.as_ref().map_or(document.timeouts.request, |timeout| timeout.value).0,
        stall: route.stall.as_ref().map(|stall| stall.value.0),
        upgrades: upgrades(route, document, parts, scene),
        retry: route.retry.as_ref().map(|retry| policies::route_retry(retry, scene)),
        forward_credentials: route.forward_credentials,
        request: request_transform(route, scene),
        response: response_transform(&route.response, scene),
        mirror: route
            .mirror
            .as_ref()
            .and_then(|written| mirror(written, route, previous.as_deref(), parts, scene)),
        action,
    })
}

fn upgrades(
    route: &RouteDocument,
    document: &Document,
    parts: &Parts<'_>,
    scene: &mut Scene<'_>,
) -> Option<Upgrades> {
    let first = route.upgrades.first()?;
    if route.compose.is_some() {
        scene.error(first, "upgrades", "a composed answer cannot switch protocols");
    }
    let speaks_http2 = |name: &Spanned<String>| {
        parts
            .upstreams
            .get(&name.value)
            .is_some_and(|upstream| upstream.connector.protocol == Protocol::Http2)
    };
    if route.upstream.as_ref().is_some_and(speaks_http2) {
        scene.error(first, "upgrades", "a service that speaks http2 cannot switch protocols");
    }
    let mut protocols = Vec::new();
    for written in &route.upgrades {
        let name = &written.value;
        let token = HeaderName::from_bytes(name.as_bytes()).is_ok() && *name == name.to_ascii_lowercase();
        if !token || name == "h2c" {
            scene.error(
                written,
                "upgrades",
                format!("{name} cannot be let through; write websocket, or a protocol's name in lower case"),
            );
        }
        protocols.extend(HeaderValue::from_str(name));
    }
    let get = |methods: &Spanned<Vec<String>>| methods.value.iter().any(|name| name == "GET");
    if protocols.iter().any(|name| name == "websocket") && !route.methods.as_ref().is_none_or(get) {
        scene.error(first, "upgrades", "a WebSocket begins with GET, which the route does not take");
    }
    Some(Upgrades { protocols, tunnels: parts.tunnels.clone(), idle: document.timeouts.tunnel.0 })
}

fn mirror(
    written: &Spanned<MirrorDocument>,
    route: &RouteDocument,
    previous: Option<&Route>,
    parts: &Parts<'_>,
    scene: &mut Scene<'_>,
) -> Option<Arc<Mirror>> {
    let MirrorDocument { upstream, percent, body_bytes, in_flight } = &written.value;
    if route.upstream.is_none() && route.upstreams.is_none() {
        scene.error(written, "mirror", "requests are copied that go to upstream or upstreams");
    }
    if let Some(upgrade) = route.upgrades.first() {
        scene.error(upgrade, "upgrades", "a tunnel cannot be copied: leave out mirror or upgrades");
    }
    if !(*percent > 0.0 && *percent <= 100.0) {
        scene.error(written, "mirror.percent", "above 0, at most 100");
    }
    if *in_flight == 0 {
        scene.error(written, "mirror.in_flight", "at least 1");
    }
    if body_bytes.0 > MIRROR_BODY_BYTES_MAX {
        scene.error(written, "mirror.body_bytes", "at most 1MiB: each copy is held in memory");
    }
    let previous = previous.and_then(|previous| previous.mirror.as_ref());
    Some(Arc::new(Mirror {
        upstream: actions::upstream(upstream, "mirror.upstream", parts, scene)?,
        percent: *percent,
        body_bytes: usize::try_from(body_bytes.0).unwrap_or(usize::MAX),
        in_flight: self::in_flight(*in_flight, previous.map(|previous| &previous.in_flight)),
        counts: previous.map(|previous| previous.counts.clone()).unwrap_or_default(),
    }))
}

fn in_flight(limit: u32, previous: Option<&Arc<InFlight>>) -> Arc<InFlight> {
    match previous {
        Some(in_flight) if in_flight.limit() == limit => in_flight.clone(),
        // Those in flight are counted on the old one: for as long as they last, a few more may be in flight.
        _ => Arc::new(InFlight::new(limit)),
    }
}

impl Scene<'_> {
    /// Notes an error of the route's field `name`.
    pub fn error<T>(&mut self, at: &Spanned<T>, name: &str, rule: impl Into<String>) {
        let field = self.field(name);
        self.findings.error(at, field, rule);
    }

    /// Notes a warning of the route's field `name`.
    pub fn warning<T>(&mut self, at: &Spanned<T>, name: &str, rule: impl Into<String>) {
        let field = self.field(name);
        self.findings.warning(at, field, rule);
    }

    fn field(&self, name: &str) -> String {
        if name.is_empty() { self.field.clone() } else { format!("{}.{name}", self.field) }
    }

    /// Compiles a template whose parameters must be known, by the route's path or `also`.
    pub fn template(&mut self, text: &Spanned<String>, name: &str, also: &[&str]) -> Option<Template> {
        let template = match Template::parse(&text.value) {
            Ok(template) => template,
            Err(error) => {
                self.error(text, name, error.to_string());
                return None;
            }
        };
        let unknown = template.parameters().find(|parameter| {
            !self.parameters.iter().any(|known| known == parameter) && !also.contains(parameter)
        });
        if let Some(unknown) = unknown {
            self.error(text, name, format!("{{{unknown}}} is no parameter of the route's path"));
            return None;
        }
        Some(template)
    }

    /// Compiles changes of JSON.
    pub fn reshape(&mut self, written: Option<&Spanned<ReshapeDocument>>, name: &str) -> Option<Reshape> {
        let written = written?;
        match written.value.compile() {
            Ok(reshape) => Some(reshape),
            Err(error) => {
                self.error(written, name, error.to_string());
                None
            }
        }
    }
}

fn request_transform(route: &RouteDocument, scene: &mut Scene<'_>) -> RequestTransform {
    let written = &route.request;
    RequestTransform {
        rewrite: rewrites::compile(route, scene),
        headers: header_changes(&written.headers, "request.headers", &["consumer"], scene),
        json: scene.reshape(written.json.as_ref(), "request.json"),
    }
}

fn response_transform(written: &ResponseDocument, scene: &mut Scene<'_>) -> ResponseTransform {
    ResponseTransform {
        headers: header_changes(&written.headers, "response.headers", &[], scene),
        json: scene.reshape(written.json.as_ref(), "response.json"),
        json_bytes: written
            .json_bytes
            .map_or(JSON_BYTES, |size| usize::try_from(size.0).unwrap_or(usize::MAX)),
    }
}

fn header_changes(
    written: &HeadersDocument,
    field: &str,
    also: &[&str],
    scene: &mut Scene<'_>,
) -> HeaderChanges {
    let mut values = |map: &BTreeMap<String, Spanned<String>>, part: &str| {
        let mut changes = Vec::new();
        for (name, value) in map {
            let field = format!("{field}.{part}.{name}");
            let parsed = header_name(name);
            if let Err(rule) = &parsed {
                scene.error(value, &field, rule.clone());
            }
            let template = scene.template(value, &field, also);
            let made = template.and_then(|template| match template.plain() {
                None => Some(Value::Made(template)),
                Some(text) => match HeaderValue::from_str(text) {
                    Ok(value) => Some(Value::Fixed(value)),
                    Err(_) => {
                        scene.error(value, &field, "no header may have this value");
                        None
                    }
                },
            });
            changes.extend(parsed.ok().zip(made));
        }
        changes
    };
    let (set, add) = (values(&written.set, "set"), values(&written.add, "add"));
    let mut remove = Vec::new();
    for name in &written.remove {
        match HeaderName::from_bytes(name.value.as_bytes()) {
            Ok(name) => remove.push(name),
            Err(_) => scene.error(name, &format!("{field}.remove"), "no header may have this name"),
        }
    }
    HeaderChanges { remove, set, add }
}

/// A header that may be set. Those that frame a message or belong to one connection are ours.
pub fn header_name(name: &str) -> Result<HeaderName, String> {
    let parsed =
        HeaderName::from_bytes(name.as_bytes()).map_err(|_| "no header may have this name".to_owned())?;
    if crate::hop::is_hop_by_hop(&parsed) || parsed == http::header::CONTENT_LENGTH {
        return Err(format!("{parsed} is the gateway's own"));
    }
    Ok(parsed)
}
