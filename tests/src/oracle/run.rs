//! Packets through the lanes, each judged by the oracle, with counts by class and reason.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use lb_common::{BackendId, Counters, FlowKey, FragmentKey, FragmentWay, Reason, hash::flow_hash};
use lb_control::datapath::{Datapath as _, memory::MemoryDatapath};

use super::craft::{Class, Craft};
use super::judge::Judge;
use super::kernel::{Kernel, Routes};
use super::memory::{Fate, Way};
use super::outcome::{Action, Outcome, Seen, action_of};
use super::pcap::{hexdump, write};
use super::random::Random;
use super::read::{Frame, Part, Transport, read};
use super::scene::Scene;
use super::world::{Routed, World, address};

/// Counters and tables are compared every so many packets.
const BATCH: u64 = 256;
/// Nobody runs near a change of second: by then two lanes could see different ones.
const SECOND_MARGIN_NANOS: i64 = 40_000_000;

/// What to run.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The first configuration's seed follows from it.
    pub seed: u64,
    /// The first configuration, to go on from there.
    pub first_scene: u64,
    /// How many packets.
    pub packets: u64,
    /// Packets of one configuration.
    pub per_scene: u64,
    /// Stop early.
    pub until: Option<Instant>,
    /// The kernel's reason of every packet, not only their sum.
    pub every_reason: bool,
}

/// What was run.
#[derive(Debug, Default)]
pub struct Report {
    /// Packets.
    pub packets: u64,
    /// Configurations.
    pub scenes: u64,
    /// By what they were made as.
    pub classes: BTreeMap<Class, u64>,
    /// By the oracle's reason.
    pub reasons: BTreeMap<u32, u64>,
    /// Time within each lane and in the oracle.
    pub host: Duration,
    /// See `host`.
    pub kernel: Duration,
    /// In all.
    pub all: Duration,
    /// Packets that the kernel's lane saw.
    pub kernel_packets: u64,
}

/// A difference: everything that is needed to see it again.
#[derive(Debug)]
pub struct Difference {
    /// See [`Plan::seed`].
    pub seed: u64,
    /// The configuration's number.
    pub scene: u64,
    /// The packet's number in it.
    pub packet: u64,
    /// In all.
    pub total: u64,
    /// What the packet was made as.
    pub class: Class,
    /// Which lane, and what is wrong.
    pub wrong: String,
    /// The packet as it came, and as it left.
    pub frames: (Vec<u8>, Vec<u8>),
}

impl std::fmt::Display for Difference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let path = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
            .join("../target/diff")
            .join(format!("seed-{}-scene-{}-packet-{}.pcap", self.seed, self.scene, self.packet));
        let file = match write(&path, &[&self.frames.0, &self.frames.1]) {
            Ok(()) => path.display().to_string(),
            Err(error) => format!("not written: {error}"),
        };
        write!(
            f,
            "seed {}, scene {}, packet {} ({} in all), made as {}\n    {}\n    in: {}\n    out: {}\n    {file}",
            self.seed,
            self.scene,
            self.packet,
            self.total,
            self.class.name(),
            self.wrong,
            hexdump(&self.frames.0),
            hexdump(&self.frames.1)
        )
    }
}

impl Report {
    /// As it is printed.
    pub fn text(&self) -> String {
        let mut text = format!("{} packets, {} configurations\n", self.packets, self.scenes);
        for (class, count) in &self.classes {
            let _ = writeln!(text, "  {count:>9}  {}", class.name());
        }
        for reason in Reason::ALL {
            let count = self.reasons.get(&(*reason as u32)).copied().unwrap_or(0);
            let _ = writeln!(text, "  {count:>9}  {}", reason.name());
        }
        let rate = |packets: u64, time: Duration| packets as f64 / time.as_secs_f64().max(1e-9);
        let _ = writeln!(text, "host lane: {:.0} packets/s", rate(self.packets, self.host));
        if self.kernel_packets > 0 {
            let _ = writeln!(text, "kernel lane: {:.0} packets/s", rate(self.kernel_packets, self.kernel));
        }
        let _ = write!(text, "with the oracle: {:.0} packets/s", rate(self.packets, self.all));
        text
    }
}

/// Runs a plan through the host's lane alone, with a clock of its own.
pub fn host(plan: &Plan) -> Result<(Report, Option<Difference>)> {
    Runner { plan, kernel: None, report: Report::default() }.run()
}

/// Runs a plan through both lanes, by the kernel's clock.
pub fn both(plan: &Plan) -> Result<(Report, Option<Difference>)> {
    let routes = Routes::create()?;
    routes.enter(|| {
        let kernel = (Kernel::new()?, Routes::routed()?);
        Runner { plan, kernel: Some(kernel), report: Report::default() }.run()
    })?
}

struct Runner<'p> {
    plan: &'p Plan,
    kernel: Option<(Kernel, Routed)>,
    report: Report,
}

/// The host's stand-in for routes, as `MemoryDatapath` has it.
const STAND_IN: Routed = Routed {
    ifindex: 1,
    source: [2, 0, 0, 0, 0, 1],
    destination: [2, 0, 0, 0, 0, 2],
    mtu: None,
    real: false,
};

/// Sums that counters should have.
#[derive(Default)]
struct Expected {
    reasons: Vec<u64>,
    services: HashMap<u32, Counters>,
    backends: HashMap<u32, Counters>,
}

type Wrong = (Class, String, Vec<u8>, Vec<u8>);

impl Runner<'_> {
    fn run(mut self) -> Result<(Report, Option<Difference>)> {
        let started = Instant::now();
        let mut found = None;
        let mut scene_number = self.plan.first_scene;
        while self.report.packets < self.plan.packets && !self.is_over() {
            let seed = Random::new(self.plan.seed ^ scene_number.wrapping_mul(0xa076_1d64_78bd_642f)).word();
            let before = self.report.packets;
            let wrong = self.scene(seed)?;
            self.report.scenes += 1;
            if let Some((class, wrong, frame, out)) = wrong {
                found = Some(Difference {
                    seed: self.plan.seed,
                    scene: scene_number,
                    packet: self.report.packets - before,
                    total: self.report.packets,
                    class,
                    wrong,
                    frames: (frame, out),
                });
                break;
            }
            scene_number += 1;
        }
        self.report.all = started.elapsed();
        Ok((self.report, found))
    }

    fn is_over(&self) -> bool {
        self.plan.until.is_some_and(|until| Instant::now() >= until)
    }

    fn scene(&mut self, seed: u64) -> Result<Option<Wrong>> {
        let mut random = Random::new(seed);
        let now = if self.kernel.is_some() { steady_second() } else { 1_000_000 };
        let mut scene = Scene::new(&mut random, now)?;
        let mut craft = Craft::default();
        let mut expected = Expected { reasons: vec![0; Reason::ALL.len()], ..Expected::default() };
        let mut base = Vec::new();
        if let Some((kernel, _)) = &mut self.kernel {
            kernel.copy(scene.host.datapath())?;
            base = kernel.datapath().reason_counters()?;
        }
        let mut last = (Class::Noise, Vec::new(), Vec::new());
        for number in 0..self.plan.per_scene {
            if self.report.packets >= self.plan.packets {
                break;
            }
            if number % BATCH == 0 && self.is_over() {
                break;
            }
            scene.world.now = match self.kernel {
                Some(_) => steady_second(),
                None => {
                    let step = if random.one_in(50) { *random.pick(&[1, 1, 1, 2, 4, 30, 61]) } else { 0 };
                    scene.world.now + step
                }
            };
            let (class, frame) = craft.next(&mut random, &scene);
            self.report.packets += 1;
            *self.report.classes.entry(class).or_default() += 1;
            let outs = match self.packet(&mut scene, &frame, &mut expected, &base)? {
                Ok(Some(out)) => out,
                // The second changed under way.
                Ok(None) => return Ok(None),
                Err((wrong, out)) => return Ok(Some((class, wrong, frame, out))),
            };
            last = (class, frame, outs);
            if number % BATCH == BATCH - 1
                && let Err(wrong) = self.totals(&scene, &expected, &base)?
            {
                let wrong = format!("within the last {BATCH} packets: {wrong}");
                return Ok(Some((last.0, wrong, last.1, last.2)));
            }
        }
        if let Err(wrong) = self.totals(&scene, &expected, &base)? {
            return Ok(Some((last.0, format!("at the end: {wrong}"), last.1, last.2)));
        }
        Ok(None)
    }

    /// One packet through every lane; what came out, or what is wrong.
    #[allow(clippy::type_complexity)]
    fn packet(
        &mut self,
        scene: &mut Scene,
        frame: &[u8],
        expected: &mut Expected,
        base: &[u64],
    ) -> Result<Result<Option<Vec<u8>>, (String, Vec<u8>)>> {
        let mut from_kernel = None;
        if let Some((kernel, routed)) = &mut self.kernel {
            // The kernel's test run takes no less than an Ethernet header, and of some ways nobody says what its routes
            // answer.
            let nothing = |_: &FlowKey| None;
            let open = || {
                let judge = Judge {
                    world: &scene.world,
                    routed,
                    frame,
                    out: frame,
                    translation: &nothing,
                    seen_reason: None,
                };
                judge.judge().open
            };
            if frame.len() < 14 || open() {
                return Ok(Ok(Some(Vec::new())));
            }
            let started = Instant::now();
            let mut seen = kernel.run(frame)?;
            self.report.kernel += started.elapsed();
            self.report.kernel_packets += 1;
            if second() != scene.world.now {
                return Ok(Ok(None));
            }
            if self.plan.every_reason {
                seen.reason = counted(&kernel.datapath().reason_counters()?, base, &expected.reasons);
            }
            let translation = |key: &FlowKey| kernel.translation(key);
            let judged = |reason| {
                let (world, out) = (&scene.world, &seen.bytes);
                Judge { world, routed, frame, out, translation: &translation, seen_reason: reason }.judge()
            };
            let mut outcome = judged(seen.reason);
            if outcome.effects.opened && seen.action == Action::Drop && seen.reason.is_none() {
                // Both a full table and taken ports may be the reason.
                let counters = kernel.datapath().reason_counters()?;
                outcome = judged(counted(&counters, base, &expected.reasons));
            }
            if let Err(wrong) = outcome.compare(frame, &seen) {
                return Ok(Err((format!("kernel: {wrong}"), seen.bytes)));
            }
            from_kernel = Some((seen, outcome));
        }
        let started = Instant::now();
        let seen = on_host(scene.host.datapath(), scene.world.now, frame);
        self.report.host += started.elapsed();
        let host = scene.host.datapath();
        let translation = |key: &FlowKey| host.translations.borrow().get(key).copied();
        let outcome = Judge {
            world: &scene.world,
            routed: &STAND_IN,
            frame,
            out: &seen.bytes,
            translation: &translation,
            seen_reason: seen.reason,
        }
        .judge();
        if let Err(wrong) = outcome.compare(frame, &seen) {
            return Ok(Err((format!("host: {wrong}"), seen.bytes)));
        }
        let mut decisive = outcome;
        if let Some((kernel_seen, kernel_outcome)) = from_kernel {
            if !decisive.routed
                && !decisive.effects.opened
                && let Err(wrong) = agree(&seen, &kernel_seen, &decisive)
            {
                return Ok(Err((wrong, seen.bytes)));
            }
            decisive = kernel_outcome;
        }
        *self.report.reasons.entry(decisive.reason as u32).or_default() += 1;
        expected.count(&decisive);
        if let Err(wrong) = decisive.leave(&mut scene.world) {
            return Ok(Err((wrong, seen.bytes)));
        }
        if self.kernel.is_some() {
            // Where lanes choose ports and have routes of their own, both go on by the kernel's.
            let (host, effects) = (scene.host.datapath(), &decisive.effects);
            host.answers.set(scene.world.answers);
            if effects.opened {
                *host.translations.borrow_mut() = scene.world.translations.clone();
            }
            if effects.opened || (decisive.routed && !effects.translations.is_empty()) {
                follow(host, frame, &scene.world);
            }
        }
        if let Err(wrong) = touched(scene, &decisive) {
            return Ok(Err((format!("host: {wrong}"), seen.bytes)));
        }
        Ok(Ok(Some(seen.bytes)))
    }

    /// Counters and tables of every lane, whole.
    fn totals(&mut self, scene: &Scene, expected: &Expected, base: &[u64]) -> Result<Result<(), String>> {
        let host = scene.host.datapath();
        if let Err(wrong) = expected.check(host, &[])? {
            // Where routes differ, so do the reasons: the kernel's count.
            if self.kernel.is_none() {
                return Ok(Err(format!("host: {wrong}")));
            }
        }
        if *host.flows.borrow() != scene.world.flows {
            return Ok(Err("host: the flow table is not as it should be".to_owned()));
        }
        if *host.translations.borrow() != scene.world.translations {
            return Ok(Err("host: the translated flows are not as they should be".to_owned()));
        }
        if let Some((kernel, _)) = &mut self.kernel {
            if let Err(wrong) = expected.check(kernel.datapath(), base)? {
                return Ok(Err(format!("kernel: {wrong}")));
            }
            if kernel.flows()? != scene.world.flows {
                return Ok(Err("kernel: the flow table is not as it should be".to_owned()));
            }
            if kernel.translations()? != scene.world.translations {
                return Ok(Err("kernel: the translated flows are not as they should be".to_owned()));
            }
        }
        Ok(Ok(()))
    }
}

impl Expected {
    fn count(&mut self, outcome: &Outcome) {
        self.reasons[outcome.reason as usize] += 1;
        let Some(tally) = outcome.effects.tally else { return };
        for counters in
            [self.services.entry(tally.service).or_default(), self.backends.entry(tally.backend).or_default()]
        {
            counters.packets += 1;
            counters.bytes += tally.bytes;
            counters.new_flows += u64::from(tally.new_flow);
            counters.refused_flows += u64::from(tally.refused);
        }
    }

    /// Conservation: every packet is one counted reason, and counted where it went.
    fn check(&self, lane: &impl lb_control::datapath::Datapath, base: &[u64]) -> Result<Result<(), String>> {
        let reasons = lane.reason_counters()?;
        for reason in Reason::ALL {
            let index = *reason as usize;
            let grown = reasons[index] - base.get(index).copied().unwrap_or(0);
            if grown != self.reasons[index] {
                let wanted = self.reasons[index];
                return Ok(Err(format!("{} was counted {grown} times, expected {wanted}", reason.name())));
            }
        }
        for (&id, wanted) in &self.services {
            let found = lane.service_counters(id)?;
            if found != *wanted {
                return Ok(Err(format!("service {id}: {found:?}, expected {wanted:?}")));
            }
        }
        for (&id, wanted) in &self.backends {
            let found = lane.backend_counters(BackendId(id))?;
            if found != *wanted {
                return Ok(Err(format!("backend {id}: {found:?}, expected {wanted:?}")));
            }
        }
        Ok(Ok(()))
    }
}

/// The one reason that was counted since.
fn counted(now: &[u64], base: &[u64], known: &[u64]) -> Option<Reason> {
    let grew = |reason: &&Reason| {
        let index = **reason as usize;
        now[index] - base[index] > known[index]
    };
    Reason::ALL.iter().find(grew).copied()
}

/// Has the host's later fragments go where the kernel's do.
fn follow(host: &MemoryDatapath, frame: &[u8], world: &World) {
    let Frame::Transport(Transport { ip, .. }) = read(frame) else { return };
    if ip.part != Part::First {
        return;
    }
    let key = FragmentKey {
        source: address(ip.source),
        destination: address(ip.destination),
        // As it stands in the packet, 16 bits of IPv4 or 32 of IPv6.
        identification: match ip.source {
            IpAddr::V4(_) => u32::from((ip.identification as u16).to_be()),
            IpAddr::V6(_) => ip.identification.to_be(),
        },
        protocol: if ip.is_v6() { 0 } else { ip.protocol },
        reserved: [0; 3],
    };
    let mut known = host.fragments.borrow_mut();
    let Some(Way { fate, seen }) = world.fragments.get(&ip.fragment_key()) else {
        known.remove(&key);
        return;
    };
    let way = match *fate {
        Fate::Rewritten { source, destination, to } => {
            let (backend, service) = to.unwrap_or((0, 0));
            let ends = (address(source), address(destination));
            FragmentWay::rewritten(ends, BackendId(backend), service, *seen)
        }
        Fate::Backend { backend, service, tuple } => {
            let Some(entry) = world.by_id(service) else { return };
            let hash = flow_hash(world.settings.hash_keys, &tuple);
            FragmentWay::to_backend(BackendId(backend), entry.settings.mode, service, hash, *seen)
        }
    };
    known.insert(key, way);
}

/// What the tables hold under the packet's tuple, and how many entries there are.
fn touched(scene: &Scene, outcome: &Outcome) -> Result<(), String> {
    let flows = scene.host.datapath().flows.borrow();
    if flows.len() != scene.world.flows.len() {
        return Err(format!("{} flows are remembered, expected {}", flows.len(), scene.world.flows.len()));
    }
    let check = |key: &FlowKey| {
        if flows.get(key) == scene.world.flows.get(key) {
            Ok(())
        } else {
            Err(format!("remembered {:?}, expected {:?}", flows.get(key), scene.world.flows.get(key)))
        }
    };
    let translations = scene.host.datapath().translations.borrow();
    if translations.len() != scene.world.translations.len() {
        let (found, wanted) = (translations.len(), scene.world.translations.len());
        return Err(format!("{found} directions are translated, expected {wanted}"));
    }
    for (key, _) in &outcome.effects.translations {
        let (found, wanted) = (translations.get(key), scene.world.translations.get(key));
        if found != wanted {
            return Err(format!("translated {found:?}, expected {wanted:?}"));
        }
    }
    outcome.effects.flow.map_or(Ok(()), |(key, _)| check(&key))
}

fn on_host(host: &MemoryDatapath, now: u32, frame: &[u8]) -> Seen {
    host.now_seconds.set(now);
    let mut bytes = frame.to_vec();
    let verdict = host.process(&mut bytes);
    let sent = !matches!(action_of(verdict.reason), Action::Pass) && is_sent(verdict.reason);
    let action = match (sent, verdict.egress.other_ifindex()) {
        (false, _) => action_of(verdict.reason),
        (true, None) => Action::Back,
        (true, other) => Action::Out(other),
    };
    Seen { reason: Some(verdict.reason), action, bytes }
}

/// Whether the program sends a packet that ends so.
fn is_sent(reason: Reason) -> bool {
    matches!(
        reason,
        Reason::Forwarded
            | Reason::Replied
            | Reason::ErrorForwarded
            | Reason::ErrorReplied
            | Reason::ArpAnswered
            | Reason::NeighbourAnswered
            | Reason::EchoAnswered
            | Reason::TooBigAnswered
            | Reason::TimeExceededAnswered
    )
}

/// Both builds do the same, but for identifications, which are random.
fn agree(host: &Seen, kernel: &Seen, outcome: &Outcome) -> Result<(), String> {
    let (mut one, mut other) = (host.bytes.clone(), kernel.bytes.clone());
    if outcome.effects.entropy.is_some() {
        for bytes in [&mut one, &mut other] {
            let l3 = 14 + 4 * super::read::tags(bytes);
            if bytes.get(l3).is_some_and(|first| first >> 4 == 4) {
                bytes[l3 + 4..l3 + 6].fill(0);
                bytes[l3 + 10..l3 + 12].fill(0);
            }
        }
    }
    match one.iter().zip(&other).position(|(one, other)| one != other) {
        None if one.len() == other.len() => Ok(()),
        at => {
            Err(format!("host and kernel differ: {} and {} bytes, first at {at:?}", one.len(), other.len()))
        }
    }
}

fn coarse() -> (u32, i64) {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: a valid timespec, and a clock that always exists.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC_COARSE, &mut time) };
    (time.tv_sec as u32, time.tv_nsec)
}

/// The second that the program reads.
fn second() -> u32 {
    coarse().0
}

/// The same, at a moment that is not near its end.
fn steady_second() -> u32 {
    loop {
        let (second, nanos) = coarse();
        if nanos < 1_000_000_000 - SECOND_MARGIN_NANOS {
            return second;
        }
        std::thread::sleep(Duration::from_nanos((1_000_000_000 - nanos) as u64));
    }
}

/// Fails with what was found.
pub fn conclude(result: (Report, Option<Difference>)) -> Result<Report> {
    match result {
        (report, None) => Ok(report),
        (_, Some(difference)) => bail!("a difference:\n{difference}"),
    }
}
