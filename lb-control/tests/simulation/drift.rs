//! The flow promise while weights follow the load and change every second.
//!
//! Not promised: that slots settle meanwhile. What a drift costs is a look-up in the slots that it moved, for one idle
//! timeout each, and room in the flow table for their flows.

use crate::{crowd::Crowd, short_or_long, world::World};

/// What a drift cost.
#[derive(Default)]
struct Cost {
    seconds: u32,
    share: f64,
    share_max: f64,
    entries_max: usize,
}

impl Cost {
    fn note(&mut self, world: &World) {
        self.seconds += 1;
        self.share += world.unsettled_share();
        self.share_max = self.share_max.max(world.unsettled_share());
        self.entries_max = self.entries_max.max(world.flow_count());
    }

    fn tell(&self, what: &str, world: &World, crowd: &Crowd) {
        println!(
            "{what}: {} flows over {} s, {} slots moved, none of {} packets went elsewhere; slots that are looked up in: \
             {:.1} % in the mean, {:.1} % at most; flow table: {} entries at most",
            crowd.flows.len(),
            self.seconds,
            world.slots_moved,
            world.packets,
            100.0 * self.share / f64::from(self.seconds),
            100.0 * self.share_max,
            self.entries_max
        );
    }
}

/// Every backend's weight takes a step at random every second, up to tenfold in all, for an hour.
#[test]
fn weights_drift_every_second_for_an_hour() {
    let mut world = World::new(short_or_long(1, 2), 16);
    let mut crowd = Crowd::default();
    crowd.open(&mut world, short_or_long(100, 2_000));
    let mut cost = Cost::default();
    for _ in 0..short_or_long(120, 3_600) {
        for number in 1..=16 {
            let step = world.random.below(41);
            let backend = world.backends.get_mut(&number).expect("there are sixteen");
            backend.weight = (backend.weight + step).saturating_sub(20).clamp(30, 300);
        }
        world.publish();
        cost.note(&world);
        crowd.replace(&mut world, 1);
        crowd.pass(&mut world, 1);
    }
    cost.tell("weights drift by up to 20 of 100", &world, &crowd);
}

/// Every backend's weight goes up or down by one hundredth every second, for a quarter of an hour.
#[test]
fn weights_drift_by_a_hundredth_every_second() {
    let (flows, capacity) = short_or_long((500, 1_000), (20_000, 32_768));
    let settings = World::new(1, 1).settings;
    let mut world = World::with(3, 16, settings, capacity);
    world.backends.values_mut().for_each(|backend| backend.weight = 500);
    world.publish();
    let mut crowd = Crowd::default();
    crowd.open(&mut world, flows);
    let first = crowd.flows.clone();
    let mut cost = Cost::default();
    for _ in 0..short_or_long(60, 900) {
        for number in 1..=16 {
            let up = world.random.one_in(2);
            let backend = world.backends.get_mut(&number).expect("there are sixteen");
            let step = (backend.weight / 100).max(1);
            backend.weight =
                (if up { backend.weight + step } else { backend.weight - step }).clamp(100, 1_000);
        }
        world.publish();
        cost.note(&world);
        crowd.pass(&mut world, 1);
    }
    cost.tell("weights drift by 1 %", &world, &crowd);
    assert!(cost.entries_max < capacity as usize, "the flow table was full");
    assert!(crowd.flows.iter().zip(&first).all(|(now, then)| now.backend == then.backend));
    let refused = world.engine().flows().refused;
    assert_eq!(refused, 0, "flows were refused");
}
