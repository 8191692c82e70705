//! The planner by table, over plain memory: what a target changes, in which order, and what it leaves alone.

#[path = "plan/changed.rs"]
mod changed;
#[path = "plan/kinds.rs"]
mod kinds;
#[path = "plan/shape.rs"]
mod shape;
#[path = "plan/translations.rs"]
mod translations;

use std::collections::BTreeSet;

use lb_common::{BackendState, FlowState, Mac, NextHop, Port, Reason, SlotState};
use lb_control::{
    datapath::{Datapath as _, memory::MemoryDatapath},
    engine::Engine,
    plan::{Installed, Shortage, plan},
    target::Target,
};

use shape::{CAPACITY, engine, key, kinds, nothing_installed, service, target};

#[test]
fn changes_come_in_an_order_without_gaps() {
    let base = target(vec![service(80, 1..4)]);
    let edit = |change: &dyn Fn(&mut Target)| {
        let mut edited = base.clone();
        change(&mut edited);
        edited
    };
    let cases: [(&str, Target, &[&str]); 10] = [
        ("the same again", base.clone(), &[]),
        ("one more backend", target(vec![service(80, 1..5)]), &["backend", "reply", "slots"]),
        ("one backend fewer", target(vec![service(80, 1..3)]), &["slots", "down"]),
        (
            "a backend fails",
            edit(&|target| target.services[0].backends[0].state = BackendState::Down),
            &["slots", "down"],
        ),
        (
            "a backend drains",
            edit(&|target| target.services[0].backends[0].state = BackendState::Draining),
            &["state", "slots"],
        ),
        (
            "another weight",
            edit(&|target| {
                let backend = &mut target.services[0].backends[0];
                (backend.weight, backend.share) = (5, 5);
            }),
            &["share", "slots"],
        ),
        (
            "another idle timeout",
            edit(&|target| target.services[0].settings.flow_idle_seconds = 5),
            &["service"],
        ),
        (
            "another next hop",
            edit(&|target| {
                target.services[0].backends[0].next_hop =
                    Some(NextHop { mac: Mac::new([6; 6]), interface: 0 })
            }),
            &["next hop"],
        ),
        (
            "an unresolved neighbour keeps the last one",
            edit(&|target| target.services[0].backends[0].next_hop = None),
            &[],
        ),
        ("the service goes", target(vec![]), &["-vip", "-service", "down"]),
    ];
    for (name, edited, expected) in cases {
        let mut installed = nothing_installed();
        let first = plan(&mut installed, &base, 100);
        assert_eq!(
            kinds(&first.changes),
            ["interface", "local", "backend", "reply", "slots", "service", "vip"]
        );
        assert_eq!(kinds(&plan(&mut installed, &edited, 200).changes), expected, "{name}");
        assert_eq!(kinds(&plan(&mut installed, &edited, 201).changes), [""; 0], "{name}: planned twice");
    }
}

#[test]
fn next_hops_through_a_vanished_interface_are_taken_away_first() {
    let mut installed = nothing_installed();
    let mut wanted = target(vec![service(80, 1..3)]);
    plan(&mut installed, &wanted, 100);
    wanted.interfaces.clear();
    for backend in &mut wanted.services[0].backends {
        backend.next_hop = None;
    }
    assert_eq!(kinds(&plan(&mut installed, &wanted, 101).changes), ["next hop", "-interface"]);
}

#[test]
fn what_does_not_fit_is_named_and_the_rest_is_installed() {
    let mut installed = nothing_installed();
    let planned = plan(&mut installed, &target(vec![service(80, 1..1_020), service(81, 2_000..2_900)]), 100);
    assert_eq!(planned.shortages, [Shortage::Backends]);
    assert_eq!(installed.backends.len(), 1_023);
    assert_eq!(installed.services.len(), 2);

    let many = (1..=20).map(|port| service(port, [port as u32])).collect();
    let planned = plan(&mut nothing_installed(), &target(many), 100);
    assert_eq!(planned.shortages, vec![Shortage::Services; 4]);
}

#[test]
fn a_table_that_finds_no_room_to_grow_is_kept_all_the_same() {
    let small = lb_control::datapath::Capacity { slots: 1_024, ..CAPACITY };
    let mut installed = Installed::adopt(Default::default(), small).expect("nothing overlaps");
    plan(&mut installed, &target(vec![service(80, 1..4)]), 100);
    let mut wanted = target(vec![service(80, 1..40)]);
    wanted.services[0].backends[0].state = BackendState::Down;
    let planned = plan(&mut installed, &wanted, 101);
    assert_eq!(planned.shortages, [Shortage::Slots { address: key(80), slots: 4_096 }]);
    let service = &installed.services[&key(80)];
    assert_eq!(service.slots.len(), 1_024);
    let down = service.backends[&(wanted.services[0].backends[0].address, Port::new(8_080))];
    assert!(!installed.serves(down));
    assert!(service.slots.iter().all(|slot| slot.current() != down), "the failed backend has no slot left");
    assert_eq!(service.slots.iter().map(|slot| slot.current()).collect::<BTreeSet<_>>().len(), 38);
}

#[test]
fn a_deleted_service_leaves_no_number_to_confuse() {
    let mut engine = engine();
    engine.apply(&target(vec![service(80, 1..4)]), 100).expect("applies");
    engine.apply(&target(vec![service(81, 4..7)]), 101).expect("applies");
    let installed = engine.installed();
    let new = &installed.services[&key(81)];
    assert_eq!(new.backends.len(), 3, "backends of the deleted service are not the new one's");
    assert_ne!(
        new.entry.id,
        installed.backends.values().next().expect("the old ones are not free yet").service
    );
    for second in 101..110 {
        engine.settle(second).expect("memory does not fail");
    }
    assert_eq!(engine.installed().backends.len(), 3);
    assert_eq!(engine.installed().replies.len(), 3);
}

#[test]
fn a_removed_backend_that_returns_has_its_number_again() {
    let mut engine = engine();
    engine.apply(&target(vec![service(80, 1..4)]), 100).expect("applies");
    let before = engine.installed().services[&key(80)].backends.clone();
    engine.apply(&target(vec![service(80, 1..3)]), 101).expect("applies");
    engine.apply(&target(vec![service(80, 1..4)]), 102).expect("applies");
    assert_eq!(engine.installed().services[&key(80)].backends, before);
}

/// The figure that the flow promise is known by: 50,000 live flows over 100 backends.
#[test]
fn of_fifty_thousand_flows_only_those_of_the_removed_backend_move() {
    let mut engine = engine();
    engine.apply(&target(vec![service(80, 1..101)]), 100).expect("applies");
    let before = send_all(&engine, 100);
    assert_eq!(engine.datapath().flow_count(), 0, "a settled table remembers nothing");
    assert_eq!(before.iter().collect::<BTreeSet<_>>().len(), 100);

    let removed = [0, 40];
    let applied =
        engine.apply(&target(vec![service(80, (1..101).filter(|&id| id != 40))]), 101).expect("applies");
    assert!(applied.slots_moved > 16_384 / 100, "{} slots moved", applied.slots_moved);
    let after = send_all(&engine, 101);
    let moved = before.iter().zip(&after).filter(|(old, new)| old != new).count();
    let owned = before.iter().filter(|&&backend| backend == removed).count();
    assert_eq!(moved, owned, "flows of the removed backend move, and no other");

    // 200 backends take a table twice as large, in which two slots of three have another owner.
    engine.apply(&target(vec![service(80, (1..201).filter(|&id| id != 40))]), 102).expect("applies");
    let service = &engine.installed().services[&key(80)];
    assert_eq!(service.slots.len(), 32_768);
    assert!(service.slots.iter().filter(|slot| slot.state() == SlotState::Moving).count() > 16_384);
    assert_eq!(send_all(&engine, 103), after, "a table that grows moves no flow");
}

/// Sends a packet of each of 50,000 flows; the last two bytes of the address that each reached.
fn send_all(engine: &Engine<MemoryDatapath>, now_seconds: u32) -> Vec<[u8; 2]> {
    engine.datapath().now_seconds.set(now_seconds);
    (0..50_000).map(|flow| send(engine, flow, ACK)).collect()
}

const SYN: u8 = 0x02;
const ACK: u8 = 0x10;

/// Sends a TCP packet of a flow; the last two bytes of the address that it reached.
fn send(engine: &Engine<MemoryDatapath>, flow: u32, flags: u8) -> [u8; 2] {
    let mut packet = vec![0u8; 54];
    packet[12..18].copy_from_slice(&[8, 0, 0x45, 0, 0, 40]);
    packet[22..24].copy_from_slice(&[64, 6]);
    packet[26..30].copy_from_slice(&[172, 16, (flow >> 8) as u8, flow as u8]);
    packet[30..34].copy_from_slice(&[10, 0, 0, 1]);
    packet[34..38].copy_from_slice(&[0x90, (flow >> 4) as u8, 0, 80]);
    packet[46..48].copy_from_slice(&[0x50, flags]);
    assert_eq!(engine.datapath().process(&mut packet).reason, Reason::Forwarded);
    [packet[32], packet[33]]
}

/// Half-open flows keep a slot from settling for their own timeout, and not for that of established ones.
#[test]
fn half_open_flows_let_a_table_rest() {
    let mut engine = engine();
    let with = |backends: std::ops::Range<u32>| {
        let mut wanted = target(vec![service(80, backends)]);
        wanted.services[0].settings.flow_idle_seconds = 300;
        wanted
    };
    engine.apply(&with(1..4), 100).expect("applies");
    engine.apply(&with(1..5), 101).expect("applies");
    let at = |engine: &Engine<MemoryDatapath>, second| engine.datapath().now_seconds.set(second);
    let (opened, again, rested) = (102, 400, 400 + 60 + 3);
    at(&engine, opened);
    let backends: Vec<_> = (0..1_000).map(|flow| send(&engine, flow, SYN)).collect();
    assert!(engine.datapath().flow_count() > 0, "slots that moved remember");
    let count = |engine: &Engine<MemoryDatapath>, state| {
        engine.installed().services[&key(80)].slots.iter().filter(|slot| slot.state() == state).count()
    };
    for second in opened..=rested {
        at(&engine, second);
        engine.settle(second).expect("memory does not fail");
        // No more than a minute passes between two SYNs of a flow.
        if second <= again && (again - second).is_multiple_of(50) {
            let now: Vec<_> = (0..1_000).map(|flow| send(&engine, flow, SYN)).collect();
            assert_eq!(now, backends, "second {second}");
        }
        if second == again + 50 {
            assert!(count(&engine, SlotState::Pinned) > 0, "they are held as long as they may open");
            let flows = engine.datapath().flows().expect("memory does not fail");
            assert!(flows.iter().all(|(_, flow)| flow.state() == FlowState::Opening));
        }
    }
    assert_eq!(count(&engine, SlotState::Settled), 1_024);
    assert_eq!(engine.datapath().flow_count(), 0);
}

/// A controller that starts over sees exactly what the one before it kept in mind.
#[test]
fn what_is_adopted_equals_what_was_recorded() {
    let mut engine = engine();
    let steps = [
        target(vec![service(80, 1..4), service(81, 10..30)]),
        target(vec![service(80, 2..6), service(81, 10..200)]),
        target(vec![service(81, 10..40), service(82, 300..301)]),
        kinds::of_every_kind(),
        target(vec![service(81, 10..40)]),
    ];
    for (now, step) in (100..).zip(&steps) {
        engine.apply(step, now).expect("applies");
        engine.settle(now).expect("memory does not fail");
        assert_adopted(&engine);
    }
}

fn assert_adopted(engine: &Engine<MemoryDatapath>) {
    let contents = engine.datapath().contents().expect("memory does not fail");
    let adopted = Installed::adopt(contents, CAPACITY).expect("nothing overlaps");
    let recorded = engine.installed();
    assert_eq!(adopted.backends, recorded.backends);
    assert_eq!(adopted.replies, recorded.replies);
    assert_eq!(adopted.interfaces, recorded.interfaces);
    assert_eq!(adopted.locals, recorded.locals);
    assert_eq!(adopted.virtual_addresses, recorded.virtual_addresses);
    assert_eq!(adopted.features, recorded.features);
    assert_eq!(adopted.settings, recorded.settings);
    assert_eq!(adopted.pool, recorded.pool);
    assert_eq!(adopted.wide, recorded.wide);
    assert_eq!(adopted.quic_servers, recorded.quic_servers);
    for (key, service) in &recorded.services {
        let other = &adopted.services[key];
        assert_eq!(
            (other.entry, &other.slots, &other.backends),
            (service.entry, &service.slots, &service.backends)
        );
    }
}
