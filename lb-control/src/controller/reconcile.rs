//! The loop that keeps what is installed equal to what is desired.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::future::OptionFuture;
use tokio::{sync::watch, time::MissedTickBehavior};

use super::{
    Bpf,
    engine_thread::{EngineGone, EngineThread},
    host,
    interfaces::Interfaces,
    needs::Needs,
    observe::{Observer, Reading, interface_names, service_names},
    target::target,
};
use crate::{
    config::Packets,
    engine::monotonic_seconds,
    model::{Desired, address},
    netlink::{Netlink, Snapshot},
    next_hops::{Resolved, Unresolved},
    plan::Shortage,
    status::Observe as _,
    target::Target,
};

/// Between two looks at the clock: drains end, flows are forgotten.
const TICK: Duration = Duration::from_secs(1);
/// Changes that come within this are installed together.
const BURST: Duration = Duration::from_millis(2);
/// So long a new backend's way is waited for before it is installed without one.
const WAY_WITHIN: Duration = Duration::from_millis(100);
/// So long the routes of all backends are waited for at the start; the kernel answers 50,000 in a second.
const FIRST_WAYS_WITHIN: Duration = Duration::from_secs(10);
/// After an observation, the next one is made no sooner than after this many times what it took: with many
/// services, installing comes first.
const OBSERVE_REST: u32 = 2;
/// A failed installation is tried again after 1 s, then 2 s, up to this.
const RETRY_MAX: Duration = Duration::from_secs(30);

/// Everything that the loop watches and moves.
pub struct Reconciler {
    pub engine: EngineThread<Bpf>,
    pub netlink: Netlink,
    pub interfaces: Interfaces,
    pub packets: Packets,
    pub desired: watch::Receiver<Arc<Desired>>,
    pub snapshots: watch::Receiver<Arc<Snapshot>>,
    pub resolved: watch::Receiver<Option<Arc<Resolved>>>,
    pub wanted: watch::Sender<BTreeSet<IpAddr>>,
    pub observer: Arc<Observer>,
    pub progress: Progress,
}

/// What was installed last, and what failed.
#[derive(Default)]
pub struct Progress {
    installed: Option<Target>,
    /// What could not be installed wholly: tried again later, unless something else is wanted.
    failed: Option<Target>,
    apply_error: Option<String>,
    settle_error: Option<String>,
    observe_error: Option<String>,
    failures: u32,
    retry_at: Option<Instant>,
    observed_generation: u64,
    /// Something was installed that no observation shows.
    unobserved: bool,
    observe_from: Option<Instant>,
}

impl Reconciler {
    /// Installs what is desired now and attaches what exists; errors are told by [`Self::errors`].
    pub async fn start(&mut self) -> Result<(), EngineGone> {
        // Without the ways, what an earlier controller installed would lose its own.
        let first = self.resolved.wait_for(Option::is_some);
        if tokio::time::timeout(FIRST_WAYS_WITHIN, first).await.is_err() {
            tracing::warn!("the kernel is slow to answer for routes; starting without them");
        }
        self.install().await?;
        let snapshot = self.snapshots.borrow_and_update().clone();
        self.interfaces.reconcile(&snapshot, &self.netlink, &self.engine).await?;
        self.observe().await
    }

    /// Goes on until the engine is gone.
    pub async fn run(mut self) -> EngineGone {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut seen = self.snapshots.borrow_and_update().clone();
        loop {
            let observe =
                self.progress.unobserved.then(|| self.progress.observe_from.unwrap_or_else(Instant::now));
            let observe = OptionFuture::from(observe.map(|at| tokio::time::sleep_until(at.into())));
            let ticked = tokio::select! {
                _ = tick.tick() => true,
                Ok(()) = self.desired.changed() => false,
                Ok(()) = self.resolved.changed() => false,
                Ok(()) = self.snapshots.changed() => {
                    let now = self.snapshots.borrow_and_update().clone();
                    let before = std::mem::replace(&mut seen, now);
                    // Neighbours come and go all the time; what matters of them comes as a way.
                    if (&before.links, &before.addresses) == (&seen.links, &seen.addresses) {
                        continue;
                    }
                    false
                }
                Some(()) = observe => {
                    match self.observe().await {
                        Ok(()) => continue,
                        Err(gone) => return gone,
                    }
                }
            };
            if let Err(gone) = self.turn(ticked).await {
                return gone;
            }
        }
    }

    /// What keeps the data plane from being as desired.
    pub fn errors(&self) -> Option<String> {
        let Progress { apply_error, settle_error, observe_error, .. } = &self.progress;
        let errors = [apply_error, settle_error, observe_error].into_iter().flatten().cloned();
        let errors: Vec<String> = errors.chain(self.interfaces.errors()).collect();
        (!errors.is_empty()).then(|| errors.join("; "))
    }

    async fn turn(&mut self, ticked: bool) -> Result<(), EngineGone> {
        if !ticked {
            tokio::time::sleep(BURST).await;
        }
        let snapshot = self.snapshots.borrow_and_update().clone();
        self.interfaces.reconcile(&snapshot, &self.netlink, &self.engine).await?;
        self.install().await?;
        if ticked {
            self.settle().await?;
        }
        let may = self.progress.observe_from.is_none_or(|from| from <= Instant::now());
        if may && (ticked || self.progress.unobserved) {
            self.observe().await?;
        }
        Ok(())
    }

    /// Installs what is desired now.
    async fn install(&mut self) -> Result<(), EngineGone> {
        let desired = self.desired.borrow_and_update().clone();
        let resolved = self.ways_for(&desired).await;
        let snapshot = self.snapshots.borrow().clone();
        let wanted = target(&desired, &self.packets, &resolved, &snapshot, host::unix_seconds());
        self.interfaces.need(Needs::of(&wanted), &self.netlink).await;
        if self.progress.installed.as_ref() == Some(&wanted) {
            self.note_installed(desired.generation);
            return Ok(());
        }
        let again_later = self.progress.retry_at.is_some_and(|at| at > Instant::now());
        if again_later && self.progress.failed.as_ref() == Some(&wanted) {
            return Ok(());
        }
        let generation = desired.generation;
        let job = move |engine: &mut Bpf| (engine.apply(&wanted, monotonic_seconds()), wanted);
        let outcome = self.engine.call(job).await?;
        self.progress.unobserved = true;
        match outcome {
            (Ok(applied), wanted) => {
                tracing::debug!(
                    generation,
                    changes = applied.changes,
                    moved = applied.slots_moved,
                    "installed"
                );
                let shortages: Vec<String> = applied.shortages.iter().map(shortage).collect();
                let short = !shortages.is_empty();
                self.progress.note_apply(short.then(|| shortages.join("; ")));
                if short {
                    (self.progress.installed, self.progress.failed) = (None, Some(wanted));
                } else {
                    self.note_installed(generation);
                    (self.progress.installed, self.progress.failed) = (Some(wanted), None);
                }
            }
            (Err(error), wanted) => {
                (self.progress.installed, self.progress.failed) = (None, Some(wanted));
                self.progress.note_apply(Some(format!("{error:#}")));
            }
        }
        Ok(())
    }

    fn note_installed(&mut self, generation: u64) {
        self.observer.set_installed(generation);
        self.progress.unobserved |= self.progress.observed_generation != generation;
    }

    /// The ways to every backend: those of new ones are waited for a little, so that their first packets
    /// find them.
    async fn ways_for(&mut self, desired: &Desired) -> Arc<Resolved> {
        let addresses = desired.services.values().flat_map(|service| service.backends.keys());
        let addresses: BTreeSet<IpAddr> = addresses.map(|at| at.ip()).collect();
        let before = self.wanted.borrow().clone();
        let new: Vec<IpAddr> = addresses.difference(&before).copied().collect();
        self.wanted.send_if_modified(|wanted| {
            let changed = *wanted != addresses;
            *wanted = addresses;
            changed
        });
        let known = |resolved: &Option<Arc<Resolved>>| {
            let Some(resolved) = resolved else { return false };
            let way = |address: &IpAddr| resolved.ways.get(address);
            new.iter()
                .map(way)
                .all(|way| !matches!(way, None | Some(Err(Unresolved::NotAsked | Unresolved::Asking))))
        };
        let _ = tokio::time::timeout(WAY_WITHIN, self.resolved.wait_for(known)).await;
        self.resolved.borrow_and_update().clone().unwrap_or_default()
    }

    async fn settle(&mut self) -> Result<(), EngineGone> {
        let result = self.engine.call(|engine| engine.settle(monotonic_seconds())).await?;
        let error = result.err().map(|error| format!("{error:#}"));
        note(&mut self.progress.settle_error, error, "cannot settle");
        Ok(())
    }

    async fn observe(&mut self) -> Result<(), EngineGone> {
        let begun = Instant::now();
        let snapshot = self.snapshots.borrow().clone();
        let resolved = self.resolved.borrow().clone().unwrap_or_default();
        let names = service_names(&self.desired.borrow());
        let interfaces = interface_names(&resolved, &snapshot);
        let reading = self.engine.call(move |engine| Reading::take(engine, &names, &interfaces)).await?;
        let (reading, error) = match reading {
            Ok(reading) => (reading, None),
            Err(error) => (Reading::default(), Some(format!("{error:#}"))),
        };
        note(&mut self.progress.observe_error, error, "cannot read the tables");
        let generation = self.observer.installed_generation();
        let observed = reading.observed(generation, self.errors(), self.interfaces.status(&snapshot));
        self.observer.publish(observed);
        self.progress.observed_generation = generation;
        self.progress.unobserved = false;
        self.progress.observe_from = Some(Instant::now() + begun.elapsed() * OBSERVE_REST);
        Ok(())
    }
}

impl Progress {
    fn note_apply(&mut self, error: Option<String>) {
        if error.is_some() {
            let pause = Duration::from_secs(1 << self.failures.min(5)).min(RETRY_MAX);
            self.retry_at = Some(Instant::now() + pause);
            self.failures += 1;
        } else {
            self.retry_at = None;
            self.failures = 0;
        }
        note(&mut self.apply_error, error, "cannot install what is desired");
    }
}

/// As an operator reads it.
pub fn shortage(shortage: &Shortage) -> String {
    match shortage {
        Shortage::Slots { address: key, slots } => format!(
            "no {slots} slots in a row are free for the table of {}: raise `limits.slots`",
            SocketAddr::new(address::from_map(key.address), key.port.number())
        ),
        Shortage::Ranges { address: key } => format!(
            "more than {} services of several ports share {}: the one from port {} on is left out",
            lb_common::Wide::RANGES,
            address::from_map(key.address),
            key.port.number()
        ),
        Shortage::Backends | Shortage::Services => shortage.to_string(),
    }
}

/// Keeps an error and logs it when it is another one.
fn note(kept: &mut Option<String>, error: Option<String>, what: &str) {
    if error != *kept {
        match &error {
            Some(error) => tracing::error!("{what}: {error}"),
            None => tracing::info!("no longer: {what}"),
        }
        *kept = error;
    }
}
