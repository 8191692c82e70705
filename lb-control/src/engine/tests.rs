//! The engine over tables in memory: what a sweep makes of flows, drains, dry runs.

use lb_common::{
    Address, Algorithm, BackendId, BackendState, Flow, FlowKey, FlowState, FragmentPolicy, HashKeys, Mode,
    Port, ServiceKey, ServiceSettings, SlotState, Tracking, hash,
};

use super::{Engine, ResponseTime, ServiceDryRun, drain::DrainEnd};
use crate::{
    datapath::{Capacity, Datapath as _, memory::MemoryDatapath},
    target::{Target, TargetBackend, TargetService},
};

const IDLE: u32 = 30;
const KEYS: HashKeys = HashKeys([11, 13]);
const KEY: ServiceKey =
    ServiceKey { address: Address::from_ipv4([10, 0, 0, 1]), port: Port::new(80), protocol: 6, width: 0 };

fn backend(number: u8, state: BackendState) -> TargetBackend {
    TargetBackend {
        address: Address::from_ipv4([10, 1, 0, number]),
        port: Port::new(8_080),
        server_id: None,
        weight: 1,
        share: 1,
        max_connections: 0,
        state,
        resets: false,
        next_hop: None,
    }
}

fn target(settings: ServiceSettings, states: &[BackendState]) -> Target {
    let service = TargetService {
        key: KEY,
        last_port: 0,
        settings,
        fragments: FragmentPolicy::Drop,
        answer_arp: true,
        answer_echo: false,
        backends: (1..).zip(states).map(|(number, &state)| backend(number, state)).collect(),
    };
    Target { services: vec![service.into()], ..Target::default() }
}

fn on_change() -> ServiceSettings {
    ServiceSettings::new(Mode::Nat, Tracking::OnChange, IDLE)
}

fn tracked() -> ServiceSettings {
    ServiceSettings {
        algorithm: Algorithm::LeastConnections,
        affinity_seconds: 60,
        ..ServiceSettings::new(Mode::Nat, Tracking::EveryFlow, IDLE)
    }
}

fn engine(target: &Target, now: u32) -> Engine<MemoryDatapath> {
    let capacity = Capacity { slots: 8_192, flows: 1_024, translations: 16, backends: 64, services: 4 };
    let mut engine = Engine::adopt(MemoryDatapath::new(capacity, KEYS)).expect("nothing overlaps");
    engine.apply(target, now).expect("memory does not fail");
    engine
}

fn id_of(engine: &Engine<MemoryDatapath>, number: u8) -> BackendId {
    engine.installed().services[&KEY].backends[&(Address::from_ipv4([10, 1, 0, number]), Port::new(8_080))]
}

fn report(engine: &Engine<MemoryDatapath>, number: u8) -> super::BackendReport {
    let found = engine.backend(&KEY, Address::from_ipv4([10, 1, 0, number]), Port::new(8_080));
    found.expect("memory does not fail").expect("it is installed")
}

fn tuple(port: u16) -> FlowKey {
    FlowKey {
        client: Address::from_ipv4([192, 0, 2, 1]),
        vip: KEY.address,
        client_port: Port::new(port),
        vip_port: KEY.port,
        protocol: 6,
        reserved: [0; 3],
    }
}

/// Remembers a flow as packets do.
fn remember(engine: &Engine<MemoryDatapath>, port: u16, id: BackendId, seen: u32, state: FlowState) {
    let tag = hash::tag(hash::flow_hash(KEYS, &tuple(port)));
    let counted =
        engine.installed().services[&KEY].entry.tracking() == Tracking::EveryFlow && !state.is_over();
    let flow = Flow::new(id, tag, seen, state).counted(counted);
    engine.datapath().flows.borrow_mut().insert(tuple(port), flow);
    if counted {
        engine.datapath().adjust_connections(id, 1);
    }
}

fn settle(engine: &mut Engine<MemoryDatapath>, now: u32) {
    engine.settle(now).expect("memory does not fail");
}

const UP: BackendState = BackendState::Up;
const DRAINING: BackendState = BackendState::Draining;
const DOWN: BackendState = BackendState::Down;

#[test]
fn tracked_flows_are_swept_when_they_end_and_affinity_is_no_flow() {
    let mut engine = engine(&target(tracked(), &[UP, UP]), 100);
    let id = id_of(&engine, 1);
    remember(&engine, 1, id, 100, FlowState::Established);
    remember(&engine, 2, id, 125, FlowState::Established);
    remember(&engine, 3, id, 125, FlowState::Closing);
    let network = engine.installed().services[&KEY].entry.affinity_key(&tuple(1));
    engine.datapath().flows.borrow_mut().insert(network, Flow::new(id, 0, 100, FlowState::Established));

    settle(&mut engine, 132);
    let seen = report(&engine, 1);
    assert_eq!((seen.tracked_flows, seen.live_flows, seen.connections), (2, 1, 1), "the first was idle");
    assert_eq!((engine.flows().entries, engine.flows().affinities), (3, 1));
    assert!(engine.datapath().flows.borrow().contains_key(&network));

    settle(&mut engine, 162);
    assert_eq!(report(&engine, 1).connections, 0);
    assert!(!engine.datapath().flows.borrow().contains_key(&network), "60 s have passed");
    assert_eq!(engine.flows().entries, 0);
}

#[test]
fn live_connections_are_corrected_when_nothing_is_under_way() {
    let mut engine = engine(&target(tracked(), &[UP]), 100);
    let id = id_of(&engine, 1);
    remember(&engine, 1, id, 100, FlowState::Established);
    engine.datapath().adjust_connections(id, 4);
    settle(&mut engine, 101);
    assert_eq!(report(&engine, 1).connections, 5, "one look is not enough");
    settle(&mut engine, 102);
    assert_eq!((report(&engine, 1).connections, engine.totals().corrections), (1, 1));
    engine.datapath().adjust_connections(id, -3);
    assert_eq!(report(&engine, 1).connections, 0, "a count below zero is none");
    settle(&mut engine, 103);
    settle(&mut engine, 104);
    assert_eq!((report(&engine, 1).connections, engine.totals().corrections), (1, 2));
}

#[test]
fn a_drain_of_a_tracked_service_is_exact_at_once_and_ends_with_its_last_flow() {
    let mut engine = engine(&target(tracked(), &[UP, UP]), 100);
    let id = id_of(&engine, 1);
    remember(&engine, 1, id, 100, FlowState::Established);
    settle(&mut engine, 101);
    let draining = target(tracked(), &[DRAINING, UP]);
    engine.apply(&draining, 102).expect("memory does not fail");
    settle(&mut engine, 103);
    let drain = report(&engine, 1).drain.expect("it drains");
    assert_eq!((drain.live_flows, drain.exact, drain.ended), (1, true, None));

    let closing = engine.datapath().flows.borrow()[&tuple(1)].seen_at(104, FlowState::Closing).counted(false);
    engine.datapath().flows.borrow_mut().insert(tuple(1), closing);
    engine.datapath().adjust_connections(id, -1);
    settle(&mut engine, 105);
    let seen = report(&engine, 1);
    assert_eq!(seen.drain.and_then(|drain| drain.ended), Some(DrainEnd::Empty));
    assert_eq!(seen.state, DRAINING, "its last packets still come through");

    settle(&mut engine, 104 + IDLE + 2);
    settle(&mut engine, 104 + IDLE + 3);
    assert_eq!(report(&engine, 1).state, DOWN);
    engine.apply(&draining, 104 + IDLE + 4).expect("memory does not fail");
    assert_eq!(report(&engine, 1).state, DOWN, "while the drain is ordered");
    engine.apply(&target(tracked(), &[UP, UP]), 104 + IDLE + 5).expect("memory does not fail");
    let seen = report(&engine, 1);
    assert_eq!((seen.state, seen.drain), (UP, None));
}

#[test]
fn a_drain_on_change_is_exact_once_its_slots_are_pinned() {
    let mut engine = engine(&target(on_change(), &[UP, UP]), 100);
    let id = id_of(&engine, 1);
    engine.apply(&target(on_change(), &[DRAINING, UP]), 200).expect("memory does not fail");
    settle(&mut engine, 201);
    let drain = report(&engine, 1).drain.expect("it drains");
    assert_eq!((drain.exact, drain.exact_after_seconds, drain.ended), (false, IDLE + 1, None));

    let service = &engine.installed().services[&KEY];
    let moving = |port: &u16| {
        let index =
            service.entry.slot_index(hash::flow_hash(KEYS, &tuple(*port))) - service.entry.slots_start;
        service.slots[index as usize].previous() == id
    };
    let port = (1..100).find(moving).expect("half of the slots were its own");
    remember(&engine, port, id, 225, FlowState::Established);
    settle(&mut engine, 200 + IDLE + 2);
    let drain = report(&engine, 1).drain.expect("it drains");
    assert_eq!(
        (drain.live_flows, drain.exact),
        (1, false),
        "the flows were read before the slots were pinned"
    );
    assert!(engine.installed().services[&KEY].slots.iter().all(|slot| slot.state() != SlotState::Moving));
    settle(&mut engine, 200 + IDLE + 3);
    let drain = report(&engine, 1).drain.expect("it drains");
    assert_eq!((drain.live_flows, drain.exact, drain.ended), (1, true, None));
    assert!(
        engine.service(&KEY).expect("memory does not fail").is_some_and(|service| service.flows_pinned == 1)
    );

    let applied = engine.apply(&target(on_change(), &[DOWN, UP]), 240).expect("memory does not fail");
    assert_eq!(applied.flows_cut, 1);
    for now in [241, 242] {
        settle(&mut engine, now);
        let drain = report(&engine, 1).drain.expect("it stands in the order");
        assert_eq!((drain.live_flows, drain.exact, drain.ended), (1, true, Some(DrainEnd::Cut(1))));
    }
}

#[test]
fn removal_says_how_many_flows_it_cut() {
    let mut engine = engine(&target(tracked(), &[UP, UP]), 100);
    let id = id_of(&engine, 2);
    for port in 1..=3 {
        remember(&engine, port, id, 100, FlowState::Established);
    }
    settle(&mut engine, 101);
    let applied = engine.apply(&target(tracked(), &[UP]), 102).expect("memory does not fail");
    assert_eq!((applied.flows_cut, engine.totals().flows_cut), (3, 3));
    assert_eq!(report(&engine, 2).drain.and_then(|drain| drain.ended), Some(DrainEnd::Cut(3)));
}

#[test]
fn a_dry_run_counts_and_changes_nothing() {
    for (settings, exact) in [(tracked(), true), (on_change(), false)] {
        let now = 100;
        let mut engine = engine(&target(settings, &[UP, UP, UP]), now);
        let id = id_of(&engine, 3);
        for port in 1..=40 {
            remember(&engine, port, id, now, FlowState::Established);
        }
        let (slots, flows) =
            (engine.installed().services[&KEY].slots.clone(), engine.datapath().flows.borrow().clone());
        let fewer = target(settings, &[UP, UP, DRAINING]);
        let run = engine.dry_run(&fewer, now).expect("memory does not fail");
        let expected = slots.iter().filter(|slot| slot.current() == id).count();
        let [outcome] = run.services[..] else { panic!("one service: {run:?}") };
        assert!(outcome.slots_moved as usize >= expected, "{outcome:?}");
        assert!((1..40).contains(&outcome.live_flows), "those of other slots stay: {outcome:?}");
        assert_eq!((outcome.exact, outcome.flows_cut), (exact, 0));

        let gone = engine.dry_run(&target(settings, &[UP, UP, DOWN]), now).expect("memory does not fail");
        assert_eq!(gone.services[0].flows_cut, 40);
        let nothing = engine.dry_run(&Target::default(), now).expect("memory does not fail");
        let all = ServiceDryRun { slots_moved: slots.len() as u32, live_flows: 40, flows_cut: 40, ..outcome };
        assert_eq!(nothing.services, [all]);
        let same = engine.dry_run(&target(settings, &[UP, UP, UP]), now).expect("memory does not fail");
        assert_eq!(same.services, []);

        assert_eq!(engine.installed().services[&KEY].slots, slots);
        assert_eq!(*engine.datapath().flows.borrow(), flows);
        let applied = engine.apply(&fewer, now).expect("memory does not fail");
        assert_eq!(applied.slots_moved, outcome.slots_moved as usize, "as it was foretold");
    }
}

#[test]
fn response_times_of_checks_count_where_replies_go_past() {
    for (mode, noted) in [(Mode::DsrIpip, 1), (Mode::Nat, 0)] {
        let settings = ServiceSettings {
            algorithm: Algorithm::LeastResponseTime,
            ..ServiceSettings::new(mode, Tracking::EveryFlow, IDLE)
        };
        let mut engine = engine(&target(settings, &[UP]), 100);
        let (address, port) = (Address::from_ipv4([10, 1, 0, 1]), Port::new(8_080));
        let time = ResponseTime { service: KEY, address, port, micros: 700 };
        let stranger = ResponseTime { port: Port::new(1), ..time };
        assert_eq!(engine.note_response_times(&[time, stranger], 5_000_000), noted);
        let load = engine.datapath().backend_load(id_of(&engine, 1));
        assert_eq!(load.response_micros(5_000_000), 700 * noted as u32);
    }
}

#[test]
fn round_robin_lays_its_table_out_as_a_sequence() {
    let settings = ServiceSettings { algorithm: Algorithm::RoundRobin, ..tracked() };
    let engine = engine(&target(settings, &[UP, UP, UP, UP]), 100);
    let slots = &engine.installed().services[&KEY].slots;
    for (index, slot) in slots.iter().enumerate() {
        assert_eq!(slot.current(), slots[index % 4].current(), "slot {index}");
    }
    let four: std::collections::BTreeSet<BackendId> = slots[..4].iter().map(|slot| slot.current()).collect();
    assert_eq!(four.len(), 4);
}
