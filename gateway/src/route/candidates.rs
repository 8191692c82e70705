//! Routes of one host and path: the order in which they are tried, and what is wrong with that order.
//!
//! The higher `priority` comes first, then the one that stands first in the configuration; a route with neither
//! `methods` nor `when` takes what the others of its priority leave. HEAD goes where GET goes where no route takes it
//! by its own name.

use std::{cmp::Reverse, sync::Arc};

use http::Method;

use super::{
    methods::Methods,
    when::{Asked, When},
};
use crate::snapshot::Route;

/// Routes that one host and path may have: each may have to be looked at.
pub const ROUTES_OF_A_PATH_MAX: usize = 256;

/// A route of a path.
pub struct Candidate {
    /// What it takes.
    pub methods: Methods,
    /// What must be so.
    pub when: Option<Arc<When>>,
    /// The higher is tried first.
    pub priority: i32,
    /// The route.
    pub route: Arc<Route>,
}

/// A route of a path, and where it is written.
#[derive(Clone)]
pub struct Written {
    /// What it takes.
    pub methods: Methods,
    /// What must be so.
    pub when: Option<Arc<When>>,
    /// The higher is tried first.
    pub priority: i32,
    /// The route.
    pub route: Arc<Route>,
    /// Its place among the routes of the configuration.
    pub index: usize,
}

/// What is wrong with two routes of a path; both by their place in the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clash {
    /// The one that is tried later.
    pub later: usize,
    /// The one that is tried before it.
    pub earlier: usize,
    /// What.
    pub kind: ClashKind,
}

/// What is wrong with two routes of a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClashKind {
    /// Nothing tells them apart.
    Same,
    /// The earlier takes all that the later could.
    Unreachable,
    /// The earlier takes some methods of the later.
    Shadowed,
    /// Some requests could go to either: only the order in the configuration says which.
    Ambiguous,
    /// More than [`ROUTES_OF_A_PATH_MAX`].
    TooMany,
    /// The host has more expressions than [`REGEX_PATHS_MAX`](super::paths::REGEX_PATHS_MAX).
    TooManyExpressions,
}

/// What a path has for a request.
pub enum Choice<'c> {
    /// This route.
    Route(&'c Arc<Route>),
    /// Routes for other methods alone.
    OtherMethods,
    /// Routes for the method, none of which holds.
    None,
}

impl From<Written> for Candidate {
    fn from(written: Written) -> Self {
        let Written { methods, when, priority, route, .. } = written;
        Self { methods, when, priority, route }
    }
}

impl Candidate {
    fn holds(&self, when: &When, asked: &Asked<'_>) -> bool {
        when.holds(asked).unwrap_or_else(|_| {
            self.route.metrics.count_undecided();
            false
        })
    }
}

/// The first that takes the request.
pub fn choose<'c>(candidates: &'c [Candidate], asked: &Asked<'_>) -> Choice<'c> {
    let mut takes = false;
    let mut first = |method: &Method| {
        candidates.iter().find(|candidate| {
            let taken = candidate.methods.takes(method);
            takes |= taken;
            taken && candidate.when.as_ref().is_none_or(|when| candidate.holds(when, asked))
        })
    };
    let method = &asked.head.method;
    let found = first(method).or_else(|| if *method == Method::HEAD { first(&Method::GET) } else { None });
    match found {
        Some(candidate) => Choice::Route(&candidate.route),
        None if takes || candidates.is_empty() => Choice::None,
        None => Choice::OtherMethods,
    }
}

/// Puts the routes of a path into the order of their tries, and says what is wrong with it.
pub fn arrange(routes: &mut [Written], clashes: &mut Vec<Clash>) {
    if let Some(beyond) = routes.get(ROUTES_OF_A_PATH_MAX) {
        clashes.push(Clash { later: beyond.index, earlier: routes[0].index, kind: ClashKind::TooMany });
        return;
    }
    routes.sort_by_key(|written| (Reverse(written.priority), written.takes_what_is_left(), written.index));
    for (position, later) in routes.iter().enumerate() {
        let mut left = later.methods.clone();
        for earlier in &routes[..position] {
            let Some(kind) = clash(earlier, later, &mut left) else { continue };
            clashes.push(Clash { later: later.index, earlier: earlier.index, kind });
            if left.is_empty() {
                break;
            }
        }
    }
}

/// What is wrong with two routes, the earlier of which takes some of the methods that are `left` to the later.
fn clash(earlier: &Written, later: &Written, left: &mut Methods) -> Option<ClashKind> {
    let shared = left.intersection(&earlier.methods);
    if shared.is_empty() {
        return None;
    }
    let implied = |one: &Written, other: &Written| match (&one.when, &other.when) {
        (None, _) => true,
        (Some(_), None) => false,
        (Some(one), Some(other)) => one.is_implied_by(other),
    };
    if implied(earlier, later) {
        *left = left.without(&earlier.methods);
        // Taking what is left is what such a route is for.
        let is_left_over = later.takes_what_is_left() && !earlier.takes_what_is_left();
        let alike = earlier.priority == later.priority && implied(later, earlier) && !is_left_over;
        return match (alike, left.is_empty(), is_left_over) {
            (true, _, _) => Some(ClashKind::Same),
            (false, true, _) => Some(ClashKind::Unreachable),
            (false, false, true) => None,
            (false, false, false) => Some(ClashKind::Shadowed),
        };
    }
    let (Some(of_earlier), Some(of_later)) = (&earlier.when, &later.when) else { return None };
    let ordered = earlier.priority != later.priority || of_later.is_implied_by(of_earlier);
    (!ordered && !of_earlier.excludes(of_later)).then_some(ClashKind::Ambiguous)
}

impl Written {
    fn takes_what_is_left(&self) -> bool {
        self.when.is_none() && self.methods.is_any()
    }
}
