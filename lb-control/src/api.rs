//! The REST API: every route in one list, what the handlers share, and the server.
//!
//! A handler decodes, hands one order to [`DesiredState`] and shows what came of it; rules stand in
//! `model`. An error becomes a status only in `api/error.rs`.

pub mod auth;
mod backends;
mod body;
mod error;
mod listen;
mod openapi;
mod order;
mod outcomes;
mod reports;
mod services;
mod view;

use std::{future::Future, sync::Arc};

use axum::{
    Extension, Router,
    http::{Method, Uri},
    routing::{MethodRouter, delete, get, patch, post, put},
};

use self::outcomes::Outcomes;
pub use self::{
    auth::{TokenFileError, Tokens},
    error::{ApiError, Problem},
    listen::{ListenError, Listeners, TcpConfig},
    openapi::DOCUMENT as OPENAPI,
};
use crate::{
    desired::DesiredState,
    health::samples::Samples,
    status::{DryRuns, Observe},
};

/// The largest body of a request: a service with 4,096 backends takes about 300 KiB.
pub const BODY_BYTES_MAX: usize = 1 << 20;

/// What every handler may use.
pub struct AppState {
    /// Takes the orders.
    pub desired: Arc<DesiredState>,
    /// Tells what became of them.
    pub observer: Arc<dyn Observe>,
    /// Tells what would become of others.
    pub engine: Arc<dyn DryRuns>,
    /// The way of response times from the checks, which tells how many it dropped.
    pub samples: Samples,
}

type Shared = Arc<AppState>;

/// Every route: method, path, handler. `docs/openapi.json` describes the same ones.
fn routes() -> Vec<(&'static str, &'static str, MethodRouter<Shared>)> {
    const SERVICES: &str = "/v1/services";
    const SERVICE: &str = "/v1/services/{name}";
    const BACKENDS: &str = "/v1/services/{name}/backends";
    const BACKEND: &str = "/v1/services/{name}/backends/{backend}";
    const DRAIN: &str = "/v1/services/{name}/backends/{backend}/drain";
    vec![
        ("get", SERVICES, get(services::list)),
        ("post", SERVICES, post(services::create)),
        ("get", SERVICE, get(services::read)),
        ("put", SERVICE, put(services::replace)),
        ("patch", SERVICE, patch(services::change)),
        ("delete", SERVICE, delete(services::delete)),
        ("get", BACKENDS, get(backends::list)),
        ("post", BACKENDS, post(backends::create)),
        ("get", BACKEND, get(backends::read)),
        ("put", BACKEND, put(backends::replace)),
        ("patch", BACKEND, patch(backends::change)),
        ("delete", BACKEND, delete(backends::delete)),
        ("post", DRAIN, post(backends::drain)),
        ("delete", DRAIN, delete(backends::undrain)),
        ("get", "/v1/status", get(reports::status)),
        ("get", "/v1/counters", get(reports::counters)),
        ("get", "/v1/reasons", get(reports::reasons)),
        ("get", "/v1/interfaces", get(reports::interfaces)),
        ("get", "/v1/openapi.json", get(openapi::document)),
        ("get", "/metrics", get(reports::metrics)),
        ("get", HEALTHZ, get(reports::healthz)),
    ]
}

/// The only route that asks for no token.
const HEALTHZ: &str = "/healthz";

/// The routes over `state`; whoever uses them adds authentication and [`outcomes::count`] outside of it.
fn app(state: Shared, outcomes: Arc<Outcomes>) -> Router {
    let mut router = Router::new();
    for (_, path, handler) in routes() {
        router = router.route(path, handler);
    }
    router
        .fallback(|uri: Uri| async move { ApiError::NoSuchRoute(uri.path().to_owned()) })
        .method_not_allowed_fallback(|method: Method| async move {
            ApiError::MethodNotAllowed(method.to_string())
        })
        .layer(Extension(outcomes))
        .with_state(state)
}

/// Serves until `shutdown` resolves, then lets requests that run end.
pub async fn serve(state: AppState, listeners: Listeners, shutdown: impl Future<Output = ()>) {
    let outcomes = Arc::new(Outcomes::default());
    listeners.serve(app(Arc::new(state), outcomes.clone()), outcomes, shutdown).await;
}

#[cfg(test)]
pub(crate) mod tests;
