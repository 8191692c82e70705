//! Which route a request belongs to: by host, path, method, and what else its `when` asks for.
//!
//! A host's own routes come before those of `*.`, those before `**.`, and those before routes without a host; within a
//! host the more exact path wins. What cannot be decided is refused when the configuration is compiled.
//!
//! | module | what |
//! |---|---|
//! | [`pattern`] | a path as a route writes it |
//! | [`paths`] | the paths of one host: a tree of segments |
//! | [`candidates`] | the routes of one path: the order in which they are tried |
//! | [`methods`] | sets of methods |
//! | [`when`] | headers, parameters of the query, cookies |

pub mod candidates;
pub mod methods;
pub mod paths;
pub mod pattern;
pub mod when;

use std::{borrow::Cow, collections::HashMap, net::IpAddr, ops::Range, sync::Arc};

use http::{HeaderValue, header::HOST, request::Parts};

use crate::{
    admit::Received,
    error::Refusal,
    in_flight::InFlightGuard,
    record::Record,
    snapshot::{Action, Route, Snapshot},
    upstream::Upstream,
};
use candidates::{Candidate, Clash, Written, arrange};
use methods::Methods;
use paths::{Builder, Found, PathOf, Paths};
use when::Asked;

/// A request whose route is known.
pub struct Routed {
    /// The request.
    pub request: Box<Received>,
    /// Its route.
    pub route: Arc<Route>,
    /// The path's parameters.
    pub parameters: Parameters,
    /// The service that was chosen, where the route divides its requests among several.
    chosen: Option<Arc<Upstream>>,
    _in_flight: Option<InFlightGuard>,
}

impl Routed {
    /// The service that answers, if it is one.
    pub fn upstream(&self) -> Option<&Arc<Upstream>> {
        match &self.route.action {
            Action::Proxy(upstream) => Some(upstream),
            Action::Split(_) => self.chosen.as_ref(),
            Action::Compose(_) | Action::Direct(_) => None,
        }
    }
}

/// Where the values of a path's parameters stand in the path, in the order of the route's names. As they came:
/// percent-encoded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Parameters(Vec<Range<usize>>);

impl Parameters {
    /// A parameter's value.
    pub fn get<'p>(&self, route: &Route, path: &'p str, name: &str) -> Option<&'p str> {
        let position = route.parameters.iter().position(|parameter| parameter == name)?;
        path.get(self.0.get(position)?.clone())
    }

    /// The value of the parameter at this position.
    pub fn at<'p>(&self, position: usize, path: &'p str) -> Option<&'p str> {
        path.get(self.0.get(position)?.clone())
    }
}

/// Finds the route.
///
/// # Errors
/// [`Refusal::NoRoute`], [`Refusal::MethodNotAllowed`], [`Refusal::RouteOverloaded`].
pub fn route(snapshot: &Snapshot, request: Box<Received>, record: &mut Record) -> Result<Routed, Refusal> {
    let (route, parameters) = snapshot.routes.find(&request.head, request.peer.address.ip())?;
    record.route = Some(route.clone());
    let in_flight = match &route.in_flight {
        Some(in_flight) => Some(in_flight.enter().ok_or(Refusal::RouteOverloaded)?),
        None => None,
    };
    let chosen = match &route.action {
        Action::Split(split) => split.choose(&request.head).cloned(),
        Action::Proxy(_) | Action::Compose(_) | Action::Direct(_) => None,
    };
    Ok(Routed { request, route, parameters, chosen, _in_flight: in_flight })
}

/// All routes.
pub struct RouteTable {
    exact: HashMap<String, Paths>,
    /// By what follows `*`: `.example`.
    one_label: HashMap<String, Paths>,
    /// By what follows `**`: `.example`.
    any_depth: HashMap<String, Paths>,
    any: Paths,
    by_name: HashMap<Arc<str>, Arc<Route>>,
}

/// All routes while they are added.
#[derive(Default)]
pub struct TableBuilder {
    hosts: HashMap<Host, Builder>,
    by_name: HashMap<Arc<str>, Arc<Route>>,
}

/// Hosts that a route serves.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Host {
    /// This one, in lower case.
    Exact(String),
    /// `*.example`, as `.example`: those with one label more.
    OneLabel(String),
    /// `**.example`, as `.example`: those with any number of labels more.
    AnyDepth(String),
    /// All.
    Any,
}

impl TableBuilder {
    /// Adds a route for a host and path.
    pub fn add(&mut self, host: Host, path: &PathOf, written: Written) {
        self.by_name.entry(written.route.name.clone()).or_insert_with(|| written.route.clone());
        self.hosts.entry(host).or_default().add(path, written);
    }

    /// The table, and what is wrong with it.
    pub fn finish(self) -> (RouteTable, Vec<Clash>) {
        let mut clashes = Vec::new();
        let mut table = RouteTable {
            exact: HashMap::new(),
            one_label: HashMap::new(),
            any_depth: HashMap::new(),
            any: Paths::default(),
            by_name: self.by_name,
        };
        for (host, mut builder) in self.hosts {
            clashes.extend(builder.surplus());
            builder.groups().for_each(|routes| arrange(routes, &mut clashes));
            let paths = builder.finish();
            match host {
                Host::Exact(name) => drop(table.exact.insert(name, paths)),
                Host::OneLabel(suffix) => drop(table.one_label.insert(suffix, paths)),
                Host::AnyDepth(suffix) => drop(table.any_depth.insert(suffix, paths)),
                Host::Any => table.any = paths,
            }
        }
        clashes.sort_unstable_by_key(|clash| (clash.later, clash.earlier));
        clashes.dedup();
        (table, clashes)
    }
}

impl RouteTable {
    /// The route of this name.
    pub fn by_name(&self, name: &str) -> Option<Arc<Route>> {
        self.by_name.get(name).cloned()
    }

    /// All routes, in no order.
    pub fn all(&self) -> impl Iterator<Item = &Arc<Route>> {
        self.by_name.values()
    }

    /// The route of a request and the values of its path's parameters.
    ///
    /// # Errors
    /// [`Refusal::NoRoute`], [`Refusal::MethodNotAllowed`].
    pub fn find(&self, head: &Parts, client: IpAddr) -> Result<(Arc<Route>, Parameters), Refusal> {
        let host = lower(host(head));
        let asked = Asked { head, host: &host, client };
        if head.uri.path() == "*" {
            // Of the whole gateway; only OPTIONS asks so.
            return Err(Refusal::MethodNotAllowed { allow: list(Methods::ANY.names()) });
        }
        let mut others: Option<&[Candidate]> = None;
        for paths in self.of_host(&host) {
            match paths.find(&asked) {
                Some(Found::Route(route, values)) => return Ok((route.clone(), Parameters(values))),
                Some(Found::OtherMethods(candidates)) => others = others.or(Some(candidates)),
                None => {}
            }
        }
        match others {
            Some(candidates) => Err(Refusal::MethodNotAllowed { allow: allow(candidates) }),
            None => Err(Refusal::NoRoute),
        }
    }

    /// The paths that a host has, the more exact name first.
    fn of_host<'t>(&'t self, host: &'t str) -> impl Iterator<Item = &'t Paths> {
        let exact = (!self.exact.is_empty()).then(|| self.exact.get(host)).flatten();
        let one_label = (!self.one_label.is_empty())
            .then(|| host.find('.').and_then(|dot| self.one_label.get(&host[dot..])))
            .flatten();
        let depths = if self.any_depth.is_empty() { "" } else { host };
        let any_depth = depths.match_indices('.').filter_map(|(dot, _)| self.any_depth.get(&host[dot..]));
        exact.into_iter().chain(one_label).chain(any_depth).chain([&self.any])
    }
}

/// The host that a request is for, without its port and a closing dot.
pub fn host(head: &Parts) -> &str {
    let host = head.headers.get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    // An IPv6 address stands in brackets, which keep its colons from being taken for the port's.
    let end = host.rfind(']').map_or(0, |bracket| bracket + 1);
    let name = host[end..].find(':').map_or(host, |colon| &host[..end + colon]);
    name.strip_suffix('.').unwrap_or(name)
}

fn lower(host: &str) -> Cow<'_, str> {
    match host.bytes().any(|byte| byte.is_ascii_uppercase()) {
        true => Cow::Owned(host.to_ascii_lowercase()),
        false => Cow::Borrowed(host),
    }
}

/// The methods of a path, as `Allow` lists them.
fn allow(candidates: &[Candidate]) -> HeaderValue {
    list(candidates.iter().flat_map(|candidate| candidate.methods.names()).collect())
}

/// HEAD goes where GET goes, and the gateway answers OPTIONS where no route does.
fn list(mut names: Vec<&str>) -> HeaderValue {
    names.push("OPTIONS");
    if names.contains(&"GET") {
        names.push("HEAD");
    }
    names.sort_unstable();
    names.dedup();
    HeaderValue::try_from(names.join(", ")).unwrap_or(HeaderValue::from_static(""))
}
