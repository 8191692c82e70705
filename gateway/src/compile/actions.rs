//! What a route does with a request: one service, several by weight, several merged, or an answer of its own.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, header::CONTENT_TYPE};

use super::routes::{Parts, Scene};
use crate::{
    compose::Composition,
    config::{
        Spanned,
        action::{RedirectDocument, RespondDocument, SchemeDocument, StickyDocument, WeightDocument},
        route::RouteDocument,
    },
    direct::{Direct, Redirect, Target},
    snapshot::Action,
    split::{Split, Sticky},
    upstream::Upstream,
};

const PLAIN_TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");

/// The one thing that a route does; nothing, where it is not said as it should be.
pub fn compile(written: &Spanned<RouteDocument>, parts: &Parts<'_>, scene: &mut Scene<'_>) -> Option<Action> {
    let route = &written.value;
    if let Some(sticky) = route.sticky.as_ref().filter(|_| route.upstreams.is_none()) {
        scene.error(sticky, "sticky", "it divides requests among upstreams, of which there are none");
    }
    match (&route.upstream, &route.upstreams, &route.compose, &route.redirect, &route.respond) {
        (Some(name), None, None, None, None) => upstream(name, "upstream", parts, scene).map(Action::Proxy),
        (None, Some(weights), None, None, None) => {
            split(weights, route.sticky.as_ref(), parts, scene).map(Action::Split)
        }
        (None, None, Some(compose), None, None) => {
            if route.methods.as_ref().is_none_or(|methods| methods.value.iter().any(|name| name != "GET")) {
                scene.error(compose, "compose", "a composed answer is read: write methods: [GET]");
            }
            if let Some(json) = &route.request.json {
                scene.error(json, "request.json", "the steps of a composition send no body");
            }
            super::rewrites::refuse(&route.request, "each step of a composition says its own", scene);
            Composition::compile(&compose.value, parts.upstreams, scene).map(Action::Compose)
        }
        (None, None, None, Some(redirect), None) => {
            asks_no_service(route, scene);
            self::redirect(redirect, scene).map(|redirect| Action::Direct(Direct::Redirect(redirect)))
        }
        (None, None, None, None, Some(respond)) => {
            asks_no_service(route, scene);
            Some(Action::Direct(fixed(respond, scene)))
        }
        _ => {
            scene.error(
                written,
                "",
                "name exactly one of upstream, upstreams, compose, redirect and respond",
            );
            None
        }
    }
}

/// The service of this name.
pub fn upstream(
    name: &Spanned<String>,
    field: &str,
    parts: &Parts<'_>,
    scene: &mut Scene<'_>,
) -> Option<Arc<Upstream>> {
    let upstream = parts.upstreams.get(&name.value).cloned();
    if upstream.is_none() {
        scene.error(name, field, format!("no upstream has the name {}", name.value));
    }
    upstream
}

fn split(
    weights: &Spanned<Vec<WeightDocument>>,
    sticky: Option<&Spanned<StickyDocument>>,
    parts: &Parts<'_>,
    scene: &mut Scene<'_>,
) -> Option<Split> {
    let written = &weights.value;
    if written.iter().all(|share| share.weight == 0) {
        scene.error(weights, "upstreams", "at least one weight above 0");
    }
    for (index, share) in written.iter().enumerate() {
        if written[..index].iter().any(|before| before.name.value == share.name.value) {
            scene.error(&share.name, "upstreams", "each service once");
        }
    }
    let found =
        written.iter().map(|share| Some((share.weight, upstream(&share.name, "upstreams", parts, scene)?)));
    let shares: Option<Vec<_>> = found.collect();
    let sticky = sticky.and_then(|sticky| {
        let compiled = match (&sticky.value.header, &sticky.value.cookie) {
            (Some(name), None) => HeaderName::from_bytes(name.as_bytes()).ok().map(Sticky::Header),
            (None, Some(name)) => Some(Sticky::Cookie(name.clone())),
            _ => None,
        };
        if compiled.is_none() {
            scene.error(sticky, "sticky", "exactly one of header and cookie, and a name");
        }
        compiled
    });
    Some(Split::new(shares?.into_iter().map(|(weight, upstream)| (u32::from(weight), upstream)), sticky))
}

/// What is changed on the way to a service has no place where none is asked.
fn asks_no_service(route: &RouteDocument, scene: &mut Scene<'_>) {
    let rule = "no service is asked";
    super::rewrites::refuse(&route.request, rule, scene);
    for json in [&route.request.json, &route.response.json].into_iter().flatten() {
        scene.error(json, "json", rule);
    }
    let headers = &route.request.headers;
    for value in headers.remove.iter().chain(headers.set.values()).chain(headers.add.values()) {
        scene.error(value, "request.headers", rule);
    }
    if let Some(upgrade) = route.upgrades.first() {
        scene.error(upgrade, "upgrades", rule);
    }
}

fn redirect(written: &Spanned<RedirectDocument>, scene: &mut Scene<'_>) -> Option<Redirect> {
    let RedirectDocument { status, location, scheme, host, path } = &written.value;
    if ![301, 302, 303, 307, 308].contains(status) {
        scene.error(written, "redirect.status", "301, 302, 303, 307 or 308");
    }
    let target = match (location, scheme.is_some() || host.is_some() || path.is_some()) {
        (Some(location), false) => {
            if location.value.bytes().any(|byte| byte <= b' ' || byte >= 0x7f) {
                scene.error(location, "redirect.location", "ASCII without spaces: write others as %20");
            }
            Target::Location(scene.template(location, "redirect.location", &[])?)
        }
        (None, true) => {
            if let Some(host) =
                host.as_ref().filter(|host| host.value.parse::<http::uri::Authority>().is_err())
            {
                scene.error(host, "redirect.host", "a host such as new.example or new.example:8443");
            }
            let template = path.as_ref().map(|path| {
                if !path.value.starts_with('/')
                    || path.value.starts_with("//")
                    || path.value.contains(['?', '#', ' '])
                {
                    scene.error(path, "redirect.path", "a path that begins with one slash, without a query");
                }
                scene.template(path, "redirect.path", &[])
            });
            let path = match template {
                Some(template) => Some(template?),
                None => None,
            };
            let scheme = scheme.map(|scheme| match scheme {
                SchemeDocument::Http => "http",
                SchemeDocument::Https => "https",
            });
            Target::Parts { scheme, host: host.as_ref().map(|host| host.value.clone()), path }
        }
        _ => {
            scene.error(written, "redirect", "either location, or at least one of scheme, host and path");
            return None;
        }
    };
    Some(Redirect { status: *status, target })
}

fn fixed(written: &Spanned<RespondDocument>, scene: &mut Scene<'_>) -> Direct {
    let RespondDocument { status, headers: named, body } = &written.value;
    if !(200..=599).contains(status) {
        scene.error(written, "respond.status", "from 200 to 599");
    }
    if matches!(status, 204 | 205 | 304) && !body.is_empty() {
        scene.error(written, "respond.body", format!("an answer with {status} has none"));
    }
    let mut headers = HeaderMap::new();
    for (name, value) in named {
        let field = format!("respond.headers.{name}");
        match (super::routes::header_name(name), HeaderValue::from_str(&value.value)) {
            (Ok(name), Ok(text)) => drop(headers.insert(name, text)),
            (Err(rule), _) => scene.error(value, &field, rule),
            (_, Err(_)) => scene.error(value, &field, "no header may have this value"),
        }
    }
    if !body.is_empty() {
        headers.entry(CONTENT_TYPE).or_insert(PLAIN_TEXT);
    }
    Direct::Fixed { status: *status, headers, body: Bytes::copy_from_slice(body.as_bytes()) }
}
