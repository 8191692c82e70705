//! The load balancer's real maps, filled through its engine, its shipped program loaded for what each row needs, and
//! generator, relay and sink; one CPU does all of it.

use std::{
    fs,
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use aya::{
    Ebpf, EbpfLoader,
    maps::{Array, MapData, PerCpuArray, PerCpuValues, ProgramArray},
    programs::{
        ProgramError, TestRun as _, TestRunAttrs, TestRunOptions, Xdp,
        xdp::{XdpLinkId, XdpMode},
    },
};
use lb_common::{
    BackendState, Features, FragmentPolicy, Interface, Mac, NextHop, Port, Protocol, Reason, ServiceKey,
    limits::maps,
};
use lb_control::{
    datapath::bpf::{BpfDatapath, BpfOptions},
    engine::{Engine, monotonic_seconds},
    model::address::to_map,
    target::{Target, TargetBackend, TargetService},
};

use super::{
    BACKENDS, Row, System, Way, backend, vip,
    world::{self, CLIENT, IN, OUT, SINK, World},
};
use crate::bench::{
    pin_to_cpu, program_settings,
    recipe::{FRAME_LEN, Recipe},
    row::{Family, IN_TURN, SHUFFLED},
    stage::{xdp, xdp_mut},
};

const PROGRAMS: [&str; 5] = ["generate", "relay", "sink", "wrapper", "forget"];
/// Packets of one call of the generator.
const CALL: u32 = 1 << 18;
/// Packets that the generator makes before the interface's queue is worked off: the kernel's own default.
const BATCH: u32 = 64;
/// A measurement takes at least so long, and every flow comes up once.
const MEASUREMENT: Duration = Duration::from_millis(600);

/// What one measurement saw.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    /// Packets that arrived per second of the CPU's time; by the clock where nothing else ran on it.
    pub pps: f64,
    /// Nanoseconds of CPU per packet that arrived, of generator, cables and sink too.
    pub cpu_ns: f64,
    /// The part of the packets that did not arrive.
    pub lost: f64,
    /// The part of the time that the CPU worked on it.
    pub busy: f64,
}

/// Programs, maps, and what the flow table holds.
pub struct Stage {
    world: World,
    engine: Engine<BpfDatapath>,
    shipped: Vec<(Features, Ebpf)>,
    programs: Ebpf,
    pin_dir: PathBuf,
    cpus: usize,
    cpu: usize,
    client: u32,
    inside: u32,
    attached: Option<(System, Family, XdpLinkId)>,
    remembered: Option<Row>,
}

impl Stage {
    /// Loads and fills everything, and puts the sink into its place.
    pub fn build(load_balancer: &[u8], measuring: &[u8], pin_dir: PathBuf, cpu: usize) -> Result<Self> {
        let world = World::create()?;
        let index = |namespace: &crate::netns::Namespace, name: &str| -> Result<u32> {
            let name = std::ffi::CString::new(name)?;
            // SAFETY: a C string.
            let index = namespace.enter(|| unsafe { libc::if_nametoindex(name.as_ptr()) })?;
            ensure!(index != 0, "no interface {name:?}");
            Ok(index)
        };
        let client = index(&world.client, CLIENT)?;
        let (inside, outside) = (index(&world.balancer, IN)?, index(&world.balancer, OUT)?);
        let sink = index(&world.servers, SINK)?;
        let options = BpfOptions {
            object: load_balancer,
            pin_dir: pin_dir.clone(),
            log_level: 1,
            features: Features::ALL,
            max_entries: Vec::new(),
        };
        let mut engine = Engine::adopt(BpfDatapath::open(options)?)?;
        let applied = engine.apply(&target(outside), monotonic_seconds())?;
        ensure!(applied.shortages.is_empty(), "{:?}", applied.shortages);
        let pins = pin_dir.join(format!("v{}", lb_common::limits::LAYOUT_VERSION)).join("maps");
        let mut shipped: Vec<(Features, Ebpf)> = Vec::new();
        for features in
            [Family::V4, Family::V6].into_iter().flat_map(|family| Way::ALL.map(|way| way.features(family)))
        {
            if shipped.iter().any(|(known, _)| *known == features) {
                continue;
            }
            let mut loader = EbpfLoader::new();
            loader.override_global("FEATURES", &features, true);
            loader.override_global("AYA_LOG_LEVEL", &1u8, true);
            for name in maps::ALL {
                loader.map_pin_path(name, pins.join(name));
            }
            let mut object = loader.load(load_balancer).context("loading over the pinned maps")?;
            xdp_mut(&mut object, "portcullis")?.load().with_context(|| format!("loading {features:?}"))?;
            shipped.push((features, object));
        }
        let mut loader = EbpfLoader::new();
        for name in [maps::SERVICES, maps::FLOWS] {
            loader.map_pin_path(name, pins.join(name));
        }
        let mut programs = loader.load(measuring).context("creating the measuring programs' maps")?;
        for name in PROGRAMS {
            xdp_mut(&mut programs, name)?.load().with_context(|| format!("loading {name}"))?;
        }
        let map = programs.map_mut("RELAY").context("no map RELAY")?;
        Array::<&mut MapData, u32>::try_from(map)?.set(0, outside, 0)?;
        let counting = xdp_mut(&mut programs, "sink")?;
        world.servers.enter(|| counting.attach_to_if_index(sink, XdpMode::Driver))??;
        Ok(Self {
            world,
            engine,
            shipped,
            programs,
            pin_dir,
            cpus: aya::util::nr_cpus().map_err(|(file, error)| anyhow::anyhow!("{file}: {error}"))?,
            cpu,
            client,
            inside,
            attached: None,
            remembered: None,
        })
    }

    /// Puts the row's system into the way, has its tables filled, and measures it.
    pub fn measure(&mut self, row: Row) -> Result<Sample> {
        self.attach(row)?;
        self.world.install(row.system, row.family)?;
        let sample = self.fill_and_run(row).with_context(|| format!("{row:?}"));
        self.world.remove(row.system, row.family)?;
        sample
    }

    fn fill_and_run(&mut self, row: Row) -> Result<Sample> {
        if row.system == System::Portcullis(Way::Tracked) {
            self.forget()?;
            self.remembered = Some(row);
        }
        // In another order than that of the measurement: see `FLOWS` in the rows of packets.
        let reasons = self.engine.reasons()?;
        let filled = self.send(row, row.recipe(IN_TURN), row.flows.max(CALL), Duration::ZERO)?;
        ensure!(filled.lost < 0.01, "{:.1} % of the first packets did not arrive", filled.lost * 100.0);
        let sample = self.send(row, row.recipe(SHUFFLED), row.flows.max(CALL), MEASUREMENT)?;
        ensure!(sample.lost < 0.01, "{:.1} % of the packets did not arrive", sample.lost * 100.0);
        if matches!(row.system, System::Portcullis(_)) {
            let after = self.engine.reasons()?;
            let counted = |reason: Reason| after[reason as usize] - reasons[reason as usize];
            let all: u64 = after.iter().zip(&reasons).map(|(after, before)| after - before).sum();
            let forwarded = counted(Reason::Forwarded);
            ensure!(forwarded == all, "{forwarded} of {all} packets were forwarded");
        }
        Ok(sample)
    }

    /// Sends so many packets at least, for so long at least, and says what arrived.
    fn send(&mut self, row: Row, recipe: Recipe, packets: u32, lasting: Duration) -> Result<Sample> {
        put_recipe(&mut self.programs, recipe, self.cpus)?;
        let before = self.arrived()?;
        let (generator, client, cpu) = (xdp(&self.programs, "generate")?, self.client, self.cpu);
        let (sent, took, worked) = self.world.client.enter(|| -> Result<_> {
            alone_on(cpu)?;
            let clock = Clock::start(cpu)?;
            let mut sent = 0u64;
            while sent < packets as u64 || clock.elapsed() < lasting {
                run(generator, client, CALL, TestRunAttrs::new().xdp_live_frames(BATCH))?;
                sent += CALL as u64;
            }
            let (took, worked) = clock.stop()?;
            Ok((sent, took, worked))
        })??;
        let arrived = (self.arrived()? - before) as f64;
        ensure!(arrived > 0.0, "none of {sent} packets of {row:?} arrived");
        Ok(Sample {
            pps: arrived / worked.as_secs_f64(),
            cpu_ns: worked.as_nanos() as f64 / arrived,
            lost: 1.0 - arrived / sent as f64,
            busy: worked.as_secs_f64() / took.as_secs_f64(),
        })
    }

    fn arrived(&self) -> Result<u64> {
        let map = self.programs.map("ARRIVED").context("no map ARRIVED")?;
        let map: PerCpuArray<&MapData, u64> = map.try_into()?;
        Ok(map.get(&0, 0)?.iter().sum())
    }

    /// Empties the flow table of what a row left in it.
    fn forget(&mut self) -> Result<()> {
        let Some(row) = self.remembered.take() else { return Ok(()) };
        put_recipe(&mut self.programs, row.recipe(IN_TURN), self.cpus)?;
        let fd = xdp(&self.programs, "forget")?.fd()?.try_clone()?;
        let map = self.programs.map_mut("PROGRAM_UNDER_TEST").context("no map PROGRAM_UNDER_TEST")?;
        ProgramArray::<&mut MapData>::try_from(map)?.set(0, &fd, 0)?;
        let (wrapper, client) = (xdp(&self.programs, "wrapper")?, self.client);
        self.world.client.enter(|| run(wrapper, client, row.flows, TestRunAttrs::new()))??;
        Ok(())
    }

    /// Has the row's program, or none, take what comes in.
    fn attach(&mut self, row: Row) -> Result<()> {
        if let Some((system, family, link)) = self.attached.take() {
            if (system, family) == (row.system, row.family) {
                self.attached = Some((system, family, link));
                return Ok(());
            }
            if let Some(program) = program(&mut self.shipped, &mut self.programs, system, family)? {
                program.detach(link)?;
            }
        }
        let (inside, shipped, programs) = (self.inside, &mut self.shipped, &mut self.programs);
        let Some(program) = program(shipped, programs, row.system, row.family)? else { return Ok(()) };
        let link = self.world.balancer.enter(|| attach(program, inside))??;
        self.attached = Some((row.system, row.family, link));
        Ok(())
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        let _ = BpfDatapath::unload(&self.pin_dir);
    }
}

/// The program that stands in the way, if the system has one.
fn program<'p>(
    shipped: &'p mut [(Features, Ebpf)],
    programs: &'p mut Ebpf,
    system: System,
    family: Family,
) -> Result<Option<&'p mut Xdp>> {
    match system {
        System::Relay => xdp_mut(programs, "relay").map(Some),
        System::Portcullis(way) => {
            let found = shipped.iter_mut().find(|(known, _)| *known == way.features(family));
            let (_, object) = found.context("not loaded for these features")?;
            xdp_mut(object, "portcullis").map(Some)
        }
        System::Kernel | System::Nftables | System::Ipvs => Ok(None),
    }
}

/// Attaches natively. The program before may go a moment after its link.
fn attach(program: &mut Xdp, ifindex: u32) -> Result<XdpLinkId> {
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        match program.attach_to_if_index(ifindex, XdpMode::Driver) {
            Ok(link) => return Ok(link),
            Err(ProgramError::XdpError(error)) if Instant::now() < deadline => {
                let _ = error;
                thread::sleep(Duration::from_millis(10));
            }
            Err(error) => return Err(error).context("attaching natively"),
        }
    }
}

fn put_recipe(programs: &mut Ebpf, recipe: Recipe, cpus: usize) -> Result<()> {
    #[derive(Clone, Copy)]
    #[repr(transparent)]
    struct Value(Recipe);
    // SAFETY: `repr(C)`, 32-bit integers only, no padding.
    unsafe impl aya::Pod for Value {}
    let map = programs.map_mut("RECIPE").context("no map RECIPE")?;
    let mut map: PerCpuArray<&mut MapData, Value> = map.try_into().context("RECIPE")?;
    Ok(map.set(0, PerCpuValues::try_from(vec![Value(recipe); cpus])?, 0)?)
}

/// Runs a program over frames of zeroes that come in by an interface of this thread's namespace.
fn run(program: &Xdp, ifindex: u32, repeat: u32, attrs: TestRunAttrs) -> Result<()> {
    let packet = [0u8; FRAME_LEN];
    // `struct xdp_md`: data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex.
    let mut context = [0u8; 24];
    context[4..8].copy_from_slice(&(FRAME_LEN as u32).to_ne_bytes());
    context[12..16].copy_from_slice(&ifindex.to_ne_bytes());
    let options = TestRunOptions {
        data_in: Some(&packet),
        ctx_in: Some(&context),
        repeat,
        attrs,
        ..TestRunOptions::default()
    };
    program.test_run(options).context("BPF_PROG_TEST_RUN")?;
    Ok(())
}

/// Keeps this thread on a CPU, before others where that is allowed.
fn alone_on(cpu: usize) -> Result<()> {
    pin_to_cpu(cpu)?;
    // SAFETY: a plain call; 0 is this thread.
    unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, -20) };
    Ok(())
}

/// Wall time, and what a CPU worked meanwhile: for this thread, and in the kernel's thread for what it put off.
struct Clock {
    started: Instant,
    worked: Duration,
    softirqd: Option<PathBuf>,
}

impl Clock {
    fn start(cpu: usize) -> Result<Self> {
        let softirqd = softirqd(cpu);
        Ok(Self { worked: worked(&softirqd)?, started: Instant::now(), softirqd })
    }

    fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    fn stop(self) -> Result<(Duration, Duration)> {
        let took = self.started.elapsed();
        Ok((took, worked(&self.softirqd)?.saturating_sub(self.worked)))
    }
}

fn worked(softirqd: &Option<PathBuf>) -> Result<Duration> {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: takes a pointer to a live struct.
    ensure!(unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) } == 0, "clock_gettime");
    let own = Duration::new(time.tv_sec as u64, time.tv_nsec as u32);
    let put_off = match softirqd {
        Some(path) => fs::read_to_string(path)?.split_whitespace().next().context("schedstat")?.parse()?,
        None => 0,
    };
    Ok(own + Duration::from_nanos(put_off))
}

/// Where the kernel says how long the thread ran that a CPU's interrupts are put off to.
fn softirqd(cpu: usize) -> Option<PathBuf> {
    let wanted = format!("ksoftirqd/{cpu}\n");
    fs::read_dir("/proc").ok()?.flatten().map(|entry| entry.path()).find_map(|path| {
        (fs::read_to_string(path.join("comm")).ok()? == wanted).then(|| path.join("schedstat"))
    })
}

/// Every way and family, a hundred backends each, every next hop known.
fn target(outside: u32) -> Target {
    let mut services = Vec::new();
    for way in Way::ALL {
        for family in [Family::V4, Family::V6] {
            let vip = vip(way, family);
            let backends =
                (0..BACKENDS).map(|index| backend(way, family, index)).map(|address| TargetBackend {
                    max_connections: 0,
                    server_id: None,
                    address: to_map(address.ip()),
                    port: Port::new(address.port()),
                    weight: 1,
                    share: 1,
                    resets: false,
                    state: BackendState::Up,
                    next_hop: Some(NextHop { mac: Mac::new(world::NEXT_HOP_MAC), interface: 0 }),
                });
            services.push(TargetService {
                key: ServiceKey {
                    address: to_map(vip.ip()),
                    port: Port::new(vip.port()),
                    protocol: Protocol::Udp as u8,
                    width: 0,
                },
                last_port: 0,
                settings: way.settings(),
                fragments: FragmentPolicy::Drop,
                answer_echo: false,
                answer_arp: false,
                backends: backends.collect(),
            });
        }
    }
    let own = |text: &str| to_map(text.parse().expect("an address"));
    let interface = Interface { mac: Mac::new(world::OUT_MAC).word(), ifindex: outside, mtu: 1_500 };
    Target {
        services: services.into_iter().map(Into::into).collect(),
        interfaces: vec![(0, interface)],
        locals: vec![own("10.8.0.1"), own("2001:db8:8::1")],
        program: program_settings(),
        pool: vec![own("10.8.0.200"), own("2001:db8:8::200")],
    }
}
