//! The flow promise of services that track every flow, and of those that begin or cease to.

use lb_common::{Algorithm, Mode, ServiceSettings, SlotState, Tracking};

use crate::{
    crowd::Crowd,
    for_seeds, seeds, short_or_long,
    world::{IDLE_SECONDS, World},
};

fn settings(algorithm: Algorithm, tracking: Tracking) -> ServiceSettings {
    ServiceSettings { algorithm, ..ServiceSettings::new(Mode::Nat, tracking, IDLE_SECONDS) }
}

/// Adds, drains, returns, fails, recovers and weighs at random.
fn change(world: &mut World, crowd: &mut Crowd) {
    let which = world.any().expect("the last is never removed");
    let weight = 10 + world.random.below(300);
    let what = world.random.below(12);
    let count = world.backends.len();
    let backend = world.backends.get_mut(&which).expect("just picked");
    match what {
        0..3 if count < 40 => world.add(1, 100),
        3 if count > 8 => drop(world.backends.remove(&which)),
        4 => backend.draining = true,
        5 => backend.failed = true,
        6..8 => (backend.draining, backend.failed) = (false, false),
        8 => world.restart_controller(),
        _ => backend.weight = weight,
    }
    world.publish();
    crowd.release(world);
}

/// Every algorithm. Not promised: flows that a full table refuses go by their hash, and are the subject of the next test.
#[test]
fn services_that_track_every_flow_keep_them_under_churn() {
    for algorithm in Algorithm::ALL {
        for_seeds(seeds(2, 50), |seed| {
            let mut world = World::with(seed, 10, settings(algorithm, Tracking::EveryFlow), 65_536);
            let mut crowd = Crowd::default();
            crowd.open(&mut world, short_or_long(200, 4_000));
            for _ in 0..short_or_long(40, 200) {
                change(&mut world, &mut crowd);
                crowd.replace(&mut world, 5);
                let seconds =
                    if world.random.one_in(8) { IDLE_SECONDS + 2 } else { 1 + world.random.below(4) };
                crowd.pass(&mut world, seconds);
            }
            assert!(world.flow_count() >= crowd.flows.iter().filter(|flow| flow.backend != 0).count());
            world.packets
        });
    }
}

/// The table holds a quarter of the flows: the others go by their hash, as on change.
///
/// Not promised: that their backend is the one that the algorithm would choose, and that a SYN which comes again, and
/// finds room by then, opens the flow where the first one went.
#[test]
fn services_that_track_every_flow_keep_them_when_the_table_is_full() {
    for algorithm in Algorithm::ALL {
        for_seeds(seeds(2, 30), |seed| {
            let (flows, capacity) = short_or_long((200, 50), (2_000, 500));
            let mut world = World::with(seed, 10, settings(algorithm, Tracking::EveryFlow), capacity);
            let mut crowd = Crowd::scarce();
            crowd.open(&mut world, flows);
            let mut full = 0;
            for _ in 0..short_or_long(30, 100) {
                change(&mut world, &mut crowd);
                crowd.replace(&mut world, 3);
                let seconds = 1 + world.random.below(4);
                crowd.pass(&mut world, seconds);
                full += u32::from(world.flow_count() >= capacity as usize);
            }
            assert!(full > 5, "the table was full {full} times");
            world.packets
        });
    }
}

/// A service goes over to tracking every flow and back, to other algorithms, while its backends change.
///
/// Not promised: a SYN that comes again after its service began to track every flow is taken for a new flow, for nothing
/// was remembered of the first; a connection that was not established yet may begin anew at another backend. And a change
/// between an algorithm that goes by the client's network and one that goes by flows changes every slot of every flow.
#[test]
fn tracking_changes_while_flows_go_on() {
    let others = [
        Algorithm::RoundRobin,
        Algorithm::Random,
        Algorithm::LeastConnections,
        Algorithm::LeastResponseTime,
        Algorithm::PowerOfTwo,
        Algorithm::Maglev,
    ];
    for_seeds(seeds(6, 100), |seed| {
        let mut world = World::with(seed, 10, settings(Algorithm::Maglev, Tracking::OnChange), 65_536);
        let mut crowd = Crowd::default();
        crowd.open(&mut world, short_or_long(200, 2_000));
        for _ in 0..short_or_long(20, 100) {
            let which = world.random.below(others.len() as u32) as usize;
            world.settings = match world.settings.tracking {
                Tracking::OnChange => settings(others[which], Tracking::EveryFlow),
                _ => settings(Algorithm::Maglev, Tracking::OnChange),
            };
            change(&mut world, &mut crowd);
            crowd.doubt_openings();
            for _ in 0..world.random.below(3) {
                crowd.replace(&mut world, 5);
                let seconds = if world.random.one_in(4) { IDLE_SECONDS + 2 } else { 1 };
                crowd.pass(&mut world, seconds);
                change(&mut world, &mut crowd);
            }
            crowd.replace(&mut world, 5);
            let seconds = 1 + world.random.below(4);
            crowd.pass(&mut world, seconds);
        }
        world.packets
    });
}

/// After a service went back to tracking on change, what was remembered is forgotten as flows end.
///
/// Not promised: that its slots settle while a flow lives that is not its slot's owner's.
#[test]
fn what_was_tracked_is_forgotten_as_flows_end() {
    let mut world = World::with(5, 10, settings(Algorithm::LeastConnections, Tracking::EveryFlow), 65_536);
    let mut crowd = Crowd::default();
    crowd.open(&mut world, 500);
    crowd.pass(&mut world, 3);
    assert_eq!(world.flow_count(), 500);
    world.settings = settings(Algorithm::Maglev, Tracking::OnChange);
    world.publish();
    crowd.pass(&mut world, 2 * IDLE_SECONDS);
    assert!(world.count_slots(SlotState::Pinned) > 0, "flows that live elsewhere pin their slots");
    crowd.flows.clear();
    crowd.pass(&mut world, 2 * IDLE_SECONDS);
    assert_eq!((world.flow_count(), world.unsettled_share()), (0, 0.0));
}
