//! From what is written to a composition: everything that can be known without an answer is checked here. Pure.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use http::{
    HeaderName, HeaderValue, Method, Uri,
    header::{CONTENT_LENGTH, HOST},
};

use super::{
    Composition,
    call::Call,
    graph::{self, STEPS_MAX, Set},
    plan::{Need, Plan, StepPlan},
    text::{Part, Place, Source, Text, parse_target},
};
use crate::{
    compile::routes::Scene,
    config::{
        Spanned,
        compose::{ComposeDocument, StepDocument},
    },
    hop,
    json::{self, Collision, DEPTH_LIMIT, Node, Path},
    transform::template::{self, Template},
    upstream::Upstream,
};

/// The largest answer of a step, unless it says otherwise.
const BYTES: u64 = 1 << 20;
/// The deepest nesting, unless the composition says otherwise.
const DEPTH: u16 = 64;
/// The member that says what failed, unless the composition says otherwise.
const NOTE: &str = "_partial";

/// Compiles a composition; `None` if an error was noted that leaves nothing to go on with.
pub fn compile(
    written: &ComposeDocument,
    upstreams: &BTreeMap<String, Arc<Upstream>>,
    scene: &mut Scene<'_>,
) -> Option<Composition> {
    let steps = &written.steps.value;
    if !(1..=STEPS_MAX).contains(&steps.len()) {
        scene.error(&written.steps, "compose.steps", format!("from 1 to {STEPS_MAX} steps"));
        return None;
    }
    let names = names(steps, scene)?;
    let after = after(steps, &names, scene)?;
    let ancestors = match graph::ancestors(&after) {
        Ok(ancestors) => ancestors,
        Err(circle) => {
            let circle: Vec<_> = circle.iter().chain(&circle[..1]).map(|step| names[*step]).collect();
            let rule = format!("steps wait for each other: {}", circle.join(" after "));
            scene.error(&written.steps, "compose.steps", rule);
            return None;
        }
    };
    let note = written.note.as_ref().map_or(NOTE, |note| note.value.as_str());
    let mut whole = Whole {
        names,
        ancestors,
        upstreams,
        depth_max: depth(written, scene),
        note,
        values: vec![Vec::new(); steps.len()],
        used: vec![false; scene.parameters.len()],
    };
    let compiled: Vec<_> =
        steps.iter().enumerate().map(|(position, step)| whole.step(position, &step.value, scene)).collect();
    if compiled.iter().all(Option::is_some) {
        whole.warn_of_unused(&written.steps, scene);
    }
    let mut plan = Plan { steps: Vec::new(), collision: collision(written, scene), note: note.into() };
    let mut calls = Vec::new();
    for ((compiled, after), values) in compiled.into_iter().zip(after).zip(whole.values) {
        let (step, call) = compiled?;
        plan.steps.push(StepPlan { after, values, ..step });
        calls.push(call);
    }
    Some(Composition { plan, calls })
}

fn names<'d>(steps: &'d [Spanned<StepDocument>], scene: &mut Scene<'_>) -> Option<Vec<&'d str>> {
    let mut names: Vec<&str> = Vec::new();
    for (position, step) in steps.iter().enumerate() {
        let name = &step.value.name;
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
        if name.value.is_empty() || !name.value.bytes().all(fits) {
            scene.error(name, &field(position, "name"), "letters, digits, `_` and `-`");
            return None;
        }
        if names.contains(&name.value.as_str()) {
            scene.error(name, &field(position, "name"), "a name of its own for each step");
            return None;
        }
        names.push(&name.value);
    }
    Some(names)
}

fn after(steps: &[Spanned<StepDocument>], names: &[&str], scene: &mut Scene<'_>) -> Option<Vec<Vec<usize>>> {
    let mut all_known = true;
    let mut after = Vec::new();
    for (position, step) in steps.iter().enumerate() {
        let mut earlier = Vec::new();
        for name in &step.value.after {
            let found = names.iter().position(|known| *known == name.value);
            if found.is_none() {
                scene.error(name, &field(position, "after"), format!("no step has the name {}", name.value));
            }
            all_known &= found.is_some();
            earlier.extend(found);
        }
        after.push(earlier);
    }
    all_known.then_some(after)
}

fn collision(written: &ComposeDocument, scene: &mut Scene<'_>) -> Collision {
    let Some(rule) = &written.collision else { return Collision::default() };
    match rule.value.as_str() {
        "refuse" => Collision::Refuse,
        "first" => Collision::First,
        "last" => Collision::Last,
        "append" => Collision::Append,
        _ => {
            scene.error(rule, "compose.collision", "one of refuse, first, last, append");
            Collision::default()
        }
    }
}

fn depth(written: &ComposeDocument, scene: &mut Scene<'_>) -> usize {
    let depth = written.depth.as_ref().map_or(DEPTH, |depth| depth.value);
    if let Some(written) = &written.depth
        && !(1..=DEPTH_LIMIT).contains(&usize::from(depth))
    {
        scene.error(written, "compose.depth", format!("from 1 to {DEPTH_LIMIT}"));
    }
    usize::from(depth)
}

fn field(position: usize, name: &str) -> String {
    format!("compose.steps[{position}].{name}")
}

/// What steps refer to, and what is learnt while they are compiled.
struct Whole<'d> {
    names: Vec<&'d str>,
    /// For each step, those that have ended before it.
    ancestors: Vec<Set>,
    upstreams: &'d BTreeMap<String, Arc<Upstream>>,
    depth_max: usize,
    note: &'d str,
    /// For each step, what others read of its answer.
    values: Vec<Vec<Path>>,
    /// For each parameter of the route's path, whether a step uses it.
    used: Vec<bool>,
}

impl Whole<'_> {
    fn step(
        &mut self,
        position: usize,
        written: &StepDocument,
        scene: &mut Scene<'_>,
    ) -> Option<(StepPlan, Call)> {
        let upstream = self.upstreams.get(&written.upstream.value).cloned();
        if upstream.is_none() {
            let rule = format!("no upstream has the name {}", written.upstream.value);
            scene.error(&written.upstream, &field(position, "upstream"), rule);
        }
        let method = method(position, written, scene);
        let target = self.target(position, &written.path, scene);
        let headers = self.headers(position, written, scene);
        let step = self.plan(position, written, scene);
        let call = Call {
            upstream: upstream?,
            method: method?,
            target: target?,
            headers: headers?,
            timeout: written.timeout.map(|timeout| timeout.0),
            bytes_max: usize::try_from(written.bytes.map_or(BYTES, |bytes| bytes.0)).unwrap_or(usize::MAX),
            depth_max: self.depth_max,
        };
        Some((step?, call))
    }

    fn plan(&self, position: usize, written: &StepDocument, scene: &mut Scene<'_>) -> Option<StepPlan> {
        let at = match &written.at {
            None => None,
            Some(at) => Some(self.at(position, at, scene)?),
        };
        let reshape = match &written.json {
            None => json::Reshape::default(),
            json => scene.reshape(json.as_ref(), &field(position, "json"))?,
        };
        let name = written.name.value.as_str().into();
        let mut step =
            StepPlan { name, after: Vec::new(), need: Need::Required, values: Vec::new(), reshape, at };
        step.need = match (&written.fallback, written.optional) {
            (None, false) => Need::Required,
            (None, true) => Need::Optional,
            (Some(fallback), false) => Need::Fallback(self.fallback(position, fallback, &step, scene)?),
            (Some(fallback), true) => {
                let rule = "a step with a fallback is optional anyway; leave `optional` out";
                scene.error(fallback, &field(position, "fallback"), rule);
                return None;
            }
        };
        Some(step)
    }

    fn at(&self, position: usize, at: &Spanned<String>, scene: &mut Scene<'_>) -> Option<Path> {
        let rule = match at.value.parse::<Path>() {
            Err(error) => error.to_string(),
            Ok(path) if path.names_many() => "one place; `[]` names many".to_owned(),
            Ok(path) if path.wrap(Node::null()).is_ok_and(|whole| whole.member(self.note).is_some()) => {
                format!("`{}` is the member that says what failed; see `note`", self.note)
            }
            Ok(path) => return Some(path),
        };
        scene.error(at, &field(position, "at"), rule);
        None
    }

    fn fallback(
        &self,
        position: usize,
        written: &Spanned<String>,
        step: &StepPlan,
        scene: &mut Scene<'_>,
    ) -> Option<Node> {
        let parsed = json::parse(&Bytes::copy_from_slice(written.value.as_bytes()), self.depth_max);
        let rule = match parsed {
            Err(error) => format!("no JSON: {error}"),
            Ok(node) => match step.part(node.clone()) {
                Ok(_) => return Some(node),
                Err(_) => "a JSON object, or give the step a place of its own by `at`".to_owned(),
            },
        };
        scene.error(written, &field(position, "fallback"), rule);
        None
    }

    fn target(
        &mut self,
        position: usize,
        written: &Spanned<String>,
        scene: &mut Scene<'_>,
    ) -> Option<Text<Uri>> {
        let field = field(position, "path");
        let parts = self.parts(position, written, &field, Place::Path, scene)?;
        // Any value will do to see whether the rest is a target.
        let text = |part: &Part| match part {
            Part::Fixed(text) => text.to_string(),
            Part::Value(..) => "x".to_owned(),
        };
        let Some(target) = parse_target(parts.iter().map(text).collect()) else {
            let rule =
                "a path that begins with a slash, with a query if need be; no `.`, `..` or empty segments";
            scene.error(written, &field, rule);
            return None;
        };
        Some(if is_fixed(&parts) { Text::Fixed(target) } else { Text::Made(parts) })
    }

    fn headers(
        &mut self,
        position: usize,
        written: &StepDocument,
        scene: &mut Scene<'_>,
    ) -> Option<Vec<(HeaderName, Text<HeaderValue>)>> {
        let mut headers = Some(Vec::new());
        for (name, value) in &written.headers {
            let header = self.header(position, name, value, scene);
            headers = headers.zip(header).map(|(mut headers, header)| {
                headers.push(header);
                headers
            });
        }
        headers
    }

    fn header(
        &mut self,
        position: usize,
        name: &str,
        written: &Spanned<String>,
        scene: &mut Scene<'_>,
    ) -> Option<(HeaderName, Text<HeaderValue>)> {
        let field = field(position, &format!("headers.{name}"));
        let name = match HeaderName::from_bytes(name.as_bytes()) {
            Ok(name) if hop::is_hop_by_hop(&name) || name == CONTENT_LENGTH || name == HOST => {
                scene.error(written, &field, format!("{name} is the gateway's own"));
                return None;
            }
            Ok(name) => name,
            Err(_) => {
                scene.error(written, &field, "no header may have this name");
                return None;
            }
        };
        let parts = self.parts(position, written, &field, Place::Header, scene)?;
        let fixed: String = parts.iter().filter_map(Part::fixed).collect();
        let Ok(value) = HeaderValue::from_bytes(fixed.as_bytes()) else {
            scene.error(written, &field, "no header may have this value");
            return None;
        };
        Some((name, if is_fixed(&parts) { Text::Fixed(value) } else { Text::Made(parts) }))
    }

    /// The parts of a template, whose values are looked up.
    fn parts(
        &mut self,
        position: usize,
        written: &Spanned<String>,
        field: &str,
        mut place: Place,
        scene: &mut Scene<'_>,
    ) -> Option<Vec<Part>> {
        let mut parts = Vec::new();
        let resolved =
            Template::parse(&written.value).map_err(|error| error.to_string()).and_then(|template| {
                for part in template.parts() {
                    parts.push(match part {
                        template::Part::Text(text) => {
                            if place == Place::Path && text.contains('?') {
                                place = Place::Query;
                            }
                            Part::Fixed(text.as_str().into())
                        }
                        template::Part::Parameter(name) => {
                            Part::Value(self.source(position, name, &scene.parameters)?, place)
                        }
                    });
                }
                Ok(())
            });
        match resolved {
            Ok(()) => Some(parts),
            Err(rule) => {
                scene.error(written, field, rule);
                None
            }
        }
    }

    /// What a name in braces stands for: a parameter, `consumer`, or a step with a path into its answer.
    fn source(&mut self, position: usize, name: &str, parameters: &[String]) -> Result<Source, String> {
        if let Some(parameter) = parameters.iter().position(|known| known == name) {
            self.used[parameter] = true;
            return Ok(Source::Parameter(parameter));
        }
        if name == "consumer" {
            return Ok(Source::Consumer);
        }
        let unknown = || {
            format!(
                "{{{name}}} is neither a parameter of the route's path, nor `consumer`, nor a step and a path in \
                     its answer"
            )
        };
        let (step_name, path) = name.split_once('.').ok_or_else(unknown)?;
        let step = self.names.iter().position(|known| *known == step_name).ok_or_else(unknown)?;
        if self.ancestors[position] & 1 << step == 0 {
            return Err(format!("{{{name}}} asks for the answer of {step_name}; write after: [{step_name}]"));
        }
        let path: Path = path.parse().map_err(|error: json::PathError| error.to_string())?;
        let values = &mut self.values[step];
        let value = values.iter().position(|known| *known == path).unwrap_or_else(|| {
            values.push(path);
            values.len() - 1
        });
        Ok(Source::Answer { step, value })
    }

    fn warn_of_unused<T>(&self, at: &Spanned<T>, scene: &mut Scene<'_>) {
        for (position, _) in self.used.iter().enumerate().filter(|(_, used)| !**used) {
            let rule = format!("no step uses the path's parameter {{{}}}", scene.parameters[position]);
            scene.warning(at, "compose.steps", rule);
        }
    }
}

fn method(position: usize, written: &StepDocument, scene: &mut Scene<'_>) -> Option<Method> {
    let Some(method) = &written.method else { return Some(Method::GET) };
    match method.value.as_str() {
        "GET" => Some(Method::GET),
        "POST" => Some(Method::POST),
        _ => {
            scene.error(method, &field(position, "method"), "GET or POST; steps read");
            None
        }
    }
}

fn is_fixed(parts: &[Part]) -> bool {
    parts.iter().all(|part| part.fixed().is_some())
}

#[cfg(test)]
mod tests;
