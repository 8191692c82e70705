//! Two balancers with the same configuration, and routers that send a flow now to one, now to the other.
//!
//! | flow | promised |
//! |---|---|
//! | its slot has not changed hands since it began, and was not moving then | yes: nobody need remember it |
//! | its slot was not moving when it began, and has been since its first change | yes: both send it to `previous` |
//! | another: one of the two remembers it, and it goes to the other | no |

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use lb_common::SlotState;

use crate::{
    for_seeds,
    random::Random,
    seeds, short_or_long,
    world::{IDLE_SECONDS, Kind, World},
};

struct Flow {
    client: u32,
    port: u16,
    backend: u32,
    began_at_rest: bool,
    /// Its slot has belonged to its backend since it began.
    untouched: bool,
}

/// Both, and who sends through them.
struct Pair {
    worlds: [World; 2],
    flows: Vec<Flow>,
    random: Random,
    opened: u32,
}

impl Pair {
    fn open(&mut self, count: u32) {
        for _ in 0..count {
            self.opened += 1;
            let (client, port) = (0x2000_0000 + (self.opened >> 6), 1_024 + (self.opened & 63) as u16);
            let at = self.random.below(2) as usize;
            let backend = self.worlds[at].send(client, port, Kind::Syn);
            let moves = |world: &World| world.slot(client, port).state() == SlotState::Moving;
            let began_at_rest = !self.worlds.iter().any(moves);
            self.flows.push(Flow { client, port, backend, began_at_rest, untouched: true });
        }
    }

    /// One of the changes, the same to both at once; flows of a backend that fails are over.
    fn change(&mut self) {
        let count = self.worlds[0].backends.len() as u32;
        let which = self.random.below(count) as usize;
        let (what, weight) = (self.random.below(8), 50 + self.random.below(100));
        for world in &mut self.worlds {
            let number = *world.backends.keys().nth(which).expect("one of them");
            let backend = world.backends.get_mut(&number).expect("just found");
            match what {
                0 if count < 40 => world.add(1, 100),
                1 => backend.draining = !backend.draining,
                2 => backend.failed = !backend.failed,
                _ => backend.weight = weight,
            }
            world.publish();
        }
        let world = &self.worlds[0];
        self.flows.retain(|flow| world.serves(flow.backend));
        for flow in &mut self.flows {
            flow.untouched &= world.number(world.slot(flow.client, flow.port).current()) == flow.backend;
        }
    }

    /// Every flow sends to one of the two; returns how many of those to whom nothing is promised sent, and were moved.
    fn send(&mut self) -> (u64, u64) {
        let (mut unpromised, mut moved) = (0, 0);
        for flow in &mut self.flows {
            let at = self.random.below(2) as usize;
            let unsettled = self.worlds.iter().all(|world| {
                let slot = world.slot(flow.client, flow.port);
                slot.state() == SlotState::Moving && world.number(slot.previous()) == flow.backend
            });
            let promised = flow.began_at_rest && (flow.untouched || unsettled);
            let backend = self.worlds[at].send(flow.client, flow.port, Kind::Data);
            if promised {
                assert_eq!(backend, flow.backend, "{}:{} left its backend", flow.client, flow.port);
            } else {
                unpromised += 1;
                moved += u64::from(backend != flow.backend);
                flow.backend = backend;
            }
        }
        (unpromised, moved)
    }
}

/// Flows go from one balancer to the other at random, every second, which no routers do: the worst case.
///
/// Promised and not: see above. Of the flows that nothing is promised, the share that goes astray is printed.
#[test]
fn flows_reshuffled_between_two_balancers() {
    let (sent, unpromised, moved) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
    let seeds = seeds(3, 100);
    for_seeds(seeds, |seed| {
        let worlds = [World::new(seed, 12), World::new(seed, 12)];
        let mut pair = Pair { worlds, flows: Vec::new(), random: Random::new(!seed), opened: 0 };
        pair.open(short_or_long(400, 1_000));
        for _ in 0..short_or_long(20, 60) {
            pair.change();
            let quiet = pair.random.one_in(3);
            for _ in 0..if quiet { IDLE_SECONDS + 5 } else { 3 } {
                pair.worlds.iter_mut().for_each(World::second);
                let (free, astray) = pair.send();
                sent.fetch_add(pair.flows.len() as u64, Relaxed);
                unpromised.fetch_add(free, Relaxed);
                moved.fetch_add(astray, Relaxed);
                // So many flows end, unseen, and others begin.
                let left = pair.flows.len() as u32;
                let ended = pair.random.below(left) as usize;
                pair.flows.swap_remove(ended);
                pair.open(1);
            }
        }
        0
    });
    let [sent, unpromised, moved] = [sent, unpromised, moved].map(AtomicU64::into_inner);
    println!(
        "two balancers, {seeds} seeds: of {sent} packets {:.1} % were of flows to which nothing is promised, and {:.2} % \
         of those went astray; none of the others did",
        100.0 * unpromised as f64 / sent as f64,
        100.0 * moved as f64 / unpromised as f64
    );
    assert!(unpromised < sent / 2, "most flows are promised something");
}
