//! The flow promise where the flow table has less room than there are flows.
//!
//! Not promised: a SYN that the full table refused went to the slot's old owner. When it comes again and finds room, it
//! opens the flow at the new one: a connection that was not established yet may begin anew at another backend.

use lb_common::{Protocol, SlotState};

use crate::{
    crowd::Crowd,
    for_seeds, seeds, short_or_long,
    world::{IDLE_SECONDS, Kind, World},
};

/// Owners change while `spoofed` SYNs a second come from addresses that never send again.
fn churn(seed: u64, protocol: Protocol, capacity: u32, spoofed: u32) -> (u64, u64) {
    let settings = World::new(seed, 1).settings;
    let mut world = World::with(seed, 0, settings, capacity);
    world.protocol = protocol;
    world.add(10, 100);
    world.publish();
    let mut crowd = Crowd::scarce();
    crowd.open(&mut world, short_or_long(300, 3_000));
    let mut full = 0;
    for _ in 0..short_or_long(30, 100) {
        let which = world.any().expect("there are some");
        let weight = 20 + world.random.below(200);
        let fails = world.random.one_in(6);
        let backend = world.backends.get_mut(&which).expect("just picked");
        (backend.weight, backend.failed) = (weight, fails);
        world.publish();
        crowd.release(&world);
        for _ in 0..1 + world.random.below(IDLE_SECONDS) {
            for _ in 0..spoofed {
                let (client, port) = (0xc000_0000 | world.random.below(1 << 24), world.random.below(65_536));
                world.send(client, port as u16, Kind::Syn);
            }
            full += u64::from(world.flow_count() >= capacity as usize);
            crowd.replace(&mut world, 2);
            crowd.pass(&mut world, 1);
            assert!(world.flow_count() <= capacity as usize);
        }
    }
    (world.packets, full)
}

/// The table holds an eighth of the flows. Not promised: see above.
#[test]
fn the_flow_table_is_full() {
    for protocol in [Protocol::Tcp, Protocol::Udp] {
        for_seeds(seeds(2, 40), |seed| {
            let (packets, full) = churn(seed, protocol, short_or_long(40, 400), 0);
            assert!(full > 20, "the table was full in {full} seconds");
            packets
        });
    }
}

/// A flood of SYNs fills the table. Not promised: see above; and that the flood costs nothing: while it refuses flows,
/// the slots stay unsettled and are looked up.
#[test]
fn spoofed_syns_fill_the_flow_table() {
    for_seeds(seeds(2, 40), |seed| {
        let (packets, full) =
            churn(seed, Protocol::Tcp, short_or_long(400, 4_000), short_or_long(100, 1_000));
        assert!(full > 20, "the table was full in {full} seconds");
        packets
    });
}

/// Where nothing changed, a flood finds no table to fill: it is not looked at. Nothing is unpromised.
#[test]
fn spoofed_syns_leave_no_trace_where_slots_are_settled() {
    let mut world = World::new(1, 10);
    let mut crowd = Crowd::default();
    crowd.open(&mut world, 200);
    for _ in 0..20 {
        for _ in 0..500 {
            let client = 0xc000_0000 | world.random.below(1 << 24);
            world.send(client, 1_024, Kind::Syn);
        }
        crowd.pass(&mut world, 1);
    }
    assert_eq!(
        (world.flow_count(), world.count_slots(SlotState::Settled)),
        (0, world.installed().slots.len())
    );
}
