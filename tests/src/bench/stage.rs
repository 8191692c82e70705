//! The stage of a measurement: the load balancer's real maps, filled through its engine, its shipped
//! program by its pin, the measuring programs over the same maps, and a namespace whose routes lead to
//! clients.

use std::{collections::HashMap, net::Ipv4Addr, path::PathBuf};

use anyhow::{Context as _, Result, ensure};
use aya::{
    Ebpf, EbpfLoader,
    maps::{Array, MapData, ProgramArray},
    programs::{TestRun as _, TestRunOptions, Xdp},
};
use aya_obj::programs::XdpAttachType;
use lb_common::{
    Address, BackendState, FragmentPolicy, Interface, Mac, Mode, NextHop, Port, Protocol, ServiceKey,
    ServiceSettings, Slot, SlotState, Tracking, limits::maps,
};
use lb_control::{
    datapath::{
        Change, Datapath as _,
        bpf::{BpfDatapath, BpfOptions},
    },
    engine::{Engine, monotonic_seconds},
    target::{Target, TargetBackend, TargetService},
};

use super::{
    recipe::{FRAME_LEN, Recipe},
    row::{self, Floor, Row, Scenario},
};
use crate::netns::{Namespace, cable};

const BACKENDS: u8 = 100;
/// The interface that packets come in by and go out of again.
const INTERFACE: &str = "lb0";
/// Longer than any measurement: no flow idles out.
const FLOW_IDLE_SECONDS: u32 = 3_600;
const PROGRAMS: [&str; 7] =
    ["wrapper", "empty", "parse_only", "parse_and_service", "parse_and_flow", "fill_plain", "forget"];

/// Two namespaces with a cable: the balancer's, with a default route to the other's neighbour.
pub struct Routes {
    balancer: Namespace,
    _clients: Namespace,
}

impl Routes {
    /// Creates them.
    pub fn create() -> Result<Self> {
        let (balancer, clients) = (Namespace::create("bench")?, Namespace::create("clients")?);
        cable((&balancer, INTERFACE), (&clients, "far0"))?;
        balancer.ip(&format!(
            "addr add 10.9.0.1/16 dev {INTERFACE}\n\
             neigh add 10.9.0.2 lladdr 02:00:00:00:09:02 nud permanent dev {INTERFACE}\n\
             route add default via 10.9.0.2"
        ))?;
        balancer.sysctl("ipv4/ip_forward", "1")?;
        Ok(Self { balancer, _clients: clients })
    }

    /// Runs `work` in the balancer's namespace.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        self.balancer.enter(work)
    }
}

/// Maps, programs, and what the maps hold at the moment.
pub struct Stage {
    engine: Engine<BpfDatapath>,
    shipped: Xdp,
    programs: Ebpf,
    pin_dir: PathBuf,
    ifindex: u32,
    /// As the engine built them: every service's slots settled.
    tables: HashMap<ServiceKey, (u32, Vec<Slot>)>,
    slots: HashMap<ServiceKey, SlotState>,
    remembered: Option<(Mode, u32)>,
}

impl Stage {
    /// Loads and fills everything; to be called in the balancer's namespace.
    pub fn build(load_balancer: &[u8], measuring: &[u8], pin_dir: PathBuf) -> Result<Self> {
        // SAFETY: a C string.
        let ifindex = unsafe { libc::if_nametoindex(c"lb0".as_ptr()) };
        ensure!(ifindex != 0, "no interface {INTERFACE} in this namespace");
        let options = BpfOptions {
            object: load_balancer,
            pin_dir: pin_dir.clone(),
            log_level: 1,
            features: lb_common::Features::NONE,
            max_entries: Vec::new(),
        };
        let mut engine = Engine::adopt(BpfDatapath::open(options)?)?;
        let applied = engine.apply(&target(ifindex), monotonic_seconds())?;
        ensure!(applied.shortages.is_empty(), "{:?}", applied.shortages);
        let pins = pin_dir.join(format!("v{}", lb_common::limits::LAYOUT_VERSION));
        let shipped = Xdp::from_pin(pins.join("program"), XdpAttachType::Interface)?;

        let mut loader = EbpfLoader::new();
        for name in [maps::SERVICES, maps::FLOWS] {
            loader.map_pin_path(name, pins.join("maps").join(name));
        }
        let mut programs = loader.load(measuring).context("creating the measuring programs' maps")?;
        for name in PROGRAMS {
            xdp_mut(&mut programs, name)?.load().with_context(|| format!("loading {name}"))?;
        }
        let tables = engine
            .installed()
            .services
            .iter()
            .map(|(&key, service)| (key, (service.entry.slots_start, service.slots.clone())))
            .collect();
        let mut stage = Self {
            engine,
            shipped,
            programs,
            pin_dir,
            ifindex,
            tables,
            slots: HashMap::new(),
            remembered: None,
        };
        let all = row::FLOWS[row::FLOWS.len() - 1];
        stage.put_recipe(filling(Mode::Nat, all))?;
        stage.put_program(Some("fill_plain"))?;
        stage.run("wrapper", all)?;
        Ok(stage)
    }

    /// Brings maps and wrapper into the state that `row` is measured in.
    pub fn prepare(&mut self, row: Row) -> Result<()> {
        if let Row::Shipped(mode, scenario, flows) = row {
            let state = match scenario {
                Scenario::MovingHit | Scenario::MovingInsert => SlotState::Moving,
                Scenario::PinnedMiss => SlotState::Pinned,
                _ => SlotState::Settled,
            };
            self.put_slots(mode, state)?;
            if scenario == Scenario::MovingHit {
                if self.remembered != Some((mode, flows)) {
                    self.forget()?;
                    self.put_recipe(filling(mode, flows))?;
                    self.put_program(None)?;
                    self.run("wrapper", flows)?;
                    self.remembered = Some((mode, flows));
                }
            } else {
                self.forget()?;
            }
        }
        self.put_recipe(row.recipe())?;
        match row {
            Row::Floor(floor, _) => self.put_program(Some(match floor {
                Floor::Loop | Floor::Empty => "empty",
                Floor::Parse => "parse_only",
                Floor::ParseService => "parse_and_service",
                Floor::ParseFlow => "parse_and_flow",
            })),
            Row::Shipped(..) => self.put_program(None),
        }
    }

    /// Runs a prepared row `repeat` times; nanoseconds of one run, the wrapper's included. Only an insertion
    /// must not be repeated: its flows are remembered afterwards.
    pub fn measure(&mut self, row: Row, repeat: u32) -> Result<(f64, u32)> {
        let outcome = match row {
            Row::Floor(Floor::Loop, _) => self.run("empty", repeat)?,
            _ => self.run("wrapper", repeat)?,
        };
        if let Row::Shipped(mode, Scenario::MovingInsert, flows) = row {
            self.remembered = Some((mode, flows));
        }
        Ok(outcome)
    }

    /// How often each reason was the outcome.
    pub fn reasons(&self) -> Result<Vec<u64>> {
        self.engine.reasons()
    }

    /// How many flows are remembered.
    pub fn flow_count(&self) -> Result<usize> {
        Ok(self.engine.datapath().flows()?.len())
    }

    /// Empties the flow table.
    fn forget(&mut self) -> Result<()> {
        if let Some((mode, flows)) = self.remembered.take() {
            self.put_recipe(Row::Shipped(mode, Scenario::MovingHit, flows).recipe())?;
            self.put_program(Some("forget"))?;
            self.run("wrapper", flows)?;
        }
        Ok(())
    }

    /// Gives every slot of a mode's services this state; where it moved, from the owner of the slot beside it.
    fn put_slots(&mut self, mode: Mode, state: SlotState) -> Result<()> {
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            let key = service_key(mode, protocol);
            if self.slots.get(&key).copied().unwrap_or(SlotState::Settled) == state {
                continue;
            }
            let (start, settled) = &self.tables[&key];
            let moved = |index: usize| {
                let previous = settled[(index + 1) % settled.len()].current();
                Slot::new(settled[index].current(), previous, state, monotonic_seconds())
            };
            let slots = match state {
                SlotState::Settled => settled.clone(),
                SlotState::Moving | SlotState::Pinned => (0..settled.len()).map(moved).collect(),
            };
            self.engine.datapath_mut().apply(&Change::WriteSlots(*start, slots))?;
            self.slots.insert(key, state);
        }
        Ok(())
    }

    fn put_recipe(&mut self, recipe: Recipe) -> Result<()> {
        #[derive(Clone, Copy)]
        #[repr(transparent)]
        struct Value(Recipe);
        // SAFETY: `repr(C)`, 32-bit integers only, no padding.
        unsafe impl aya::Pod for Value {}
        let map = self.programs.map_mut("RECIPE").context("no map RECIPE")?;
        let mut map: Array<&mut MapData, Value> = map.try_into()?;
        Ok(map.set(0, Value(recipe), 0)?)
    }

    /// Chooses what the wrapper calls: one of the measuring programs, or the shipped one.
    fn put_program(&mut self, name: Option<&str>) -> Result<()> {
        let fd = match name {
            Some(name) => xdp(&self.programs, name)?.fd()?.try_clone()?,
            None => self.shipped.fd()?.try_clone()?,
        };
        let map = self.programs.map_mut("PROGRAM_UNDER_TEST").context("no map PROGRAM_UNDER_TEST")?;
        let mut map: ProgramArray<&mut MapData> = map.try_into()?;
        Ok(map.set(0, &fd, 0)?)
    }

    fn run(&self, program: &str, repeat: u32) -> Result<(f64, u32)> {
        let packet = [0u8; FRAME_LEN];
        // `struct xdp_md`: data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex.
        let mut context = [0u8; 24];
        context[4..8].copy_from_slice(&(FRAME_LEN as u32).to_ne_bytes());
        context[12..16].copy_from_slice(&self.ifindex.to_ne_bytes());
        let options = TestRunOptions {
            data_in: Some(&packet),
            ctx_in: Some(&context),
            repeat,
            ..TestRunOptions::default()
        };
        let result = xdp(&self.programs, program)?.test_run(options).context("BPF_PROG_TEST_RUN")?;
        Ok((result.duration.as_nanos() as f64, result.return_value))
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        let _ = BpfDatapath::unload(&self.pin_dir);
    }
}

fn xdp<'p>(programs: &'p Ebpf, name: &str) -> Result<&'p Xdp> {
    Ok(programs.program(name).with_context(|| format!("no program {name}"))?.try_into()?)
}

fn xdp_mut<'p>(programs: &'p mut Ebpf, name: &str) -> Result<&'p mut Xdp> {
    Ok(programs.program_mut(name).with_context(|| format!("no program {name}"))?.try_into()?)
}

/// Packets that fill a table with flows.
fn filling(mode: Mode, flows: u32) -> Recipe {
    Row::Shipped(mode, Scenario::MovingInsert, flows).recipe()
}

fn address(address: Ipv4Addr) -> Address {
    Address::from_ipv4(address.octets())
}

fn service_key(mode: Mode, protocol: Protocol) -> ServiceKey {
    let vip = match mode {
        Mode::Nat | Mode::FullNat => row::VIP_NAT,
        Mode::DsrL2 | Mode::DsrIpip | Mode::DsrGue => row::VIP_DSR,
    };
    ServiceKey { address: address(vip), port: Port::new(row::VIP_PORT), protocol: protocol as u8, width: 0 }
}

/// Both modes with both protocols, a hundred backends each, every next hop known.
fn target(ifindex: u32) -> Target {
    let backends = |mode| {
        (0..BACKENDS)
            .map(|number| TargetBackend {
                server_id: None,
                address: lb_control::model::address::to_map(row::backend(mode, number).ip()),
                port: Port::new(row::backend(mode, number).port()),
                weight: 1,
                state: BackendState::Up,
                next_hop: Some(NextHop { mac: Mac::new([2, 0, 0, 0, 1, number]), interface: 0 }),
            })
            .collect()
    };
    let services = [Mode::Nat, Mode::DsrL2]
        .into_iter()
        .flat_map(|mode| [(mode, Protocol::Tcp), (mode, Protocol::Udp)])
        .map(|(mode, protocol)| TargetService {
            key: service_key(mode, protocol),
            last_port: 0,
            settings: ServiceSettings::new(mode, Tracking::OnChange, FLOW_IDLE_SECONDS),
            fragments: FragmentPolicy::Drop,
            answer_echo: false,
            answer_arp: false,
            backends: backends(mode),
        })
        .collect();
    let interface = Interface { mac: Mac::new([2, 0, 0, 0, 9, 1]).word(), ifindex, mtu: 1_500 };
    Target {
        services,
        interfaces: vec![(0, interface)],
        locals: vec![address(Ipv4Addr::new(10, 9, 0, 1))],
        ..Target::default()
    }
}
