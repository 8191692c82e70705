//! The operators' listeners: liveness, readiness, metrics, and a summary. On the background runtime; clients do not
//! reach them, so nothing here is authenticated: keep the address one's own. What changes something ([`control`]) is
//! served on a Unix socket alone, which only its owner can open.

mod control;

use std::sync::{Arc, atomic::Ordering::Relaxed};

use axum::{
    Json, Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
pub use control::Ask;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::{
    metrics,
    shared::{Phase, Shared},
};

/// OpenMetrics, as scrapers ask for it.
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// `docs/gateway-openapi.json`: what is served here and by [`control`].
const OPENAPI: &str = include_str!("../../docs/gateway-openapi.json");

/// What operators may read.
pub fn router(shared: Arc<Shared>) -> Router {
    Router::new()
        .route("/healthz", get(|| async { "alive\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(scrape))
        .route("/v1/status", get(status))
        .route("/v1/openapi.json", get(openapi))
        .with_state(shared)
}

/// The same, and what changes something by `asks`.
pub fn control_router(shared: Arc<Shared>, asks: mpsc::Sender<Ask>) -> Router {
    control::router(shared.clone(), asks).merge(router(shared))
}

async fn openapi() -> Response {
    ([(header::CONTENT_TYPE, "application/json")], OPENAPI).into_response()
}

async fn ready(State(shared): State<Arc<Shared>>) -> Response {
    if shared.is_ready() {
        return (StatusCode::OK, "ready\n").into_response();
    }
    let why = match shared.phase() {
        Phase::Serving => format!("waiting for the keys of {}\n", waiting_for(&shared).join(", ")),
        Phase::Unready | Phase::Closing | Phase::Ending => "stopping\n".to_owned(),
    };
    (StatusCode::SERVICE_UNAVAILABLE, why).into_response()
}

async fn scrape(State(shared): State<Arc<Shared>>) -> Response {
    match metrics::render(&shared) {
        Ok(text) => ([(header::CONTENT_TYPE, OPENMETRICS)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

async fn status(State(shared): State<Arc<Shared>>) -> Json<Value> {
    let snapshot = shared.snapshot();
    let config = &shared.metrics.config;
    let upstreams = snapshot.upstreams.iter().map(|(name, upstream)| {
        let endpoints = upstream.endpoints.iter().map(|endpoint| {
            json!({
                "address": endpoint.address.to_string(),
                "health": format!("{:?}", endpoint.health()).to_lowercase(),
                "ejected": endpoint.is_ejected(crate::clock::now_ns()),
                "in_flight": endpoint.in_flight(),
            })
        });
        (name.clone(), Value::Array(endpoints.collect()))
    });
    Json(json!({
        "version": env!("CARGO_PKG_VERSION"),
        "process": std::process::id(),
        "phase": format!("{:?}", shared.phase()).to_lowercase(),
        "configuration": {
            "generation": snapshot.generation,
            "failures": config.failures.load(Relaxed),
            "last_successful": !config.last_failed.load(Relaxed),
        },
        "connections": shared.connections.count(),
        "tunnels": snapshot.tunnels.count(),
        "in_flight": snapshot.in_flight.count(),
        "waiting_for_keys_of": waiting_for(&shared),
        "upstreams": upstreams.collect::<serde_json::Map<_, _>>(),
    }))
}

fn waiting_for(shared: &Shared) -> Vec<String> {
    shared.snapshot().credentials.waiting_for().into_iter().map(str::to_owned).collect()
}
