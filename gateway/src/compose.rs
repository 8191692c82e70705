//! Several services answer one request, and their answers are merged.
//!
//! Steps run at the same time, or after others whose answers they read, on the worker's own thread. All share the
//! request's deadline. When a required step fails, the whole does, and calls that are under way are dropped. When
//! another fails, the answer is partial: it says so in a member and a header, and no cache may keep it.
//!
//! | module | what |
//! |---|---|
//! | [`mod@compile`] | from what is written, with everything checked that can be |
//! | [`graph`] | which step comes after which |
//! | [`plan`] | the graph, one run through it, the merge and the note |
//! | [`text`] | targets and headers made of values |
//! | [`call`] | one call |

pub mod call;
pub mod compile;
pub mod graph;
pub mod plan;
pub mod text;

use std::{collections::BTreeMap, fmt::Write as _, sync::Arc};

use futures_util::{StreamExt as _, stream::FuturesUnordered};
use http::{
    HeaderName, HeaderValue, Response,
    header::{CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, HOST},
};

use self::{
    call::Call,
    plan::{Composed, Failure, Plan, Run},
    text::{Source, Values},
};
use crate::{
    body::Body,
    compile::routes::Scene,
    config::compose::ComposeDocument,
    error::{Refusal, StepError},
    json,
    record::Record,
    transform::Ready,
    upstream::{Caller, Upstream},
};

/// The names of the steps that failed, a list of tokens (RFC 9651, section 3.1).
pub const PARTIAL: HeaderName = HeaderName::from_static("portcullis-partial");

/// A compiled composition.
pub struct Composition {
    plan: Plan,
    /// How each step of the plan is called.
    calls: Vec<Call>,
}

impl Composition {
    /// Compiles a composition; `None` if an error was noted that leaves nothing to go on with.
    pub fn compile(
        written: &ComposeDocument,
        upstreams: &BTreeMap<String, Arc<Upstream>>,
        scene: &mut Scene<'_>,
    ) -> Option<Self> {
        compile::compile(written, upstreams, scene)
    }
}

/// Calls the steps and merges what they answer.
///
/// # Errors
/// [`Refusal::Step`], [`Refusal::Collision`].
pub async fn compose(
    composition: &Composition,
    ready: &Ready,
    record: &mut Record,
) -> Result<Response<Body>, Refusal> {
    let mut run = Run::new(&composition.plan);
    // Dropped on every way out: what is still under way then is of no use.
    let mut under_way = FuturesUnordered::new();
    loop {
        while let Some(step) = run.begin_next() {
            match head(composition, step, &run, ready) {
                Ok(head) => {
                    // Not the whole request: its body is not Sync, and the future must be Send.
                    let caller = Caller::of(&ready.admitted, ready.deadline);
                    under_way.push(call(composition, step, caller, head));
                }
                Err(error) => run.end(step, Err(error))?,
            }
        }
        let Some((step, called)) = under_way.next().await else { break };
        if called.outcome.is_err() {
            record.endpoint = called.endpoint;
        }
        run.end(step, called.outcome)?;
    }
    Ok(respond(&run.answer()?, record))
}

fn head(
    composition: &Composition,
    step: usize,
    run: &Run<'_>,
    ready: &Ready,
) -> Result<crate::upstream::Head, StepError> {
    let client_host = ready.admitted.routed.request.head.headers.get(HOST);
    composition.calls[step].head(&RequestValues { run, ready }, &ready.message.head.headers, client_host)
}

async fn call(
    composition: &Composition,
    step: usize,
    caller: Caller<'_>,
    head: crate::upstream::Head,
) -> (usize, call::Called) {
    (step, composition.calls[step].send(caller, head).await)
}

fn respond(composed: &Composed, record: &mut Record) -> Response<Body> {
    let bytes = json::write(&composed.document);
    let length = bytes.len();
    let mut response = Response::new(Body::full(bytes));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
    if !composed.failed.is_empty() {
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.insert(PARTIAL, partial(&composed.failed));
        record.reason = Some("partial");
        record.detail = Some(detail(&composed.failed));
    }
    response
}

/// Names of steps are tokens: the configuration sees to it.
fn partial(failed: &[Failure]) -> HeaderValue {
    let names: Vec<&str> = failed.iter().map(|failure| failure.step.as_ref()).collect();
    HeaderValue::try_from(names.join(", ")).unwrap_or(HeaderValue::from_static("?1"))
}

fn detail(failed: &[Failure]) -> String {
    let mut detail = String::new();
    for Failure { step, error, .. } in failed {
        let separator = if detail.is_empty() { "" } else { "; " };
        let _ = write!(detail, "{separator}step {step}: {error}");
    }
    detail
}

/// The values of one request, as far as its steps have got.
struct RequestValues<'r> {
    run: &'r Run<'r>,
    ready: &'r Ready,
}

impl Values for RequestValues<'_> {
    fn value(&self, source: Source) -> Result<&str, StepError> {
        let admitted = &self.ready.admitted;
        let request = &admitted.routed.request;
        match source {
            Source::Parameter(position) => admitted.routed.parameters.at(position, request.head.uri.path()),
            Source::Consumer => admitted.identity.consumer.as_deref(),
            Source::Answer { step, value } => return self.run.value(step, value),
        }
        .ok_or(StepError::MissingValue)
    }
}
