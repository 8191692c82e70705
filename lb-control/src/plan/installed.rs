//! The controller's picture of what is installed: read from the maps, then kept by recording every
//! change. The controller is the maps' only writer, so the picture is exact.

mod record;
mod service;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use lb_common::{
    Address, Backend, BackendId, BackendState, Features, Interface, QuicKey, Reply, ServiceKey, Settings,
    Slot, VirtualAddress, Wide, WideKey,
};

pub use self::service::{BuiltFor, InstalledService};
use super::numbers::Numbers;
use crate::{
    datapath::{Capacity, Contents},
    regions::Regions,
    target::{Shared, Target, TargetBackend, TargetService},
};

/// Everything that stands in the maps but flows and counters.
#[derive(Clone, Debug)]
pub struct Installed {
    /// By the key that clients use.
    pub services: BTreeMap<ServiceKey, InstalledService>,
    /// Entries in use, those of retired backends included.
    pub backends: BTreeMap<BackendId, Backend>,
    /// Sources of replies.
    pub replies: BTreeMap<ServiceKey, Reply>,
    /// Egress interfaces by index.
    pub interfaces: BTreeMap<u16, Interface>,
    /// The balancer's own addresses.
    pub locals: BTreeSet<Address>,
    /// Virtual addresses.
    pub virtual_addresses: BTreeMap<Address, VirtualAddress>,
    /// What the program does.
    pub features: Features,
    /// Settings of the program as a whole.
    pub settings: Settings,
    /// Addresses of `full-nat` by index.
    pub pool: BTreeMap<u32, Address>,
    /// Services of several ports or addresses, by network and the bits of its prefix.
    pub wide: BTreeMap<(WideKey, u8), Wide>,
    /// Backends by the server ids of their services.
    pub quic_servers: BTreeMap<QuicKey, BackendId>,
    /// Backends that were drained and have no flow left: nothing is sent to them while their drain is ordered.
    pub drained: BTreeSet<BackendId>,
    /// What is free of the slot array.
    pub regions: Regions,
    /// What was planned last, wholly but for what is [`Self::touched`]: what is still the same needs no look.
    pub planned: Vec<Shared<TargetService>>,
    /// Services that are not as they were planned: something changed since, or did not fit.
    pub touched: BTreeSet<ServiceKey>,
    /// The pool that virtual addresses were planned for, where nothing was left out.
    planned_pool: Option<Vec<Address>>,
    keys_by_id: BTreeMap<u32, ServiceKey>,
    /// By the first slot of a region.
    keys_by_start: BTreeMap<u32, ServiceKey>,
    /// By service number, those of retired backends included.
    by_service: BTreeMap<u32, BTreeSet<BackendId>>,
    /// Backends that nobody wants any more and that are not freed yet.
    retired: BTreeSet<BackendId>,
    /// Services with slots that have not settled.
    unsettled: BTreeSet<ServiceKey>,
    /// Services whose flows are translated.
    translating: usize,
    /// Services that track every flow.
    tracking: BTreeSet<ServiceKey>,
    /// Backends that get no new flows.
    draining: BTreeSet<BackendId>,
    free_services: Numbers,
    free_backends: Numbers,
    capacity: Capacity,
}

impl Installed {
    /// The picture of `contents`. Regions that overlap are a defect of the writer and refused.
    pub fn adopt(contents: Contents, capacity: Capacity) -> anyhow::Result<Self> {
        let mut installed = Self {
            services: BTreeMap::new(),
            backends: contents.backends.into_iter().collect(),
            replies: contents.replies.into_iter().collect(),
            interfaces: contents.interfaces.into_iter().collect(),
            locals: contents.locals.into_iter().collect(),
            virtual_addresses: contents.virtual_addresses.into_iter().collect(),
            features: contents.features,
            settings: contents.settings,
            pool: contents.pool.into_iter().collect(),
            wide: contents.wide.into_iter().map(|(key, bits, wide)| ((key, bits), wide)).collect(),
            quic_servers: contents.quic_servers.into_iter().collect(),
            drained: BTreeSet::new(),
            regions: Regions::new(capacity.slots),
            planned: Vec::new(),
            touched: BTreeSet::new(),
            planned_pool: None,
            keys_by_id: BTreeMap::new(),
            keys_by_start: BTreeMap::new(),
            by_service: BTreeMap::new(),
            retired: BTreeSet::new(),
            unsettled: BTreeSet::new(),
            translating: 0,
            tracking: BTreeSet::new(),
            draining: BTreeSet::new(),
            free_services: Numbers::new(0, capacity.services),
            // Id 0 names nobody.
            free_backends: Numbers::new(1, capacity.backends),
            capacity,
        };
        for (&id, backend) in &installed.backends {
            installed.by_service.entry(backend.service).or_default().insert(id);
            installed.free_backends.take(id.0);
            // A deleted service's backends keep its number until they are freed.
            installed.free_services.take(backend.service);
            match BackendState::from_word(backend.state) {
                BackendState::Draining => _ = installed.draining.insert(id),
                // It has no flow. Where its drain is ordered, that is over.
                BackendState::Down => _ = installed.drained.insert(id),
                BackendState::Up | BackendState::Cut => {}
            }
        }
        // Of services that are gone; after a take-over nothing is known of what is desired of others.
        let known: BTreeSet<u32> = contents.services.iter().map(|(_, entry, _)| entry.id).collect();
        let orphans = installed.backends.iter().filter(|(_, backend)| !known.contains(&backend.service));
        installed.retired = orphans.map(|(&id, _)| id).collect();
        for (key, entry, slots) in contents.services {
            anyhow::ensure!(
                installed.regions.claim(entry.slots_start, entry.slots()),
                "the slots of service {} overlap another's or lie outside of the array",
                entry.id
            );
            installed.put_service(key, entry, 0);
            installed.note_slots(key, slots.into());
        }
        Ok(installed)
    }

    /// Notes what a service's table was built for.
    pub fn note_table(&mut self, key: ServiceKey, slots: Arc<Vec<Slot>>, built: BuiltFor) {
        self.note_slots(key, slots);
        let Some(service) = self.services.get_mut(&key) else { return };
        for &id in service.backends.values() {
            if built.wanted.contains(&id) {
                self.retired.remove(&id);
            } else {
                self.retired.insert(id);
            }
        }
        service.built = Some(built);
    }

    /// Notes that all of `target` was planned but `left_out`.
    pub fn note_planned(&mut self, target: &Target, left_out: BTreeSet<ServiceKey>, is_whole: bool) {
        self.planned.clone_from(&target.services);
        self.touched = left_out;
        self.planned_pool = is_whole.then(|| target.pool.clone());
    }

    /// Has everything planned anew.
    pub fn forget_planned(&mut self) {
        self.planned.clear();
        self.planned_pool = None;
    }

    /// Whether virtual addresses were planned wholly, and for this pool.
    pub fn addresses_are_planned(&self, pool: &[Address]) -> bool {
        self.planned_pool.as_deref() == Some(pool)
    }

    /// Notes that a backend that drains has no flow left: nothing is to be sent to it from the next plan on.
    pub fn note_drained(&mut self, id: BackendId) {
        self.drained.insert(id);
        if let Some((key, _)) = self.backends.get(&id).and_then(|backend| self.service_of(backend.service)) {
            self.touched.insert(key);
        }
    }

    /// A service number that is not in use.
    pub fn free_service_id(&mut self) -> Option<u32> {
        self.free_services.first()
    }

    /// A backend id that is not in use; id 0 names nobody.
    pub fn free_backend_id(&mut self) -> Option<BackendId> {
        self.free_backends.first().map(BackendId)
    }

    /// Backends that nobody wants any more and that are not freed yet.
    pub fn retired(&self) -> &BTreeSet<BackendId> {
        &self.retired
    }

    /// Services with slots that have not settled.
    pub fn unsettled(&self) -> &BTreeSet<ServiceKey> {
        &self.unsettled
    }

    /// Services that track every flow.
    pub fn tracking(&self) -> &BTreeSet<ServiceKey> {
        &self.tracking
    }

    /// Backends that get no new flows.
    pub fn draining(&self) -> &BTreeSet<BackendId> {
        &self.draining
    }

    /// Whether there are services whose flows are translated.
    pub fn translates(&self) -> bool {
        self.translating > 0
    }

    /// Whether flows of `id` are still sent to it.
    pub fn serves(&self, id: BackendId) -> bool {
        self.backends
            .get(&id)
            .is_some_and(|backend| BackendState::from_word(backend.state) != BackendState::Down)
    }

    /// What is to be sent to a backend: nothing, where its drain is over before its time.
    pub fn state_of(&self, id: BackendId, target: &TargetBackend) -> BackendState {
        let drained = target.state == BackendState::Draining && self.drained.contains(&id);
        if drained { BackendState::Down } else { target.state }
    }

    /// The service that a number is given to.
    pub fn service_of(&self, number: u32) -> Option<(ServiceKey, &InstalledService)> {
        let key = self.keys_by_id.get(&number)?;
        Some((*key, self.services.get(key)?))
    }

    /// How large the tables are.
    pub fn capacity(&self) -> Capacity {
        self.capacity
    }
}
