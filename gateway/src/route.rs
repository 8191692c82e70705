//! Which route a request belongs to: by host, path and method.
//!
//! A host's own routes come before those of `*.` and those without a host; within a host the more exact path wins. What
//! cannot be decided is refused when the configuration is compiled.

use std::{collections::HashMap, ops::Range, sync::Arc};

use http::{HeaderValue, Method, header::HOST, request::Parts};

use crate::{
    admit::Received, error::Refusal, in_flight::InFlightGuard, record::Record, snapshot::Route,
    snapshot::Snapshot,
};

/// A request whose route is known.
pub struct Routed {
    /// The request.
    pub request: Box<Received>,
    /// Its route.
    pub route: Arc<Route>,
    /// The path's parameters.
    pub parameters: Parameters,
    _in_flight: Option<InFlightGuard>,
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
    let (route, parameters) = snapshot.routes.find(&request.head)?;
    record.route = Some(route.clone());
    let in_flight = match &route.in_flight {
        Some(in_flight) => Some(in_flight.enter().ok_or(Refusal::RouteOverloaded)?),
        None => None,
    };
    Ok(Routed { request, route, parameters, _in_flight: in_flight })
}

/// All routes.
#[derive(Default)]
pub struct RouteTable {
    exact: HashMap<String, Paths>,
    /// By what follows `*`: `.example`.
    wildcard: HashMap<String, Paths>,
    any: Paths,
    by_name: HashMap<Arc<str>, Arc<Route>>,
}

/// The paths of a host.
#[derive(Default)]
struct Paths {
    patterns: HashMap<String, usize>,
    methods: Vec<Methods>,
    router: matchit::Router<usize>,
}

/// The routes of a path.
#[derive(Default)]
struct Methods {
    by_method: Vec<(Method, Arc<Route>)>,
    any: Option<Arc<Route>>,
}

/// Why a route cannot be added.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RouteConflict {
    /// The path is not written as paths are.
    #[error("{0}")]
    Path(String),
    /// Another route has it.
    #[error("the route {0} has this host, path and method")]
    Taken(Arc<str>),
}

impl RouteTable {
    /// Adds a route; `host` as `api.example`, `*.example` or none, `methods` or any.
    ///
    /// # Errors
    /// [`RouteConflict`].
    pub fn add(
        &mut self,
        host: Option<&str>,
        path: &str,
        methods: Option<&[Method]>,
        route: &Arc<Route>,
    ) -> Result<(), RouteConflict> {
        let paths = match host.map(|host| (host, host.strip_prefix('*'))) {
            None => &mut self.any,
            Some((_, Some(suffix))) => self.wildcard.entry(suffix.to_owned()).or_default(),
            Some((host, None)) => self.exact.entry(host.to_owned()).or_default(),
        };
        paths.add(path, methods, route)?;
        self.by_name.insert(route.name.clone(), route.clone());
        Ok(())
    }

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
    pub fn find(&self, head: &Parts) -> Result<(Arc<Route>, Parameters), Refusal> {
        let path = head.uri.path();
        let mut allowed: Option<&Methods> = None;
        for paths in self.candidates(head) {
            let Ok(found) = paths.router.at(path) else { continue };
            let methods = &paths.methods[*found.value];
            match methods.find(&head.method) {
                Some(route) => {
                    let start = path.as_ptr() as usize;
                    let range = |value: &str| {
                        let from = value.as_ptr() as usize - start;
                        from..from + value.len()
                    };
                    let parameters = found.params.iter().map(|(_, value)| range(value)).collect();
                    return Ok((route.clone(), Parameters(parameters)));
                }
                None => allowed = allowed.or(Some(methods)),
            }
        }
        match allowed {
            Some(methods) => Err(Refusal::MethodNotAllowed { allow: methods.allow() }),
            None => Err(Refusal::NoRoute),
        }
    }

    fn candidates(&self, head: &Parts) -> impl Iterator<Item = &Paths> {
        let (mut exact, mut wildcard) = (None, None);
        if !(self.exact.is_empty() && self.wildcard.is_empty()) {
            let host = host(head).to_ascii_lowercase();
            exact = self.exact.get(&host);
            wildcard = host.find('.').and_then(|dot| self.wildcard.get(&host[dot..]));
        }
        exact.into_iter().chain(wildcard).chain([&self.any])
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

impl Paths {
    fn add(
        &mut self,
        path: &str,
        methods: Option<&[Method]>,
        route: &Arc<Route>,
    ) -> Result<(), RouteConflict> {
        if let Some(index) = self.patterns.get(path) {
            return self.methods[*index].add(methods, route);
        }
        let mut added = Methods::default();
        added.add(methods, route)?;
        self.router.insert(path, self.methods.len()).map_err(|error| match error {
            matchit::InsertError::Conflict { with } => RouteConflict::Path(format!(
                "it cannot be told from {with}: name parameters in the same place alike"
            )),
            error => RouteConflict::Path(error.to_string()),
        })?;
        self.patterns.insert(path.to_owned(), self.methods.len());
        self.methods.push(added);
        Ok(())
    }
}

impl Methods {
    fn add(&mut self, methods: Option<&[Method]>, route: &Arc<Route>) -> Result<(), RouteConflict> {
        let Some(methods) = methods else {
            if let Some(other) = &self.any {
                return Err(RouteConflict::Taken(other.name.clone()));
            }
            self.any = Some(route.clone());
            return Ok(());
        };
        for method in methods {
            if let Some((_, other)) = self.by_method.iter().find(|(taken, _)| taken == method) {
                return Err(RouteConflict::Taken(other.name.clone()));
            }
            self.by_method.push((method.clone(), route.clone()));
        }
        Ok(())
    }

    /// HEAD is answered where GET is (RFC 9110, section 9.3.2), unless a route of its own has it.
    fn find(&self, method: &Method) -> Option<&Arc<Route>> {
        let of = |method: &Method| {
            self.by_method.iter().find(|(known, _)| known == method).map(|(_, route)| route)
        };
        of(method)
            .or(self.any.as_ref())
            .or_else(|| if *method == Method::HEAD { of(&Method::GET) } else { None })
    }

    fn allow(&self) -> HeaderValue {
        let mut names: Vec<&str> = self.by_method.iter().map(|(method, _)| method.as_str()).collect();
        if names.contains(&"GET") && !names.contains(&"HEAD") {
            names.push("HEAD");
        }
        names.sort_unstable();
        HeaderValue::try_from(names.join(", ")).unwrap_or(HeaderValue::from_static(""))
    }
}
