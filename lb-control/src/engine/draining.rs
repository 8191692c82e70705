//! Which backends are drained, and when it is known how many flows they have.

use anyhow::Result;
use lb_common::{BackendId, BackendState, Mode, ServiceKey, SlotState, Tracking};

use super::{
    Engine,
    drain::{DrainEnd, DrainReport, Sight, after},
};
use crate::{
    datapath::{Change, Datapath},
    plan::InstalledService,
};

/// A slot is pinned by the first sweep after more than an idle timeout and a second; both clocks count whole seconds.
const SWEEP_MARGIN_SECONDS: u32 = 2;

impl<D: Datapath> Engine<D> {
    /// Takes changes that were applied into account; returns how many flows they cut, as far as those are known.
    pub(super) fn note_applied(&mut self, changes: &[Change], now_seconds: u32) -> u64 {
        let mut cut = 0;
        for change in changes {
            match change {
                Change::SetBackendState(id, _) => cut += self.note_drain(*id, false, now_seconds),
                Change::PutBackend(id, backend) if backend.state == BackendState::Draining.word() => {
                    self.note_drain(*id, false, now_seconds);
                }
                Change::PutService(key, entry) => self.note_tracking(*key, entry.tracking(), now_seconds),
                Change::DeleteService(key) => {
                    self.tracking.remove(key);
                }
                _ => {}
            }
        }
        cut
    }

    /// Takes what a sweep counted into account. Of a backend whose drain ended with no flow left, and whose last flows
    /// have closed, nothing is expected any more: it is taken out of service, and its slots need not wait for it.
    pub(super) fn note_drains(&mut self, now_seconds: u32) -> Result<()> {
        let mut ids = self.installed.draining().clone();
        ids.extend(self.drains.keys());
        for id in ids {
            self.note_drain(id, true, now_seconds);
            let over = self.drains.get(&id).is_some_and(|drain| drain.ended == Some(DrainEnd::Empty));
            let serves = self.installed.serves(id);
            if over && serves && self.tallies.of(id).flows == 0 {
                let change = Change::SetBackendState(id, BackendState::Down);
                self.datapath.apply(&change)?;
                self.installed.record(&change, now_seconds);
                self.installed.note_drained(id);
            }
        }
        Ok(())
    }

    /// Looks at a backend's drain; returns how many flows were cut since the last look.
    fn note_drain(&mut self, id: BackendId, counted: bool, now_seconds: u32) -> u64 {
        let known = self.drains.get(&id).copied();
        let Some(seen) = self.sight(id, counted, now_seconds) else { return 0 };
        let report = after(known, seen);
        match report {
            Some(report) => self.drains.insert(id, report),
            None => self.drains.remove(&id),
        };
        let cut = |report: Option<DrainReport>| match report.and_then(|report| report.ended) {
            Some(DrainEnd::Cut(flows)) => u64::from(flows),
            Some(DrainEnd::Empty) | None => 0,
        };
        if known.is_some_and(|known| known.ended.is_some()) { 0 } else { cut(report) }
    }

    fn sight(&self, id: BackendId, counted: bool, now_seconds: u32) -> Option<Sight> {
        let backend = self.installed.backends.get(&id)?;
        let service = self.installed.service_of(backend.service);
        let wanted = service.is_some_and(|(_, service)| match &service.built {
            Some(built) => built.wanted.contains(&id),
            // After a take-over nothing is known of what is desired.
            None => true,
        });
        Some(Sight {
            state: BackendState::from_word(backend.state),
            wanted,
            counted,
            live_flows: self.tallies.of(id).live,
            // Of a service that is gone, nothing more will be known.
            exact_after_seconds: service
                .map_or(1, |(key, service)| self.exact_after_seconds(&key, service, id, now_seconds)),
        })
    }

    /// In how many seconds every flow of a backend will be remembered; 0 where it is.
    fn exact_after_seconds(
        &self,
        key: &ServiceKey,
        service: &InstalledService,
        id: BackendId,
        now_seconds: u32,
    ) -> u32 {
        let refused_ago = self.refused_seconds_ago(service.entry.id, now_seconds);
        let wait = service.entry.flow_idle_seconds.saturating_add(SWEEP_MARGIN_SECONDS);
        match (service.entry.mode(), service.entry.tracking()) {
            (Mode::FullNat, _) | (_, Tracking::Connectionless) => 0,
            (_, Tracking::EveryFlow) => {
                wait.saturating_sub(self.tracked_seconds(key, now_seconds).min(refused_ago))
            }
            (_, Tracking::OnChange) => {
                let slots = service.slots.iter();
                let moving = slots.filter(|slot| slot.state() == SlotState::Moving && slot.previous() == id);
                let quiet = moving.map(|slot| slot.seconds_since_move(now_seconds).min(refused_ago)).min();
                quiet.map_or(0, |quiet| wait.saturating_sub(quiet).max(1))
            }
        }
    }

    /// Whether every live flow of a service is remembered.
    pub(super) fn knows_all(&self, key: &ServiceKey, service: &InstalledService, now_seconds: u32) -> bool {
        let tracks = service.entry.mode() == Mode::FullNat || service.entry.tracking() == Tracking::EveryFlow;
        tracks && self.exact_after_seconds(key, service, BackendId::NONE, now_seconds) == 0
    }

    fn note_tracking(&mut self, key: ServiceKey, tracking: Tracking, now_seconds: u32) {
        match self.tracking.get(&key) {
            Some(&(known, _)) if known == tracking => {}
            // A new service has no flows that could be unknown.
            None => {
                self.tracking.insert(key, (tracking, None));
            }
            Some(_) => {
                self.tracking.insert(key, (tracking, Some(now_seconds)));
            }
        }
    }

    /// For how long a service has had its tracking.
    fn tracked_seconds(&self, key: &ServiceKey, now_seconds: u32) -> u32 {
        let since = self.tracking.get(key).and_then(|(_, since)| *since);
        since.map_or(u32::MAX, |since| now_seconds.wrapping_sub(since))
    }
}
