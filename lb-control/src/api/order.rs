//! What every order has in common: its condition, the wait for its installation, and a thread to block on.

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use axum::{
    Json,
    extract::FromRequestParts,
    http::{header, request::Parts},
    response::{IntoResponse, Response},
};
use serde::Deserialize;

use super::{ApiError, AppState, Shared, error::Places};
use crate::{
    desired::Condition,
    model::{Desired, FieldError, Refusal},
    status::DryRun,
};

/// How long `?wait=installed` waits: a change is installed within milliseconds.
const WAIT: Duration = Duration::from_secs(10);
const WAIT_STEP: Duration = Duration::from_millis(5);

/// The parts of an order's request that stand outside of path and body.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Terms {
    /// `If-Match`.
    pub if_match: Option<IfMatch>,
    /// `?wait=installed`.
    pub wait: bool,
    /// `?dry_run=true`: nothing is changed.
    pub dry_run: bool,
}

/// What `If-Match` asks of the resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IfMatch {
    /// `*`: that it exists.
    Any,
    /// That no order changed it after that generation.
    Generation(u64),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Query {
    wait: Option<String>,
    dry_run: Option<String>,
}

impl<S: Send + Sync> FromRequestParts<S> for Terms {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        let bad_query = |field: &str, rule: &str| Err(ApiError::BadQuery(FieldError::new(field, rule)));
        let Ok(query) = axum::extract::Query::<Query>::try_from_uri(&parts.uri) else {
            return bad_query("", "parameters are wait and dry_run, each once");
        };
        let wait = match query.wait.as_deref() {
            None => false,
            Some("installed") => true,
            Some(_) => return bad_query("wait", "must be installed"),
        };
        let dry_run = match query.dry_run.as_deref() {
            None | Some("false") => false,
            Some("true") => true,
            Some(_) => return bad_query("dry_run", "must be true or false"),
        };
        if wait && dry_run {
            return bad_query("wait", "must be left out beside dry_run, which installs nothing");
        }
        Ok(Self { if_match: if_match(parts)?, wait, dry_run })
    }
}

fn if_match(parts: &Parts) -> Result<Option<IfMatch>, ApiError> {
    let Some(value) = parts.headers.get(header::IF_MATCH) else { return Ok(None) };
    let text = String::from_utf8_lossy(value.as_bytes());
    let text = text.trim();
    if text == "*" {
        return Ok(Some(IfMatch::Any));
    }
    let number = text.strip_prefix('"').and_then(|text| text.strip_suffix('"')).unwrap_or(text);
    match number.parse() {
        Ok(generation) => Ok(Some(IfMatch::Generation(generation))),
        Err(_) => Err(ApiError::BadCondition(text.to_owned())),
    }
}

impl Terms {
    fn generation(&self) -> Option<u64> {
        match self.if_match? {
            IfMatch::Any => None,
            IfMatch::Generation(generation) => Some(generation),
        }
    }

    /// The condition on a service.
    pub fn on_service<'a>(&self, name: &'a str) -> Condition<'a> {
        self.generation().map_or(Condition::None, |generation| Condition::Service(name, generation))
    }

    /// The condition on the list of services.
    pub fn on_everything(&self) -> Condition<'static> {
        self.generation().map_or(Condition::None, Condition::Everything)
    }
}

/// What came of an order.
pub enum Given<T> {
    /// It was given: what its edit answered, and the state that has it.
    Order(T, Arc<Desired>),
    /// It was only asked what it would do.
    DryRun(Box<DryRun>),
}

impl<T> Given<T> {
    /// The answer to the client: as `show` makes it, or what the order would do.
    pub fn answer(
        self,
        show: impl FnOnce(T, Arc<Desired>) -> Result<Response, ApiError>,
    ) -> Result<Response, ApiError> {
        match self {
            Self::Order(answer, desired) => show(answer, desired),
            Self::DryRun(told) => Ok(Json(told).into_response()),
        }
    }
}

impl AppState {
    /// Takes an order, or only rehearses it where the terms say so.
    pub fn order<T>(
        &self,
        terms: Terms,
        condition: Condition<'_>,
        edit: impl FnOnce(&mut Desired) -> Result<T, Refusal>,
    ) -> Result<(T, Arc<Desired>), Refusal> {
        match terms.dry_run {
            true => self.desired.rehearse(condition, edit),
            false => self.desired.order(condition, edit),
        }
    }
}

/// Gives an order where blocking is allowed, then waits for its installation where the terms say so.
///
/// `give` orders by [`AppState::order`], and notes in its [`Places`] where the backends stand in the body.
pub async fn give<T: Send + 'static>(
    state: &Shared,
    terms: Terms,
    service: &str,
    give: impl FnOnce(&AppState, &mut Places) -> Result<(T, Arc<Desired>), Refusal> + Send + 'static,
) -> Result<Given<T>, ApiError> {
    let mut places = Places { service: service.to_owned(), backends: None };
    let shared = state.clone();
    let given = tokio::task::spawn_blocking(move || {
        give(&shared, &mut places).map_err(|refusal| ApiError::Refused(refusal, places))
    });
    let (answer, desired) = given.await.map_err(|error| {
        tracing::error!(%error, "an order panicked");
        ApiError::Internal
    })??;
    if terms.dry_run {
        let told = state.engine.dry_run(state.desired.current(), desired).await;
        return told.map(|told| Given::DryRun(Box::new(told))).map_err(ApiError::DryRun);
    }
    if terms.wait {
        installed(state, desired.generation).await;
    }
    Ok(Given::Order(answer, desired))
}

/// Returns when the generation is installed and observed, so that the answer shows it, or after [`WAIT`];
/// `status.installed` tells which.
async fn installed(state: &Shared, generation: u64) {
    let deadline = Instant::now() + WAIT;
    let shown = || {
        state.observer.installed_generation() >= generation
            && state.observer.observe().installed_generation >= generation
    };
    while !shown() && Instant::now() < deadline {
        tokio::time::sleep(WAIT_STEP).await;
    }
}

/// Seconds of the Unix clock.
pub fn now_unix() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
