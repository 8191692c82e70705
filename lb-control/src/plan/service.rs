//! A service and its backends, in the order in which they are needed.

use std::collections::BTreeMap;

use lb_common::{
    Address, Backend, BackendId, BackendState, Mode, NextHop, Port, PortRange, QuicKey, QuicScheme, Reply,
    ServiceKey,
};

use super::{Planner, Shortage};
use crate::{
    datapath::Change,
    target::{TargetBackend, TargetService},
};

impl Planner<'_> {
    /// Installs a service, or brings it up to date.
    pub fn service(&mut self, target: &TargetService) -> Result<(), Shortage> {
        let is_new = !self.installed.services.contains_key(&target.key);
        let service_id = match self.installed.services.get(&target.key) {
            Some(service) => service.entry.id,
            None => self.installed.free_service_id().ok_or(Shortage::Services)?,
        };
        // Backends of a service that is not installed yet are known by the ids given out below.
        let mut ids: BTreeMap<(Address, Port), BackendId> = self
            .installed
            .services
            .get(&target.key)
            .map(|service| service.backends.clone())
            .unwrap_or_default();
        let mut shortage = None;
        for backend in &target.backends {
            let known = ids.get(&(backend.address, backend.port)).copied();
            let id = match known {
                Some(id) => {
                    self.known_backend(id, backend);
                    Ok(id)
                }
                None => self.new_backend(service_id, backend),
            };
            match id {
                Ok(id) => {
                    ids.insert((backend.address, backend.port), id);
                    self.reply(target, backend, id);
                }
                Err(error) => shortage = Some(error),
            }
        }
        self.name_quic_servers(target, service_id, &ids);
        let wanted: BTreeMap<BackendId, &TargetBackend> = target
            .backends
            .iter()
            .filter_map(|backend| Some((*ids.get(&(backend.address, backend.port))?, backend)))
            .collect();
        let table = self.table(target, service_id, is_new, &wanted);
        for &id in ids.values() {
            let state =
                wanted.get(&id).map_or(BackendState::Down, |backend| self.installed.state_of(id, backend));
            if is_over(state) {
                self.set_state(id, state);
            }
        }
        table.and(shortage.map_or(Ok(()), Err))
    }

    /// Removes a service; its backends wait until nothing names them.
    pub fn delete_service(&mut self, key: ServiceKey) {
        let service = &self.installed.services[&key];
        let (number, backends) = (service.entry.id, service.backends.values().copied().collect::<Vec<_>>());
        self.change(Change::DeleteService(key));
        self.keep_quic_servers(number, &BTreeMap::new());
        for id in backends {
            self.set_state(id, BackendState::Down);
        }
    }

    fn new_backend(&mut self, service: u32, target: &TargetBackend) -> Result<BackendId, Shortage> {
        let id = self.installed.free_backend_id().ok_or(Shortage::Backends)?;
        let entry = Backend {
            address: target.address,
            next_hop: target.next_hop.map_or(0, NextHop::word),
            service,
            state: target.state.word(),
            port: target.port,
            weight: target.weight as u16,
            max_connections: target.max_connections,
            ..Backend::default()
        };
        self.change(Change::PutBackend(id, entry));
        Ok(id)
    }

    /// Brings what may change of a known backend up to date; what ends its flows waits for the slots.
    fn known_backend(&mut self, id: BackendId, target: &TargetBackend) {
        if target.state != BackendState::Draining {
            self.installed.drained.remove(&id);
        }
        let state = self.installed.state_of(id, target);
        if !is_over(state) {
            self.set_state(id, state);
        }
        let share = (target.weight as u16, target.max_connections);
        let known = &self.installed.backends[&id];
        if (known.weight, known.max_connections) != share {
            self.change(Change::SetShare(id, share.0, share.1));
        }
        // An unresolved neighbour leaves the last known one in place: it is refreshed, not forgotten.
        if let Some(hop) = target.next_hop
            && self.installed.backends[&id].next_hop != hop.word()
        {
            self.change(Change::SetNextHop(id, Some(hop)));
        }
    }

    fn reply(&mut self, target: &TargetService, backend: &TargetBackend, id: BackendId) {
        let key = ServiceKey {
            address: backend.address,
            port: backend.port,
            protocol: target.key.protocol,
            width: 0,
        };
        if target.settings.mode != Mode::Nat {
            // Deleted and made anew in another mode between two plans.
            if self.installed.replies.get(&key).is_some_and(|reply| reply.backend == id.0) {
                self.change(Change::DeleteReply(key));
            }
            return;
        }
        let service = self.installed.backends[&id].service;
        let (vip, mss) = (target.key.address, target.settings.mss);
        let reply = if backend.port == Port::default() {
            let ports = PortRange { first: target.key.port.number(), last: target.last_port };
            Reply::of_range(vip, ports, id, service, mss)
        } else {
            Reply::new(vip, target.key.port, id, service, mss)
        };
        let cut = backend.state == BackendState::Cut;
        let reply = reply.measured(target.settings.measures()).cut(cut);
        if self.installed.replies.get(&key) != Some(&reply) {
            self.change(Change::PutReply(key, reply));
        }
    }

    fn name_quic_servers(
        &mut self,
        target: &TargetService,
        number: u32,
        ids: &BTreeMap<(Address, Port), BackendId>,
    ) {
        let key = |server| QuicKey { service: number, server, ..QuicKey::default() };
        let routed = target.settings.quic != QuicScheme::None;
        let named = target.backends.iter().filter(|_| routed).filter_map(|backend| {
            Some((key(backend.server_id?), *ids.get(&(backend.address, backend.port))?))
        });
        let wanted: BTreeMap<QuicKey, BackendId> = named.collect();
        self.keep_quic_servers(number, &wanted);
        for (key, id) in wanted {
            if self.installed.quic_servers.get(&key) != Some(&id) {
                self.change(Change::PutQuicServer(key, id));
            }
        }
    }

    /// Takes the other names of a service's servers away.
    fn keep_quic_servers(&mut self, number: u32, wanted: &BTreeMap<QuicKey, BackendId>) {
        let first = QuicKey { service: number, ..QuicKey::default() };
        let known = self.installed.quic_servers.range(first..).map(|(key, _)| *key);
        let gone: Vec<QuicKey> =
            known.take_while(|key| key.service == number).filter(|key| !wanted.contains_key(key)).collect();
        for key in gone {
            self.change(Change::DeleteQuicServer(key));
        }
    }
}

/// Whether a backend's flows end.
const fn is_over(state: BackendState) -> bool {
    matches!(state, BackendState::Down | BackendState::Cut)
}
