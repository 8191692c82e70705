//! `full-nat` on two CPUs at once: a port is given to one flow, and a flow has one pair of entries.
//!
//! Two threads, each on a CPU of its own, run packets through the shipped program and wait for each other before each
//! one, so that both open flows in the same microsecond: the same flow, or two flows that want the same ports.

use std::{
    collections::{HashMap as StdHashMap, HashSet},
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
    thread,
};

use anyhow::{Context as _, Result, ensure};
use aya::{
    maps::{HashMap, Map, MapData},
    programs::{TestRun as _, TestRunOptions, Xdp},
};
use aya_obj::programs::XdpAttachType;
use etherparse::SlicedPacket;
use lb_common::{
    Address, BackendState, Features, FlowKey, FragmentPolicy, Interface, Mac, Mode, NextHop, Port, Reason,
    ServiceKey, ServiceSettings, Settings, Tracking, Translation, limits, limits::maps,
};
use lb_control::{
    datapath::bpf::{BpfDatapath, BpfOptions},
    engine::{Engine, monotonic_seconds},
    target::{Target, TargetBackend, TargetService},
};
use tests::{
    bench::pin_to_cpu,
    packet::{Frame, flags},
    requires::{DIRECTORY_PREFIX, requires},
};

const VIP: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 6);
const POOL: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 100);
const FIRST_PORT: u16 = 2_000;
const BACKENDS: u8 = 2;
const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const XDP_TX: u32 = 3;
const XDP_DROP: u32 = 1;
const CPUS: u32 = 2;

/// The program with its tables, and a pool of so many ports.
struct Balancer {
    engine: Engine<BpfDatapath>,
    pin_dir: PathBuf,
}

impl Balancer {
    fn new(name: &str, pool_ports: u16) -> Result<Self> {
        let pin_dir = PathBuf::from(format!("/sys/fs/bpf/{DIRECTORY_PREFIX}{}-{name}", std::process::id()));
        let options = BpfOptions {
            object: aya::include_bytes_aligned!(env!("PORTCULLIS_BPF_OBJECT")),
            pin_dir: pin_dir.clone(),
            log_level: 1,
            features: Features::FULL_NAT,
            max_entries: vec![(maps::FLOWS, 64), (maps::SLOTS, 2_048), (maps::BACKENDS, 64)],
        };
        let mut engine = Engine::adopt(BpfDatapath::open(options)?)?;
        engine.apply(&target(pool_ports), monotonic_seconds())?;
        Ok(Self { engine, pin_dir })
    }

    fn pins(&self) -> PathBuf {
        self.pin_dir.join(format!("v{}", limits::LAYOUT_VERSION))
    }

    /// Runs `work` on two CPUs, each with its number.
    fn on_both<T: Send>(&self, work: impl Fn(u32, &mut Cpu) -> Result<T> + Sync) -> Result<Vec<T>> {
        let (step, pins) = (AtomicU32::new(0), self.pins());
        thread::scope(|scope| {
            let threads: Vec<_> = (0..CPUS)
                .map(|number| {
                    let (work, step, pins) = (&work, &step, &pins);
                    scope.spawn(move || work(number, &mut Cpu::new(number, pins, step)?))
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().expect("no panic")).collect()
        })
    }

    fn translations(&self) -> Result<StdHashMap<FlowKey, Translation>> {
        let map = Map::HashMap(MapData::from_pin(self.pins().join("maps").join(maps::TRANSLATIONS))?);
        let map: HashMap<_, FlowKey, Translation> = map.try_into()?;
        map.iter().map(|entry| Ok(entry?)).collect()
    }

    fn count(&self, reason: Reason) -> Result<u64> {
        Ok(self.engine.reasons()?[reason as usize])
    }
}

impl Drop for Balancer {
    fn drop(&mut self) {
        let _ = BpfDatapath::unload(&self.pin_dir);
    }
}

/// A CPU that runs packets in step with the other.
struct Cpu<'s> {
    program: Xdp,
    step: &'s AtomicU32,
    steps: u32,
}

impl<'s> Cpu<'s> {
    fn new(number: u32, pins: &Path, step: &'s AtomicU32) -> Result<Self> {
        pin_to_cpu(number as usize)?;
        let program = Xdp::from_pin(pins.join("program"), XdpAttachType::Interface)?;
        Ok(Self { program, step, steps: 0 })
    }

    /// Waits until both CPUs are here.
    fn meet(&mut self) {
        self.steps += 1;
        self.step.fetch_add(1, Ordering::AcqRel);
        while self.step.load(Ordering::Acquire) < CPUS * self.steps {
            // Spinning alone, a CPU that others use would be waited for in vain.
            thread::yield_now();
        }
    }

    /// What becomes of a packet: the source that it leaves with; `None` if it is dropped.
    fn run(&mut self, packet: &[u8]) -> Result<Option<SocketAddr>> {
        let mut out = [0; 256];
        self.meet();
        let options =
            TestRunOptions { data_in: Some(packet), data_out: Some(&mut out), ..TestRunOptions::default() };
        let result = self.program.test_run(options).context("BPF_PROG_TEST_RUN")?;
        match result.return_value {
            XDP_DROP => Ok(None),
            XDP_TX => Ok(Some(source(&out[..result.data_size_out as usize])?)),
            other => anyhow::bail!("XDP action {other}"),
        }
    }
}

impl Drop for Cpu<'_> {
    /// Nobody waits for a CPU that has failed.
    fn drop(&mut self) {
        self.step.fetch_add(1 << 24, Ordering::AcqRel);
    }
}

fn source(packet: &[u8]) -> Result<SocketAddr> {
    let sliced = SlicedPacket::from_ethernet(packet)?;
    match (sliced.net, sliced.transport) {
        (Some(etherparse::NetSlice::Ipv4(ip)), Some(etherparse::TransportSlice::Tcp(tcp))) => {
            Ok((ip.header().source_addr(), tcp.source_port()).into())
        }
        _ => anyhow::bail!("no TCP over IPv4"),
    }
}

fn target(pool_ports: u16) -> Target {
    let backends = (1..=BACKENDS)
        .map(|last| TargetBackend {
            max_connections: 0,
            server_id: None,
            address: Address::from_ipv4([10, 9, 6, last]),
            port: Port::new(8_080),
            weight: 1,
            share: 1,
            resets: false,
            state: BackendState::Up,
            next_hop: Some(NextHop { mac: Mac::new([2, 0, 0, 0, 1, last]), interface: 0 }),
        })
        .collect();
    Target {
        services: vec![
            TargetService {
                key: ServiceKey {
                    address: Address::from_ipv4(VIP.octets()),
                    port: Port::new(80),
                    protocol: 6,
                    width: 0,
                },
                last_port: 0,
                settings: ServiceSettings::new(Mode::FullNat, Tracking::OnChange, 3_600),
                fragments: FragmentPolicy::Drop,
                answer_echo: false,
                answer_arp: false,
                backends,
            }
            .into(),
        ],
        interfaces: vec![(0, Interface { mac: Mac::new(MAC).word(), ifindex: 1, mtu: 1_500 })],
        program: Settings { pool_first_port: FIRST_PORT, pool_ports, pool_ipv4: 1, ..Settings::default() },
        pool: vec![Address::from_ipv4(POOL.octets())],
        ..Target::default()
    }
}

fn client(number: u32) -> SocketAddr {
    let [a, b, c, d] = (0xc612_0000 + number / 16_384).to_be_bytes();
    (Ipv4Addr::new(a, b, c, d), 1_024 + (number % 16_384) as u16).into()
}

fn syn(number: u32) -> Vec<u8> {
    segment(number, flags::SYN)
}

fn segment(number: u32, flags: u8) -> Vec<u8> {
    let frame = Frame {
        source_mac: [2, 0, 0, 0, 0, 6],
        destination_mac: MAC,
        tags: &[],
        source: client(number),
        destination: (VIP, 80).into(),
        ttl: 64,
    };
    frame.tcp(flags, b"")
}

fn key(number: u32) -> FlowKey {
    let SocketAddr::V4(client) = client(number) else { unreachable!("clients are of IPv4") };
    FlowKey {
        client: Address::from_ipv4(client.ip().octets()),
        vip: Address::from_ipv4(VIP.octets()),
        client_port: Port::new(client.port()),
        vip_port: Port::new(80),
        protocol: 6,
        reserved: [0; 3],
    }
}

/// Every flow that was sent has one pair of entries, which say what the packets said, and there is nothing else.
fn check(balancer: &Balancer, sent: &[(u32, SocketAddr)]) -> Result<()> {
    let entries = balancer.translations()?;
    let flows: StdHashMap<FlowKey, SocketAddr> =
        sent.iter().map(|&(number, source)| (key(number), source)).collect();
    ensure!(entries.len() == 2 * flows.len(), "{} entries of {} flows", entries.len(), flows.len());
    let mut claims = HashSet::new();
    for (key, source) in &flows {
        let forth = entries.get(key).with_context(|| format!("{key:?} is not known"))?;
        let [a, b, c, d] = forth.source.ipv4_word().to_ne_bytes();
        let known: SocketAddr = (Ipv4Addr::new(a, b, c, d), forth.source_port.number()).into();
        ensure!(known == *source, "{key:?} was sent from {source}, and is known as from {known}");
        let back_key = forth.opposite_key(6);
        let back = entries.get(&back_key).with_context(|| format!("{back_key:?} is not known"))?;
        ensure!(back.opposite_key(6) == *key, "{back_key:?} leads to {:?}", back.opposite_key(6));
        ensure!(claims.insert(back_key), "{back_key:?} is two flows'");
    }
    Ok(())
}

#[test]
fn two_cpus_that_open_one_flow_agree() -> Result<()> {
    const FLOWS: u32 = 8_000;
    requires();
    let balancer = Balancer::new("race-one", 60_000)?;
    let sources = balancer.on_both(|_, cpu| {
        (0..FLOWS)
            .map(|number| cpu.run(&syn(number))?.with_context(|| format!("flow {number} was dropped")))
            .collect::<Result<Vec<SocketAddr>>>()
    })?;
    for (number, (one, other)) in sources[0].iter().zip(&sources[1]).enumerate() {
        assert_eq!(one, other, "flow {number} was sent from two ports");
    }
    let sent: Vec<_> = (0..FLOWS).zip(sources[0].iter().copied()).collect();
    check(&balancer, &sent)?;

    // A flow that is over is opened again in its place, whichever CPU is first.
    balancer.on_both(|_, cpu| {
        for &(number, source) in &sent {
            for flags in [flags::FIN | flags::ACK, flags::SYN] {
                let found = cpu.run(&segment(number, flags))?;
                ensure!(found == Some(source), "flow {number} was at {source}, and is at {found:?}");
            }
        }
        Ok(())
    })?;
    check(&balancer, &sent)
}

/// A few ports, and two CPUs that look for the last free ones.
#[test]
fn two_cpus_that_want_one_port_share_none() -> Result<()> {
    const PORTS: u16 = 2_000;
    const FLOWS: u32 = 4_000;
    requires();
    let balancer = Balancer::new("race-two", PORTS)?;
    let sent = balancer.on_both(|number, cpu| {
        let mut sent = Vec::new();
        for flow in (0..FLOWS).map(|flow| CPUS * flow + number) {
            sent.extend(cpu.run(&syn(flow))?.map(|source| (flow, source)));
        }
        Ok(sent)
    })?;
    let sent = sent.concat();
    let all = usize::from(PORTS) * usize::from(BACKENDS);
    println!("{} of {all} ports given to {} flows", sent.len(), CPUS * FLOWS);
    // The last ones are found by few of those who try sixteen.
    ensure!(sent.len() > all * 19 / 20 && sent.len() <= all, "{} of {all} ports given", sent.len());
    let refused = balancer.count(Reason::PortsExhausted)?;
    assert_eq!(refused, u64::from(CPUS * FLOWS) - sent.len() as u64);
    check(&balancer, &sent)
}
