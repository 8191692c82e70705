//! What a packet sees of tables in memory.

use lb_common::{
    Address, Backend, BackendId, Counters, Features, Flow, FlowKey, FragmentKey, FragmentWay, Interface,
    Load, Mac, Owed, Protocol, QuicKey, Reply, Service, ServiceKey, Settings, Slot, Translation,
    VirtualAddress, Wide, WideKey,
};
use lb_ebpf::{
    tables::{NotAdded, Refused, Route, RouteQuery, Tables, Tally},
    track::choose::{Chosen, Terms, choose},
};

use super::MemoryDatapath;

/// Where a flow stands.
#[derive(Clone, Copy)]
pub enum Place {
    /// Among the remembered flows.
    Flow(FlowKey),
    /// Among the translated ones.
    Translation(FlowKey),
}

/// One packet's view of the tables.
impl Tables for MemoryDatapath {
    type Place = Place;

    fn launder(&self, word: u64) -> u64 {
        word
    }

    fn features(&self) -> Features {
        self.features
    }

    fn ingress_ifindex(&self) -> u32 {
        1
    }

    fn now_seconds(&self) -> u32 {
        self.now_seconds.get()
    }

    fn now_micros(&self) -> u64 {
        u64::from(self.now_seconds.get()) * 1_000_000 + self.micros.get()
    }

    fn random(&self) -> u32 {
        let random = self.random.get();
        self.random.set(random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223));
        random
    }

    fn settings(&self) -> Option<&Settings> {
        Some(&self.settings)
    }

    fn wide(&self, protocol: Protocol, address: &Address) -> Option<&Wide> {
        (0..=128).rev().find_map(|bits| {
            let network = address.network(bits);
            self.wide.get(&(WideKey::new(protocol as u8, network), bits))
        })
    }

    fn service(&self, key: &ServiceKey) -> Option<&Service> {
        self.services.get(key)
    }

    fn slot(&self, index: u32) -> Option<Slot> {
        self.slots.get(index as usize).copied()
    }

    fn backend(&self, id: BackendId) -> Option<&Backend> {
        self.backends.get(id.0 as usize)
    }

    fn reply(&self, source: &ServiceKey) -> Option<&Reply> {
        self.replies.get(source)
    }

    fn is_local(&self, address: &Address) -> bool {
        self.locals.contains(address)
    }

    fn virtual_address(&self, address: &Address) -> Option<VirtualAddress> {
        self.virtual_addresses.get(address).copied()
    }

    fn interface(&self, index: u16) -> Option<Interface> {
        self.interfaces.get(&index).copied()
    }

    fn flow(&self, key: &FlowKey) -> Option<(Flow, Place)> {
        self.flows.borrow().get(key).map(|&flow| (flow, Place::Flow(*key)))
    }

    fn remember(&self, key: &FlowKey, flow: Flow) -> Result<(), Refused> {
        let mut flows = self.flows.borrow_mut();
        if flows.len() >= self.capacity.flows as usize && !flows.contains_key(key) {
            return Err(Refused);
        }
        flows.insert(*key, flow);
        Ok(())
    }

    fn refresh(&self, place: Place, seen: Flow, flow: Flow) -> bool {
        let exchange = |known: &mut Flow| {
            let same = *known == seen;
            if same {
                *known = flow;
            }
            same
        };
        match place {
            Place::Flow(key) => self.flows.borrow_mut().get_mut(&key).is_some_and(exchange),
            Place::Translation(key) => {
                let mut translations = self.translations.borrow_mut();
                translations.get_mut(&key).is_some_and(|known| exchange(&mut known.flow))
            }
        }
    }

    fn load(&self, id: BackendId) -> Option<Load> {
        Some(self.loads.borrow().get(&id).copied().unwrap_or_default())
    }

    fn count_connection(&self, id: BackendId, more: bool) {
        let mut loads = self.loads.borrow_mut();
        let load = loads.entry(id).or_default();
        load.connections =
            if more { load.connections.wrapping_add(1) } else { load.connections.wrapping_sub(1) };
    }

    fn note_response(&self, id: BackendId, response: u64) {
        self.loads.borrow_mut().entry(id).or_default().response = response;
    }

    fn hand_over(&self, word: u64) {
        self.handed_over.set(word);
    }

    fn handed_over(&self) -> u64 {
        self.handed_over.get()
    }

    fn choose(&self, terms: Terms, hash: u64, full: bool) -> Chosen {
        choose(self, terms, hash, full)
    }

    fn next_turn(&self, service: u32) -> u32 {
        let mut turns = self.turns.borrow_mut();
        let turn = turns.entry(service).or_default();
        *turn += 1;
        *turn - 1
    }

    fn translation(&self, key: &FlowKey) -> Option<(Translation, Place)> {
        self.translations.borrow().get(key).map(|&translation| (translation, Place::Translation(*key)))
    }

    fn add_translation(&self, key: &FlowKey, translation: &Translation) -> Result<(), NotAdded> {
        let mut translations = self.translations.borrow_mut();
        if translations.contains_key(key) {
            return Err(NotAdded::Taken);
        }
        if translations.len() >= self.capacity.translations as usize {
            return Err(NotAdded::Full);
        }
        translations.insert(*key, *translation);
        Ok(())
    }

    fn remove_translation(&self, key: &FlowKey) {
        self.translations.borrow_mut().remove(key);
    }

    fn pool_address(&self, index: u32) -> Option<Address> {
        self.pool.get(index as usize).copied()
    }

    fn fragment_way(&self, key: &FragmentKey) -> Option<FragmentWay> {
        self.fragments.borrow().get(key).copied()
    }

    fn remember_fragment(&self, key: &FragmentKey, way: &FragmentWay) {
        self.fragments.borrow_mut().insert(*key, *way);
    }

    fn quic_server(&self, key: &QuicKey) -> Option<BackendId> {
        self.quic_servers.get(key).copied()
    }

    fn may_answer(&self, owed: Owed) -> bool {
        let mut answers = self.answers.get();
        let may = answers.count(owed, self.now_seconds.get(), self.settings.answers_per_second);
        self.answers.set(answers);
        may
    }

    /// There are no routes in memory: backends have next hops, and clients are neighbours of all.
    fn route(&self, _: &RouteQuery) -> Route {
        Route::Found {
            ifindex: 1,
            source: Mac::new([2, 0, 0, 0, 0, 1]),
            destination: Mac::new([2, 0, 0, 0, 0, 2]),
        }
    }

    fn count(&self, service: u32, backend: BackendId, tally: Tally) {
        let add = |counters: &mut Counters| {
            counters.packets += 1;
            counters.bytes += tally.bytes;
            counters.new_flows += tally.new_flow as u64;
            counters.refused_flows += tally.refused as u64;
            counters.overflowed += tally.overflowed as u64;
        };
        add(self.service_counters.borrow_mut().entry(service).or_default());
        add(self.backend_counters.borrow_mut().entry(backend).or_default());
    }
}
