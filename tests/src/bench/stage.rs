//! The stage of a measurement: the load balancer's real maps, filled through its engine, its shipped
//! program by its pin, the measuring programs over the same maps, and a namespace whose routes lead to
//! clients.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::Arc,
    thread,
};

use anyhow::{Context as _, Result, ensure};
use aya::{
    Ebpf, EbpfLoader,
    maps::{Array, MapData, PerCpuArray, PerCpuValues, ProgramArray},
    programs::{TestRun as _, TestRunOptions, Xdp},
};
use lb_common::{
    BackendState, Features, FragmentPolicy, Interface, Mac, NextHop, Port, Protocol, ServiceKey, Slot,
    SlotState, limits::maps,
};
use lb_control::{
    datapath::{
        Change, Datapath as _,
        bpf::{BpfDatapath, BpfOptions},
    },
    engine::{Engine, monotonic_seconds},
    model::address::to_map,
    target::{Target, TargetBackend, TargetService},
};

use super::{
    offer::Offer,
    program_settings,
    recipe::{FRAME_LEN, Recipe},
    row::{self, Family, Floor, Row, Scenario},
};
use crate::netns::{Namespace, cable};

const BACKENDS: u8 = 100;
/// The interface that packets come in by and go out of again.
const INTERFACE: &str = "lb0";
const PROGRAMS: [&str; 8] =
    ["wrapper", "empty", "grow", "parse_only", "parse_and_service", "parse_and_flow", "fill_plain", "forget"];
const FAMILIES: [Family; 2] = [Family::V4, Family::V6];

/// Two namespaces with a cable: the balancer's, with a default route to the other's neighbour.
pub struct Routes {
    balancer: Namespace,
    _clients: Namespace,
}

impl Routes {
    /// Creates them.
    pub fn create() -> Result<Self> {
        let (balancer, clients) = (Namespace::create("bench")?, Namespace::create("clients")?);
        balancer.sysctl("ipv6/conf/default/disable_ipv6", "0")?;
        cable((&balancer, INTERFACE), (&clients, "far0"))?;
        balancer.ip(&format!(
            "addr add 10.9.0.1/16 dev {INTERFACE}\n\
             neigh add 10.9.0.2 lladdr 02:00:00:00:09:02 nud permanent dev {INTERFACE}\n\
             route add default via 10.9.0.2\n\
             addr add 2001:db8:9::1/64 dev {INTERFACE} nodad\n\
             neigh add 2001:db8:9::2 lladdr 02:00:00:00:09:02 nud permanent dev {INTERFACE}\n\
             route add default via 2001:db8:9::2"
        ))?;
        balancer.sysctl("ipv4/ip_forward", "1")?;
        balancer.sysctl("ipv6/conf/all/forwarding", "1")?;
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
    /// The load balancer's object over the same maps, loaded for these features.
    shipped: Vec<(Features, Ebpf)>,
    programs: Ebpf,
    pin_dir: PathBuf,
    ifindex: u32,
    cpus: usize,
    /// As the engine built them: every service's slots settled.
    tables: HashMap<ServiceKey, (u32, Arc<Vec<Slot>>)>,
    slots: HashMap<ServiceKey, SlotState>,
    remembered: Option<(Offer, Family, u32)>,
    /// Flows that are in the table, but over.
    closed: Option<(Offer, Family, u32)>,
}

impl Stage {
    /// Loads what these rows run, and fills everything; to be called in the balancer's namespace.
    pub fn build(load_balancer: &[u8], measuring: &[u8], pin_dir: PathBuf, rows: &[Row]) -> Result<Self> {
        // SAFETY: a C string.
        let ifindex = unsafe { libc::if_nametoindex(c"lb0".as_ptr()) };
        ensure!(ifindex != 0, "no interface {INTERFACE} in this namespace");
        let options = BpfOptions {
            object: load_balancer,
            pin_dir: pin_dir.clone(),
            log_level: 1,
            features: Features::ALL,
            max_entries: Vec::new(),
        };
        let mut engine = Engine::adopt(BpfDatapath::open(options)?)?;
        let applied = engine.apply(&target(ifindex), monotonic_seconds())?;
        ensure!(applied.shortages.is_empty(), "{:?}", applied.shortages);
        let pins = pin_dir.join(format!("v{}", lb_common::limits::LAYOUT_VERSION)).join("maps");
        let mut shipped: Vec<(Features, Ebpf)> = Vec::new();
        for features in rows.iter().map(|row| row.features()) {
            if shipped.iter().all(|(known, _)| *known != features) {
                let object = load_shipped(load_balancer, features, &pins)
                    .with_context(|| format!("loading {features:?}"))?;
                shipped.push((features, object));
            }
        }

        let mut loader = EbpfLoader::new();
        for name in [maps::SERVICES, maps::FLOWS] {
            loader.map_pin_path(name, pins.join(name));
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
            cpus: aya::util::nr_cpus().map_err(|(file, error)| anyhow::anyhow!("{file}: {error}"))?,
            tables,
            slots: HashMap::new(),
            remembered: None,
            closed: None,
        };
        let all = row::FLOWS[row::FLOWS.len() - 1];
        stage.put_recipe(Row::Floor(Floor::ParseFlow, all).filling())?;
        stage.put_program("fill_plain")?;
        stage.run("wrapper", all)?;
        Ok(stage)
    }

    /// Brings maps and wrapper into the state that `row` is measured in.
    pub fn prepare(&mut self, row: Row) -> Result<()> {
        if let Row::Shipped(offer, family, scenario, flows) = row {
            let state = match scenario {
                Scenario::MovingHit | Scenario::MovingInsert => SlotState::Moving,
                Scenario::PinnedMiss => SlotState::Pinned,
                _ => SlotState::Settled,
            };
            self.put_slots(offer, family, state)?;
            let wanted = Some((offer, family, flows));
            if matches!(scenario, Scenario::MovingHit | Scenario::Established | Scenario::Close) {
                if self.remembered != wanted {
                    self.forget()?;
                    self.put_recipe(row.filling())?;
                    self.put_shipped(row.features())?;
                    self.run("wrapper", flows)?;
                }
                // Once it was closed, a flow is not what others are measured with.
                self.remembered = if scenario == Scenario::Close { None } else { wanted };
                self.closed = if scenario == Scenario::Close { wanted } else { None };
            } else {
                self.forget()?;
            }
        }
        self.put_recipe(row.recipe())?;
        match row {
            Row::Floor(Floor::Grow(bytes), _) => {
                let map = self.programs.map_mut("GROWTH").context("no map GROWTH")?;
                let mut map: Array<&mut MapData, u32> = map.try_into().context("GROWTH")?;
                map.set(0, bytes, 0)?;
                self.put_program("grow")
            }
            Row::Floor(floor, _) => self.put_program(match floor {
                Floor::Loop | Floor::Empty | Floor::Grow(_) => "empty",
                Floor::Parse(_) => "parse_only",
                Floor::ParseService(_) => "parse_and_service",
                Floor::ParseFlow => "parse_and_flow",
            }),
            Row::Shipped(..) => self.put_shipped(row.features()),
        }
    }

    /// Runs a prepared row `repeat` times; nanoseconds of one run, the wrapper's included. Only an insertion
    /// must not be repeated: its flows are remembered afterwards.
    pub fn measure(&mut self, row: Row, repeat: u32) -> Result<(f64, u32)> {
        let outcome = match row {
            Row::Floor(Floor::Loop, _) => self.run("empty", repeat)?,
            _ => self.run("wrapper", repeat)?,
        };
        if let Row::Shipped(offer, family, scenario, flows) = row
            && scenario.inserts()
        {
            self.remembered = Some((offer, family, flows));
        }
        Ok(outcome)
    }

    /// Runs a prepared row on each of these CPUs at once; nanoseconds of one run on each, the wrapper's included.
    pub fn measure_at_once(&self, cpus: &[usize], repeat: u32) -> Result<Vec<f64>> {
        let (wrapper, ifindex) = (xdp(&self.programs, "wrapper")?, self.ifindex);
        thread::scope(|scope| {
            let run = |&cpu: &usize| {
                scope.spawn(move || {
                    super::pin_to_cpu(cpu)?;
                    Ok(run(wrapper, ifindex, repeat)?.0)
                })
            };
            let workers: Vec<_> = cpus.iter().map(run).collect();
            workers.into_iter().map(|worker| worker.join().expect("it does not panic")).collect()
        })
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
        if let Some((offer, family, flows)) = self.remembered.take().or(self.closed.take()) {
            let mut recipe = Row::Shipped(offer, family, Scenario::Established, flows).filling();
            recipe.grown = 0;
            self.put_recipe(recipe)?;
            self.put_program("forget")?;
            self.run("wrapper", flows)?;
        }
        Ok(())
    }

    /// Gives every slot of a service, of both protocols, this state; where it moved, from the owner of the slot beside it.
    fn put_slots(&mut self, offer: Offer, family: Family, state: SlotState) -> Result<()> {
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            let key = service_key(offer, family, protocol);
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
                SlotState::Moving | SlotState::Pinned => Arc::new((0..settled.len()).map(moved).collect()),
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
        let mut map: PerCpuArray<&mut MapData, Value> = map.try_into().context("RECIPE")?;
        Ok(map.set(0, PerCpuValues::try_from(vec![Value(recipe); self.cpus])?, 0)?)
    }

    /// Has the wrapper call one of the measuring programs.
    fn put_program(&mut self, name: &str) -> Result<()> {
        let fd = xdp(&self.programs, name)?.fd()?.try_clone()?;
        self.put_under_test(&fd)
    }

    /// Has the wrapper call the shipped program as it is loaded for these features.
    fn put_shipped(&mut self, features: Features) -> Result<()> {
        let (_, object) = self
            .shipped
            .iter()
            .find(|(known, _)| *known == features)
            .context("not loaded for these features")?;
        let fd = xdp(object, "portcullis")?.fd()?.try_clone()?;
        self.put_under_test(&fd)
    }

    fn put_under_test(&mut self, fd: &aya::programs::ProgramFd) -> Result<()> {
        let map = self.programs.map_mut("PROGRAM_UNDER_TEST").context("no map PROGRAM_UNDER_TEST")?;
        let mut map: ProgramArray<&mut MapData> = map.try_into().context("PROGRAM_UNDER_TEST")?;
        Ok(map.set(0, fd, 0)?)
    }

    fn run(&self, program: &str, repeat: u32) -> Result<(f64, u32)> {
        run(xdp(&self.programs, program)?, self.ifindex, repeat)
    }
}

/// Loads the shipped object for these features over the engine's maps, with a map of its own by which its programs find
/// each other.
fn load_shipped(load_balancer: &[u8], features: Features, pins: &Path) -> Result<Ebpf> {
    let mut loader = EbpfLoader::new();
    loader.override_global("FEATURES", &features, true);
    // As the engine's copy: errors only.
    loader.override_global("AYA_LOG_LEVEL", &1u8, true);
    for name in maps::ALL.into_iter().filter(|name| *name != maps::PROGRAMS) {
        loader.map_pin_path(name, pins.join(name));
    }
    let mut object = loader.load(load_balancer).context("loading over the pinned maps")?;
    let mut next = Vec::new();
    for name in lb_control::datapath::bpf::NEXT {
        let program = xdp_mut(&mut object, name)?;
        program.load().with_context(|| format!("loading {name}"))?;
        next.push(program.fd()?.try_clone()?);
    }
    xdp_mut(&mut object, "portcullis")?.load()?;
    let map = object.map_mut(maps::PROGRAMS).context("no map PROGRAMS")?;
    let mut map: ProgramArray<&mut MapData> = map.try_into().context("PROGRAMS")?;
    for (index, program) in (0..).zip(&next) {
        map.set(index, program, 0)?;
    }
    Ok(object)
}

/// Runs a program over a frame of zeroes that comes in by an interface; nanoseconds of one run.
fn run(program: &Xdp, ifindex: u32, repeat: u32) -> Result<(f64, u32)> {
    let packet = [0u8; FRAME_LEN];
    // `struct xdp_md`: data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex.
    let mut context = [0u8; 24];
    context[4..8].copy_from_slice(&(FRAME_LEN as u32).to_ne_bytes());
    context[12..16].copy_from_slice(&ifindex.to_ne_bytes());
    let options = TestRunOptions {
        data_in: Some(&packet),
        ctx_in: Some(&context),
        repeat,
        ..TestRunOptions::default()
    };
    let result = program.test_run(options).context("BPF_PROG_TEST_RUN")?;
    Ok((result.duration.as_nanos() as f64, result.return_value))
}

impl Drop for Stage {
    fn drop(&mut self) {
        let _ = BpfDatapath::unload(&self.pin_dir);
    }
}

/// One of an object's programs.
pub fn xdp<'p>(programs: &'p Ebpf, name: &str) -> Result<&'p Xdp> {
    Ok(programs.program(name).with_context(|| format!("no program {name}"))?.try_into()?)
}

/// The same, to load or attach it.
pub fn xdp_mut<'p>(programs: &'p mut Ebpf, name: &str) -> Result<&'p mut Xdp> {
    Ok(programs.program_mut(name).with_context(|| format!("no program {name}"))?.try_into()?)
}

fn service_key(offer: Offer, family: Family, protocol: Protocol) -> ServiceKey {
    let vip = std::net::SocketAddr::new(offer.vip(family), row::VIP_PORT);
    ServiceKey { address: to_map(vip.ip()), port: Port::new(vip.port()), protocol: protocol as u8, width: 0 }
}

/// Every service in both families with both protocols, a hundred backends each, every next hop known.
fn target(ifindex: u32) -> Target {
    let backends = |offer: Offer, family| {
        (0..BACKENDS)
            .map(|number| TargetBackend {
                max_connections: 0,
                server_id: None,
                address: to_map(offer.backend(family, number).ip()),
                port: Port::new(offer.backend(family, number).port()),
                weight: 1,
                share: 1,
                resets: false,
                state: BackendState::Up,
                next_hop: Some(NextHop { mac: Mac::new([2, 0, 0, 0, 1, number]), interface: 0 }),
            })
            .collect()
    };
    let mut services = Vec::new();
    for offer in Offer::all() {
        for family in FAMILIES {
            for protocol in [Protocol::Tcp, Protocol::Udp] {
                services.push(TargetService {
                    key: service_key(offer, family, protocol),
                    last_port: 0,
                    settings: offer.settings(),
                    fragments: FragmentPolicy::Drop,
                    answer_echo: false,
                    answer_arp: false,
                    backends: backends(offer, family),
                });
            }
        }
    }
    let interface = Interface { mac: Mac::new([2, 0, 0, 0, 9, 1]).word(), ifindex, mtu: 1_500 };
    let own = |text: &str| to_map(text.parse().expect("an address"));
    Target {
        services: services.into_iter().map(Into::into).collect(),
        interfaces: vec![(0, interface)],
        locals: vec![own("10.9.0.1"), own("2001:db8:9::1")],
        program: program_settings(),
        pool: vec![own("10.9.0.200"), own("2001:db8:9::200")],
    }
}
