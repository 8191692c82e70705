//! How services and backends are shown: what was ordered, and under `status` what became of it. Pure.

use std::net::SocketAddr;

use lb_common::BackendState;
use serde::Serialize;

use crate::{
    desired::{Active, active, active_backend},
    model::{Backend, BackendSpec, Desired, HealthName, OnDeadlineName, Service, ServiceSpec},
    status::{
        BackendStateName, BackendStatus, CounterValues, DrainEnding, DrainStatus, Observed, ServiceStatus,
    },
};

/// A service.
#[derive(Serialize)]
pub struct ServiceView {
    #[serde(flatten)]
    spec: ServiceSpec<BackendView>,
    #[serde(skip_serializing_if = "Option::is_none")]
    generation: Option<u64>,
    status: ServiceStatusView,
}

#[derive(Serialize)]
struct ServiceStatusView {
    installed: bool,
    slots: u32,
    slots_settled: u32,
    slots_moving: u32,
    slots_pinned: u32,
    flows_pinned: u64,
    counters: CounterValues,
    #[serde(skip_serializing_if = "Option::is_none")]
    tracked_flows_cut: Option<u64>,
}

/// A backend.
#[derive(Serialize)]
pub struct BackendView {
    #[serde(flatten)]
    spec: BackendSpec,
    #[serde(skip_serializing_if = "Option::is_none")]
    generation: Option<u64>,
    status: BackendStatusView,
}

#[derive(Serialize)]
struct BackendStatusView {
    state: BackendStateName,
    health: HealthName,
    drain: Option<DrainView>,
    installed: Option<BackendStatus>,
}

#[derive(Serialize)]
struct DrainView {
    since_unix_seconds: u64,
    deadline_unix_seconds: Option<u64>,
    on_deadline: OnDeadlineName,
    /// Remembered flows that are left.
    tracked_flows: u64,
    /// Slots whose unremembered flows may still arrive.
    slots_unsettled: u32,
    /// Flows that are open or opening, or were when it ended.
    live_flows: u64,
    /// Whether these are all.
    exact: bool,
    exact_after_seconds: u32,
    /// `0 left` or `n cut`.
    ended: Option<String>,
    /// It ended.
    done: bool,
}

/// Both halves of what is shown, and the time.
#[derive(Clone, Copy)]
pub struct Sight<'a> {
    /// What was ordered.
    pub desired: &'a Desired,
    /// What was seen.
    pub observed: &'a Observed,
    /// Seconds of the Unix clock.
    pub now_unix: u64,
}

impl Sight<'_> {
    /// A service with its generation, and the flows that an order cut.
    pub fn service(&self, service: &Service, tracked_flows_cut: Option<u64>) -> ServiceView {
        ServiceView {
            generation: Some(self.desired.generation),
            ..self.listed_service(service, tracked_flows_cut)
        }
    }

    /// A service within a list.
    pub fn listed_service(&self, service: &Service, tracked_flows_cut: Option<u64>) -> ServiceView {
        let nothing = ServiceStatus::default();
        let seen = self.observed.services.get(&service.name).unwrap_or(&nothing);
        ServiceView {
            spec: service.spec_with(self.backends(service)),
            generation: None,
            status: ServiceStatusView {
                installed: self.is_installed(),
                slots: seen.slots,
                slots_settled: seen.settled,
                slots_moving: seen.moving,
                slots_pinned: seen.pinned,
                flows_pinned: seen.flows_pinned,
                counters: seen.counters,
                tracked_flows_cut,
            },
        }
    }

    /// A backend with its generation.
    pub fn backend(&self, service: &Service, at: &SocketAddr, backend: &Backend) -> Option<BackendView> {
        let active = active_backend(service, at, self.now_unix)?;
        let shown = self.listed_backend(service, at, backend, active);
        Some(BackendView { generation: Some(self.desired.generation), ..shown })
    }

    /// The backends of a service.
    pub fn backends(&self, service: &Service) -> Vec<BackendView> {
        let all = service.backends.iter().zip(active(service, self.now_unix));
        all.map(|((at, backend), active)| self.listed_backend(service, at, backend, active)).collect()
    }

    fn listed_backend(
        &self,
        service: &Service,
        at: &SocketAddr,
        backend: &Backend,
        active: Active,
    ) -> BackendView {
        let seen = self.observed.backend(&service.name, at);
        BackendView {
            spec: backend.spec(at, service),
            generation: None,
            status: BackendStatusView {
                state: active.into(),
                health: backend.health.into(),
                drain: self.drain(backend, active.state, seen),
                installed: seen.cloned(),
            },
        }
    }

    fn drain(
        &self,
        backend: &Backend,
        state: BackendState,
        seen: Option<&BackendStatus>,
    ) -> Option<DrainView> {
        let drain = backend.draining?;
        let (tracked_flows, slots, slots_unsettled) =
            seen.map_or((0, 0, 0), |seen| (seen.tracked_flows, seen.slots, seen.slots_unsettled));
        // What was seen before the drain was installed proves nothing.
        let seen = seen.filter(|_| self.is_installed());
        let is_empty = (tracked_flows, slots, slots_unsettled) == (0, 0, 0);
        let known = seen.and_then(|seen| seen.drain).unwrap_or(DrainStatus {
            live_flows: tracked_flows,
            exact: seen.is_some() && is_empty,
            exact_after_seconds: 0,
            ended: (self.is_installed() && is_empty).then_some(DrainEnding::Empty),
        });
        let is_over = matches!(state, BackendState::Cut | BackendState::Down);
        let ended = known.ended.or(is_over.then_some(match known.exact && known.live_flows == 0 {
            true => DrainEnding::Empty,
            false => DrainEnding::Cut(known.live_flows),
        }));
        Some(DrainView {
            since_unix_seconds: drain.since_unix_seconds,
            deadline_unix_seconds: drain.deadline_unix_seconds,
            on_deadline: drain.on_deadline.into(),
            tracked_flows,
            slots_unsettled,
            live_flows: known.live_flows,
            exact: known.exact,
            exact_after_seconds: known.exact_after_seconds,
            ended: ended.map(|ended| match ended {
                DrainEnding::Empty => "0 left".to_owned(),
                DrainEnding::Cut(flows) => format!("{flows} cut"),
            }),
            done: ended.is_some(),
        })
    }

    fn is_installed(&self) -> bool {
        self.observed.installed_generation >= self.desired.generation
    }
}
