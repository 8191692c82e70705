//! The paths of one host: a tree of segments, and expressions beside it.
//!
//! Segments are compared from the left: a text comes before a parameter amid text, that before a parameter, that
//! before `{*rest}`; `regex:` paths come before the first path that ends in `{*rest}`. Where a path is found but no
//! `when` of its routes holds, the search goes on. Each node is met at most once for a request, and a node's texts are
//! hashed when they are many, so that a search costs the path's segments, not the number of routes.

use std::{
    cmp::Reverse,
    collections::HashMap,
    ops::{ControlFlow, Range},
    sync::Arc,
};

use regex::Regex;

use super::{
    candidates::{Candidate, Choice, Clash, ClashKind, Written, choose},
    pattern::{Pattern, Segment},
    when::Asked,
};
use crate::snapshot::Route;

/// Texts of a node beyond which they are hashed.
const FEW: usize = 8;

/// Expressions of one host. Each may be asked for a request, one after the other.
pub const REGEX_PATHS_MAX: usize = 1_000;

/// The paths of a host while routes are added.
#[derive(Default)]
pub struct Builder {
    /// Where a path's routes stand, by what tells it from others.
    by_key: HashMap<String, usize>,
    written: Vec<(PathOf, Vec<Written>)>,
}

/// How a path is compared.
#[derive(Clone)]
pub enum PathOf {
    /// Segment by segment.
    Pattern(Pattern),
    /// As a whole, the expression anchored at both ends.
    Regex(Regex),
}

/// The paths of a host.
pub struct Paths {
    nodes: Vec<Node>,
    regexes: Vec<(Regex, Range<u32>)>,
    /// Routes, those of one path together in the order in which they are tried.
    candidates: Box<[Candidate]>,
}

/// A place in the tree.
#[derive(Default)]
struct Node {
    texts: Texts,
    /// Parameters amid text, the longer text first: before it, after it, the place.
    amid: Vec<(Box<str>, Box<str>, u32)>,
    parameter: Option<u32>,
    /// Routes of the path that ends here.
    end: Range<u32>,
    /// Routes of the path whose rest begins here.
    rest: Range<u32>,
}

enum Texts {
    Few(Vec<(Box<str>, u32)>),
    Many(HashMap<Box<str>, u32>),
}

/// What a search found.
pub enum Found<'p> {
    /// A route, and where its parameters' values stand.
    Route(&'p Arc<Route>, Vec<Range<usize>>),
    /// A path that takes other methods.
    OtherMethods(&'p [Candidate]),
}

impl Builder {
    /// Adds a route; those of the same path are tried in the order that [`candidates`](super::candidates) says.
    pub fn add(&mut self, path: &PathOf, written: Written) {
        let index = *self.by_key.entry(path.key()).or_insert_with(|| {
            self.written.push((path.clone(), Vec::new()));
            self.written.len() - 1
        });
        self.written[index].1.push(written);
    }

    /// The routes of each path.
    pub fn groups(&mut self) -> impl Iterator<Item = &mut Vec<Written>> {
        self.written.iter_mut().map(|(_, routes)| routes)
    }

    /// The first route whose expression is one too many, before [`groups`](Self::groups) orders them.
    pub fn surplus(&self) -> Option<Clash> {
        let expressions = self.written.iter().filter(|(path, _)| matches!(path, PathOf::Regex(_)));
        let mut first_routes = expressions.filter_map(|(_, routes)| routes.first()).map(|route| route.index);
        let earlier = first_routes.next()?;
        let later = first_routes.nth(REGEX_PATHS_MAX - 1)?;
        Some(Clash { later, earlier, kind: ClashKind::TooManyExpressions })
    }

    /// The tree.
    pub fn finish(self) -> Paths {
        let mut paths = Paths { nodes: vec![Node::default()], regexes: Vec::new(), candidates: [].into() };
        let mut candidates = Vec::new();
        for (path, routes) in self.written {
            let from = candidates.len();
            candidates.extend(routes.into_iter().map(Candidate::from));
            // Fewer than 2^32: each stands in memory.
            let range = from as u32..candidates.len() as u32;
            match path {
                PathOf::Regex(regex) => paths.regexes.push((regex, range)),
                PathOf::Pattern(pattern) => *paths.place(&pattern) = range,
            }
        }
        // An expression has the priority of the first of its routes.
        paths.regexes.sort_by_key(|(_, range)| Reverse(candidates[range.start as usize].priority));
        paths.candidates = candidates.into();
        paths.nodes.shrink_to_fit();
        paths
    }
}

impl PathOf {
    /// What tells a path from others: the names of parameters do not.
    fn key(&self) -> String {
        let pattern = match self {
            Self::Regex(regex) => return format!("regex:{regex}"),
            Self::Pattern(pattern) => pattern,
        };
        let mut key = String::new();
        for segment in &pattern.segments {
            key.push('/');
            match segment {
                Segment::Text(text) => key.push_str(text),
                // No path has a zero byte.
                Segment::Parameter { prefix, suffix } => key.extend([prefix, "\0", suffix]),
                Segment::Rest => key.push_str("\0*"),
            }
        }
        key
    }
}

impl Default for Paths {
    fn default() -> Self {
        Builder::default().finish()
    }
}

impl Paths {
    /// Where the routes of a path stand; the nodes on its way are made.
    fn place(&mut self, pattern: &Pattern) -> &mut Range<u32> {
        let mut at = 0;
        for segment in &pattern.segments {
            at = match segment {
                Segment::Text(text) => match self.nodes[at].texts.get(text) {
                    Some(next) => next as usize,
                    None => {
                        let next = self.grow();
                        self.nodes[at].texts.insert(text, next);
                        next as usize
                    }
                },
                Segment::Parameter { prefix, suffix } if prefix.is_empty() && suffix.is_empty() => {
                    match self.nodes[at].parameter {
                        Some(next) => next as usize,
                        None => {
                            let next = self.grow();
                            self.nodes[at].parameter = Some(next);
                            next as usize
                        }
                    }
                }
                Segment::Parameter { prefix, suffix } => {
                    let known = |(before, after, _): &&(Box<str>, Box<str>, u32)| {
                        **before == **prefix && **after == **suffix
                    };
                    match self.nodes[at].amid.iter().find(known) {
                        Some((_, _, next)) => *next as usize,
                        None => {
                            let next = self.grow();
                            let amid = &mut self.nodes[at].amid;
                            amid.push((prefix.as_str().into(), suffix.as_str().into(), next));
                            amid.sort_by_key(|(before, after, _)| Reverse(before.len() + after.len()));
                            next as usize
                        }
                    }
                }
                Segment::Rest => return &mut self.nodes[at].rest,
            };
        }
        &mut self.nodes[at].end
    }

    fn grow(&mut self) -> u32 {
        self.nodes.push(Node::default());
        (self.nodes.len() - 1) as u32
    }

    /// The first route, in the order of tries, that takes the request.
    pub fn find(&self, asked: &Asked<'_>) -> Option<Found<'_>> {
        let path = asked.head.uri.path();
        let mut search = Search { paths: self, asked, path, values: Vec::new(), regexes_tried: false };
        let outcome = match path.starts_with('/') {
            true => search.descend(0, 1),
            false => ControlFlow::Continue(()),
        };
        match outcome.is_continue() {
            true => search.regexes().break_value(),
            false => outcome.break_value(),
        }
    }
}

struct Search<'p, 'r> {
    paths: &'p Paths,
    asked: &'r Asked<'r>,
    path: &'r str,
    values: Vec<Range<usize>>,
    regexes_tried: bool,
}

impl<'p> Search<'p, '_> {
    /// Below a node, from the byte after a slash on.
    fn descend(&mut self, node: u32, from: usize) -> ControlFlow<Found<'p>> {
        let node = &self.paths.nodes[node as usize];
        let rest = &self.path[from..];
        let slash = memchr::memchr(b'/', rest.as_bytes());
        let segment = &rest[..slash.unwrap_or(rest.len())];
        if let Some(next) = node.texts.get(segment) {
            self.enter(next, from, slash)?;
        }
        for (prefix, suffix, next) in &node.amid {
            let amid = segment.strip_prefix(&**prefix).and_then(|value| value.strip_suffix(&**suffix));
            if let Some(value) = amid.filter(|value| !value.is_empty()) {
                let start = from + prefix.len();
                self.with(start..start + value.len(), |search| search.enter(*next, from, slash))?;
            }
        }
        if let Some(next) = node.parameter
            && !segment.is_empty()
        {
            self.with(from..from + segment.len(), |search| search.enter(next, from, slash))?;
        }
        if !node.rest.is_empty() && !rest.is_empty() {
            self.regexes()?;
            self.with(from..self.path.len(), |search| search.choose(&node.rest))?;
        }
        ControlFlow::Continue(())
    }

    /// The node for a segment that is over: the path ends there, or goes on after the slash.
    fn enter(&mut self, node: u32, from: usize, slash: Option<usize>) -> ControlFlow<Found<'p>> {
        match slash {
            Some(slash) => self.descend(node, from + slash + 1),
            None => self.choose(&self.paths.nodes[node as usize].end),
        }
    }

    /// With one value more, unless what follows finds nothing.
    fn with(
        &mut self,
        value: Range<usize>,
        go_on: impl FnOnce(&mut Self) -> ControlFlow<Found<'p>>,
    ) -> ControlFlow<Found<'p>> {
        self.values.push(value);
        go_on(self)?;
        self.values.pop();
        ControlFlow::Continue(())
    }

    fn regexes(&mut self) -> ControlFlow<Found<'p>> {
        if std::mem::replace(&mut self.regexes_tried, true) {
            return ControlFlow::Continue(());
        }
        let path = self.path;
        let values = std::mem::take(&mut self.values);
        for (regex, range) in &self.paths.regexes {
            if !regex.is_match(path) {
                continue;
            }
            if let Some(captures) = regex.captures(path) {
                let named = regex.capture_names().enumerate().filter(|(_, name)| name.is_some());
                // A group that takes no part stands for nothing.
                self.values =
                    named.map(|(index, _)| captures.get(index).map_or(0..0, |value| value.range())).collect();
            }
            self.choose(range)?;
        }
        self.values = values;
        ControlFlow::Continue(())
    }

    fn choose(&mut self, range: &Range<u32>) -> ControlFlow<Found<'p>> {
        let candidates = &self.paths.candidates[range.start as usize..range.end as usize];
        match choose(candidates, self.asked) {
            Choice::Route(route) => ControlFlow::Break(Found::Route(route, std::mem::take(&mut self.values))),
            Choice::OtherMethods => ControlFlow::Break(Found::OtherMethods(candidates)),
            Choice::None => ControlFlow::Continue(()),
        }
    }
}

impl Default for Texts {
    fn default() -> Self {
        Self::Few(Vec::new())
    }
}

impl Texts {
    fn get(&self, text: &str) -> Option<u32> {
        match self {
            Self::Few(few) => few.iter().find(|(known, _)| **known == *text).map(|(_, next)| *next),
            Self::Many(many) => many.get(text).copied(),
        }
    }

    fn insert(&mut self, text: &str, next: u32) {
        match self {
            Self::Few(few) if few.len() < FEW => {
                few.reserve_exact(1);
                few.push((text.into(), next));
            }
            Self::Few(few) => {
                let many = few.drain(..).chain([(text.into(), next)]).collect();
                *self = Self::Many(many);
            }
            Self::Many(many) => drop(many.insert(text.into(), next)),
        }
    }
}
