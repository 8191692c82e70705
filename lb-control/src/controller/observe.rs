//! What is observed of the data plane: read on the engine's thread, published for the API.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::Result;
use lb_common::{Mac, NextHop, Reason, ServiceKey};

use super::engine_thread::{EngineGone, EngineThread};
use crate::{
    datapath::Datapath,
    engine::{Engine, TotalsReport},
    model::{Desired, address},
    netlink::Snapshot,
    next_hops::Resolved,
    status::{
        BackendStatus, FlowTable, InterfaceStatus, NextHopStatus, Observe, Observed, ReasonCount,
        ServiceStatus, Totals, TranslationTable,
    },
};

/// An order waits no longer than this for an observation, and for the service that is read just then.
const PART: Duration = Duration::from_micros(500);

/// Holds the latest observation.
#[derive(Default)]
pub struct Observer {
    latest: Mutex<Arc<Observed>>,
    installed: AtomicU64,
}

impl Observer {
    /// Everything up to `generation` is installed.
    pub fn set_installed(&self, generation: u64) {
        self.installed.store(generation, Ordering::Release);
    }

    /// Publishes an observation; returns the one before, which takes its time to let go of.
    pub fn publish(&self, observed: Observed) -> Arc<Observed> {
        let observed = Arc::new(observed);
        std::mem::replace(&mut *self.latest.lock().unwrap_or_else(PoisonError::into_inner), observed)
    }
}

impl Observe for Observer {
    fn observe(&self) -> Arc<Observed> {
        self.latest.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn installed_generation(&self) -> u64 {
        self.installed.load(Ordering::Acquire)
    }
}

/// What is read of the engine.
#[derive(Default)]
pub struct Reading {
    services: BTreeMap<String, ServiceStatus>,
    reasons: Vec<ReasonCount>,
    flow_table: FlowTable,
    translation_table: TranslationTable,
    totals: Totals,
}

impl Reading {
    /// Reads the services of `names` and what is counted of all, in parts between which the engine does other work;
    /// `interfaces` names interfaces by index.
    pub async fn take<D: Datapath + 'static>(
        engine: EngineThread<Engine<D>>,
        names: Vec<(String, ServiceKey)>,
        interfaces: BTreeMap<u16, String>,
    ) -> Result<Result<Self>, EngineGone> {
        let (names, interfaces) = (Arc::new(names), Arc::new(interfaces));
        let (mut services, mut next) = (BTreeMap::new(), 0);
        while next < names.len() {
            let (names, interfaces) = (names.clone(), interfaces.clone());
            let part = move |engine: &mut Engine<D>| read_part(engine, &names[next..], &interfaces);
            match engine.call(part).await? {
                Ok((read, count)) => {
                    services.extend(read);
                    next += count;
                }
                Err(error) => return Ok(Err(error)),
            }
        }
        let rest = engine.call(|engine| Self::of_all(engine)).await?;
        Ok(rest.map(|rest| Self { services, ..rest }))
    }

    fn of_all<D: Datapath>(engine: &Engine<D>) -> Result<Self> {
        let services = BTreeMap::new();
        let counts = engine.reasons()?;
        let count = |reason: Reason| counts.get(reason as usize).copied().unwrap_or_default();
        let reasons = Reason::ALL.iter().map(|reason| ReasonCount::new(*reason, count(*reason)));
        let flows = engine.flows();
        let flow_table = FlowTable {
            capacity: flows.capacity,
            entries: flows.entries.into(),
            affinities: flows.affinities.into(),
            refused: flows.refused,
        };
        let translations = engine.translations();
        let translation_table = TranslationTable {
            capacity: translations.capacity,
            entries: translations.entries.into(),
            refused: count(Reason::TranslationsFull),
            ports_exhausted: count(Reason::PortsExhausted),
        };
        let TotalsReport { slots_moved, flows_cut, corrections } = engine.totals();
        let totals = Totals { slots_moved, flows_cut, corrections };
        Ok(Self { services, reasons: reasons.collect(), flow_table, translation_table, totals })
    }

    /// The observation that the API shows.
    pub fn observed(
        self,
        installed_generation: u64,
        last_error: Option<String>,
        interfaces: Vec<InterfaceStatus>,
    ) -> Observed {
        let Self { services, reasons, flow_table, translation_table, totals } = self;
        Observed {
            installed_generation,
            last_error,
            interfaces,
            services,
            reasons,
            flow_table,
            translation_table,
            totals,
        }
    }
}

/// Reads services until the time of a part is over; returns how many names were seen to.
fn read_part<D: Datapath>(
    engine: &Engine<D>,
    names: &[(String, ServiceKey)],
    interfaces: &BTreeMap<u16, String>,
) -> Result<(Vec<(String, ServiceStatus)>, usize)> {
    let begun = Instant::now();
    let (mut read, mut count) = (Vec::new(), 0);
    for (name, key) in names {
        if let Some(status) = service(engine, key, interfaces)? {
            read.push((name.clone(), status));
        }
        count += 1;
        if begun.elapsed() >= PART {
            break;
        }
    }
    Ok((read, count))
}

/// The services to read.
pub fn service_names(desired: &Desired) -> Vec<(String, ServiceKey)> {
    desired.services.values().map(|service| (service.name.clone(), address::service_key(service))).collect()
}

/// Names of interfaces by their index in the maps.
pub fn interface_names(resolved: &Resolved, snapshot: &Snapshot) -> BTreeMap<u16, String> {
    let name = |ifindex: u32| match snapshot.links.get(&ifindex) {
        Some(link) => link.name.clone(),
        None => format!("interface {ifindex}"),
    };
    resolved.interfaces.iter().map(|(index, interface)| (*index, name(interface.ifindex))).collect()
}

fn service<D: Datapath>(
    engine: &Engine<D>,
    key: &ServiceKey,
    interfaces: &BTreeMap<u16, String>,
) -> Result<Option<ServiceStatus>> {
    let Some(report) = engine.service(key)? else { return Ok(None) };
    let mut backends = BTreeMap::new();
    let installed = engine.installed().services.get(key);
    for (at, port) in installed.into_iter().flat_map(|service| service.backends.keys()) {
        if let Some(backend) = engine.backend(key, *at, *port)? {
            let status = BackendStatus {
                id: backend.id.0,
                state: backend.state.into(),
                slots: backend.slots,
                slots_unsettled: backend.slots_unsettled,
                tracked_flows: backend.tracked_flows.into(),
                connections: backend.connections,
                response_micros: backend.response_micros,
                drain: backend.drain.map(Into::into),
                next_hop: backend.next_hop.map(|next_hop| next_hop_status(next_hop, interfaces)),
                counters: backend.counters.into(),
            };
            backends.insert(SocketAddr::new(address::from_map(*at), port.number()), status);
        }
    }
    Ok(Some(ServiceStatus {
        id: report.id,
        slots: report.slots,
        settled: report.settled,
        moving: report.moving,
        pinned: report.pinned,
        flows_pinned: report.flows_pinned.into(),
        counters: report.counters.into(),
        backends,
    }))
}

fn next_hop_status(next_hop: NextHop, interfaces: &BTreeMap<u16, String>) -> NextHopStatus {
    let interface = match interfaces.get(&next_hop.interface) {
        Some(name) => name.clone(),
        None => format!("index {}", next_hop.interface),
    };
    NextHopStatus { mac: mac_text(next_hop.mac), interface }
}

fn mac_text(mac: Mac) -> String {
    mac.bytes().map(|byte| format!("{byte:02x}")).join(":")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_next_hop_reads_like_iproute2() {
        let next_hop = NextHop { mac: Mac::new([2, 0, 0, 0, 0xab, 1]), interface: 3 };
        let status = next_hop_status(next_hop, &BTreeMap::from([(3, "eth1".to_owned())]));
        assert_eq!((status.mac.as_str(), status.interface.as_str()), ("02:00:00:00:ab:01", "eth1"));
    }
}
