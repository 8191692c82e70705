//! What an order would do, asked of the engine: its table of flows and its slots know.

use std::{collections::BTreeMap, future::Future, pin::Pin, sync::Arc};

use lb_common::ServiceKey;
use tokio::sync::watch;

use super::{Bpf, engine_thread::EngineThread, host, reconcile::shortage};
use crate::{
    desired::target_service,
    engine::{self, monotonic_seconds},
    model::{Desired, address},
    next_hops::Resolved,
    status::{DryRun, DryRuns, ServiceDryRun},
    target::Target,
};

/// Asks the engine on its thread.
pub struct DryRunner {
    /// The engine.
    pub engine: EngineThread<Bpf>,
    /// Ways, so that a backend is not taken for changed.
    pub resolved: watch::Receiver<Option<Arc<Resolved>>>,
}

impl DryRuns for DryRunner {
    fn dry_run(
        &self,
        before: Arc<Desired>,
        after: Arc<Desired>,
    ) -> Pin<Box<dyn Future<Output = Result<DryRun, String>> + Send + '_>> {
        let ways = self.resolved.borrow().clone().unwrap_or_default();
        Box::pin(async move {
            let target = services_of(&after, &ways);
            let ask = move |engine: &mut Bpf| {
                let told = engine.dry_run(&target, monotonic_seconds())?;
                let slots = told.services.iter().map(|one| slots_of(engine, &one.service)).collect();
                anyhow::Ok((told, slots))
            };
            let told = self.engine.call(ask).await.map_err(|gone| gone.to_string())?;
            let (told, slots) = told.map_err(|error| format!("{error:#}"))?;
            Ok(answer(&before, &after, &told, slots))
        })
    }
}

/// Only the services of a state: nothing else of a target has slots or flows.
fn services_of(desired: &Desired, ways: &Resolved) -> Target {
    let now = host::unix_seconds();
    let way = |host| ways.ways.get(&host).and_then(|way| way.ok());
    let services = desired.services.values().map(|service| target_service(service, now, way).into());
    Target { services: services.collect(), ..Target::default() }
}

fn slots_of(engine: &Bpf, key: &ServiceKey) -> u32 {
    engine.installed().services.get(key).map_or(0, |service| service.entry.slots())
}

/// With names in the place of keys.
fn answer(before: &Desired, after: &Desired, told: &engine::DryRun, slots: Vec<u32>) -> DryRun {
    let both = before.services.values().chain(after.services.values());
    let names: BTreeMap<ServiceKey, &str> =
        both.map(|service| (address::service_key(service), service.name.as_str())).collect();
    let services = told.services.iter().zip(slots).map(|(one, slots)| ServiceDryRun {
        name: names.get(&one.service).copied().unwrap_or_default().to_owned(),
        slots,
        slots_moved: one.slots_moved,
        live_flows: one.live_flows,
        flows_cut: one.flows_cut,
        exact: one.exact,
    });
    DryRun::new(before.generation, services.collect(), told.shortages.iter().map(shortage).collect())
}
