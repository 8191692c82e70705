//! The desired state: takes orders one after another, stores each durably and then publishes it.
//!
//! Invariant: what is published has been validated, admitted and (orders) stored, in this sequence; a
//! refused order changes neither store nor state. Generations only grow, across restarts too.

mod active;

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    path::Path,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use lb_common::{FragmentPolicy, NextHop, Port, QuicScheme, ServiceSettings, limits};
use tokio::sync::watch;

use crate::{
    effective::Effective,
    model::{self, Census, Desired, Health, Network, OnDeadline, Quic, Refusal, Service, address},
    store::{Memory, Store, StoreError, embedded::Embedded},
    target::{TargetBackend, TargetService},
};

pub use self::active::{Active, CUT_SECONDS, active, active_backend, effective_state};

/// The live world's say in an order: what the validated order alone does not tell, such as routes.
pub trait Admission: Send + Sync {
    /// Called with the state before, the state that the order would make, and the names of the services that differ,
    /// before it is stored.
    fn check(&self, before: &Desired, after: &Desired, changed: &[String]) -> Result<(), Refusal>;
}

/// Holder of the desired state.
pub struct DesiredState {
    orders: Mutex<Orders>,
    /// Verdicts that wait for the lock on `orders`: who gets it takes them all, so that a rack that fails
    /// costs one copy of the state and not one for each backend.
    verdicts: Mutex<Vec<(String, SocketAddr, Health)>>,
    published: watch::Sender<Arc<Desired>>,
    admission: OnceLock<Arc<dyn Admission>>,
    slots: OnceLock<u32>,
    full_nat: OnceLock<Vec<IpAddr>>,
    effective: Arc<Effective>,
}

/// What only the one order that holds the lock touches.
struct Orders {
    store: Box<dyn Store>,
    /// Of the state that was looked at last.
    census: Census,
    /// By service: the generation of the last order that changed it.
    changed: BTreeMap<String, u64>,
    /// The generation of the last order.
    last_order: u64,
    /// Generations up to here are never given out again after a restart.
    reserved: u64,
}

/// An order that may be stored.
struct Admitted<T> {
    answer: T,
    before: Arc<Desired>,
    after: Desired,
    /// Nothing, where it changes nothing.
    changed: Vec<String>,
}

/// Health changes reserve generations in blocks, so that they need no write each.
const RESERVED_GENERATIONS: u64 = 256;

/// What an order may be conditional on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition<'a> {
    /// Nothing.
    None,
    /// No order changed this service after that generation.
    Service(&'a str, u64),
    /// No order changed anything after that generation.
    Everything(u64),
}

impl DesiredState {
    /// Opens the store in `path` (a file, created where missing) and publishes what it holds.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        Self::with_store(Box::new(Embedded::open(path)?))
    }

    /// A state that is forgotten with the process: for tests and trials.
    pub fn in_memory() -> Self {
        Self::with_store(Box::new(Memory::default())).unwrap_or_else(|_| unreachable!("memory loads"))
    }

    fn with_store(store: Box<dyn Store>) -> Result<Self, StoreError> {
        let desired = store.load()?;
        let generation = desired.generation;
        let changed = desired.services.keys().map(|name| (name.to_owned(), generation)).collect();
        let census = Census::of(&desired);
        let orders = Orders { store, census, changed, last_order: generation, reserved: generation };
        Ok(Self {
            orders: Mutex::new(orders),
            verdicts: Mutex::default(),
            published: watch::Sender::new(Arc::new(desired)),
            admission: OnceLock::new(),
            slots: OnceLock::new(),
            full_nat: OnceLock::new(),
            effective: Arc::default(),
        })
    }

    /// Gives the live world its say; once, before orders are taken.
    pub fn set_admission(&self, admission: Arc<dyn Admission>) {
        if self.admission.set(admission).is_err() {
            tracing::error!("the admission was set before and stays");
        }
    }

    /// Says how many slots the map has, where that is not [`limits::SLOTS`]; once, before orders are taken.
    pub fn set_slots(&self, slots: u32) {
        if self.slots.set(slots).is_err() {
            tracing::error!("the number of slots was set before and stays");
        }
    }

    /// Says from which addresses of its own the balancer sends in `full-nat`: from none, where it is not said;
    /// once, before orders are taken.
    pub fn set_full_nat(&self, addresses: Vec<IpAddr>) {
        if self.full_nat.set(addresses).is_err() {
            tracing::error!("the addresses of full-nat were set before and stay");
        }
    }

    /// How long orders take until packets go by them.
    pub fn effective(&self) -> &Arc<Effective> {
        &self.effective
    }

    /// What is desired now.
    pub fn current(&self) -> Arc<Desired> {
        self.published.borrow().clone()
    }

    /// Follows what is desired.
    pub fn subscribe(&self) -> watch::Receiver<Arc<Desired>> {
        self.published.subscribe()
    }

    /// Takes an order: `edit` changes a copy of the state, and what it makes is checked, stored and
    /// published. Writes to disk before it returns: call it where blocking is allowed.
    pub fn order<T>(
        &self,
        condition: Condition<'_>,
        edit: impl FnOnce(&mut Desired) -> Result<T, Refusal>,
    ) -> Result<(T, Arc<Desired>), Refusal> {
        let begun = Instant::now();
        let mut orders = self.lock();
        let Admitted { answer, before, after, changed } = self.admit(&mut orders, condition, edit)?;
        if changed.is_empty() {
            return Ok((answer, before));
        }
        orders.store.save(&after, &changed).map_err(|error| Refusal::Store(error.to_string()))?;
        orders.note(&after, changed);
        self.effective.accepted(after.generation, begun);
        let after = Arc::new(after);
        self.published.send_replace(after.clone());
        Ok((answer, after))
    }

    /// The state that an order would make, which is checked like any and then forgotten; its generation is that of the
    /// state it would change.
    pub fn rehearse<T>(
        &self,
        condition: Condition<'_>,
        edit: impl FnOnce(&mut Desired) -> Result<T, Refusal>,
    ) -> Result<(T, Arc<Desired>), Refusal> {
        let Admitted { answer, before, mut after, .. } = self.admit(&mut self.lock(), condition, edit)?;
        after.generation = before.generation;
        Ok((answer, Arc::new(after)))
    }

    fn admit<T>(
        &self,
        orders: &mut Orders,
        condition: Condition<'_>,
        edit: impl FnOnce(&mut Desired) -> Result<T, Refusal>,
    ) -> Result<Admitted<T>, Refusal> {
        let before = self.current();
        orders.check(condition, before.generation)?;
        let mut after = (*before).clone();
        let answer = edit(&mut after)?;
        let changed = model::changed_services(&before, &after);
        if changed.is_empty() {
            return Ok(Admitted { answer, before, after, changed });
        }
        after.generation = before.generation + 1;
        model::note_arrivals(&before, &mut after, &changed, now_unix());
        orders.census.follow(&after);
        model::check_together(&orders.census, &before, &after, &changed)?;
        model::check_full_nat(&after, &changed, self.full_nat.get().map_or(&[], Vec::as_slice))?;
        model::check_slots(&orders.census, self.slots.get().copied().unwrap_or(limits::SLOTS))?;
        if let Some(admission) = self.admission.get() {
            admission.check(&before, &after, &changed)?;
        }
        Ok(Admitted { answer, before, after, changed })
    }

    /// Takes a verdict of the health checks. Returns the generation that has it, or `None` where nothing
    /// changes: same verdict, no such backend, or a service without checks.
    pub fn set_health(&self, service: &str, backend: SocketAddr, health: Health) -> Option<u64> {
        self.waiting_verdicts().push((service.to_owned(), backend, health));
        let mut orders = self.lock();
        let verdicts = std::mem::take(&mut *self.waiting_verdicts());
        let before = self.current();
        if verdicts.is_empty() {
            // Whoever had the lock before has taken it along.
            return Some(before.generation);
        }
        let mut after = None;
        for (service, backend, health) in verdicts {
            let now = after.as_ref().unwrap_or(&*before);
            let checked = now.services.get(&service).filter(|service| service.health_check.is_some());
            if checked
                .and_then(|service| service.backends.get(&backend))
                .is_none_or(|one| one.health == health)
            {
                continue;
            }
            let services = &mut after.get_or_insert_with(|| (*before).clone()).services;
            if let Some(one) = services.get_mut(&service).and_then(|found| found.backends.get_mut(&backend)) {
                one.set_health(health, now_unix());
            }
        }
        let mut after = after?;
        after.generation += 1;
        let generation = after.generation;
        orders.reserve(generation);
        self.published.send_replace(Arc::new(after));
        Some(generation)
    }

    fn waiting_verdicts(&self) -> MutexGuard<'_, Vec<(String, SocketAddr, Health)>> {
        self.verdicts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> MutexGuard<'_, Orders> {
        // A panic in an edit leaves the store and the published state as they were.
        self.orders.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Orders {
    fn check(&self, condition: Condition<'_>, current: u64) -> Result<(), Refusal> {
        let (expected, changed) = match condition {
            Condition::None => return Ok(()),
            Condition::Service(name, expected) => {
                (expected, self.changed.get(name).copied().unwrap_or(self.last_order))
            }
            Condition::Everything(expected) => (expected, self.last_order),
        };
        if expected < changed || expected > current {
            return Err(Refusal::Stale { expected, changed });
        }
        Ok(())
    }

    fn note(&mut self, after: &Desired, changed: Vec<String>) {
        self.last_order = after.generation;
        self.reserved = self.reserved.max(after.generation);
        for name in changed {
            if after.services.contains_key(&name) {
                self.changed.insert(name, after.generation);
            } else {
                self.changed.remove(&name);
            }
        }
    }

    fn reserve(&mut self, generation: u64) {
        if generation <= self.reserved {
            return;
        }
        match self.store.reserve(generation + RESERVED_GENERATIONS) {
            Ok(()) => self.reserved = generation + RESERVED_GENERATIONS,
            // The verdict matters more than the number: packets follow it now.
            Err(error) => tracing::error!(%error, "generations could not be reserved"),
        }
    }
}

/// Seconds of the Unix clock.
fn now_unix() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// What should be installed of a service at `now_unix` seconds. Pure; see [`active`].
pub fn target_service(
    service: &Service,
    now_unix: u64,
    next_hop: impl Fn(IpAddr) -> Option<NextHop>,
) -> TargetService {
    let backends = service.backends.iter().zip(active(service, now_unix));
    let backends = backends.map(|((at, backend), active)| TargetBackend {
        address: address::to_map(at.ip()),
        port: Port::new(at.port()),
        server_id: backend.server_id,
        weight: backend.weight,
        share: active.share,
        max_connections: backend.max_connections,
        state: active.state,
        resets: backend.draining.is_some_and(|drain| drain.on_deadline == OnDeadline::Reset),
        next_hop: next_hop(at.ip()),
    });
    TargetService {
        key: address::service_key(service),
        last_port: if service.is_wide() { service.ports.last } else { 0 },
        settings: settings(service),
        fragments: service.fragments,
        answer_arp: service.answer_arp,
        answer_echo: service.answer_echo,
        backends: backends.collect(),
    }
}

fn settings(service: &Service) -> ServiceSettings {
    let (quic, quic_config, quic_server_id_len) = match service.quic {
        None => (QuicScheme::None, 0, 0),
        Some(Quic::QuicLb { config_id, server_id_length }) => {
            (QuicScheme::QuicLb, config_id, server_id_length)
        }
        Some(Quic::KatranV1) => (QuicScheme::KatranV1, 0, 2),
        Some(Quic::KatranV2) => (QuicScheme::KatranV2, 0, 3),
    };
    ServiceSettings {
        algorithm: service.algorithm,
        client_bits: Network { address: service.address.address, bits: service.client_prefix }.mapped_bits(),
        affinity_seconds: service.affinity_seconds,
        by_address: service.fragments == FragmentPolicy::ByAddress,
        mss: service.mss.unwrap_or(0),
        quic,
        quic_server_id_len,
        quic_config,
        ..ServiceSettings::new(service.mode, service.tracking, service.flow_idle_seconds)
    }
}

#[cfg(test)]
mod tests;
