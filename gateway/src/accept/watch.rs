//! Who has been waiting for too long: one walk over a worker's connections every now and then costs less than a timer
//! for each request, and a timeout may well be late by a step.

use std::{
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use super::connection::{Order, Watched};
use crate::{
    shared::{Phase, Shared},
    snapshot::Fixed,
    upstream::pool,
};

/// The unit of the coarse clock.
const UNIT: Duration = Duration::from_millis(10);
/// Between two walks.
const STEP_MIN: Duration = Duration::from_millis(10);
const STEP_MAX: Duration = Duration::from_millis(250);
/// Between two looks at the worker's idle connections to services.
const SWEEP: Duration = Duration::from_secs(1);
/// A connection that was silent for so long is idle, at the end of a stop.
const SILENT: Duration = Duration::from_secs(1);

/// Walks over one worker's connections.
pub struct Watchman {
    shared: Arc<Shared>,
    begun: Instant,
    now: Arc<AtomicU32>,
    connections: Mutex<Vec<Weak<Watched>>>,
    /// When answers began to close their connections, by the coarse clock; 0: they do not.
    closing_since: AtomicU32,
    limits: Limits,
}

#[derive(Debug, Clone, Copy)]
struct Limits {
    header: u32,
    keep_alive: u32,
    stall: u32,
    silent: u32,
    /// `drain.close`.
    close: u32,
}

/// What is to be done about a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Finding {
    Well,
    SlowHead,
    /// Nothing ever came.
    Mute,
    Idle,
    Stalled,
    Ended,
    /// Told to end, and did not.
    Deaf,
}

/// How long a connection has been waiting, in units of the coarse clock.
#[derive(Debug, Clone, Copy, Default)]
struct Waiting {
    head: Option<u32>,
    write: Option<u32>,
    silent: u32,
    served: bool,
    streams: Option<StreamsWaiting>,
}

/// How requests of an HTTP/2 connection wait.
#[derive(Debug, Clone, Copy, Default)]
struct StreamsWaiting {
    /// Whether there are any.
    open: bool,
    /// An answer waits for the client, and for so long none went on.
    blocked: Option<u32>,
    /// Since a request began or ended, or an answer went on. Pings are no progress.
    quiet: u32,
}

impl Watchman {
    /// Nobody to watch yet.
    pub fn new(shared: Arc<Shared>) -> Arc<Self> {
        let snapshot = shared.snapshot();
        let Fixed { header_timeout, keep_alive, .. } = snapshot.settings.fixed;
        let limits = Limits {
            header: units(header_timeout),
            keep_alive: units(keep_alive),
            stall: units(snapshot.settings.stall),
            silent: units(SILENT),
            close: units(snapshot.settings.drain.close),
        };
        let now = Arc::new(AtomicU32::new(1));
        Arc::new(Self {
            shared,
            begun: Instant::now(),
            now,
            connections: Mutex::default(),
            closing_since: AtomicU32::new(0),
            limits,
        })
    }

    /// The coarse clock.
    pub fn clock(&self) -> Arc<AtomicU32> {
        self.now.clone()
    }

    /// Watches this one too, until it is dropped.
    pub fn watch(&self, watched: &Arc<Watched>) {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::downgrade(watched));
    }

    /// Walks for as long as the worker's runtime does.
    pub async fn walk(self: Arc<Self>) {
        let shortest = self.limits.header.min(self.limits.keep_alive).min(self.limits.stall);
        let step = (UNIT * shortest / 4).clamp(STEP_MIN, STEP_MAX);
        let mut ticks = tokio::time::interval(step);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut swept = Instant::now();
        loop {
            ticks.tick().await;
            if swept.elapsed() >= SWEEP {
                swept = Instant::now();
                pool::sweep();
            }
            self.now.store(units(self.begun.elapsed()), Relaxed);
            self.look();
            self.shared.access_log.hand_on();
        }
    }

    fn look(&self) {
        let now = self.now.load(Relaxed);
        let phase = self.shared.phase();
        if phase >= Phase::Closing && self.closing_since.load(Relaxed) == 0 {
            self.closing_since.store(now.max(1), Relaxed);
        }
        let mut connections = self.connections.lock().unwrap_or_else(PoisonError::into_inner);
        connections.retain(|watched| {
            let Some(watched) = watched.upgrade() else { return false };
            let waiting = Waiting::of(&watched, now);
            let ending = phase >= Phase::Ending || self.has_turn(&watched, now);
            self.act(&watched, waiting.judge(self.limits, ending));
            true
        });
        if connections.capacity() > 64 && connections.capacity() / 4 > connections.len() {
            connections.shrink_to_fit();
        }
    }

    /// Answers of HTTP/2 do not close their connection: each is told to go at a time of its own within `drain.close`,
    /// so that clients do not come back all at once.
    fn has_turn(&self, watched: &Arc<Watched>, now: u32) -> bool {
        let since = self.closing_since.load(Relaxed);
        if since == 0 || watched.streams.get().is_none() {
            return false;
        }
        // Where it lies in memory is as good as a number by chance (Knuth's multiplier spreads it).
        let chance = (Arc::as_ptr(watched) as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 48;
        u64::from(now.wrapping_sub(since)) << 16 >= chance * u64::from(self.limits.close)
    }

    fn act(&self, watched: &Watched, finding: Finding) {
        let counted = &self.shared.metrics.connections;
        let counter = match finding {
            Finding::Well => return,
            Finding::SlowHead => {
                watched.signals.refuse_partial_head();
                watched.wake();
                return;
            }
            Finding::Ended => {
                watched.order(Order::Close);
                return;
            }
            Finding::Mute if watched.order(Order::Close) => &counted.slow_head,
            Finding::Idle if watched.order(Order::Close) => &counted.idle,
            Finding::Stalled if watched.order(Order::Cut) => &counted.stalled,
            Finding::Deaf => {
                watched.order(Order::Cut);
                return;
            }
            Finding::Mute | Finding::Idle | Finding::Stalled => return,
        };
        counter.fetch_add(1, Relaxed);
    }
}

impl Waiting {
    fn of(watched: &Watched, now: u32) -> Self {
        let since = |then: u32| now.wrapping_sub(then);
        let signals = &watched.signals;
        let streams = watched.streams.get().map(|streams| {
            let quiet = since(streams.progress());
            StreamsWaiting { open: streams.open() > 0, blocked: streams.is_waiting().then_some(quiet), quiet }
        });
        Self {
            streams,
            head: signals.head_since().map(since),
            write: signals.write_blocked_since().map(since),
            silent: since(signals.touched()),
            served: signals.heads_passed(),
        }
    }

    fn judge(self, limits: Limits, ending: bool) -> Finding {
        if self.write.is_some_and(|waiting| waiting > limits.stall) {
            Finding::Stalled
        } else if let Some(streams) = self.streams {
            streams.judge(self.served, limits, ending)
        } else if self.head.is_some_and(|waiting| waiting > limits.header) {
            Finding::SlowHead
        } else if self.head.is_some() {
            Finding::Well
        } else if ending && self.silent > limits.silent {
            Finding::Ended
        } else if !self.served && self.silent > limits.header {
            Finding::Mute
        } else if self.silent > limits.keep_alive {
            Finding::Idle
        } else {
            Finding::Well
        }
    }
}

impl StreamsWaiting {
    fn judge(self, served: bool, limits: Limits, ending: bool) -> Finding {
        let idle_max = if served { limits.keep_alive } else { limits.header };
        if self.blocked.is_some_and(|waiting| waiting > limits.stall) {
            Finding::Stalled
        } else if !self.open && self.quiet > idle_max.saturating_add(limits.header) {
            // It was told to end, which asks for its consent.
            Finding::Deaf
        } else if ending {
            Finding::Ended
        } else if !self.open && self.quiet > idle_max {
            if served { Finding::Idle } else { Finding::Mute }
        } else {
            Finding::Well
        }
    }
}

fn units(time: Duration) -> u32 {
    u32::try_from(time.as_nanos() / UNIT.as_nanos()).unwrap_or(u32::MAX / 2).clamp(1, u32::MAX / 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_waits_for_too_long() {
        let limits = Limits { header: 10, keep_alive: 100, stall: 50, silent: 5, close: 100 };
        let streams = |streams| Waiting {
            streams: Some(streams),
            silent: 1000,
            ..Waiting { served: true, ..Waiting::default() }
        };
        let open = StreamsWaiting { open: true, blocked: None, quiet: 1000 };
        let rests = |quiet| StreamsWaiting { open: false, blocked: None, quiet };
        let served = Waiting { served: true, ..Waiting::default() };
        let rows = [
            (served, false, Finding::Well),
            (Waiting { silent: 100, ..served }, false, Finding::Well),
            (Waiting { silent: 101, ..served }, false, Finding::Idle),
            (Waiting { silent: 11, served: false, ..served }, false, Finding::Mute),
            (Waiting { silent: 10, served: false, ..served }, false, Finding::Well),
            (Waiting { head: Some(10), silent: 1, ..served }, false, Finding::Well),
            (Waiting { head: Some(11), silent: 0, ..served }, false, Finding::SlowHead),
            (Waiting { write: Some(51), silent: 51, ..served }, false, Finding::Stalled),
            (Waiting { write: Some(50), silent: 50, ..served }, false, Finding::Well),
            (Waiting { silent: 5, ..served }, true, Finding::Well),
            (Waiting { silent: 6, ..served }, true, Finding::Ended),
            (Waiting { head: Some(3), silent: 6, ..served }, true, Finding::Well),
            (streams(open), false, Finding::Well),
            (streams(open), true, Finding::Ended),
            (streams(StreamsWaiting { blocked: Some(50), ..open }), false, Finding::Well),
            (streams(StreamsWaiting { blocked: Some(51), ..open }), false, Finding::Stalled),
            (streams(rests(100)), false, Finding::Well),
            (streams(rests(101)), false, Finding::Idle),
            (streams(rests(111)), false, Finding::Deaf),
            (streams(rests(1)), true, Finding::Ended),
            (Waiting { served: false, ..streams(rests(11)) }, false, Finding::Mute),
        ];
        for (waiting, ending, finding) in rows {
            assert_eq!(waiting.judge(limits, ending), finding, "{waiting:?}, ending: {ending}");
        }
    }
}
