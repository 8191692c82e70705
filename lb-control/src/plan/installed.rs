//! The controller's picture of what is installed: read from the maps, then kept by recording every
//! change. The controller is the maps' only writer, so the picture is exact.

use std::collections::{BTreeMap, BTreeSet};

use lb_common::{
    Address, Backend, BackendId, BackendState, Features, Interface, NextHop, Port, QuicKey, Reply, Service,
    ServiceKey, Settings, Slot, VirtualAddress, Wide, WideKey,
};

use crate::{
    datapath::{Capacity, Change, Contents},
    maglev::Candidate,
    regions::Regions,
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
    keys_by_id: BTreeMap<u32, ServiceKey>,
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
            keys_by_id: BTreeMap::new(),
            capacity,
        };
        for (key, entry, slots) in contents.services {
            anyhow::ensure!(
                installed.regions.claim(entry.slots_start, entry.slots()),
                "the slots of service {} overlap another's or lie outside of the array",
                entry.id
            );
            installed.keys_by_id.insert(entry.id, key);
            let backends = installed
                .backends
                .iter()
                .filter(|(_, backend)| backend.service == entry.id)
                .map(|(&id, backend)| ((backend.address, backend.port), id))
                .collect();
            let service = InstalledService { entry, slots, backends, built: None };
            installed.services.insert(key, service);
        }
        Ok(installed)
    }

    /// Takes a change into the picture.
    pub fn record(&mut self, change: &Change, now_seconds: u32) {
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
                if let Some(backend) = self.backends.remove(id)
                    && let Some(service) = self.service_by_id(backend.service)
                {
                    service.backends.retain(|_, other| other != id);
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
                if let Some(service) = self.services.remove(key) {
                    self.keys_by_id.remove(&service.entry.id);
                    self.regions.release(service.entry.slots_start, service.entry.slots(), now_seconds);
                }
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
        if let Some(service) = self.services.get_mut(&key) {
            service.slots = slots;
            service.built = Some(built);
        }
    }

    /// A service number that is not in use.
    pub fn free_service_id(&self) -> Option<u32> {
        // A deleted service's backends keep its number until they are freed.
        let taken: BTreeSet<u32> = self
            .keys_by_id
            .keys()
            .copied()
            .chain(self.backends.values().map(|backend| backend.service))
            .collect();
        first_gap(taken.into_iter(), 0).filter(|&id| id < self.capacity.services)
    }

    /// A backend id that is not in use; id 0 names nobody.
    pub fn free_backend_id(&self) -> Option<BackendId> {
        first_gap(self.backends.keys().map(|id| id.0), 1)
            .filter(|&id| id < self.capacity.backends)
            .map(BackendId)
    }

    /// Whether flows of `id` are still sent to it.
    pub fn serves(&self, id: BackendId) -> bool {
        self.backends
            .get(&id)
            .is_some_and(|backend| BackendState::from_word(backend.state) != BackendState::Down)
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

    /// Slots of a region that no service points at yet are noted when the service is.
    fn write_slots(&mut self, start: u32, slots: &[Slot]) {
        let end = start + slots.len() as u32;
        let owner = self.services.values_mut().find(|service| {
            service.entry.slots_start <= start && end <= service.entry.slots_start + service.entry.slots()
        });
        if let Some(service) = owner {
            let from = (start - service.entry.slots_start) as usize;
            service.slots[from..from + slots.len()].copy_from_slice(slots);
        }
    }

    fn put_service(&mut self, key: ServiceKey, entry: Service, now_seconds: u32) {
        self.keys_by_id.insert(entry.id, key);
        if let Some(service) = self.services.get_mut(&key) {
            let old = std::mem::replace(&mut service.entry, entry);
            if old.slots_start != entry.slots_start {
                self.regions.release(old.slots_start, old.slots(), now_seconds);
            }
            return;
        }
        let backends = self
            .backends
            .iter()
            .filter(|(_, backend)| backend.service == entry.id)
            .map(|(&id, backend)| ((backend.address, backend.port), id))
            .collect();
        self.services.insert(key, InstalledService { entry, slots: Vec::new(), backends, built: None });
    }
}

/// The smallest number from `first` on that an ascending sequence leaves out.
fn first_gap(taken: impl Iterator<Item = u32>, first: u32) -> Option<u32> {
    let mut candidate = first;
    for number in taken {
        if number > candidate {
            break;
        }
        candidate = number.checked_add(1)?;
    }
    Some(candidate)
}
