//! Services: list, create, read, replace, change, delete.

use std::{net::SocketAddr, sync::Arc};

use axum::{
    Json,
    extract::{Path, State},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde_json::{Value, json};

use super::{
    ApiError, Shared,
    body::{Body, from_value, merge},
    error::Places,
    order::{Terms, give, now_unix},
    view::Sight,
};
use crate::{
    model::{Algorithm, Desired, FieldError, FragmentPolicy, Refusal, Service, ServiceSpec},
    status::Observed,
};

pub async fn list(State(state): State<Shared>) -> Response {
    let (desired, observed) = (state.desired.current(), state.observer.observe());
    let sight = Sight { desired: &desired, observed: &observed, now_unix: now_unix() };
    let services: Vec<_> =
        desired.services.values().map(|service| sight.listed_service(service, None)).collect();
    let body = json!({ "generation": desired.generation, "services": services });
    (etag(&desired), Json(body)).into_response()
}

pub async fn create(State(state): State<Shared>, terms: Terms, body: Body) -> Result<Response, ApiError> {
    let spec: ServiceSpec = body.decode()?;
    let name = spec.name.clone();
    let given = give(&state, terms, &name, move |state, places| {
        *places = places_of(&spec);
        let service = Service::new(&spec).map_err(Refusal::Invalid)?;
        state.order(terms, terms.on_everything(), |desired| {
            if desired.services.contains_key(&service.name) {
                return Err(Refusal::NameTaken(service.name));
            }
            desired.services.insert(service.name.clone(), service);
            Ok(())
        })
    })
    .await?;
    given.answer(|(), desired| {
        let place = HeaderValue::from_str(&format!("/v1/services/{name}")).map_err(|_| ApiError::Internal)?;
        let shown = show(&state, &desired, &name, None)?;
        Ok((StatusCode::CREATED, [(header::LOCATION, place)], shown).into_response())
    })
}

pub async fn read(State(state): State<Shared>, Path(name): Path<String>) -> Result<Response, ApiError> {
    show(&state, &state.desired.current(), &name, None)
}

pub async fn replace(
    State(state): State<Shared>,
    Path(name): Path<String>,
    terms: Terms,
    body: Body,
) -> Result<Response, ApiError> {
    let mut spec: ServiceSpec = body.decode()?;
    if spec.name.is_empty() {
        spec.name.clone_from(&name);
    }
    let path_name = name.clone();
    let given = give(&state, terms, &name, move |state, places| {
        *places = places_of(&spec);
        let observed = state.observer.observe();
        let service = valid(&spec, &path_name)?;
        state.order(terms, terms.on_service(&path_name), |desired| match desired.services.get(&path_name) {
            None if terms.if_match.is_some() => Err(Refusal::NothingToMatch(path_name.clone())),
            None => {
                desired.services.insert(path_name.clone(), service);
                Ok((true, None))
            }
            Some(_) => Ok((false, put(desired, service, &observed)?)),
        })
    })
    .await?;
    given.answer(|(created, cut), desired| {
        let shown = show(&state, &desired, &name, cut)?;
        Ok(if created { (StatusCode::CREATED, shown).into_response() } else { shown })
    })
}

pub async fn change(
    State(state): State<Shared>,
    Path(name): Path<String>,
    terms: Terms,
    body: Body,
) -> Result<Response, ApiError> {
    let patch: Value = body.decode()?;
    let path_name = name.clone();
    let given = give(&state, terms, &name, move |state, places| {
        let observed = state.observer.observe();
        state.order(terms, terms.on_service(&path_name), |desired| {
            let old = find(desired, &path_name)?;
            let mut value = serde_json::to_value(old.spec().without_consequences())
                .map_err(|error| Refusal::field("", error.to_string()))?;
            merge(&mut value, patch);
            let spec: ServiceSpec = from_value(value)?;
            *places = places_of(&spec);
            let service = valid(&spec, &path_name)?;
            put(desired, service, &observed)
        })
    })
    .await?;
    given.answer(|cut, desired| show(&state, &desired, &name, cut))
}

pub async fn delete(
    State(state): State<Shared>,
    Path(name): Path<String>,
    terms: Terms,
) -> Result<Response, ApiError> {
    let path_name = name.clone();
    let given = give(&state, terms, &name, move |state, _| {
        let observed = state.observer.observe();
        state.order(terms, terms.on_service(&path_name), |desired| {
            let gone = desired
                .services
                .remove(&path_name)
                .ok_or_else(|| Refusal::NoSuchService(path_name.clone()))?;
            Ok(tracked_flows(&observed, &path_name, gone.backends.keys()))
        })
    })
    .await?;
    given.answer(|cut, desired| Ok(deleted(&desired, cut)))
}

/// The answer to a deletion.
pub fn deleted(desired: &Desired, tracked_flows_cut: u64) -> Response {
    let body = json!({ "generation": desired.generation, "tracked_flows_cut": tracked_flows_cut });
    (etag(desired), Json(body)).into_response()
}

/// The service of that name.
pub fn find<'a>(desired: &'a Desired, name: &str) -> Result<&'a Service, Refusal> {
    desired.services.get(name).ok_or_else(|| Refusal::NoSuchService(name.to_owned()))
}

/// Remembered flows of these backends.
pub fn tracked_flows<'a>(
    observed: &Observed,
    service: &str,
    backends: impl Iterator<Item = &'a SocketAddr>,
) -> u64 {
    backends.filter_map(|at| observed.backend(service, at)).map(|seen| seen.tracked_flows).sum()
}

/// The generation, as `If-Match` takes it.
pub fn etag(desired: &Desired) -> HeaderMap {
    let value = HeaderValue::from_str(&format!("\"{}\"", desired.generation));
    value.into_iter().map(|value| (header::ETAG, value)).collect()
}

fn show(
    state: &Shared,
    desired: &Arc<Desired>,
    name: &str,
    tracked_flows_cut: Option<u64>,
) -> Result<Response, ApiError> {
    let service = find(desired, name)?;
    let observed = state.observer.observe();
    let sight = Sight { desired, observed: &observed, now_unix: now_unix() };
    Ok((etag(desired), Json(sight.service(service, tracked_flows_cut))).into_response())
}

fn valid(spec: &ServiceSpec, path_name: &str) -> Result<Service, Refusal> {
    if spec.name != path_name {
        return Err(Refusal::field("name", format!("cannot change: the path says {path_name}")));
    }
    Service::new(spec).map_err(Refusal::Invalid)
}

/// Puts `service` in the place of the one of its name. Drains and verdicts stay with their backends;
/// backends that are no longer there are deleted: returns how many remembered flows that cuts.
fn put(desired: &mut Desired, mut service: Service, observed: &Observed) -> Result<Option<u64>, Refusal> {
    let old = find(desired, &service.name)?;
    let errors = fixed_fields(old, &service);
    if !errors.is_empty() {
        return Err(Refusal::Invalid(errors));
    }
    for (at, backend) in &mut service.backends {
        if let Some(old) = old.backends.get(at) {
            backend.draining = old.draining;
            backend.up_since_unix = old.up_since_unix;
            if service.health_check.is_some() {
                backend.health = old.health;
            }
        }
    }
    let gone: Vec<_> = old.backends.keys().filter(|at| !service.backends.contains_key(at)).collect();
    let cut = (!gone.is_empty()).then(|| tracked_flows(observed, &service.name, gone.into_iter()));
    desired.services.insert(service.name.clone(), service);
    Ok(cut)
}

/// What flows of a live service depend on.
fn fixed_fields(old: &Service, new: &Service) -> Vec<FieldError> {
    const ANEW: &str = "on a live service, whose flows depend on it: delete the service and create it anew";
    const CLIENTS: &str = "on a live service, whose clients would all go elsewhere: delete the service and create it \
                           anew, or make another one beside it";
    let by_address = |service: &Service| service.fragments == FragmentPolicy::ByAddress;
    let by_source = |service: &Service| service.algorithm == Algorithm::SourceHash;
    let ports = if new.ports.single().is_some() { "port" } else { "ports" };
    let fields = [
        ("address", old.address == new.address, "cannot change", ANEW),
        (ports, old.ports == new.ports, "cannot change", ANEW),
        ("protocol", old.protocol == new.protocol, "cannot change", ANEW),
        ("mode", old.mode == new.mode, "cannot change", ANEW),
        ("fragments", by_address(old) == by_address(new), "cannot change to or from by-address", ANEW),
        ("algorithm", by_source(old) == by_source(new), "cannot change to or from source-hash", CLIENTS),
        (
            "client_prefix",
            !(by_source(old) && by_source(new)) || old.client_prefix == new.client_prefix,
            "cannot change with algorithm source-hash",
            CLIENTS,
        ),
    ];
    let changed = fields.into_iter().filter(|(_, same, ..)| !same);
    changed.map(|(field, _, what, why)| FieldError::new(field, format!("{what} {why}"))).collect()
}

fn places_of(spec: &ServiceSpec) -> Places {
    let backends = spec.backends.iter().map(|backend| spec.place_of(backend)).collect();
    Places { service: spec.name.clone(), backends: Some(backends) }
}
