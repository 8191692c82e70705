//! What is told of the tables: for the API and for metrics.

use anyhow::Result;
use lb_common::{Address, BackendId, BackendState, Counters, NextHop, Port, ServiceKey, Slot, SlotState};

use super::Engine;
use crate::datapath::Datapath;

/// A service as it is installed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ServiceReport {
    /// Its number.
    pub id: u32,
    /// Slots of its table.
    pub slots: u32,
    /// Of these, by state.
    pub settled: u32,
    /// See [`SlotState::Moving`].
    pub moving: u32,
    /// See [`SlotState::Pinned`].
    pub pinned: u32,
    /// What was counted.
    pub counters: Counters,
}

/// A backend as it is installed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BackendReport {
    /// Its number.
    pub id: BackendId,
    /// What is sent to it.
    pub state: BackendState,
    /// Slots that it owns.
    pub slots: u32,
    /// Slots that name it as `current` or `previous` and that have not settled.
    pub slots_unsettled: u32,
    /// Remembered flows of its, as of the last sweep.
    pub tracked_flows: u32,
    /// The way to it.
    pub next_hop: Option<NextHop>,
    /// What was counted.
    pub counters: Counters,
}

/// The flow table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlowReport {
    /// How many there is room for.
    pub capacity: u32,
    /// How many are remembered, as of the last sweep.
    pub entries: u32,
    /// How often a flow was refused while this controller looked, or before it took over unsettled slots.
    pub refused: u64,
}

/// The table of `full-nat`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TranslationReport {
    /// How many directions there is room for; a flow has two.
    pub capacity: u32,
    /// How many there are, as of the last sweep.
    pub entries: u32,
}

impl<D: Datapath> Engine<D> {
    /// A service, if it is installed.
    pub fn service(&self, key: &ServiceKey) -> Result<Option<ServiceReport>> {
        let Some(service) = self.installed.services.get(key) else { return Ok(None) };
        let count = |state| service.slots.iter().filter(|slot| slot.state() == state).count() as u32;
        Ok(Some(ServiceReport {
            id: service.entry.id,
            slots: service.entry.slots(),
            settled: count(SlotState::Settled),
            moving: count(SlotState::Moving),
            pinned: count(SlotState::Pinned),
            counters: self.datapath.service_counters(service.entry.id)?,
        }))
    }

    /// A backend of a service, if it is installed; also one that was removed and whose id is not free yet.
    pub fn backend(&self, key: &ServiceKey, address: Address, port: Port) -> Result<Option<BackendReport>> {
        let Some(service) = self.installed.services.get(key) else { return Ok(None) };
        let Some(&id) = service.backends.get(&(address, port)) else { return Ok(None) };
        let Some(backend) = self.installed.backends.get(&id) else { return Ok(None) };
        let names = |slot: &&Slot| slot.current() == id || slot.previous() == id;
        Ok(Some(BackendReport {
            id,
            state: BackendState::from_word(backend.state),
            slots: service.slots.iter().filter(|slot| slot.current() == id).count() as u32,
            slots_unsettled: service
                .slots
                .iter()
                .filter(names)
                .filter(|slot| slot.state() != SlotState::Settled)
                .count() as u32,
            tracked_flows: self.tracked.get(&id).copied().unwrap_or(0),
            next_hop: NextHop::from_word(backend.next_hop),
            counters: self.datapath.backend_counters(id)?,
        }))
    }

    /// How often each reason was the outcome, by its number.
    pub fn reasons(&self) -> Result<Vec<u64>> {
        self.datapath.reason_counters()
    }

    /// The flow table, as of the last sweep.
    pub fn flows(&self) -> FlowReport {
        FlowReport {
            capacity: self.installed.capacity().flows,
            entries: self.flows as u32,
            refused: self.refused_total,
        }
    }

    /// The table of `full-nat`, as of the last sweep.
    pub fn translations(&self) -> TranslationReport {
        TranslationReport {
            capacity: self.installed.capacity().translations,
            entries: self.translations as u32,
        }
    }
}
