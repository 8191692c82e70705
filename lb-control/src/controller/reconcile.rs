//! The loop that keeps what is installed equal to what is desired.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::future::OptionFuture;
use tokio::{
    sync::watch,
    task::{JoinError, JoinHandle, spawn_blocking},
    time::{MissedTickBehavior, sleep_until},
};

use super::{
    Bpf,
    engine_thread::{EngineGone, EngineThread},
    host,
    interfaces::Interfaces,
    observe::{Observer, Reading, interface_names, service_names},
    target::{Hosts, Targets, WAY_WITHIN},
};
use crate::{
    effective::Effective,
    engine::monotonic_seconds,
    model::{Desired, address},
    netlink::{Netlink, Snapshot},
    next_hops::Resolved,
    plan::Shortage,
    status::Observe as _,
    target::Target,
};

/// Between two looks at the clock: drains end, flows are forgotten.
const TICK: Duration = Duration::from_secs(1);
/// Changes that come within this after an installation are installed together; the first of them does not wait.
const BURST: Duration = Duration::from_millis(2);
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
    pub targets: Targets,
    pub effective: Arc<Effective>,
    pub desired: watch::Receiver<Arc<Desired>>,
    pub snapshots: watch::Receiver<Arc<Snapshot>>,
    pub resolved: watch::Receiver<Option<Arc<Resolved>>>,
    pub wanted: watch::Sender<BTreeSet<IpAddr>>,
    pub observer: Arc<Observer>,
    pub observing: Option<Observing>,
    pub progress: Progress,
}

/// An observation under way: between its parts, changes are installed.
pub struct Observing {
    begun: Instant,
    /// Installed before it began.
    generation: u64,
    reading: JoinHandle<Read>,
}

type Read = Result<anyhow::Result<Reading>, EngineGone>;

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
    installed_at: Option<Instant>,
    /// Until then at the latest, services wait for the ways of new backends.
    held_until: Option<Instant>,
}

impl Reconciler {
    /// Installs what is desired now and attaches what exists; errors are told by [`Self::errors`].
    pub async fn start(&mut self) -> Result<(), EngineGone> {
        // Without the ways, what an earlier controller installed would lose its own.
        let first = self.resolved.wait_for(Option::is_some);
        if tokio::time::timeout(FIRST_WAYS_WITHIN, first).await.is_err() {
            tracing::warn!("the kernel is slow to answer for routes; starting without them");
        }
        self.install(true).await?;
        let snapshot = self.snapshots.borrow_and_update().clone();
        self.interfaces.reconcile(&snapshot, &self.netlink, &self.engine).await?;
        self.begin_observation();
        let observed = self.observing.as_mut().map(|observing| &mut observing.reading);
        match OptionFuture::from(observed).await {
            Some(read) => self.end_observation(read),
            None => Ok(()),
        }
    }

    /// Goes on until the engine is gone.
    pub async fn run(mut self) -> EngineGone {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut seen = self.snapshots.borrow_and_update().clone();
        loop {
            let is_due = self.progress.unobserved && self.observing.is_none();
            let due = is_due.then(|| self.progress.observe_from.unwrap_or_else(Instant::now));
            let due = OptionFuture::from(due.map(|at| sleep_until(at.into())));
            let held = OptionFuture::from(self.progress.held_until.map(|at| sleep_until(at.into())));
            let observed =
                OptionFuture::from(self.observing.as_mut().map(|observing| &mut observing.reading));
            let ticked = tokio::select! {
                _ = tick.tick() => true,
                Ok(()) = self.desired.changed() => false,
                Ok(()) = self.resolved.changed() => false,
                Some(()) = held => false,
                Ok(()) = self.snapshots.changed() => {
                    let now = self.snapshots.borrow_and_update().clone();
                    let before = std::mem::replace(&mut seen, now);
                    // Neighbours come and go all the time; what matters of them comes as a way.
                    if (&before.links, &before.addresses) == (&seen.links, &seen.addresses) {
                        continue;
                    }
                    false
                }
                Some(()) = due => {
                    self.begin_observation();
                    continue;
                }
                Some(read) = observed => match self.end_observation(read) {
                    Ok(()) => continue,
                    Err(gone) => return gone,
                },
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
        if let Some(until) = self.progress.installed_at.map(|at| at + BURST)
            && until > Instant::now()
        {
            sleep_until(until.into()).await;
        }
        let snapshot = self.snapshots.borrow_and_update().clone();
        self.interfaces.reconcile(&snapshot, &self.netlink, &self.engine).await?;
        self.install(false).await?;
        if ticked {
            self.settle().await?;
        }
        self.progress.unobserved |= ticked;
        Ok(())
    }

    /// Installs what is desired now. At the start nothing is held back: what is not in the target is taken away.
    async fn install(&mut self, first: bool) -> Result<(), EngineGone> {
        let desired = self.desired.borrow_and_update().clone();
        let wait_until = Instant::now() + WAY_WITHIN;
        let hosts = self.targets.follow(&desired, wait_until);
        self.want(hosts);
        if first {
            let answered = |ways: &Option<Arc<Resolved>>| {
                ways.as_deref().is_some_and(|ways| self.targets.is_answered(ways))
            };
            let _ = tokio::time::timeout_at(wait_until.into(), self.resolved.wait_for(answered)).await;
        }
        let ways = self.resolved.borrow_and_update().clone().unwrap_or_default();
        let snapshot = self.snapshots.borrow().clone();
        let now = if first { wait_until } else { Instant::now() };
        let wanted = self.targets.target(&ways, &snapshot, now, host::unix_seconds());
        self.progress.held_until = wanted.held_until;
        self.interfaces.need(wanted.needs, &self.netlink).await;
        // While something is held back, the generation is not wholly installed.
        let generation = wanted.held_until.is_none().then_some(desired.generation);
        let wanted = wanted.target;
        if self.progress.installed.as_ref() == Some(&wanted) {
            self.note_installed(generation, Instant::now());
            return Ok(());
        }
        let again_later = self.progress.retry_at.is_some_and(|at| at > Instant::now());
        if again_later && self.progress.failed.as_ref() == Some(&wanted) {
            return Ok(());
        }
        self.apply(wanted, generation).await
    }

    async fn apply(&mut self, wanted: Target, generation: Option<u64>) -> Result<(), EngineGone> {
        let job = move |engine: &mut Bpf| {
            let outcome = engine.apply(&wanted, monotonic_seconds());
            (outcome, wanted, Instant::now())
        };
        let (outcome, wanted, at) = self.engine.call(job).await?;
        self.progress.unobserved = true;
        self.progress.installed_at = Some(at);
        match outcome {
            Ok(applied) => {
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
                    self.note_installed(generation, at);
                    (self.progress.installed, self.progress.failed) = (Some(wanted), None);
                }
            }
            Err(error) => {
                (self.progress.installed, self.progress.failed) = (None, Some(wanted));
                self.progress.note_apply(Some(format!("{error:#}")));
            }
        }
        Ok(())
    }

    fn note_installed(&mut self, generation: Option<u64>, at: Instant) {
        let Some(generation) = generation else { return };
        self.effective.installed(generation, at);
        self.observer.set_installed(generation);
        self.progress.unobserved |= self.progress.observed_generation != generation;
    }

    /// Has the ways to these hosts kept, or no more.
    fn want(&self, hosts: Hosts) {
        if hosts == Hosts::default() {
            return;
        }
        self.wanted.send_if_modified(|wanted: &mut BTreeSet<IpAddr>| {
            // An address may have gone and come: what is wanted in the end is what has backends.
            let went = hosts.went.iter().filter(|address| !hosts.came.contains(address));
            let went = went.filter(|address| wanted.remove(*address)).count();
            let came = hosts.came.iter().filter(|address| wanted.insert(**address)).count();
            went + came > 0
        });
    }

    async fn settle(&mut self) -> Result<(), EngineGone> {
        let result = self.engine.call(|engine| engine.settle(monotonic_seconds())).await?;
        let error = result.err().map(|error| format!("{error:#}"));
        note(&mut self.progress.settle_error, error, "cannot settle");
        Ok(())
    }

    fn begin_observation(&mut self) {
        let snapshot = self.snapshots.borrow().clone();
        let resolved = self.resolved.borrow().clone().unwrap_or_default();
        let names = service_names(&self.desired.borrow());
        let interfaces = interface_names(&resolved, &snapshot);
        self.observing = Some(Observing {
            begun: Instant::now(),
            generation: self.observer.installed_generation(),
            reading: tokio::spawn(Reading::take(self.engine.clone(), names, interfaces)),
        });
    }

    fn end_observation(&mut self, read: Result<Read, JoinError>) -> Result<(), EngineGone> {
        let Some(Observing { begun, generation, .. }) = self.observing.take() else { return Ok(()) };
        // A panic within it was the engine's.
        let (reading, error) = match read.map_err(|_| EngineGone)?? {
            Ok(reading) => (reading, None),
            Err(error) => (Reading::default(), Some(format!("{error:#}"))),
        };
        note(&mut self.progress.observe_error, error, "cannot read the tables");
        let snapshot = self.snapshots.borrow().clone();
        let observed = reading.observed(generation, self.errors(), self.interfaces.status(&snapshot));
        let before = self.observer.publish(observed);
        // Orders do not wait for it.
        spawn_blocking(move || drop(before));
        self.progress.observed_generation = generation;
        self.progress.unobserved = generation != self.observer.installed_generation();
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
