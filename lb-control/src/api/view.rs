//! How services and backends are shown: what was ordered, and under `status` what became of it. Pure.

use std::net::SocketAddr;

use serde::Serialize;

use crate::{
    desired::effective_state,
    model::{Backend, BackendSpec, Desired, HealthName, Service, ServiceSpec},
    status::{BackendStateName, BackendStatus, CounterValues, Observed, ServiceStatus},
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
    /// Remembered flows that are left.
    tracked_flows: u64,
    /// Slots whose unremembered flows may still arrive.
    slots_unsettled: u32,
    /// Nothing is left, or the deadline has passed.
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
            spec: service.spec_with(|at, backend| self.listed_backend(service, at, backend)),
            generation: None,
            status: ServiceStatusView {
                installed: self.is_installed(),
                slots: seen.slots,
                slots_settled: seen.settled,
                slots_moving: seen.moving,
                slots_pinned: seen.pinned,
                counters: seen.counters,
                tracked_flows_cut,
            },
        }
    }

    /// A backend with its generation.
    pub fn backend(&self, service: &Service, at: &SocketAddr, backend: &Backend) -> BackendView {
        BackendView { generation: Some(self.desired.generation), ..self.listed_backend(service, at, backend) }
    }

    /// A backend within a list.
    pub fn listed_backend(&self, service: &Service, at: &SocketAddr, backend: &Backend) -> BackendView {
        let seen = self.observed.backend(&service.name, at);
        BackendView {
            spec: backend.spec(at, service),
            generation: None,
            status: BackendStatusView {
                state: effective_state(backend, service.on_failure, self.now_unix).into(),
                health: backend.health.into(),
                drain: self.drain(service, backend, seen),
                installed: seen.cloned(),
            },
        }
    }

    fn drain(&self, service: &Service, backend: &Backend, seen: Option<&BackendStatus>) -> Option<DrainView> {
        let drain = backend.draining?;
        let state = effective_state(backend, service.on_failure, self.now_unix);
        let (tracked_flows, slots, slots_unsettled) =
            seen.map_or((0, 0, 0), |seen| (seen.tracked_flows, seen.slots, seen.slots_unsettled));
        // What was seen before the drain was installed proves nothing.
        let empty = self.is_installed() && (tracked_flows, slots, slots_unsettled) == (0, 0, 0);
        Some(DrainView {
            since_unix_seconds: drain.since_unix_seconds,
            deadline_unix_seconds: drain.deadline_unix_seconds,
            tracked_flows,
            slots_unsettled,
            done: empty || state == lb_common::BackendState::Down,
        })
    }

    fn is_installed(&self) -> bool {
        self.observed.installed_generation >= self.desired.generation
    }
}
