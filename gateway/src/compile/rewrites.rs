//! What of a request is written anew for the service: method, host, path, query.

use http::{HeaderValue, Method, uri::Authority};
use regex::{Captures, Regex, RegexBuilder};

use super::{matching::REGEX_SIZE_MAX, routes::Scene};
use crate::{
    config::{
        Spanned,
        route::{ReplaceDocument, RequestDocument, RouteDocument},
    },
    path,
    transform::rewrite::{PathRewrite, QueryChanges, Rewrite},
};

/// What is written anew; nothing, where all stays as it is.
pub fn compile(route: &RouteDocument, scene: &mut Scene<'_>) -> Option<Box<Rewrite>> {
    let written = &route.request;
    let rewrite = Rewrite {
        method: method(route, scene),
        host: written.host.as_ref().and_then(|host| self::host(host, scene)),
        path: path_rewrite(written, scene),
        query: query(written, scene),
    };
    (!rewrite.is_empty()).then(|| Box::new(rewrite))
}

/// Refuses what has no place where no service, or more than one, is asked.
pub fn refuse(written: &RequestDocument, rule: &str, scene: &mut Scene<'_>) {
    let texts = [
        (&written.method, "request.method"),
        (&written.host, "request.host"),
        (&written.path, "request.path"),
        (&written.strip_prefix, "request.strip_prefix"),
    ];
    for (text, field) in texts {
        if let Some(text) = text {
            scene.error(text, field, rule);
        }
    }
    if let Some(replace) = &written.replace {
        scene.error(replace, "request.replace", rule);
    }
    if let Some(query) = &written.query {
        scene.error(query, "request.query", rule);
    }
}

fn method(route: &RouteDocument, scene: &mut Scene<'_>) -> Option<Method> {
    let written = route.request.method.as_ref()?;
    if !route.upgrades.is_empty() {
        scene.error(written, "request.method", "a request that may switch protocols keeps its method");
    }
    let method = Method::from_bytes(written.value.as_bytes()).ok();
    // The answer to HEAD has no body, which a client that asked otherwise would wait for.
    let fits = |method: &Method| {
        ![Method::HEAD, Method::CONNECT, Method::TRACE].contains(method)
            && method.as_str() == method.as_str().to_uppercase()
    };
    let method = method.filter(fits);
    if method.is_none() {
        scene.error(written, "request.method", "a method such as GET or POST, but HEAD, CONNECT and TRACE");
    }
    method
}

fn host(written: &Spanned<String>, scene: &mut Scene<'_>) -> Option<HeaderValue> {
    let host = &written.value;
    let fits = !host.contains('@') && host.parse::<Authority>().is_ok();
    if !fits {
        scene.error(written, "request.host", "a host such as internal.example or internal.example:8080");
    }
    HeaderValue::from_str(host).ok().filter(|_| fits)
}

fn path_rewrite(written: &RequestDocument, scene: &mut Scene<'_>) -> Option<PathRewrite> {
    match (&written.path, &written.strip_prefix, &written.replace) {
        (None, None, None) => None,
        (Some(whole), None, None) => {
            if !whole.value.starts_with('/') || !is_of_a_path(&whole.value) {
                scene.error(whole, "request.path", "a path that begins with a slash, without a query");
            }
            scene.template(whole, "request.path", &[]).map(PathRewrite::Whole)
        }
        (None, Some(prefix), None) => {
            let text = &prefix.value;
            let is_canonical = path::canonical(text).is_ok_and(|canonical| canonical == *text);
            if !text.starts_with('/') || text.ends_with('/') || !is_of_a_path(text) || !is_canonical {
                scene.error(
                    prefix,
                    "request.strip_prefix",
                    "whole segments, such as /api/v1, without a last slash",
                );
            }
            Some(PathRewrite::Without(text.clone()))
        }
        (None, None, Some(replace)) => replaced(replace, scene),
        (Some(at), ..) | (None, Some(at), Some(_)) => {
            scene.error(at, "request", "at most one of path, strip_prefix and replace");
            None
        }
    }
}

fn replaced(written: &Spanned<ReplaceDocument>, scene: &mut Scene<'_>) -> Option<PathRewrite> {
    let ReplaceDocument { regex, with } = &written.value;
    let built = RegexBuilder::new(&regex.value).size_limit(REGEX_SIZE_MAX).build();
    let built =
        built.inspect_err(|error| scene.error(regex, "request.replace.regex", error.to_string())).ok()?;
    if let Some(unknown) = unknown_group(&built, &with.value) {
        scene.error(with, "request.replace.with", format!("{unknown} is no group of the expression"));
    }
    if !is_of_a_path(&with.value) {
        scene.error(
            with,
            "request.replace.with",
            "part of a path, without a query, others than ASCII as %C3%A9",
        );
    }
    Some(PathRewrite::Replaced(built, with.value.clone()))
}

fn is_of_a_path(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'?' && byte != b'#')
}

/// The first `$1`, `$name` or `${name}` of a replacement that the expression has no group for; `$$` is a dollar sign.
fn unknown_group(regex: &Regex, replacement: &str) -> Option<String> {
    let references = Regex::new(r"\$(?:\$|\{([^}]*)\}|([0-9A-Za-z_]+))").ok()?;
    let name =
        |reference: Captures<'_>| reference.get(1).or(reference.get(2)).map(|name| name.as_str().to_owned());
    references.captures_iter(replacement).filter_map(name).find(|name| match name.parse::<usize>() {
        Ok(number) => number >= regex.captures_len(),
        Err(_) => !regex.capture_names().flatten().any(|known| known == name),
    })
}

fn query(written: &RequestDocument, scene: &mut Scene<'_>) -> QueryChanges {
    let Some(query) = &written.query else { return QueryChanges::default() };
    let names = query.value.remove.iter().map(|name| &name.value).chain(query.value.set.keys());
    if names.clone().next().is_none() || names.clone().any(String::is_empty) {
        scene.error(query, "request.query", "parameters to remove or set, by their names");
    }
    let set = query.value.set.iter().filter_map(|(name, value)| {
        let template = scene.template(value, &format!("request.query.set.{name}"), &["consumer"]);
        Some((name.clone(), template?))
    });
    let set = set.collect();
    QueryChanges { remove: query.value.remove.iter().map(|name| name.value.clone()).collect(), set }
}
