//! Backends of a service: list, create, read, replace, change, drain, undrain, delete.

use std::{net::SocketAddr, sync::Arc};

use axum::{
    Json,
    extract::{Path, State},
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    ApiError, Shared,
    body::{Body, from_value, merge},
    order::{IfMatch, Terms, give, now_unix},
    services::{deleted, etag, find, tracked_flows},
    view::Sight,
};
use crate::model::{
    Backend, BackendSpec, Desired, Drain, FieldError, Health, OnDeadline, OnDeadlineName, Protocol, Refusal,
    Service,
    address::{parse_place, place},
};

/// A week: what drains longer was forgotten.
const DEADLINE_SECONDS_MAX: u64 = 7 * 86_400;

/// The body of a drain.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DrainSpec {
    /// After so many seconds flows that are left are cut; never, where it is not given.
    #[serde(default)]
    deadline_seconds: Option<u64>,
    /// How they are cut; `resteer` by default.
    #[serde(default)]
    on_deadline: Option<OnDeadlineName>,
}

impl DrainSpec {
    fn check(&self) -> Result<(), Refusal> {
        let mut errors = Vec::new();
        if self.deadline_seconds.is_some_and(|seconds| seconds > DEADLINE_SECONDS_MAX) {
            let rule = format!("must be 0 to {DEADLINE_SECONDS_MAX}");
            errors.push(FieldError::new("deadline_seconds", rule));
        }
        if self.on_deadline == Some(OnDeadlineName::Reset) && self.deadline_seconds.is_none() {
            errors.push(FieldError::new("on_deadline", "is for a drain with deadline_seconds"));
        }
        if errors.is_empty() { Ok(()) } else { Err(Refusal::Invalid(errors)) }
    }

    fn begin(&self, service: &mut Service, at: SocketAddr, now: u64) -> Result<(), Refusal> {
        let on_deadline = self.on_deadline.map_or(OnDeadline::Resteer, Into::into);
        if on_deadline == OnDeadline::Reset && service.protocol != Protocol::Tcp {
            return Err(Refusal::field("on_deadline", "must be resteer: udp has no resets"));
        }
        let backend = backend_mut(service, at)?;
        backend.draining = Some(Drain {
            since_unix_seconds: backend.draining.map_or(now, |drain| drain.since_unix_seconds),
            deadline_unix_seconds: self.deadline_seconds.map(|seconds| now + seconds),
            on_deadline,
        });
        Ok(())
    }
}

pub async fn list(State(state): State<Shared>, Path(name): Path<String>) -> Result<Response, ApiError> {
    let (desired, observed) = (state.desired.current(), state.observer.observe());
    let service = find(&desired, &name)?;
    let sight = Sight { desired: &desired, observed: &observed, now_unix: now_unix() };
    let body = json!({ "generation": desired.generation, "backends": sight.backends(service) });
    Ok((etag(&desired), Json(body)).into_response())
}

pub async fn create(
    State(state): State<Shared>,
    Path(name): Path<String>,
    terms: Terms,
    body: Body,
) -> Result<Response, ApiError> {
    let spec: BackendSpec = body.decode()?;
    let service_name = name.clone();
    let given = give(&state, terms, &name, move |state, _| {
        state.order(terms, terms.on_service(&service_name), |desired| {
            let service = find_mut(desired, &service_name)?;
            let (at, backend) = Backend::new(&spec, service).map_err(Refusal::Invalid)?;
            if service.backends.contains_key(&at) {
                return Err(Refusal::BackendExists { service: service_name.clone(), backend: at });
            }
            service.backends.insert(at, backend);
            Ok(at)
        })
    })
    .await?;
    given.answer(|at, desired| {
        let location = HeaderValue::from_str(&format!("/v1/services/{name}/backends/{}", place(&at)))
            .map_err(|_| ApiError::Internal)?;
        let shown = show(&state, &desired, &name, &place(&at))?;
        Ok((StatusCode::CREATED, [(header::LOCATION, location)], shown).into_response())
    })
}

pub async fn read(
    State(state): State<Shared>,
    Path((name, backend)): Path<(String, String)>,
) -> Result<Response, ApiError> {
    show(&state, &state.desired.current(), &name, &backend)
}

pub async fn replace(
    State(state): State<Shared>,
    Path((name, backend)): Path<(String, String)>,
    terms: Terms,
    body: Body,
) -> Result<Response, ApiError> {
    let sent: Value = body.decode()?;
    let (service_name, path) = (name.clone(), backend.clone());
    let given = give(&state, terms, &name, move |state, _| {
        state.order(terms, terms.on_service(&service_name), |desired| {
            let service = find_mut(desired, &service_name)?;
            let at = parse(&path)?;
            if terms.if_match == Some(IfMatch::Any) && !service.backends.contains_key(&at) {
                return Err(Refusal::NothingToMatch(path));
            }
            put(service, at, with_place(sent, at))
        })
    })
    .await?;
    given.answer(|created, desired| {
        let shown = show(&state, &desired, &name, &backend)?;
        Ok(if created { (StatusCode::CREATED, shown).into_response() } else { shown })
    })
}

pub async fn change(
    State(state): State<Shared>,
    Path((name, backend)): Path<(String, String)>,
    terms: Terms,
    body: Body,
) -> Result<Response, ApiError> {
    let patch: Value = body.decode()?;
    order_on(state, terms, name, backend, move |service, at| {
        let mut value = serde_json::to_value(service.backends[&at].spec(&at, service))
            .map_err(|error| Refusal::field("", error.to_string()))?;
        merge(&mut value, patch);
        put(service, at, value).map(drop)
    })
    .await
}

pub async fn drain(
    State(state): State<Shared>,
    Path((name, backend)): Path<(String, String)>,
    terms: Terms,
    body: Body,
) -> Result<Response, ApiError> {
    let spec: DrainSpec = body.decode_or_default()?;
    spec.check()?;
    order_on(state, terms, name, backend, move |service, at| spec.begin(service, at, now_unix())).await
}

pub async fn undrain(
    State(state): State<Shared>,
    Path((name, backend)): Path<(String, String)>,
    terms: Terms,
) -> Result<Response, ApiError> {
    order_on(state, terms, name, backend, |service, at| {
        backend_mut(service, at)?.draining = None;
        Ok(())
    })
    .await
}

pub async fn delete(
    State(state): State<Shared>,
    Path((name, backend)): Path<(String, String)>,
    terms: Terms,
) -> Result<Response, ApiError> {
    let service_name = name.clone();
    let given = give(&state, terms, &name, move |state, _| {
        let observed = state.observer.observe();
        state.order(terms, terms.on_service(&service_name), |desired| {
            let service = find_mut(desired, &service_name)?;
            let at = find_backend(service, &backend)?;
            service.backends.remove(&at);
            Ok(tracked_flows(&observed, &service_name, [at].iter()))
        })
    })
    .await?;
    given.answer(|cut, desired| Ok(deleted(&desired, cut)))
}

/// Gives an order on a backend that exists and shows the backend.
async fn order_on(
    state: Shared,
    terms: Terms,
    name: String,
    backend: String,
    edit: impl FnOnce(&mut Service, SocketAddr) -> Result<(), Refusal> + Send + 'static,
) -> Result<Response, ApiError> {
    let (service_name, path) = (name.clone(), backend.clone());
    let given = give(&state, terms, &name, move |state, _| {
        state.order(terms, terms.on_service(&service_name), |desired| {
            let service = find_mut(desired, &service_name)?;
            let at = find_backend(service, &path)?;
            edit(service, at)
        })
    })
    .await?;
    given.answer(|(), desired| show(&state, &desired, &name, &backend))
}

fn show(state: &Shared, desired: &Arc<Desired>, name: &str, path: &str) -> Result<Response, ApiError> {
    let service = find(desired, name)?;
    let at = find_backend(service, path)?;
    let observed = state.observer.observe();
    let sight = Sight { desired, observed: &observed, now_unix: now_unix() };
    let shown = sight.backend(service, &at, &service.backends[&at]);
    Ok((etag(desired), Json(shown)).into_response())
}

fn find_mut<'a>(desired: &'a mut Desired, name: &str) -> Result<&'a mut Service, Refusal> {
    desired.services.get_mut(name).ok_or_else(|| Refusal::NoSuchService(name.to_owned()))
}

fn find_backend(service: &Service, path: &str) -> Result<SocketAddr, Refusal> {
    let missing = || Refusal::NoSuchBackend { service: service.name.clone(), backend: path.to_owned() };
    parse_place(path).filter(|at| service.backends.contains_key(at)).ok_or_else(missing)
}

fn backend_mut(service: &mut Service, at: SocketAddr) -> Result<&mut Backend, Refusal> {
    let name = service.name.clone();
    let missing = || Refusal::NoSuchBackend { service: name, backend: place(&at) };
    service.backends.get_mut(&at).ok_or_else(missing)
}

fn parse(path: &str) -> Result<SocketAddr, Refusal> {
    parse_place(path).ok_or_else(|| {
        Refusal::field("", format!("the path must end in address:port or address, not {path}"))
    })
}

/// Address and port of the path, where the body does not say them.
fn with_place(mut sent: Value, at: SocketAddr) -> Value {
    if let Value::Object(fields) = &mut sent {
        fields.entry("address").or_insert_with(|| json!(at.ip()));
        if at.port() != 0 {
            fields.entry("port").or_insert_with(|| json!(at.port()));
        }
    }
    sent
}

/// Puts a backend in its place; its drain and verdict stay. Returns whether it is new.
fn put(service: &mut Service, at: SocketAddr, value: Value) -> Result<bool, Refusal> {
    let spec: BackendSpec = from_value(value)?;
    let (found, mut backend) = Backend::new(&spec, service).map_err(Refusal::Invalid)?;
    if found != at {
        let field = if found.ip() == at.ip() { "port" } else { "address" };
        return Err(Refusal::field(field, format!("cannot change: the path says {}", place(&at))));
    }
    let old = service.backends.get(&at);
    backend.draining = old.and_then(|old| old.draining);
    backend.health = old.map_or(Health::Unknown, |old| old.health);
    backend.up_since_unix = old.and_then(|old| old.up_since_unix);
    Ok(service.backends.insert(at, backend).is_none())
}
