//! Takes changes into the picture. Pure.

use std::sync::Arc;

use lb_common::{
    Address, Backend, BackendId, BackendState, Mode, NextHop, Service, ServiceKey, Slot, Tracking,
};

use super::{Installed, InstalledService};
use crate::datapath::Change;

impl Installed {
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
                self.note_state(*id, BackendState::from_word(backend.state));
                self.free_backends.take(id.0);
                self.free_services.take(backend.service);
                self.by_service.entry(backend.service).or_default().insert(*id);
                if let Some(service) = self.service_by_id(backend.service) {
                    service.backends.insert((backend.address, backend.port), *id);
                }
            }
            Change::SetBackendState(id, state) => {
                self.backend_mut(*id, |backend| backend.state = state.word());
                self.note_state(*id, *state);
            }
            Change::SetShare(id, weight, max_connections) => self.backend_mut(*id, |backend| {
                (backend.weight, backend.max_connections) = (*weight, *max_connections);
            }),
            Change::SetNextHop(id, hop) => {
                self.backend_mut(*id, |backend| backend.next_hop = hop.map_or(0, NextHop::word))
            }
            Change::FreeBackend(id) => {
                self.drained.remove(id);
                self.draining.remove(id);
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

    fn backend_mut(&mut self, id: BackendId, change: impl FnOnce(&mut Backend)) {
        if let Some(backend) = self.backends.get_mut(&id) {
            change(backend);
        }
    }

    fn note_state(&mut self, id: BackendId, state: BackendState) {
        match state {
            BackendState::Draining => self.draining.insert(id),
            BackendState::Up | BackendState::Down | BackendState::Cut => self.draining.remove(&id),
        };
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
    fn write_slots(&mut self, start: u32, slots: &Arc<Vec<Slot>>) {
        let Some(&key) = self.keys_by_start.get(&start) else { return };
        self.note_slots(key, slots.clone());
    }

    pub(super) fn note_slots(&mut self, key: ServiceKey, slots: Arc<Vec<Slot>>) {
        let Some(service) = self.services.get_mut(&key) else { return };
        if Arc::ptr_eq(&service.slots, &slots) {
            return;
        }
        service.set_slots(slots);
        if service.is_settled() {
            self.unsettled.remove(&key);
        } else {
            self.unsettled.insert(key);
        }
    }

    pub(super) fn put_service(&mut self, key: ServiceKey, entry: Service, now_seconds: u32) {
        self.keys_by_id.insert(entry.id, key);
        self.free_services.take(entry.id);
        self.translating += usize::from(entry.mode() == Mode::FullNat);
        match entry.tracking() {
            Tracking::EveryFlow => self.tracking.insert(key),
            Tracking::OnChange | Tracking::Connectionless => self.tracking.remove(&key),
        };
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
            let service = InstalledService::new(entry, backends.collect());
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
        self.tracking.remove(key);
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
