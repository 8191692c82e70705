//! Random configurations: services of every mode and family, their tables in every state, and what is remembered.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use anyhow::{Context as _, Result};
use lb_common::{BackendId, Features, Flow, FlowState, QuicScheme, Settings, Slot, SlotState, hash::tag};
use lb_control::{
    datapath::{Capacity, Change, Datapath as _, memory::MemoryDatapath},
    engine::Engine,
    target::Target,
};

use super::choose::hash_of;
use super::order::{host, settings, target};
use super::random::Random;
use super::world::{Backend, Service, World, flow_key, ip_addr};

/// Room for slots: every service has the smallest table.
pub const SLOTS: u32 = 16 * 1_024;
/// Room for remembered flows: soon full.
pub const FLOWS: u32 = 128;
/// Room for directions of translated flows.
pub const TRANSLATIONS: u32 = 128;
/// Room for backends.
pub const BACKENDS: u32 = 256;
/// Packets come in by the first interface: the kernel's test runs come from `lo`.
pub const INGRESS: u32 = 1;
/// Its address.
pub const INGRESS_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
/// The balancer's own addresses.
pub const LOCALS: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 1))];

/// A configuration as it is installed, and tuples that packets should have.
pub struct Scene {
    /// What the oracle knows.
    pub world: World,
    /// The tables that it stands in.
    pub host: Engine<MemoryDatapath>,
    /// Tuples of clients: address, port, and the index of the service.
    pub tuples: Vec<(IpAddr, u16, usize)>,
}

/// An address of a client, a backend or a virtual one by its number.
pub fn client(v6: bool, number: u16) -> IpAddr {
    host(v6, 0xc, 18, number)
}

impl Scene {
    /// A configuration from a seed, at a second of the monotonic clock.
    pub fn new(random: &mut Random, now: u32) -> Result<Self> {
        let capacity = Capacity {
            slots: SLOTS,
            flows: FLOWS,
            translations: TRANSLATIONS,
            backends: BACKENDS,
            services: lb_common::limits::SERVICES,
        };
        let settings = settings(random);
        let mut tables = Engine::adopt(MemoryDatapath::new(capacity, settings.hash_keys))?;
        let target = target(random, settings);
        let applied = tables.apply(&target, now)?;
        anyhow::ensure!(applied.shortages.is_empty(), "{:?}", applied.shortages);
        tables.datapath_mut().features = Features::ALL;
        tables.datapath().now_seconds.set(now);
        let mut scene = Self { world: World::default(), host: tables, tuples: Vec::new() };
        scene.world = scene.known(&target, settings, now)?;
        scene.unsettle(random)?;
        scene.choose_tuples(random);
        scene.remember(random);
        Ok(scene)
    }

    fn known(&self, target: &Target, settings: Settings, now: u32) -> Result<World> {
        let installed = self.host.installed();
        let mut world = World {
            ingress: INGRESS,
            now,
            settings,
            backend_ids: BACKENDS,
            interfaces: target.interfaces.iter().copied().collect(),
            locals: LOCALS.to_vec(),
            pool: target.pool.iter().copied().map(ip_addr).collect(),
            flows_max: FLOWS as usize,
            translations_max: TRANSLATIONS as usize,
            ..World::default()
        };
        for (index, wanted) in target.services.iter().enumerate() {
            let known = installed.services.get(&wanted.key).context("a service was not installed")?;
            let key = wanted.key;
            if key.width == 0 {
                world.exact.insert((ip_addr(key.address), key.port.number(), key.protocol), index);
            }
            for backend in &wanted.backends {
                let id = known.backends.get(&(backend.address, backend.port)).context("no id")?;
                let entry = Backend {
                    address: ip_addr(backend.address),
                    port: backend.port.number(),
                    service: known.entry.id,
                    state: backend.state,
                    next_hop: backend.next_hop,
                };
                world.backends.insert(id.0, entry);
                if let Some(server) = backend.server_id
                    && wanted.settings.quic != QuicScheme::None
                {
                    world.quic_servers.insert((known.entry.id, server), id.0);
                }
            }
            world.services.push(Service {
                key,
                last_port: wanted.last_port,
                id: known.entry.id,
                settings: wanted.settings,
                slots: known.slots.to_vec(),
                fragments: wanted.fragments,
                answers_arp: wanted.answer_arp,
                answers_echo: wanted.answer_echo,
            });
        }
        Ok(world)
    }

    /// Puts every slot into some state.
    fn unsettle(&mut self, random: &mut Random) -> Result<()> {
        let now = self.world.now;
        let all: Vec<u32> = sorted(self.world.backends.keys().copied());
        for index in 0..self.world.services.len() {
            let id = self.world.services[index].id;
            let own = |world: &World| -> Vec<u32> {
                sorted(world.backends.iter().filter(|(_, entry)| entry.service == id).map(|(&id, _)| id))
            };
            let own = own(&self.world);
            let calm = random.one_in(4);
            let mut slots = self.world.services[index].slots.clone();
            for slot in &mut slots {
                if calm {
                    continue;
                }
                let of = |random: &mut Random, beyond: u32| match random.below(12) {
                    0 => 0,
                    1 => beyond,
                    _ if own.is_empty() => 0,
                    _ => *random.pick(&own),
                };
                let current = of(random, 0xf_ffff);
                let previous = if all.is_empty() { 0 } else { *random.pick(&all) };
                let previous = if random.one_in(4) { previous } else { of(random, 0xf_fffe) };
                let state = *random.pick(&[SlotState::Settled, SlotState::Moving, SlotState::Pinned]);
                let ago = *random.pick(&[0, 1, 2, 3, 4, 5, 30, 400]);
                *slot = Slot::new(BackendId(current), BackendId(previous), state, now.wrapping_sub(ago));
            }
            let start = self.host.installed().services[&self.world.services[index].key].entry.slots_start;
            self.host.datapath_mut().apply(&Change::WriteSlots(start, Arc::new(slots.clone())))?;
            self.world.services[index].slots = slots;
        }
        Ok(())
    }

    fn choose_tuples(&mut self, random: &mut Random) {
        for _ in 0..200 {
            let index = random.below(self.world.services.len());
            let service = &self.world.services[index];
            let v6 = !service.key.address.is_ipv4();
            let own: BTreeMap<u32, IpAddr> = self
                .world
                .backends
                .iter()
                .filter(|(_, entry)| entry.service == service.id && entry.address.is_ipv6() == v6)
                .map(|(&id, entry)| (id, entry.address))
                .collect();
            let own: Vec<IpAddr> = own.into_values().collect();
            // A backend may be a client of its own service.
            let source = match random.below(12) {
                0 if !own.is_empty() => *random.pick(&own),
                _ => client(v6, random.between(1, 400) as u16),
            };
            self.tuples.push((source, random.between(1_024, 65_535) as u16, index));
        }
    }

    /// The tuple as the flow table has it.
    pub fn key(&self, tuple: (IpAddr, u16, usize)) -> lb_common::FlowKey {
        let service = &self.world.services[tuple.2];
        let vip = ip_addr(service.key.address);
        if service.settings.by_address {
            return flow_key(tuple.0, 0, vip, 0, service.key.protocol);
        }
        flow_key(tuple.0, tuple.1, vip, service.key.port.number(), service.key.protocol)
    }

    fn remember(&mut self, random: &mut Random) {
        let count = *random.pick(&[0, 20, FLOWS as usize - 3, FLOWS as usize]);
        let ids: Vec<u32> = sorted(self.world.backends.keys().copied());
        for tuple in self.tuples.clone() {
            if self.world.flows.len() >= count || ids.is_empty() {
                break;
            }
            let key = self.key(tuple);
            let service = &self.world.services[tuple.2];
            let own: Vec<u32> =
                ids.iter().copied().filter(|id| self.world.backends[id].service == service.id).collect();
            let backend =
                if own.is_empty() || random.one_in(8) { *random.pick(&ids) } else { *random.pick(&own) };
            let own_tag = tag(hash_of(&self.world, service, &key));
            let flow_tag = if random.one_in(12) { !own_tag } else { own_tag };
            let state = *random.pick(&[
                FlowState::Opening,
                FlowState::Established,
                FlowState::Established,
                FlowState::Closing,
                FlowState::Reset,
            ]);
            let idle = service.settings.flow_idle_seconds;
            let ago = *random.pick(&[0, 0, 1, 5, 9, 10, 11, 59, 60, 61, 119, 121, idle, idle + 1, idle + 50]);
            let seen = self.world.now.wrapping_sub(ago);
            self.world.flows.insert(key, Flow::new(BackendId(backend), flow_tag, seen, state));
        }
        *self.host.datapath().flows.borrow_mut() = self.world.flows.clone();
    }
}

/// Maps have no order; seeds must.
fn sorted(numbers: impl Iterator<Item = u32>) -> Vec<u32> {
    let mut numbers: Vec<u32> = numbers.collect();
    numbers.sort_unstable();
    numbers
}
