//! Health checks: a task for every backend of a service that has a check; verdicts become desired state.
//!
//! A check is started anew only when its own configuration changes. It begins with the verdict that stands:
//! unknown is not down, and a backend that was down needs its successes first.

pub mod probe;
pub mod samples;
pub mod threshold;

use std::{
    collections::BTreeMap,
    hash::{BuildHasher as _, RandomState},
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use tokio::{
    sync::Semaphore,
    task::{AbortHandle, spawn_blocking},
    time::MissedTickBehavior,
};

use self::{samples::Samples, threshold::Threshold};
use crate::{
    desired::DesiredState,
    model::{Desired, Health, HealthCheck, Service, Services},
};

/// Checks under way at once: each holds a socket, and 512 leave half of the usual limit of 1,024 free.
const CONCURRENT_MAX: usize = 512;
/// First checks are spread over an interval, but over no more than this: a verdict is waited for.
const FIRST_WITHIN_MAX: Duration = Duration::from_secs(1);

struct Running {
    check: HealthCheck,
    task: AbortHandle,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Keeps a checker for every backend that is to be checked, until the desired state is gone. How long successful checks
/// take goes to `samples`.
pub async fn run(desired: Arc<DesiredState>, samples: Samples) {
    let mut states = desired.subscribe();
    let permits = Arc::new(Semaphore::new(CONCURRENT_MAX));
    let mut running = BTreeMap::<String, BTreeMap<SocketAddr, Running>>::new();
    let mut followed = Services::default();
    loop {
        let state = states.borrow_and_update().clone();
        for name in state.services.differences(&followed) {
            let Some((service, check)) = checked(&state, name) else {
                running.remove(name);
                continue;
            };
            follow(running.entry(name.to_owned()).or_default(), service, check, |backend| Checker {
                desired: desired.clone(),
                service: name.to_owned(),
                backend,
                check: check.clone(),
                permits: permits.clone(),
                samples: samples.clone(),
            });
        }
        followed = state.services.clone();
        if states.changed().await.is_err() {
            return;
        }
    }
}

/// A service whose backends are to be checked.
fn checked<'a>(state: &'a Desired, name: &str) -> Option<(&'a Service, &'a HealthCheck)> {
    let service = state.services.get(name)?;
    Some((service, service.health_check.as_ref()?))
}

/// Ends the checkers of what is gone, or checked in another way now, and starts those of what came.
fn follow(
    running: &mut BTreeMap<SocketAddr, Running>,
    service: &Service,
    check: &HealthCheck,
    checker: impl Fn(SocketAddr) -> Checker,
) {
    running.retain(|at, task| service.backends.contains_key(at) && task.check == *check);
    for (at, backend) in &service.backends {
        running.entry(*at).or_insert_with(|| {
            let task = tokio::spawn(checker(*at).run(backend.health));
            Running { check: check.clone(), task: task.abort_handle() }
        });
    }
}

struct Checker {
    desired: Arc<DesiredState>,
    service: String,
    backend: SocketAddr,
    check: HealthCheck,
    permits: Arc<Semaphore>,
    samples: Samples,
}

impl Checker {
    async fn run(self, health: Health) {
        let interval = Duration::from_millis(self.check.interval_ms.into());
        let limit = Duration::from_millis(self.check.timeout_ms.into());
        let target = SocketAddr::new(self.backend.ip(), self.check.port.unwrap_or(self.backend.port()));
        let mut threshold = Threshold::new(self.check.rise, self.check.fall, health);
        tokio::time::sleep(first_pause(interval)).await;
        let mut ticks = tokio::time::interval(interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let Ok(_permit) = self.permits.acquire().await else { return };
            let outcome = probe::check(&self.check.probe, target, limit).await;
            if let (Ok(took), Some(service)) = (&outcome, self.desired.current().services.get(&self.service))
            {
                self.samples.put(service, self.backend, *took);
            }
            if let Some(verdict) = threshold.note(outcome.is_ok()) {
                self.tell(verdict, outcome.err());
                self.publish(verdict).await;
            }
        }
    }

    fn tell(&self, verdict: Health, failure: Option<probe::Failure>) {
        let (service, backend) = (&self.service, self.backend);
        match failure {
            Some(reason) => tracing::warn!(%service, %backend, %reason, "the backend is {verdict:?}"),
            None => tracing::info!(%service, %backend, "the backend is {verdict:?}"),
        }
    }

    async fn publish(&self, verdict: Health) {
        let (desired, service, backend) = (self.desired.clone(), self.service.clone(), self.backend);
        // It may write to disk.
        let _ = spawn_blocking(move || desired.set_health(&service, backend, verdict)).await;
    }
}

/// A random part of the interval, so that the checks of many backends do not coincide.
fn first_pause(interval: Duration) -> Duration {
    let random = RandomState::new().hash_one(0) >> 32;
    let within = interval.min(FIRST_WITHIN_MAX);
    within.mul_f64(random as f64 / f64::from(u32::MAX))
}
