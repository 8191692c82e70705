//! [`Datapath`] over the kernel's maps.

use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context as _, Result};
use aya::maps::{
    Array, HashMap as BpfHashMap, LpmTrie, Map, MapData, MapError, PerCpuArray, PerCpuValues, lpm_trie::Key,
};
use lb_common::{
    Address, Backend, BackendId, Counters, Flow, FlowKey, HashKeys, Interface, Load, NextHop, QuicKey,
    Reason, Reply, Service, ServiceKey, Settings, Slot, Translation, VirtualAddress, Wide, WideKey,
    limits::maps,
};

use super::{BACKEND_WORDS, BpfDatapath, LOAD_WORDS, batch, element, fd};
use crate::datapath::{Capacity, Change, Contents, Datapath, TranslatedFlow};

const NEXT_HOP_WORD: usize = std::mem::offset_of!(Backend, next_hop) / size_of::<u64>();
/// `service` and `state` share this word.
const STATE_WORD: usize = std::mem::offset_of!(Backend, service) / size_of::<u64>();

/// `port`, `weight` and `max_connections` share this word; the port does not change.
const SHARE_WORD: usize = std::mem::offset_of!(Backend, port) / size_of::<u64>();

impl Datapath for BpfDatapath {
    fn apply(&mut self, change: &Change) -> Result<()> {
        match change {
            Change::Enable(features) => self.enable(*features),
            Change::PutSettings(settings) => {
                let mut map: Array<&mut MapData, Settings> = self.map_mut(maps::SETTINGS)?.try_into()?;
                let settings = Settings { hash_keys: map.get(&0, 0)?.hash_keys, ..*settings };
                map.set(0, settings, 0).context("writing SETTINGS")
            }
            Change::PutPool(index, address) => {
                let mut map: Array<&mut MapData, Address> = self.map_mut(maps::POOL)?.try_into()?;
                map.set(*index, *address, 0).context("writing POOL")
            }
            Change::PutWide(key, bits, wide) => {
                let key = Key::new(WideKey::prefix_len(*bits), *key);
                self.wide()?.insert(&key, *wide, 0).context("writing WIDE")
            }
            Change::DeleteWide(key, bits) => {
                absent_is_deleted(self.wide()?.remove(&Key::new(WideKey::prefix_len(*bits), *key)))
                    .context("deleting from WIDE")
            }
            Change::PutQuicServer(key, id) => self.put(maps::QUIC_SERVERS, key, &id.0),
            Change::DeleteQuicServer(key) => self.delete::<_, u32>(maps::QUIC_SERVERS, key),
            Change::PutInterface(index, interface) => self.set_interface(*index, *interface),
            Change::DeleteInterface(index) => self.set_interface(*index, Interface::default()),
            Change::PutLocal(address) => self.put(maps::LOCALS, address, &1u32),
            Change::DeleteLocal(address) => self.delete::<_, u32>(maps::LOCALS, address),
            Change::PutBackend(id, backend) => {
                self.reset_counters(maps::BACKEND_COUNTERS, id.0)?;
                self.reset_load(*id)?;
                self.put_backend(*id, backend)
            }
            Change::SetBackendState(id, state) => {
                // One store: `service` does not change.
                let service = self.backend(id.0).service as u64;
                self.backend_word(*id, STATE_WORD)?
                    .store(service | (state.word() as u64) << 32, Ordering::Release);
                Ok(())
            }
            Change::SetShare(id, weight, max_connections) => {
                let port = self.backend(id.0).port.word() as u64;
                let word = port | (*weight as u64) << 16 | (*max_connections as u64) << 32;
                self.backend_word(*id, SHARE_WORD)?.store(word, Ordering::Release);
                Ok(())
            }
            Change::SetNextHop(id, hop) => {
                self.backend_word(*id, NEXT_HOP_WORD)?.store(hop.map_or(0, NextHop::word), Ordering::Release);
                Ok(())
            }
            Change::FreeBackend(id) => {
                self.put_backend(*id, &Backend::default())?;
                self.reset_load(*id)
            }
            Change::PutReply(key, reply) => self.put(maps::REPLIES, key, reply),
            Change::DeleteReply(key) => self.delete::<_, Reply>(maps::REPLIES, key),
            Change::WriteSlots(start, slots) => {
                self.slots.store(*start as usize, slots.iter().map(|slot| slot.word()))
            }
            Change::PutService(key, service) => {
                let known: BpfHashMap<&mut MapData, ServiceKey, Service> =
                    self.map_mut(maps::SERVICES)?.try_into()?;
                if known.get(key, 0).is_err() {
                    self.reset_counters(maps::SERVICE_COUNTERS, service.id)?;
                }
                self.put(maps::SERVICES, key, service)
            }
            Change::DeleteService(key) => self.delete::<_, Service>(maps::SERVICES, key),
            Change::PutVirtualAddress(address, entry) => self.put(maps::VIPS, address, entry),
            Change::DeleteVirtualAddress(address) => self.delete::<_, VirtualAddress>(maps::VIPS, address),
            Change::DeleteFlows(flows) => self.delete_flows(flows),
            Change::DeleteTranslations(flows) => self.delete_translations(flows),
        }
    }

    fn contents(&self) -> Result<Contents> {
        let slots = |service: &Service| -> Vec<Slot> {
            (service.slots_start..service.slots_start + service.slots())
                .map(|index| {
                    Slot::from_word(
                        self.slots.get(index as usize).map_or(0, |word| word.load(Ordering::Acquire)),
                    )
                })
                .collect()
        };
        let interfaces: Array<&MapData, Interface> = (&self.maps[maps::INTERFACES]).try_into()?;
        let interfaces: Result<Vec<(u16, Interface)>, _> = (0..interfaces.len())
            .map(|index| interfaces.get(&index, 0).map(|interface| (index as u16, interface)))
            .collect();
        Ok(Contents {
            services: self
                .entries::<ServiceKey, Service>(maps::SERVICES)?
                .into_iter()
                .map(|(key, service)| (key, service, slots(&service)))
                .collect(),
            backends: (1..self.capacity.backends)
                .map(|id| (BackendId(id), self.backend(id)))
                .filter(|(_, backend)| *backend != Backend::default())
                .collect(),
            replies: self.entries(maps::REPLIES)?,
            interfaces: interfaces?.into_iter().filter(|(_, interface)| interface.ifindex != 0).collect(),
            locals: self
                .entries::<Address, u32>(maps::LOCALS)?
                .into_iter()
                .map(|(address, _)| address)
                .collect(),
            virtual_addresses: self.entries(maps::VIPS)?,
            features: self.features,
            settings: self.settings()?,
            pool: self.pool()?,
            wide: self.wide_entries()?,
            quic_servers: self
                .entries::<QuicKey, u32>(maps::QUIC_SERVERS)?
                .into_iter()
                .map(|(key, id)| (key, BackendId(id)))
                .collect(),
        })
    }

    fn flows(&self) -> Result<Vec<(FlowKey, Flow)>> {
        self.entries(maps::FLOWS)
    }

    fn translations(&self) -> Result<Vec<(FlowKey, Translation)>> {
        self.entries(maps::TRANSLATIONS)
    }

    fn service_counters(&self, id: u32) -> Result<Counters> {
        self.counters(maps::SERVICE_COUNTERS, id)
    }

    fn backend_counters(&self, id: BackendId) -> Result<Counters> {
        self.counters(maps::BACKEND_COUNTERS, id.0)
    }

    fn backend_load(&self, id: BackendId) -> Load {
        let word = |word| self.load_word(id, word).map_or(0, |word| word.load(Ordering::Relaxed));
        Load { connections: word(0), response: word(1) }
    }

    fn adjust_connections(&self, id: BackendId, addend: i64) {
        if let Some(word) = self.load_word(id, 0) {
            word.fetch_add(addend as u64, Ordering::Relaxed);
        }
    }

    fn put_response(&self, id: BackendId, response: u64) {
        if let Some(word) = self.load_word(id, 1) {
            word.store(response, Ordering::Relaxed);
        }
    }

    fn reason_counters(&self) -> Result<Vec<u64>> {
        let map: PerCpuArray<&MapData, u64> = (&self.maps[maps::REASON_COUNTERS]).try_into()?;
        let sum = |reason: &Reason| -> Result<u64> { Ok(map.get(&(*reason as u32), 0)?.iter().sum()) };
        Reason::ALL.iter().map(sum).collect()
    }

    fn hash_keys(&self) -> HashKeys {
        self.hash_keys
    }

    fn capacity(&self) -> Capacity {
        self.capacity
    }
}

impl BpfDatapath {
    pub(super) fn map_mut(&mut self, name: &str) -> Result<&mut Map> {
        self.maps.get_mut(name).with_context(|| format!("no map {name}"))
    }

    fn put<K: aya::Pod, V: aya::Pod>(&mut self, name: &str, key: &K, value: &V) -> Result<()> {
        let mut map: BpfHashMap<&mut MapData, K, V> = self.map_mut(name)?.try_into()?;
        map.insert(key, value, 0).with_context(|| format!("writing {name}"))
    }

    fn delete<K: aya::Pod, V: aya::Pod>(&mut self, name: &str, key: &K) -> Result<()> {
        let mut map: BpfHashMap<&mut MapData, K, V> = self.map_mut(name)?.try_into()?;
        absent_is_deleted(map.remove(key)).with_context(|| format!("deleting from {name}"))
    }

    fn entries<K: aya::Pod + Default, V: aya::Pod + Default>(&self, name: &str) -> Result<Vec<(K, V)>> {
        batch::read_hash(fd(&self.maps[name])?).with_context(|| format!("reading {name}"))
    }

    fn set_interface(&mut self, index: u16, interface: Interface) -> Result<()> {
        let mut map: Array<&mut MapData, Interface> = self.map_mut(maps::INTERFACES)?.try_into()?;
        map.set(index as u32, interface, 0).context("writing INTERFACES")
    }

    fn reset_counters(&mut self, name: &str, index: u32) -> Result<()> {
        let zeroes = PerCpuValues::try_from(vec![Counters::default(); self.cpus])?;
        let mut map: PerCpuArray<&mut MapData, Counters> = self.map_mut(name)?.try_into()?;
        map.set(index, zeroes, 0).with_context(|| format!("writing {name}"))
    }

    fn counters(&self, name: &str, index: u32) -> Result<Counters> {
        let map: PerCpuArray<&MapData, Counters> = (&self.maps[name]).try_into()?;
        let values = map.get(&index, 0).with_context(|| format!("reading {name}"))?;
        Ok(values.iter().fold(Counters::default(), |sum, one| Counters {
            packets: sum.packets + one.packets,
            bytes: sum.bytes + one.bytes,
            new_flows: sum.new_flows + one.new_flows,
            refused_flows: sum.refused_flows + one.refused_flows,
            overflowed: sum.overflowed + one.overflowed,
        }))
    }

    fn put_backend(&self, id: BackendId, backend: &Backend) -> Result<()> {
        self.backends.store(id.0 as usize * BACKEND_WORDS, backend_words(backend).into_iter())
    }

    fn backend(&self, id: u32) -> Backend {
        let words: [u64; BACKEND_WORDS] = std::array::from_fn(|word| {
            self.backends
                .get(id as usize * BACKEND_WORDS + word)
                .map_or(0, |word| word.load(Ordering::Acquire))
        });
        // SAFETY: `Backend` is `repr(C)` over integers, valid for every bit pattern, and of this size.
        unsafe { std::mem::transmute::<[u64; BACKEND_WORDS], Backend>(words) }
    }

    fn backend_word(&self, id: BackendId, word: usize) -> Result<&AtomicU64> {
        self.backends
            .get(id.0 as usize * BACKEND_WORDS + word)
            .with_context(|| format!("backend id {} is too large", id.0))
    }

    pub(super) fn settings(&self) -> Result<Settings> {
        let map: Array<&MapData, Settings> = (&self.maps[maps::SETTINGS]).try_into()?;
        map.get(&0, 0).context("reading SETTINGS")
    }

    fn pool(&self) -> Result<Vec<(u32, Address)>> {
        let map: Array<&MapData, Address> = (&self.maps[maps::POOL]).try_into()?;
        let entries: Result<Vec<(u32, Address)>, MapError> =
            (0..map.len()).map(|index| Ok((index, map.get(&index, 0)?))).collect();
        let entries = entries.context("reading POOL")?;
        Ok(entries.into_iter().filter(|(_, address)| *address != Address::default()).collect())
    }

    fn wide(&mut self) -> Result<LpmTrie<&mut MapData, WideKey, Wide>> {
        Ok(self.map_mut(maps::WIDE)?.try_into()?)
    }

    fn wide_entries(&self) -> Result<Vec<(WideKey, u8, Wide)>> {
        let map: LpmTrie<&MapData, WideKey, Wide> = (&self.maps[maps::WIDE]).try_into()?;
        let shortest = WideKey::prefix_len(0);
        map.iter()
            .map(|entry| {
                let (key, wide) = entry.context("reading WIDE")?;
                Ok((key.data(), key.prefix_len().saturating_sub(shortest) as u8, wide))
            })
            .collect()
    }

    fn load_word(&self, id: BackendId, word: usize) -> Option<&AtomicU64> {
        self.loads.get(id.0 as usize * LOAD_WORDS + word)
    }

    fn reset_load(&self, id: BackendId) -> Result<()> {
        self.loads.store(id.0 as usize * LOAD_WORDS, [0; LOAD_WORDS].into_iter())
    }

    fn uncount(&self, flow: Flow) {
        if flow.is_counted() {
            self.adjust_connections(flow.backend(), -1);
        }
    }

    /// Both directions are compared before the first goes. If it changed even since then, it goes back. After it the second
    /// goes, even if a reply came meanwhile: alone it would hold its port for nothing.
    fn delete_translations(&self, flows: &[TranslatedFlow]) -> Result<()> {
        let map = fd(&self.maps[maps::TRANSLATIONS])?;
        let take = |key: &FlowKey| {
            element::take::<FlowKey, Translation>(map, key).context("deleting from TRANSLATIONS")
        };
        for flow in flows {
            let mut directions = std::iter::once(&flow.first).chain(&flow.second);
            if !directions.all(|(key, seen)| element::get(map, key) == Some(*seen)) {
                continue;
            }
            let (key, seen) = &flow.first;
            let Some(deleted) = take(key)? else { continue };
            if deleted != *seen && element::add(map, key, &deleted) {
                continue;
            }
            self.uncount(deleted.flow);
            if let Some((key, _)) = &flow.second
                && let Some(deleted) = take(key)?
            {
                self.uncount(deleted.flow);
            }
        }
        Ok(())
    }

    fn delete_flows(&self, flows: &[(FlowKey, Flow)]) -> Result<()> {
        let map = fd(&self.maps[maps::FLOWS])?;
        for (key, seen) in flows {
            // A packet may have reopened or refreshed the flow since it was read.
            if element::get(map, key) != Some(*seen) {
                continue;
            }
            let Some(deleted) = element::take::<FlowKey, Flow>(map, key).context("deleting from FLOWS")?
            else {
                continue;
            };
            // Or even since it was compared. Then it goes back, unless its next packet has opened it anew.
            if deleted == *seen || !element::add(map, key, &deleted) {
                self.uncount(deleted);
            }
        }
        Ok(())
    }
}

fn absent_is_deleted(removed: Result<(), MapError>) -> Result<(), MapError> {
    match removed {
        Err(MapError::KeyNotFound) => Ok(()),
        other => other,
    }
}

fn backend_words(backend: &Backend) -> [u64; BACKEND_WORDS] {
    // SAFETY: `Backend` is `repr(C)` over integers without padding and of this size.
    unsafe { std::mem::transmute::<Backend, [u64; BACKEND_WORDS]>(*backend) }
}
