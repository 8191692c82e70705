//! Packets through the lanes, each judged by the oracle.

use std::time::Instant;

use anyhow::Result;
use lb_common::{FlowKey, Reason};
use lb_control::datapath::Datapath as _;

use super::clock::{second, steady_second};
use super::craft::{Class, Craft};
use super::host::{agree, follow, on_host, touched};
use super::judge::Judge;
use super::kernel::{Kernel, Routes};
use super::outcome::Action;
use super::random::Random;
use super::report::{Difference, Report};
use super::scene::Scene;
use super::tally::{Expected, counted};
use super::world::Routed;

/// Counters and tables are compared every so many packets.
const BATCH: u64 = 256;
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
                && !kernel_outcome.routed
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
            host.answers.set(scene.world.all_sent());
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
