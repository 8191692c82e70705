//! What all workers share: the snapshot, the phase of a stop, counters and the log.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU8, Ordering::Relaxed},
};

use arc_swap::ArcSwap;

use crate::{
    access_log::AccessLog, in_flight::InFlight, metrics::Metrics, record::Record, snapshot::Snapshot,
};

/// What all workers share.
pub struct Shared {
    snapshot: ArcSwap<Snapshot>,
    phase: AtomicU8,
    was_ready: AtomicBool,
    handed_over: AtomicBool,
    /// Counters.
    pub metrics: Metrics,
    /// Clients' connections.
    pub connections: Arc<InFlight>,
    /// TLS handshakes of clients.
    pub handshakes: Arc<InFlight>,
    /// Where a line for each request goes.
    pub access_log: &'static AccessLog,
}

/// How far a stop has got.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Phase {
    /// No stop.
    Serving,
    /// The health path says no; else as before.
    Unready,
    /// Every answer closes its connection.
    Closing,
    /// Idle connections are closed, requests may end.
    Ending,
}

impl Shared {
    /// Begins with a snapshot, without an access log.
    pub fn new(snapshot: Snapshot) -> Arc<Self> {
        Self::with_log(snapshot, &crate::access_log::OFF)
    }

    /// Begins with a snapshot and an access log.
    pub fn with_log(snapshot: Snapshot, access_log: &'static AccessLog) -> Arc<Self> {
        access_log.choose(&snapshot.settings.access_lines);
        let connections = Arc::new(InFlight::new(snapshot.settings.fixed.connections));
        let handshakes = Arc::new(InFlight::new(snapshot.settings.handshakes));
        Arc::new(Self {
            connections,
            handshakes,
            access_log,
            snapshot: ArcSwap::from_pointee(snapshot),
            phase: AtomicU8::new(Phase::Serving as u8),
            was_ready: AtomicBool::new(false),
            handed_over: AtomicBool::new(false),
            metrics: Metrics::default(),
        })
    }

    /// The present snapshot.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshot.load_full()
    }

    /// Puts another in its place. Requests in flight keep the one that they began with.
    pub fn publish(&self, snapshot: Arc<Snapshot>) {
        self.access_log.choose(&snapshot.settings.access_lines);
        snapshot.in_flight.set_limit(snapshot.in_flight_max);
        snapshot.tunnels.set_limit(snapshot.tunnels_max);
        self.handshakes.set_limit(snapshot.settings.handshakes);
        self.snapshot.store(snapshot);
    }

    /// Clients' connections, those that became tunnels included.
    pub fn open(&self) -> u32 {
        self.connections.count() + self.snapshot().tunnels.count()
    }

    /// How far a stop has got.
    pub fn phase(&self) -> Phase {
        match self.phase.load(Relaxed) {
            0 => Phase::Serving,
            1 => Phase::Unready,
            2 => Phase::Closing,
            _ => Phase::Ending,
        }
    }

    /// Whether requests should be sent here: no stop, and the keys of all issuers have been there once. A later
    /// configuration whose keys are missing fails its own routes, and does not take the gateway away from all others.
    pub fn is_ready(&self) -> bool {
        // What is asked on a kept connection is asked of the gateway, which goes on in another process.
        if self.handed_over.load(Relaxed) {
            return true;
        }
        if self.phase() != Phase::Serving {
            return false;
        }
        let ready = self.was_ready.load(Relaxed) || self.snapshot().credentials.waiting_for().is_empty();
        if ready {
            self.was_ready.store(true, Relaxed);
        }
        ready
    }

    /// Another process serves at the same addresses from now on.
    pub fn hand_over(&self) {
        self.handed_over.store(true, Relaxed);
    }

    /// A stop goes on; it never goes back.
    pub fn advance(&self, phase: Phase) {
        self.phase.fetch_max(phase as u8, Relaxed);
    }

    /// Takes note of a request that is over.
    pub fn observe(&self, record: &Record) {
        self.metrics.count(record);
        self.access_log.note(record);
        if let Some(trace) = &record.trace {
            trace.end(record);
        }
    }
}
