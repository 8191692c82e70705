//! What the controller forgets of flows in the kernel's table: only what it has seen, and live connections follow.
//!
//! A flow that changes while it is deleted is there afterwards: two threads, each on a CPU of its own, write and delete
//! the same flow in the same microsecond.

use std::{
    path::PathBuf,
    sync::atomic::{AtomicU32, Ordering},
    thread,
};

use anyhow::{Context as _, Result};
use aya::maps::{HashMap, Map, MapData};
use lb_common::{
    Address, Algorithm, BackendId, BackendState, Features, Flow, FlowKey, FlowState, FragmentPolicy, Mode,
    Port, ServiceKey, ServiceSettings, Tracking, limits, limits::maps,
};
use lb_control::{
    datapath::{
        Change, Datapath as _,
        bpf::{BpfDatapath, BpfOptions},
    },
    engine::{Engine, monotonic_seconds},
    target::{Target, TargetBackend, TargetService},
};
use tests::{
    bench::pin_to_cpu,
    requires::{DIRECTORY_PREFIX, requires},
};

const KEY: ServiceKey =
    ServiceKey { address: Address::from_ipv4([203, 0, 113, 7]), port: Port::new(80), protocol: 6, width: 0 };
const BACKEND: Address = Address::from_ipv4([10, 9, 7, 1]);
const IDLE_SECONDS: u32 = 300;

/// The program with its tables and one service that tracks every flow.
struct Balancer {
    engine: Engine<BpfDatapath>,
    pin_dir: PathBuf,
}

impl Balancer {
    fn new(name: &str, flows: u32) -> Result<Self> {
        let pin_dir = PathBuf::from(format!("/sys/fs/bpf/{DIRECTORY_PREFIX}{}-{name}", std::process::id()));
        let options = BpfOptions {
            object: aya::include_bytes_aligned!(env!("PORTCULLIS_BPF_OBJECT")),
            pin_dir: pin_dir.clone(),
            log_level: 1,
            features: Features::TRACKED,
            max_entries: vec![(maps::FLOWS, flows), (maps::SLOTS, 2_048)],
        };
        let mut engine = Engine::adopt(BpfDatapath::open(options)?)?;
        engine.apply(&target(), monotonic_seconds())?;
        Ok(Self { engine, pin_dir })
    }

    fn table(&self) -> Result<HashMap<MapData, FlowKey, Flow>> {
        let pins = self.pin_dir.join(format!("v{}", limits::LAYOUT_VERSION));
        Ok(Map::HashMap(MapData::from_pin(pins.join("maps").join(maps::FLOWS))?).try_into()?)
    }

    fn backend(&self) -> BackendId {
        self.engine.installed().services[&KEY].backends[&(BACKEND, Port::new(8_080))]
    }

    fn connections(&self) -> u64 {
        self.engine.datapath().backend_load(self.backend()).connections
    }
}

impl Drop for Balancer {
    fn drop(&mut self) {
        let _ = BpfDatapath::unload(&self.pin_dir);
    }
}

fn target() -> Target {
    let backend = TargetBackend {
        address: BACKEND,
        port: Port::new(8_080),
        server_id: None,
        weight: 1,
        share: 1,
        max_connections: 0,
        state: BackendState::Up,
        resets: false,
        next_hop: None,
    };
    let settings = ServiceSettings {
        algorithm: Algorithm::LeastConnections,
        ..ServiceSettings::new(Mode::Nat, Tracking::EveryFlow, IDLE_SECONDS)
    };
    let service = TargetService {
        key: KEY,
        last_port: 0,
        settings,
        fragments: FragmentPolicy::Drop,
        answer_arp: false,
        answer_echo: false,
        backends: vec![backend],
    };
    Target { services: vec![service.into()], ..Target::default() }
}

fn tuple(number: u32) -> FlowKey {
    let [a, b, c, d] = (0x0a63_0000 + number / 32_768).to_be_bytes();
    FlowKey {
        client: Address::from_ipv4([a, b, c, d]),
        vip: KEY.address,
        client_port: Port::new(1_024 + (number % 32_768) as u16),
        vip_port: KEY.port,
        protocol: 6,
        reserved: [0; 3],
    }
}

#[test]
fn idle_flows_go_and_are_counted_no_more() {
    requires();
    let run = || -> Result<()> {
        let mut balancer = Balancer::new("swept", 4_096)?;
        let (id, mut table) = (balancer.backend(), balancer.table()?);
        let now = 10_000;
        for number in 0..3_000 {
            // Two of three are idle, and every other one is counted.
            let seen = if number % 3 == 0 { now - 5 } else { now - IDLE_SECONDS - 2 };
            let flow = Flow::new(id, number, seen, FlowState::Established).counted(number % 2 == 0);
            table.insert(tuple(number), flow, 0)?;
        }
        balancer.engine.datapath().adjust_connections(id, 1_500);
        let settled = balancer.engine.settle(now)?;
        assert_eq!((settled.flows, settled.forgotten), (1_000, 2_000));
        assert_eq!(balancer.connections(), 500);
        let left = table.keys().collect::<Result<Vec<_>, _>>()?;
        assert_eq!(left.len(), 1_000);

        balancer.engine.datapath().adjust_connections(id, 7);
        balancer.engine.settle(now + 1)?;
        balancer.engine.settle(now + 2)?;
        assert_eq!(balancer.connections(), 500, "what was twice off by seven is corrected");
        Ok(())
    };
    run().expect("the kernel does as it is told");
}

#[test]
fn a_flow_that_changes_while_it_is_forgotten_is_there_afterwards() {
    requires();
    const ROUNDS: u32 = 20_000;
    let run = || -> Result<()> {
        let mut balancer = Balancer::new("reopened", 64)?;
        let (id, mut table) = (balancer.backend(), balancer.table()?);
        let flow = |seen| Flow::new(id, 1, seen, FlowState::Established);
        let steps = AtomicU32::new(0);
        let meet = |step: u32| {
            steps.fetch_add(1, Ordering::AcqRel);
            while steps.load(Ordering::Acquire) < 2 * step {
                // Spinning alone, a CPU that others use would be waited for in vain.
                thread::yield_now();
            }
        };
        let mut lost = 0;
        thread::scope(|scope| -> Result<()> {
            let writer = scope.spawn(|| -> Result<()> {
                pin_to_cpu(1)?;
                for round in 0..ROUNDS {
                    table.insert(tuple(1), flow(2 * round), 0)?;
                    meet(3 * round + 1);
                    // At another moment in every round.
                    for _ in 0..round % 97 {
                        std::hint::spin_loop();
                    }
                    table.insert(tuple(1), flow(2 * round + 1), 0)?;
                    meet(3 * round + 2);
                    lost += u32::from(table.get(&tuple(1), 0).ok() != Some(flow(2 * round + 1)));
                    meet(3 * round + 3);
                }
                Ok(())
            });
            pin_to_cpu(0)?;
            for round in 0..ROUNDS {
                meet(3 * round + 1);
                let change = Change::DeleteFlows(vec![(tuple(1), flow(2 * round))]);
                balancer.engine.datapath_mut().apply(&change).context("deleting")?;
                meet(3 * round + 2);
                meet(3 * round + 3);
            }
            writer.join().expect("no panic")
        })?;
        assert_eq!(lost, 0, "of {ROUNDS} flows that were written anew");
        Ok(())
    };
    run().expect("the kernel does as it is told");
}
