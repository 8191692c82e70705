//! Flows of `full-nat`: how long they stand, what ends them, and what waits for them.

use lb_common::{
    Address, BackendId, BackendState, Flow, FlowKey,
    FlowState::{self, Closing, Established, Opening, Reset},
    Mode, Port, Translation,
};
use lb_control::{
    datapath::{Change, Datapath as _, TranslatedFlow, memory::MemoryDatapath},
    engine::Engine,
    target::Target,
};

use super::shape::{engine, key, service, target};

const POOL: Address = Address::from_ipv4([10, 0, 9, 1]);
const IDLE_SECONDS: u32 = 300;

fn full_nat(backends: std::ops::Range<u32>) -> Target {
    let mut service = service(80, backends);
    service.settings.mode = Mode::FullNat;
    service.settings.flow_idle_seconds = IDLE_SECONDS;
    Target { pool: vec![POOL], ..target(vec![service]) }
}

/// An engine at second 100 with the service installed.
fn installed() -> Engine<MemoryDatapath> {
    let mut engine = engine();
    engine.apply(&full_nat(1..4), 100).expect("applies");
    engine
}

fn backend_id(engine: &Engine<MemoryDatapath>, index: usize) -> BackendId {
    *engine.installed().services[&key(80)].backends.values().nth(index).expect("there are three")
}

/// Both directions of a flow, the client's first; each with its state and the second of its last packet.
fn flow(
    engine: &Engine<MemoryDatapath>,
    port: u16,
    backend: BackendId,
    [client, server]: [(FlowState, u32); 2],
) -> [(FlowKey, Translation); 2] {
    let arriving = FlowKey {
        client: Address::from_ipv4([192, 0, 2, 1]),
        vip: key(80).address,
        client_port: Port::new(port),
        vip_port: Port::new(80),
        protocol: 6,
        reserved: [0; 3],
    };
    let installed = engine.installed();
    let there = installed.backends[&backend];
    let translation = Translation {
        flow: Flow::new(backend, 7, client.1, client.0),
        source: POOL,
        destination: there.address,
        source_port: Port::new(2_000 + port),
        destination_port: there.port,
        service: there.service,
        mss: 0,
        overflowed: 0,
        reserved: [0; 2],
    };
    let back = translation.opposite(&arriving, backend, 7, server.1, server.0);
    [(arriving, translation), (translation.opposite_key(6), back)]
}

fn add(engine: &Engine<MemoryDatapath>, directions: &[(FlowKey, Translation)]) {
    engine.datapath().translations.borrow_mut().extend(directions.iter().copied());
}

fn entries(engine: &Engine<MemoryDatapath>) -> usize {
    engine.datapath().translations.borrow().len()
}

#[test]
fn a_flow_stands_as_long_as_its_further_state_says() {
    const NOW: u32 = 10_000;
    // (state and idle seconds of the client's direction, of the backend's) → it stands
    let cases = [
        ((Established, 301), (Established, 301), true),
        ((Established, 302), (Established, 302), false),
        ((Established, 999), (Established, 301), true),
        ((Established, 301), (Established, 999), true),
        ((Opening, 61), (Established, 61), true),
        ((Opening, 62), (Established, 62), false),
        ((Opening, 62), (Established, 10), true),
        ((Established, 62), (Opening, 62), true),
        ((Closing, 122), (Established, 122), true),
        ((Established, 122), (Closing, 122), true),
        ((Closing, 121), (Closing, 121), true),
        ((Closing, 122), (Closing, 122), false),
        ((Reset, 11), (Established, 11), true),
        ((Reset, 12), (Established, 12), false),
        ((Established, 12), (Reset, 12), false),
    ];
    for (client, server, stands) in cases {
        let mut engine = installed();
        let directions = [client, server].map(|(state, idle)| (state, NOW - idle));
        add(&engine, &flow(&engine, 1, backend_id(&engine, 0), directions));
        let settled = engine.settle(NOW).expect("memory does not fail");
        assert_eq!(entries(&engine), if stands { 2 } else { 0 }, "{client:?} {server:?}");
        assert_eq!(settled.forgotten, usize::from(!stands), "{client:?} {server:?}");
    }
}

/// What a client that came back too early leaves: a direction alone, which may name another flow's key.
#[test]
fn a_direction_that_was_left_alone_goes_by_itself() {
    let mut engine = installed();
    let backend = backend_id(&engine, 0);
    let [_, left] = flow(&engine, 1, backend, [(Established, 500); 2]);
    let [again, mut back] = flow(&engine, 1, backend, [(Established, 900); 2]);
    let mut again = again;
    again.1.source_port = Port::new(9_999);
    back.0 = again.1.opposite_key(6);
    add(&engine, &[left, again, back]);
    engine.settle(802).expect("memory does not fail");
    assert_eq!(entries(&engine), 2);
    assert!(!engine.datapath().translations.borrow().contains_key(&left.0));
}

#[test]
fn flows_of_a_draining_backend_stay_and_those_of_a_deleted_one_go() {
    let mut engine = installed();
    let (draining, deleted) = (backend_id(&engine, 0), backend_id(&engine, 2));
    for (port, backend) in [(1, draining), (2, draining), (3, deleted)] {
        add(&engine, &flow(&engine, port, backend, [(Established, 100); 2]));
    }
    let mut wanted = full_nat(1..3);
    wanted.services[0].backends[0].state = BackendState::Draining;
    engine.apply(&wanted, 101).expect("applies");
    engine.settle(101).expect("memory does not fail");

    let (address, port) = (wanted.services[0].backends[0].address, wanted.services[0].backends[0].port);
    let report = engine.backend(&key(80), address, port).expect("memory does not fail").expect("it is there");
    assert_eq!((report.tracked_flows, report.slots, report.slots_unsettled), (2, 0, 0));
    assert_eq!((engine.translations().entries, engine.translations().capacity), (4, 1_024));
    assert_eq!(entries(&engine), 4);
    assert!(engine.installed().backends.contains_key(&deleted), "a packet may still be under way to it");
    for second in 102..106 {
        engine.settle(second).expect("memory does not fail");
    }
    assert!(!engine.installed().backends.contains_key(&deleted));
    assert!(engine.installed().backends.contains_key(&draining));
}

#[test]
fn flows_of_a_deleted_service_go() {
    let mut engine = installed();
    add(&engine, &flow(&engine, 1, backend_id(&engine, 0), [(Established, 100); 2]));
    engine.apply(&target(vec![]), 101).expect("applies");
    for second in 101..106 {
        engine.settle(second).expect("memory does not fail");
    }
    assert_eq!(entries(&engine), 0);
    assert!(engine.installed().backends.is_empty());
}

/// After a controller's end its flows are found again before anything is freed.
#[test]
fn flows_outlive_the_controller() {
    let mut engine = installed();
    add(&engine, &flow(&engine, 1, backend_id(&engine, 0), [(Established, 100); 2]));
    engine = Engine::adopt(engine.into_datapath()).expect("nothing overlaps");
    engine.settle(102).expect("memory does not fail");
    assert_eq!((entries(&engine), engine.translations().entries), (2, 2));
}

#[test]
fn a_flow_that_goes_on_meanwhile_is_not_forgotten() {
    for refreshed in [0, 1] {
        let mut engine = installed();
        let seen = flow(&engine, 1, backend_id(&engine, 0), [(Established, 100); 2]);
        add(&engine, &flow(&engine, 1, backend_id(&engine, 0), [(Established, 100), (Established, 100)]));
        let mut now = seen;
        now[refreshed].1.flow = Flow::new(backend_id(&engine, 0), 7, 800, Established);
        add(&engine, &now);
        let [first, second] = seen;
        let doomed = TranslatedFlow { first, second: Some(second) };
        let delete = Change::DeleteTranslations(vec![doomed]);
        engine.datapath_mut().apply(&delete).expect("memory does not fail");
        assert_eq!(entries(&engine), 2, "direction {refreshed} was refreshed");
    }
}
