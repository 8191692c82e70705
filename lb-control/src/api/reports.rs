//! What is read only: status, counters, reasons, interfaces, metrics.

use std::sync::Arc;

use axum::{
    Extension, Json,
    extract::State,
    http::header,
    response::{IntoResponse, Response},
};
use serde_json::{Value, json};

use super::{Shared, order::now_unix, outcomes::Outcomes};
use crate::{desired::active, metrics, status::BackendStateName};

pub async fn status(State(state): State<Shared>) -> Json<Value> {
    let (desired, observed) = (state.desired.current(), state.observer.observe());
    let now = now_unix();
    let (mut up, mut standby, mut draining, mut down) = (0, 0, 0, 0);
    for one in desired.services.values().flat_map(|service| active(service, now)) {
        match BackendStateName::from(one) {
            BackendStateName::Up => up += 1,
            BackendStateName::Standby => standby += 1,
            BackendStateName::Draining => draining += 1,
            BackendStateName::Cut | BackendStateName::Down => down += 1,
        }
    }
    Json(json!({
        "version": env!("CARGO_PKG_VERSION"),
        "generation": desired.generation,
        "installed_generation": observed.installed_generation,
        "installed": observed.installed_generation >= desired.generation,
        "last_error": observed.last_error,
        "services": desired.services.len(),
        "backends": { "up": up, "standby": standby, "draining": draining, "down": down },
        "interfaces": observed.interfaces,
        "flow_table": observed.flow_table,
        "translation_table": observed.translation_table,
        "totals": observed.totals,
    }))
}

pub async fn counters(State(state): State<Shared>) -> Json<Value> {
    let observed = state.observer.observe();
    let services = observed.services.iter().map(|(name, service)| {
        let backends = service.backends.iter().map(
            |(at, backend)| json!({ "address": at.ip(), "port": (at.port() != 0).then_some(at.port()), "counters": backend.counters }),
        );
        json!({ "name": name, "counters": service.counters, "backends": backends.collect::<Vec<_>>() })
    });
    Json(json!({ "services": services.collect::<Vec<_>>() }))
}

pub async fn reasons(State(state): State<Shared>) -> Json<Value> {
    Json(json!({ "reasons": state.observer.observe().reasons }))
}

pub async fn interfaces(State(state): State<Shared>) -> Json<Value> {
    Json(json!({ "interfaces": state.observer.observe().interfaces }))
}

pub async fn metrics(State(state): State<Shared>, Extension(outcomes): Extension<Arc<Outcomes>>) -> Response {
    let (desired, observed) = (state.desired.current(), state.observer.observe());
    let mut text = metrics::render(&desired, &observed, &outcomes.counts(), now_unix());
    text.push_str(&metrics::effective(&state.desired.effective().histogram()));
    text.push_str(&metrics::samples(state.samples.dropped()));
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
}

/// The process answers; whether packets are forwarded is `/v1/status`'s to say.
pub async fn healthz() -> Json<Value> {
    Json(json!({ "status": "ok" }))
}
