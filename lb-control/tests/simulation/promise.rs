//! The flow promise under random changes, and under those that are hard on slots that have not come to rest.
//!
//! Nowhere promised: a flow that is idle for longer than the service's timeout, and one whose backend stopped serving; the
//! latter is sent to another backend, which is then its own.

use std::time::Instant;

use lb_common::SlotState;

use crate::{
    crowd::Crowd,
    for_seeds, seeds, short_or_long,
    world::{Backend, IDLE_SECONDS, World},
};

/// What an operator, the health checks or fate do.
fn change(world: &mut World) {
    let Some(which) = world.any() else { return world.add(4, 100) };
    let weight = world.random.below(5) * 50;
    let (what, count) = (world.random.below(20), world.backends.len());
    let backend = world.backends.get_mut(&which).expect("just picked");
    match what {
        0..3 if count < 48 => world.add(1, 100),
        3 if count < 30 => world.add(12, 100),
        4 => drop(world.backends.remove(&which)),
        5..8 => backend.draining = true,
        8..11 => backend.draining = false,
        11..13 => backend.failed = true,
        13..16 => world.backends.values_mut().take(4).for_each(|backend| backend.failed = false),
        16..19 => backend.weight = weight,
        _ => world.restart_controller(),
    }
}

/// Changes at random times, after each of which every flow sends; returns the packets that were sent.
fn random_changes(seed: u64, flows: usize, changes: u32) -> u64 {
    let mut world = World::new(seed, 12);
    let mut crowd = Crowd::default();
    crowd.open(&mut world, flows);
    for _ in 0..changes {
        change(&mut world);
        world.publish();
        crowd.release(&world);
        crowd.all_send(&mut world);
        crowd.replace(&mut world, flows / 100);
        // A busy controller sweeps once or twice between changes.
        let seconds = if world.random.one_in(4) { 28 } else { 1 + world.random.below(6) };
        let sweeps = 1 + world.random.below(2.min(seconds));
        (0..sweeps).for_each(|sweep| world.pass((seconds + sweep) / sweeps));
    }
    assert!(world.slots_moved > changes as usize, "the changes moved {} slots", world.slots_moved);
    world.packets
}

/// The figure of `docs/proof.md`.
///
/// Not promised here beyond what never is: nothing.
#[test]
fn no_flow_of_a_serving_backend_moves() {
    let seeds = seeds(8, 1_000);
    let (flows, changes) = short_or_long((500, 60), (10_000, 200));
    let started = Instant::now();
    let packets = for_seeds(seeds, |seed| random_changes(seed, flows, changes));
    println!(
        "{seeds} seeds x {flows} flows x {changes} changes: {packets} packets, no flow of a serving backend moved \
         ({:.0} s)",
        started.elapsed().as_secs_f32()
    );
}

/// Slots come to rest while flows go on, and those that kept them from it end: at last nothing is looked up.
///
/// Not promised: how long it takes, while a flow of a former owner lives.
#[test]
fn slots_settle_in_the_background() {
    for_seeds(seeds(2, 50), |seed| {
        let mut world = World::new(seed, 8);
        let mut crowd = Crowd::default();
        crowd.open(&mut world, short_or_long(400, 4_000));
        world.add(2, 100);
        world.publish();
        crowd.pass(&mut world, IDLE_SECONDS + 4);
        assert_eq!(world.count_slots(SlotState::Moving), 0, "an idle timeout has passed");
        let pinned = world.count_slots(SlotState::Pinned);
        assert!(pinned > 0 && pinned <= world.flow_count(), "only slots with flows of a former owner wait");
        crowd.pass(&mut world, 2 * IDLE_SECONDS);
        crowd.flows.retain(|flow| world.slot(flow.client, flow.port).state() == SlotState::Settled);
        for _ in 0..IDLE_SECONDS + 4 {
            crowd.pass(&mut world, 1);
        }
        assert_eq!((world.flow_count(), world.unsettled_share()), (0, 0.0), "nobody is left to be looked up");
        crowd.all_send(&mut world);
        world.packets
    });
}

/// A change comes every one to three seconds, long before the slots of the one before came to rest.
///
/// Not promised: that a slot whose owner changes again and again settles before the changes end.
#[test]
fn a_change_comes_while_the_last_one_is_unsettled() {
    for_seeds(seeds(4, 100), |seed| {
        let mut world = World::new(seed, 12);
        let mut crowd = Crowd::default();
        crowd.open(&mut world, short_or_long(300, 3_000));
        for round in 0..short_or_long(60, 300) {
            change(&mut world);
            world.publish();
            crowd.release(&world);
            assert!(round < 10 || world.count_slots(SlotState::Moving) > 0, "the changes are too slow");
            crowd.replace(&mut world, 5);
            let seconds = 1 + world.random.below(3);
            crowd.pass(&mut world, seconds);
        }
        world.packets
    });
}

/// A third of the backends fail and recover every few seconds.
///
/// Not promised: flows of a backend during its failure, which go elsewhere and stay there when it comes back.
#[test]
fn health_flaps() {
    for_seeds(seeds(4, 100), |seed| {
        let mut world = World::new(seed, 12);
        let mut crowd = Crowd::default();
        crowd.open(&mut world, short_or_long(300, 3_000));
        let steady: Vec<_> = crowd.flows.iter().filter(|flow| flow.backend > 4).cloned().collect();
        for _ in 0..short_or_long(80, 600) {
            let which = 1 + world.random.below(4);
            let backend = world.backends.get_mut(&which).expect("there are twelve");
            backend.failed = !backend.failed;
            world.publish();
            crowd.release(&world);
            let seconds = 1 + world.random.below(4);
            crowd.pass(&mut world, seconds);
        }
        for (flow, before) in crowd.flows.iter().filter(|flow| flow.backend > 4).zip(&steady) {
            assert!(world.serves(flow.backend) && world.serves(before.backend));
        }
        let stayed = crowd.flows.iter().filter(|flow| {
            steady.iter().any(|before| (before.client, before.port) == (flow.client, flow.port))
                && flow.backend > 4
        });
        assert_eq!(stayed.count(), steady.len());
        world.packets
    });
}

/// Six backends become 200, in steps that double the table five times.
///
/// Not promised: that a table shrinks again.
#[test]
fn the_table_grows() {
    for_seeds(seeds(2, 50), |seed| {
        let mut world = World::new(seed, 6);
        let mut crowd = Crowd::default();
        crowd.open(&mut world, short_or_long(400, 4_000));
        let mut sizes = vec![world.installed().slots.len()];
        while world.backends.len() < 200 {
            let more = 1 + world.random.below(1 + world.backends.len() as u32);
            world.add(more, 100);
            world.publish();
            crowd.release(&world);
            sizes.push(world.installed().slots.len());
            crowd.replace(&mut world, 20);
            let seconds = 1 + world.random.below(2 * IDLE_SECONDS);
            crowd.pass(&mut world, seconds);
        }
        sizes.dedup();
        assert!(sizes.len() >= 3 && sizes.is_sorted() && sizes[sizes.len() - 1] == 32_768, "{sizes:?}");
        world.packets
    });
}

/// Backends drain and come back with a tenth of their share of the table, which rises every second for 20 s.
///
/// Not promised: that a drained backend has no flows left by any time; its flows stay for as long as they go on.
#[test]
fn drains_and_returns_with_slow_start() {
    const RISE_SECONDS: u32 = 20;
    for_seeds(seeds(2, 50), |seed| {
        let mut world = World::new(seed, 10);
        let mut crowd = Crowd::default();
        crowd.open(&mut world, short_or_long(300, 3_000));
        for _ in 0..short_or_long(3, 20) {
            let which = world.any().expect("there are ten");
            world.backends.insert(which, Backend { draining: true, ..Backend::of_weight(100) });
            world.publish();
            let before = crowd.flows.iter().filter(|flow| flow.backend == which).count();
            let seconds = 1 + world.random.below(2 * IDLE_SECONDS);
            crowd.pass(&mut world, seconds);
            assert_eq!(crowd.flows.iter().filter(|flow| flow.backend == which).count(), before);
            for step in 1..=RISE_SECONDS {
                let started = 10 + 90 * step / RISE_SECONDS;
                world.backends.insert(which, Backend { started, ..Backend::of_weight(100) });
                world.publish();
                crowd.replace(&mut world, 10);
                crowd.pass(&mut world, 1);
            }
        }
        world.packets
    });
}
