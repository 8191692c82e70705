//! What a route matches: hosts, path, methods, and what else must be so.

use std::{collections::BTreeMap, sync::Arc};

use http::{HeaderName, Method};
use regex::{RegexBuilder, bytes};

use super::routes::Scene;
use crate::{
    config::{
        Document, Findings, Spanned,
        predicate::{TestDocument, TestKindDocument, WhenDocument},
        route::RouteDocument,
    },
    policy::Expression,
    route::{
        Host, TableBuilder,
        candidates::{Clash, ClashKind, ROUTES_OF_A_PATH_MAX, Written},
        methods::Methods,
        paths::{PathOf, REGEX_PATHS_MAX},
        pattern::Pattern,
        when::{Condition, Place, Test, When},
    },
    snapshot::Route,
};

/// A compiled regular expression's room, in bytes.
pub const REGEX_SIZE_MAX: usize = 256 << 10;

/// What a route matches.
pub struct Matched {
    hosts: Vec<Host>,
    path: PathOf,
    methods: Methods,
    when: Option<Arc<When>>,
}

/// What a route matches; nothing, if its path is none. The scene knows the path's parameters then.
pub fn compile(route: &RouteDocument, scene: &mut Scene<'_>) -> Option<Matched> {
    let path = path(&route.path, scene);
    let methods = methods(route, scene);
    let hosts = hosts(route, scene);
    let when = route.when.as_ref().and_then(|written| when(written, scene));
    Some(Matched { hosts, path: path?, methods, when })
}

impl Matched {
    /// Enters a route at all its hosts.
    pub fn enter(self, table: &mut TableBuilder, route: &Arc<Route>, index: usize, priority: i32) {
        for host in self.hosts {
            let (methods, when, route) = (self.methods.clone(), self.when.clone(), route.clone());
            table.add(host, &self.path, Written { methods, when, priority, route, index });
        }
    }
}

/// Says what is wrong with routes of the same host and path, at the later one's path, with the earlier one's line.
pub fn report(clashes: &[Clash], document: &Document, findings: &mut Findings) {
    let routes = &document.routes.value;
    for clash in clashes {
        let (later, earlier) = (&routes[clash.later].value, &routes[clash.earlier].value);
        let (name, line) = (&earlier.name.value, earlier.path.referenced.line());
        let other = format!("the route {name} on line {line}");
        let field = format!("routes[{}].path", clash.later);
        match clash.kind {
            ClashKind::Same => {
                findings.error(&later.path, field, format!("{other} has this host, path and method"))
            }
            ClashKind::Unreachable => {
                findings.error(&later.path, field, format!("never reached: {other} takes all of it before"));
            }
            ClashKind::TooMany => {
                let rule = format!(
                    "at most {ROUTES_OF_A_PATH_MAX} routes share a host and path; the first is {other}"
                );
                findings.error(&later.path, field, rule);
            }
            ClashKind::TooManyExpressions => {
                let rule =
                    format!("at most {REGEX_PATHS_MAX} regex: paths of one host; the first is of {other}");
                findings.error(&later.path, field, rule);
            }
            ClashKind::Shadowed => {
                findings.warning(&later.path, field, format!("{other} takes some of its methods before"));
            }
            ClashKind::Ambiguous => {
                let rule = format!(
                    "{other} may hold for the same requests and is tried before; say so with priority"
                );
                findings.warning(&later.path, field, rule);
            }
        }
    }
}

fn path(written: &Spanned<String>, scene: &mut Scene<'_>) -> Option<PathOf> {
    if let Some(text) = written.value.strip_prefix("regex:") {
        let built = RegexBuilder::new(&format!("^(?:{text})$")).size_limit(REGEX_SIZE_MAX).build();
        return match built {
            Ok(regex) => {
                scene.parameters = regex.capture_names().flatten().map(str::to_owned).collect();
                Some(PathOf::Regex(regex))
            }
            Err(error) => {
                scene.error(written, "path", error.to_string());
                None
            }
        };
    }
    match Pattern::parse(&written.value) {
        Ok(pattern) => {
            scene.parameters.clone_from(&pattern.parameters);
            Some(PathOf::Pattern(pattern))
        }
        Err(error) => {
            scene.error(written, "path", error.to_string());
            None
        }
    }
}

fn methods(route: &RouteDocument, scene: &mut Scene<'_>) -> Methods {
    let Some(written) = &route.methods else { return Methods::ANY };
    if written.value.is_empty() {
        scene.error(written, "methods", "name at least one, or leave the field out for any");
    }
    let mut methods = Vec::new();
    for name in &written.value {
        match Method::from_bytes(name.as_bytes()) {
            Ok(method)
                if *name == name.to_uppercase() && method != Method::CONNECT && method != Method::TRACE =>
            {
                methods.push(method);
            }
            _ => scene.error(
                written,
                "methods",
                format!("{name} is no method that is served; write GET, POST"),
            ),
        }
    }
    Methods::of(&methods)
}

fn hosts(route: &RouteDocument, scene: &mut Scene<'_>) -> Vec<Host> {
    let Some(written) = &route.host else { return vec![Host::Any] };
    if written.value.0.is_empty() {
        scene.error(written, "host", "name at least one, or leave the field out for any");
    }
    let mut hosts = Vec::new();
    for host in written.value.0.iter().map(|host| host.to_ascii_lowercase()) {
        let name = host.strip_prefix("**.").or_else(|| host.strip_prefix("*.")).unwrap_or(&host);
        let fits = !name.is_empty()
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._[]:".contains(&byte));
        if !fits || name.ends_with('.') || (name.contains(':') && !name.starts_with('[')) {
            scene.error(
                written,
                "host",
                "a name such as api.example, *.example or **.example, without a port",
            );
        }
        let host = match host.strip_prefix("**") {
            Some(suffix) => Host::AnyDepth(suffix.to_owned()),
            None => match host.strip_prefix('*') {
                Some(suffix) => Host::OneLabel(suffix.to_owned()),
                None => Host::Exact(host),
            },
        };
        match hosts.contains(&host) {
            true => scene.error(written, "host", "each host once"),
            false => hosts.push(host),
        }
    }
    hosts
}

fn when(written: &Spanned<WhenDocument>, scene: &mut Scene<'_>) -> Option<Arc<When>> {
    let WhenDocument { headers, query, cookies, expression } = &written.value;
    let mut conditions = Vec::new();
    let mut all = |tests: &BTreeMap<String, Spanned<TestDocument>>,
                   part: &str,
                   place: &dyn Fn(&str) -> Result<Place, String>| {
        for (name, test) in tests {
            let condition =
                place(name).and_then(|place| Ok(Condition { place, test: compile_test(&test.value)? }));
            match condition {
                Ok(condition) => conditions.push(condition),
                Err(rule) => scene.error(test, &format!("when.{part}.{name}"), rule),
            }
        }
    };
    let header = |name: &str| {
        HeaderName::from_bytes(name.as_bytes()).map_err(|_| "no header may have this name".to_owned())
    };
    all(headers, "headers", &|name| header(name).map(Place::Header));
    all(query, "query", &|name| Ok(Place::Query(name.to_owned())));
    all(cookies, "cookies", &|name| Ok(Place::Cookie(name.to_owned())));
    let expression = expression.as_ref().and_then(|text| match Expression::compile(&text.value) {
        Ok(expression) => Some(expression),
        Err(rule) => {
            scene.error(text, "when.expression", rule);
            None
        }
    });
    if conditions.is_empty() && expression.is_none() {
        scene.error(written, "when", "name a header, a parameter of the query, a cookie or an expression");
    }
    Some(Arc::new(When { conditions, expression }))
}

fn compile_test(written: &TestDocument) -> Result<Test, String> {
    let kind = match written {
        TestDocument::Exact(text) => return Ok(Test::Exact(text.clone())),
        TestDocument::Kind(kind) => kind,
    };
    match kind {
        TestKindDocument { prefix: Some(prefix), regex: None, present: None, absent: None } => {
            Ok(Test::Prefix(prefix.clone()))
        }
        TestKindDocument { prefix: None, regex: Some(text), present: None, absent: None } => {
            let built = bytes::RegexBuilder::new(&format!("^(?:{text})$")).size_limit(REGEX_SIZE_MAX).build();
            built.map(|regex| Test::Regex(regex, text.clone())).map_err(|error| error.to_string())
        }
        TestKindDocument { prefix: None, regex: None, present: Some(present), absent: None } => {
            Ok(if *present { Test::Present } else { Test::Absent })
        }
        TestKindDocument { prefix: None, regex: None, present: None, absent: Some(absent) } => {
            Ok(if *absent { Test::Absent } else { Test::Present })
        }
        _ => Err("exactly one of prefix, regex, present and absent; or a text".to_owned()),
    }
}
