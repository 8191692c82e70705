//! What is observed of the data plane, as plain data that the API serialises, and the trait that the
//! control loop implements to provide it.

use std::{collections::BTreeMap, future::Future, net::SocketAddr, pin::Pin, sync::Arc};

use serde::Serialize;

use crate::{
    engine::{DrainEnd, DrainReport},
    model::Desired,
};

/// Eyes on the data plane. Both calls return at once and never wait for the control loop.
pub trait Observe: Send + Sync {
    /// The latest observation.
    fn observe(&self) -> Arc<Observed>;

    /// The generation that is wholly installed; zero before the first.
    fn installed_generation(&self) -> u64;
}

/// Tells what a state would do to slots and flows, if it came after another; in words, where it cannot.
pub trait DryRuns: Send + Sync {
    /// Asks the engine; it answers within a second where there are millions of flows.
    fn dry_run(
        &self,
        before: Arc<Desired>,
        after: Arc<Desired>,
    ) -> Pin<Box<dyn Future<Output = Result<DryRun, String>> + Send + '_>>;
}

/// What an order would do.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct DryRun {
    /// The generation that the order would change.
    pub generation: u64,
    /// Slots that would get another owner.
    pub slots_moved: u64,
    /// Live flows that are known in these slots: they stay where they are while their backend serves.
    pub live_flows: u64,
    /// Live flows that are known of backends that would serve no more.
    pub flows_cut: u64,
    /// Whether these are all.
    pub exact: bool,
    /// By service; only those that the order would touch.
    pub services: Vec<ServiceDryRun>,
    /// What would not fit in the tables, for people.
    pub shortages: Vec<String>,
}

/// What an order would do to one service.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[allow(missing_docs, reason = "as in DryRun")]
pub struct ServiceDryRun {
    pub name: String,
    /// Slots of its table.
    pub slots: u32,
    pub slots_moved: u32,
    pub live_flows: u64,
    pub flows_cut: u64,
    pub exact: bool,
}

impl DryRun {
    /// The sums of what an order would do to `services`.
    pub fn new(generation: u64, services: Vec<ServiceDryRun>, shortages: Vec<String>) -> Self {
        let sum = |part: fn(&ServiceDryRun) -> u64| services.iter().map(part).sum();
        Self {
            generation,
            slots_moved: sum(|one| one.slots_moved.into()),
            live_flows: sum(|one| one.live_flows),
            flows_cut: sum(|one| one.flows_cut),
            exact: services.iter().all(|one| one.exact),
            services,
            shortages,
        }
    }
}

/// One observation of everything.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Observed {
    /// The generation that is wholly installed; zero before the first.
    pub installed_generation: u64,
    /// What kept the latest change or observation from succeeding, until one does.
    pub last_error: Option<String>,
    /// Interfaces that the program is to run on.
    pub interfaces: Vec<InterfaceStatus>,
    /// By name, for services that are installed.
    pub services: BTreeMap<String, ServiceStatus>,
    /// Packets by the reason for which they left the program.
    pub reasons: Vec<ReasonCount>,
    /// The table of remembered flows.
    pub flow_table: FlowTable,
    /// The table of `full-nat`.
    pub translation_table: TranslationTable,
    /// What was done since the controller started.
    pub totals: Totals,
}

impl Observed {
    /// What is known of a backend.
    pub fn backend(&self, service: &str, backend: &SocketAddr) -> Option<&BackendStatus> {
        self.services.get(service)?.backends.get(backend)
    }
}

/// An interface that the program is to run on.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct InterfaceStatus {
    /// Like `eth0`.
    pub name: String,
    /// The kernel's number; `None` while there is no interface of the name.
    pub ifindex: Option<u32>,
    /// How the program is attached; `None` while it is not.
    pub mode: Option<AttachMode>,
    /// Whether the program runs on it.
    pub attached: bool,
}

/// How a program is attached to an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum AttachMode {
    /// In the driver, before the kernel allocates anything for the packet.
    Driver,
    /// In the stack's generic hook: works everywhere, slower.
    Generic,
}

/// An installed service.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct ServiceStatus {
    /// Its number in the maps.
    pub id: u32,
    /// Slots of its table.
    pub slots: u32,
    /// Slots whose flows need no memory.
    pub settled: u32,
    /// Slots that moved less than an idle timeout ago.
    pub moving: u32,
    /// Slots that wait for remembered flows to end.
    pub pinned: u32,
    /// The flows that they wait for.
    pub flows_pinned: u64,
    /// What was counted of it.
    pub counters: CounterValues,
    /// By address and port; a backend that was deleted stays until nothing names it.
    pub backends: BTreeMap<SocketAddr, BackendStatus>,
}

/// An installed backend.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct BackendStatus {
    /// Its number in the maps.
    pub id: u32,
    /// What is sent to it.
    pub state: BackendStateName,
    /// Slots that it owns.
    pub slots: u32,
    /// Moving or pinned slots that name it as owner or previous owner: flows that nothing remembers may
    /// still be sent to it.
    pub slots_unsettled: u32,
    /// Remembered and translated flows that belong to it.
    pub tracked_flows: u64,
    /// Live connections as packets count them: where every flow is tracked or translated.
    pub connections: u64,
    /// Its smoothed response time in microseconds, where the algorithm asks for it; 0: not known.
    pub response_micros: u32,
    /// Its drain, as far as its flows tell; shown beside what was ordered.
    #[serde(skip)]
    pub drain: Option<DrainStatus>,
    /// The way to it; `None` while unresolved.
    pub next_hop: Option<NextHopStatus>,
    /// What was counted of it.
    pub counters: CounterValues,
}

/// What the flows of a drained backend tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DrainStatus {
    /// Flows that are open or opening; once it ended, those of just before.
    pub live_flows: u64,
    /// Whether these are all.
    pub exact: bool,
    /// In so many seconds they will be; 0 where they are.
    pub exact_after_seconds: u32,
    /// How it ended; `None` while it goes on.
    pub ended: Option<DrainEnding>,
}

impl From<DrainReport> for DrainStatus {
    fn from(report: DrainReport) -> Self {
        let DrainReport { live_flows, exact, exact_after_seconds, ended } = report;
        let ended = ended.map(|ended| match ended {
            DrainEnd::Empty => DrainEnding::Empty,
            DrainEnd::Cut(flows) => DrainEnding::Cut(flows.into()),
        });
        Self { live_flows: live_flows.into(), exact, exact_after_seconds, ended }
    }
}

/// How a drain ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DrainEnding {
    /// No flow was left.
    Empty,
    /// So many were.
    Cut(u64),
}

/// What is sent to a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum BackendStateName {
    /// New flows and old ones.
    Up,
    /// Old flows only.
    Draining,
    /// Old flows only: it is of a group that is not needed.
    Standby,
    /// Resets, to whoever still sends.
    Cut,
    /// Nothing.
    Down,
}

impl From<lb_common::BackendState> for BackendStateName {
    fn from(state: lb_common::BackendState) -> Self {
        match state {
            lb_common::BackendState::Up => Self::Up,
            lb_common::BackendState::Draining => Self::Draining,
            lb_common::BackendState::Down => Self::Down,
            lb_common::BackendState::Cut => Self::Cut,
        }
    }
}

impl From<crate::desired::Active> for BackendStateName {
    fn from(active: crate::desired::Active) -> Self {
        if active.stands_by { Self::Standby } else { active.state.into() }
    }
}

/// The neighbour that packets for a backend are handed to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NextHopStatus {
    /// The neighbour's Ethernet address, like `02:00:00:00:00:01`.
    pub mac: String,
    /// The interface's name.
    pub interface: String,
}

/// What is counted of a service and of a backend, summed over the CPUs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct CounterValues {
    /// Packets from clients that were sent on.
    pub packets: u64,
    /// Their bytes from the IP header on.
    pub bytes: u64,
    /// TCP: SYNs among them. UDP: flows that were remembered anew.
    pub new_flows: u64,
    /// Flows that the full table refused to remember.
    pub refused_flows: u64,
    /// New flows that went past a backend with as many connections as it may have.
    pub overflowed: u64,
}

impl From<lb_common::Counters> for CounterValues {
    fn from(counters: lb_common::Counters) -> Self {
        let lb_common::Counters { packets, bytes, new_flows, refused_flows, overflowed } = counters;
        Self { packets, bytes, new_flows, refused_flows, overflowed }
    }
}

/// A reason and how many packets had it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ReasonCount {
    /// As in metrics.
    pub name: &'static str,
    /// For people.
    pub description: &'static str,
    /// Packets.
    pub count: u64,
}

impl ReasonCount {
    /// The count of a reason.
    pub fn new(reason: lb_common::Reason, count: u64) -> Self {
        Self { name: reason.name(), description: reason.description(), count }
    }
}

/// What was done since the controller started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Totals {
    /// Slots that got another owner.
    pub slots_moved: u64,
    /// Flows that orders cut with the backends that they took away, as far as they were known.
    pub flows_cut: u64,
    /// Live connections of a backend that were corrected.
    pub corrections: u64,
}

/// The table of remembered flows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct FlowTable {
    /// How many it holds at most.
    pub capacity: u32,
    /// How many it holds.
    pub entries: u64,
    /// Among them clients' networks whose backend is remembered.
    pub affinities: u64,
    /// How many it refused, as far as this controller has seen.
    pub refused: u64,
}

/// The table of `full-nat`, in which a flow has an entry for each of its two directions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct TranslationTable {
    /// How many entries it holds at most.
    pub capacity: u32,
    /// How many it holds.
    pub entries: u64,
    /// Packets that were dropped because it was full.
    pub refused: u64,
    /// Packets that were dropped because the pool had no free port for their backend.
    pub ports_exhausted: u64,
}
