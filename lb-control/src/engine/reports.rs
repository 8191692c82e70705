//! What is told of the tables: for the API and for metrics.

use anyhow::Result;
use lb_common::{Address, BackendId, BackendState, Counters, NextHop, Port, ServiceKey};

use super::{DrainReport, Engine, monotonic_micros};
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
    /// Remembered flows that keep pinned slots from settling, as of the last sweep.
    pub flows_pinned: u32,
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
    /// Remembered or translated flows of its, as of the last sweep.
    pub tracked_flows: u32,
    /// Of these, those that are open or opening.
    pub live_flows: u32,
    /// Live connections as packets count them: only where every flow is tracked or translated.
    pub connections: u64,
    /// Smoothed response time, microseconds; 0: not known.
    pub response_micros: u32,
    /// Its drain, until it is given new flows again.
    pub drain: Option<DrainReport>,
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
    /// Clients' networks whose backend is remembered: they take room among the flows.
    pub affinities: u32,
    /// How often a flow was refused while this controller looked, or before it took over unsettled slots.
    pub refused: u64,
}

/// What this controller did since it started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TotalsReport {
    /// Slots that got another owner.
    pub slots_moved: u64,
    /// Flows that orders cut with the backends that they took away, as far as they were known.
    pub flows_cut: u64,
    /// Live connections of a backend that were corrected.
    pub corrections: u64,
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
        let shares = service.shares();
        Ok(Some(ServiceReport {
            id: service.entry.id,
            slots: service.entry.slots(),
            settled: shares.settled,
            moving: shares.moving,
            pinned: shares.pinned,
            flows_pinned: self.tallies.pinned(service.entry.id),
            counters: self.datapath.service_counters(service.entry.id)?,
        }))
    }

    /// A backend of a service, if it is installed; also one that was removed and whose id is not free yet.
    pub fn backend(&self, key: &ServiceKey, address: Address, port: Port) -> Result<Option<BackendReport>> {
        let Some(service) = self.installed.services.get(key) else { return Ok(None) };
        let Some(&id) = service.backends.get(&(address, port)) else { return Ok(None) };
        let Some(backend) = self.installed.backends.get(&id) else { return Ok(None) };
        let (tally, load) = (self.tallies.of(id), self.datapath.backend_load(id));
        let share = service.shares().of_backend(id);
        Ok(Some(BackendReport {
            id,
            state: BackendState::from_word(backend.state),
            slots: share.owned,
            slots_unsettled: share.unsettled,
            tracked_flows: tally.flows,
            live_flows: tally.live,
            // A count that a lost race left below zero is none.
            connections: u64::try_from(load.connections as i64).unwrap_or(0),
            response_micros: load.response_micros(monotonic_micros()),
            drain: self.drains.get(&id).copied(),
            next_hop: NextHop::from_word(backend.next_hop),
            counters: self.datapath.backend_counters(id)?,
        }))
    }

    /// What was done since the start.
    pub fn totals(&self) -> TotalsReport {
        TotalsReport {
            slots_moved: self.slots_moved,
            flows_cut: self.flows_cut,
            corrections: self.corrections,
        }
    }

    /// How often each reason was the outcome, by its number.
    pub fn reasons(&self) -> Result<Vec<u64>> {
        self.datapath.reason_counters()
    }

    /// The flow table, as of the last sweep.
    pub fn flows(&self) -> FlowReport {
        FlowReport {
            capacity: self.installed.capacity().flows,
            entries: (self.tallies.flows + self.tallies.affinities) as u32,
            affinities: self.tallies.affinities as u32,
            refused: self.refused_total,
        }
    }

    /// The table of `full-nat`, as of the last sweep.
    pub fn translations(&self) -> TranslationReport {
        TranslationReport {
            capacity: self.installed.capacity().translations,
            entries: self.tallies.translations as u32,
        }
    }
}
