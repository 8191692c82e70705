//! The API through its router: request in, status and document out, and what it did to the state.

mod listening;
mod orders;
mod refusals;
mod reports;

use std::{
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use axum::{
    body::Body,
    http::{Method, Request, header},
};
use serde_json::{Value, json};
use tower::ServiceExt;

use super::*;
use crate::{
    desired::Admission,
    model::{Desired, Refusal},
    status::{
        AttachMode, BackendStateName, BackendStatus, CounterValues, DryRun, FlowTable, InterfaceStatus,
        Observed, ReasonCount, ServiceDryRun, ServiceStatus, Totals,
    },
};

/// An observer that shows what the test puts there.
#[derive(Default)]
pub(crate) struct Eyes {
    observed: Mutex<Arc<Observed>>,
    installed: AtomicU64,
}

impl Observe for Eyes {
    fn observe(&self) -> Arc<Observed> {
        self.observed.lock().unwrap().clone()
    }

    fn installed_generation(&self) -> u64 {
        self.installed.load(Ordering::Relaxed)
    }
}

impl Eyes {
    /// Shows a backend with that many remembered flows, all of `generation` installed.
    pub(crate) fn show_backend(&self, service: &str, backend: &str, tracked_flows: u64, generation: u64) {
        let seen = BackendStatus {
            id: 7,
            state: BackendStateName::Draining,
            slots: 0,
            slots_unsettled: 0,
            tracked_flows,
            connections: 3,
            response_micros: 1_500,
            drain: None,
            next_hop: None,
            counters: CounterValues { packets: 5, bytes: 500, new_flows: 2, refused_flows: 0, overflowed: 0 },
        };
        let mut observed = (*self.observe()).clone();
        observed.installed_generation = generation;
        let seen_service = observed.services.entry(service.to_owned()).or_insert_with(|| ServiceStatus {
            id: 1,
            slots: 1024,
            settled: 1000,
            moving: 20,
            pinned: 4,
            flows_pinned: 11,
            ..ServiceStatus::default()
        });
        seen_service.backends.insert(backend.parse().unwrap(), seen);
        observed.interfaces = vec![InterfaceStatus {
            name: "eth0".into(),
            ifindex: Some(2),
            mode: Some(AttachMode::Driver),
            attached: true,
        }];
        observed.totals = Totals { slots_moved: 20, flows_cut: 6, corrections: 1 };
        observed.reasons = vec![ReasonCount::new(lb_common::Reason::Forwarded, 9)];
        observed.flow_table = FlowTable { capacity: 1024, entries: tracked_flows, affinities: 2, refused: 1 };
        *self.observed.lock().unwrap() = Arc::new(observed);
        self.installed.store(generation, Ordering::Relaxed);
    }
}

/// An engine that has a service `shop` of 1,024 slots, of which each backend that comes or goes moves a hundred.
pub(crate) struct Rehearsed;

impl DryRuns for Rehearsed {
    fn dry_run(
        &self,
        before: Arc<Desired>,
        after: Arc<Desired>,
    ) -> Pin<Box<dyn Future<Output = Result<DryRun, String>> + Send + '_>> {
        let backends = |desired: &Desired| desired.services.get("shop").map_or(0, |shop| shop.backends.len());
        let moved = backends(&before).abs_diff(backends(&after)) as u32 * 100;
        let shop = ServiceDryRun {
            name: "shop".into(),
            slots: 1_024,
            slots_moved: moved,
            live_flows: 7,
            flows_cut: 2,
            exact: false,
        };
        let services = if moved > 0 { vec![shop] } else { Vec::new() };
        Box::pin(async move { Ok(DryRun::new(before.generation, services, Vec::new())) })
    }
}

/// The world has no way to 10.9.0.0/16.
struct NoRoute;

impl Admission for NoRoute {
    fn check(&self, _: &Desired, after: &Desired, _: &[String]) -> Result<(), Refusal> {
        let new = after.services.values().flat_map(|one| one.backends.keys().map(|at| (&one.name, at)));
        if let Some((name, at)) = new.into_iter().find(|(_, at)| at.ip().to_string().starts_with("10.9.")) {
            return Err(Refusal::backend(name, *at, "address", format!("no route to {}", at.ip())));
        }
        Ok(())
    }
}

pub(super) struct Api {
    pub desired: Arc<DesiredState>,
    pub eyes: Arc<Eyes>,
    router: Router,
}

pub(super) struct Answer {
    pub status: u16,
    pub headers: axum::http::HeaderMap,
    pub text: String,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {}", self.text))
    }

    /// `field: rule` of every error.
    fn errors(&self) -> Vec<String> {
        let errors = self.json()["errors"].as_array().cloned().unwrap_or_default();
        let line = |error: Value| {
            format!("{}: {}", error["field"].as_str().unwrap(), error["rule"].as_str().unwrap())
        };
        errors.into_iter().map(line).collect()
    }
}

impl Api {
    fn new() -> Self {
        Self::over(DesiredState::in_memory())
    }

    fn over(desired: DesiredState) -> Self {
        let (desired, eyes) = (Arc::new(desired), Arc::new(Eyes::default()));
        desired.set_admission(Arc::new(NoRoute));
        let state = Arc::new(AppState {
            desired: desired.clone(),
            observer: eyes.clone(),
            engine: Arc::new(Rehearsed),
            samples: Samples::channel().0,
        });
        let outcomes = Arc::new(Outcomes::default());
        let count = axum::middleware::from_fn_with_state(outcomes.clone(), outcomes::count);
        let router = app(state, outcomes).layer(count);
        Self { desired, eyes, router }
    }

    /// A service `shop` with two backends, in generation 1.
    async fn with_shop() -> Self {
        let api = Self::new();
        assert_eq!(api.send("POST", "/v1/services", shop()).await.status, 201);
        api
    }

    async fn send(&self, method: &str, path: &str, body: impl Into<Option<Value>>) -> Answer {
        let text = body.into().map(|body| body.to_string()).unwrap_or_default();
        self.send_with(method, path, &[], text).await
    }

    async fn send_with(&self, method: &str, path: &str, headers: &[(&str, &str)], body: String) -> Answer {
        let mut request = Request::builder().method(Method::from_bytes(method.as_bytes()).unwrap()).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = self.router.clone().oneshot(request.body(Body::from(body)).unwrap()).await.unwrap();
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let bytes = axum::body::to_bytes(response.into_body(), usize::MAX).await.unwrap();
        Answer { status, headers, text: String::from_utf8(bytes.to_vec()).unwrap() }
    }
}

pub(super) fn shop() -> Value {
    json!({
        "name": "shop",
        "address": "10.0.0.1",
        "port": 80,
        "health_check": { "type": "http", "path": "/healthz" },
        "backends": [
            { "address": "10.1.0.2", "port": 8080, "weight": 2 },
            { "address": "10.1.0.1", "port": 8080 },
        ],
    })
}
