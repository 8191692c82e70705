//! The controller's picture of what is installed: read from the maps, then kept by recording every
//! change. The controller is the maps' only writer, so the picture is exact.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::OnceLock,
};

use lb_common::{
    Address, Backend, BackendId, BackendState, Features, Interface, Mode, NextHop, Port, QuicKey, Reply,
    Service, ServiceKey, Settings, Slot, SlotState, VirtualAddress, Wide, WideKey,
};

use super::numbers::Numbers;
use crate::{
    datapath::{Capacity, Change, Contents},
    maglev::Candidate,
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
    free_services: Numbers,
    free_backends: Numbers,
    capacity: Capacity,
}

/// One service.
#[derive(Clone, Debug)]
pub struct InstalledService {
    /// As it stands in the map.
    pub entry: Service,
    /// Its region.
    pub slots: Vec<Slot>,
    /// Ids by (address, port), those of retired backends included until they are freed.
    pub backends: BTreeMap<(Address, Port), BackendId>,
    /// What the slots were last computed from; unknown after a take-over.
    pub built: Option<BuiltFor>,
    /// Counted when asked for, until a slot changes.
    shares: OnceLock<Shares>,
}

/// Slots by state and backend.
#[derive(Clone, Debug, Default)]
pub struct Shares {
    /// See [`SlotState::Settled`].
    pub settled: u32,
    /// See [`SlotState::Moving`].
    pub moving: u32,
    /// See [`SlotState::Pinned`].
    pub pinned: u32,
    by_backend: HashMap<BackendId, Share>,
}

/// Slots of one backend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Share {
    /// It owns them.
    pub owned: u32,
    /// They have not settled and name it as `current` or `previous`.
    pub unsettled: u32,
}

impl InstalledService {
    /// Its slots by state and backend.
    pub fn shares(&self) -> &Shares {
        self.shares.get_or_init(|| Shares::of(&self.slots))
    }
}

impl Shares {
    /// The part of one backend.
    pub fn of_backend(&self, id: BackendId) -> Share {
        self.by_backend.get(&id).copied().unwrap_or_default()
    }

    fn of(slots: &[Slot]) -> Self {
        let mut shares = Self::default();
        for slot in slots {
            let (current, previous) = (slot.current(), slot.previous());
            let unsettled = u32::from(slot.state() != SlotState::Settled);
            match slot.state() {
                SlotState::Settled => shares.settled += 1,
                SlotState::Moving => shares.moving += 1,
                SlotState::Pinned => shares.pinned += 1,
            }
            let owner = shares.by_backend.entry(current).or_default();
            owner.owned += 1;
            owner.unsettled += unsettled;
            if unsettled == 1 && previous != current {
                shares.by_backend.entry(previous).or_default().unsettled += 1;
            }
        }
        shares
    }
}

/// What a service's slots follow from.
#[derive(Clone, Debug, PartialEq)]
pub struct BuiltFor {
    /// Who competes for slots.
    pub candidates: Vec<Candidate>,
    /// Whose flows are still sent to them.
    pub serving: BTreeSet<BackendId>,
    /// All backends that are desired, those that are down included.
    pub wanted: BTreeSet<BackendId>,
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
            installed.note_slots(key, slots);
        }
        Ok(installed)
    }

    /// Takes a change into the picture.
    pub fn record(&mut self, change: &Change, now_seconds: u32) {
        self.touch(change);
        match change {
            Change::Enable(features) => self.features = *features,
            Change::PutSettings(settings) => self.settings = *settings,
            Change::PutPool(index, address) if *address == Address::default() => {
                self.pool.remove(index);
            }
            Change::PutPool(index, address) => {
                self.pool.insert(*index, *address);
            }
            Change::PutWide(key, bits, wide) => {
                self.wide.insert((*key, *bits), *wide);
            }
            Change::DeleteWide(key, bits) => {
                self.wide.remove(&(*key, *bits));
            }
            Change::PutQuicServer(key, id) => {
                self.quic_servers.insert(*key, *id);
            }
            Change::DeleteQuicServer(key) => {
                self.quic_servers.remove(key);
            }
            Change::PutInterface(index, interface) => {
                self.interfaces.insert(*index, *interface);
            }
            Change::DeleteInterface(index) => {
                self.interfaces.remove(index);
            }
            Change::PutLocal(address) => {
                self.locals.insert(*address);
            }
            Change::DeleteLocal(address) => {
                self.locals.remove(address);
            }
            Change::PutBackend(id, backend) => {
                self.backends.insert(*id, *backend);
                self.free_backends.take(id.0);
                self.free_services.take(backend.service);
                self.by_service.entry(backend.service).or_default().insert(*id);
                if let Some(service) = self.service_by_id(backend.service) {
                    service.backends.insert((backend.address, backend.port), *id);
                }
            }
            Change::SetBackendState(id, state) => {
                self.backend_mut(*id, |backend| backend.state = state.word())
            }
            Change::SetShare(id, weight, max_connections) => self.backend_mut(*id, |backend| {
                (backend.weight, backend.max_connections) = (*weight, *max_connections);
            }),
            Change::SetNextHop(id, hop) => {
                self.backend_mut(*id, |backend| backend.next_hop = hop.map_or(0, NextHop::word))
            }
            Change::FreeBackend(id) => {
                self.drained.remove(id);
                self.retired.remove(id);
                self.free_backends.give_back(id.0);
                if let Some(backend) = self.backends.remove(id) {
                    self.forget_of_service(*id, &backend);
                }
            }
            Change::PutReply(key, reply) => {
                self.replies.insert(*key, *reply);
            }
            Change::DeleteReply(key) => {
                self.replies.remove(key);
            }
            Change::WriteSlots(start, slots) => self.write_slots(*start, slots),
            Change::PutService(key, entry) => self.put_service(*key, *entry, now_seconds),
            Change::DeleteService(key) => {
                self.delete_service(key, now_seconds);
            }
            Change::PutVirtualAddress(address, entry) => {
                self.virtual_addresses.insert(*address, *entry);
            }
            Change::DeleteVirtualAddress(address) => {
                self.virtual_addresses.remove(address);
            }
            Change::DeleteFlows(_) | Change::DeleteTranslations(_) => {}
        }
    }

    /// Notes what a service's table was built for.
    pub fn note_table(&mut self, key: ServiceKey, slots: Vec<Slot>, built: BuiltFor) {
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

    fn backend_mut(&mut self, id: BackendId, change: impl FnOnce(&mut Backend)) {
        if let Some(backend) = self.backends.get_mut(&id) {
            change(backend);
        }
    }

    fn service_by_id(&mut self, id: u32) -> Option<&mut InstalledService> {
        self.services.get_mut(self.keys_by_id.get(&id)?)
    }

    /// The service that a change belongs to is no more as it was planned.
    fn touch(&mut self, change: &Change) {
        let number = match change {
            Change::PutService(key, _) | Change::DeleteService(key) => {
                self.touched.insert(*key);
                return;
            }
            Change::PutBackend(_, backend) => backend.service,
            Change::PutReply(_, reply) => reply.service,
            Change::DeleteReply(key) => match self.replies.get(key) {
                Some(reply) => reply.service,
                None => return,
            },
            Change::PutQuicServer(key, _) | Change::DeleteQuicServer(key) => key.service,
            Change::SetBackendState(id, _)
            | Change::SetShare(id, ..)
            | Change::SetNextHop(id, _)
            | Change::FreeBackend(id) => match self.backends.get(id) {
                Some(backend) => backend.service,
                None => return,
            },
            _ => return,
        };
        if let Some(key) = self.keys_by_id.get(&number) {
            self.touched.insert(*key);
        }
    }

    /// Slots of a region that no service points at yet are noted when the service is.
    fn write_slots(&mut self, start: u32, slots: &[Slot]) {
        let Some((_, &key)) = self.keys_by_start.range(..=start).next_back() else { return };
        let Some(service) = self.services.get_mut(&key) else { return };
        let from = (start - service.entry.slots_start) as usize;
        if let Some(part) = service.slots.get_mut(from..from + slots.len()) {
            part.copy_from_slice(slots);
            self.note_unsettled(key);
        }
    }

    fn note_slots(&mut self, key: ServiceKey, slots: Vec<Slot>) {
        if let Some(service) = self.services.get_mut(&key) {
            service.slots = slots;
            self.note_unsettled(key);
        }
    }

    fn note_unsettled(&mut self, key: ServiceKey) {
        let Some(service) = self.services.get_mut(&key) else { return };
        service.shares = OnceLock::new();
        if service.slots.iter().any(|slot| slot.state() != SlotState::Settled) {
            self.unsettled.insert(key);
        } else {
            self.unsettled.remove(&key);
        }
    }

    fn put_service(&mut self, key: ServiceKey, entry: Service, now_seconds: u32) {
        self.keys_by_id.insert(entry.id, key);
        self.free_services.take(entry.id);
        self.translating += usize::from(entry.mode() == Mode::FullNat);
        if let Some(service) = self.services.get_mut(&key) {
            let old = std::mem::replace(&mut service.entry, entry);
            self.translating -= usize::from(old.mode() == Mode::FullNat);
            if old.slots_start != entry.slots_start {
                self.keys_by_start.remove(&old.slots_start);
                self.regions.release(old.slots_start, old.slots(), now_seconds);
            }
        } else {
            let ids = self.by_service.get(&entry.id).into_iter().flatten();
            let backends = ids.filter_map(|id| {
                let backend = self.backends.get(id)?;
                Some(((backend.address, backend.port), *id))
            });
            let service = InstalledService {
                entry,
                slots: Vec::new(),
                backends: backends.collect(),
                built: None,
                shares: OnceLock::new(),
            };
            self.services.insert(key, service);
        }
        self.keys_by_start.insert(entry.slots_start, key);
    }

    fn delete_service(&mut self, key: &ServiceKey, now_seconds: u32) {
        let Some(service) = self.services.remove(key) else { return };
        let entry = service.entry;
        self.keys_by_id.remove(&entry.id);
        self.keys_by_start.remove(&entry.slots_start);
        self.unsettled.remove(key);
        self.translating -= usize::from(entry.mode() == Mode::FullNat);
        self.regions.release(entry.slots_start, entry.slots(), now_seconds);
        let backends = self.by_service.get(&entry.id);
        self.retired.extend(backends.into_iter().flatten());
        if backends.is_none() {
            self.free_services.give_back(entry.id);
        }
    }

    fn forget_of_service(&mut self, id: BackendId, backend: &Backend) {
        if let Some(ids) = self.by_service.get_mut(&backend.service) {
            ids.remove(&id);
            if ids.is_empty() {
                self.by_service.remove(&backend.service);
            }
        }
        let place = (backend.address, backend.port);
        if let Some(service) = self.service_by_id(backend.service) {
            if service.backends.get(&place) == Some(&id) {
                service.backends.remove(&place);
            }
        } else if !self.by_service.contains_key(&backend.service) {
            self.free_services.give_back(backend.service);
        }
    }
}
