//! The holder and the pure functions beside it.

use lb_common::{Mac, Mode};

use super::*;
use crate::model::{Drain, HealthCheck, Ports, Probe, Protocol};

fn service(health_check: bool) -> Service {
    let check =
        HealthCheck { probe: Probe::Tcp, interval_ms: 1000, timeout_ms: 500, rise: 2, fall: 3, port: None };
    let backend = |weight| Backend { weight, server_id: None, draining: None, health: Health::Unknown };
    Service {
        name: "shop".into(),
        address: "10.0.0.1".parse().unwrap(),
        ports: Ports::one(80),
        protocol: Protocol::Tcp,
        mode: Mode::Nat,
        connectionless: false,
        flow_idle_seconds: 300,
        fragments: FragmentPolicy::Drop,
        answer_arp: true,
        answer_echo: false,
        mss: None,
        quic: None,
        on_failure: OnFailure::Resteer,
        health_check: health_check.then_some(check),
        backends: [("10.1.0.1:8080".parse().unwrap(), backend(1)), (at(), backend(2))].into(),
    }
}

fn at() -> SocketAddr {
    "10.1.0.2:8080".parse().unwrap()
}

fn put(state: &DesiredState, service: Service) -> Result<Arc<Desired>, Refusal> {
    let edit = |desired: &mut Desired| {
        desired.services.insert(service.name.clone(), service);
        Ok(())
    };
    state.order(Condition::None, edit).map(|((), desired)| desired)
}

#[test]
fn health_drain_and_time_make_the_state() {
    use BackendState as Is;
    let drain = |deadline| Some(Drain { since_unix_seconds: 50, deadline_unix_seconds: deadline });
    let (resteer, keep) = (OnFailure::Resteer, OnFailure::Keep);
    for (health, on_failure, draining, expected) in [
        (Health::Unknown, resteer, None, Is::Up),
        (Health::Up, resteer, None, Is::Up),
        (Health::Down, resteer, None, Is::Down),
        (Health::Down, keep, None, Is::Draining),
        (Health::Up, keep, drain(None), Is::Draining),
        (Health::Up, resteer, drain(Some(101)), Is::Draining),
        (Health::Up, resteer, drain(Some(100)), Is::Down),
        (Health::Down, keep, drain(Some(100)), Is::Down),
        (Health::Down, keep, drain(None), Is::Draining),
        (Health::Down, resteer, drain(None), Is::Down),
    ] {
        let backend = Backend { weight: 1, server_id: None, draining, health };
        let found = effective_state(&backend, on_failure, 100);
        assert_eq!(found, expected, "{health:?} {on_failure:?} {draining:?}");
    }
}

#[test]
fn a_target_has_the_forms_of_the_maps() {
    let hop = NextHop { mac: Mac::new([2, 0, 0, 0, 0, 1]), interface: 3 };
    let target = target_service(&service(false), 0, |address| (address == at().ip()).then_some(hop));
    assert_eq!(target.key, address::key("10.0.0.1:80".parse().unwrap(), Protocol::Tcp));
    assert_eq!((target.settings.tracking, target.settings.flow_idle_seconds), (Tracking::OnChange, 300));
    let backends: Vec<_> =
        target.backends.iter().map(|one| (one.port.number(), one.weight, one.next_hop)).collect();
    assert_eq!(backends, [(8080, 1, None), (8080, 2, Some(hop))]);
    let connectionless = Service { connectionless: true, protocol: Protocol::Udp, ..service(false) };
    assert_eq!(target_service(&connectionless, 0, |_| None).settings.tracking, Tracking::Connectionless);
}

#[test]
fn options_of_a_service_reach_the_target() {
    let target = |fields: serde_json::Value| {
        let spec = serde_json::from_value(fields).unwrap();
        target_service(&Service::new(&spec).unwrap(), 0, |_| None)
    };
    let wide = target(serde_json::json!({
        "name": "a", "address": "203.0.113.0/24", "ports": "8000-8999", "mode": "dsr-ipip", "fragments": "by-address",
        "mss": 1400, "backends": [{ "address": "fd00::1" }],
    }));
    let key = address::key("203.0.113.0:8000".parse().unwrap(), Protocol::Tcp);
    assert_eq!(wide.key, lb_common::ServiceKey { width: 121, ..key });
    assert_eq!((wide.last_port, wide.backends[0].port.number()), (8999, 0));
    assert_eq!((wide.settings.mode, wide.settings.mss), (Mode::DsrIpip, 1400));
    assert_eq!((wide.fragments, wide.settings.by_address), (FragmentPolicy::ByAddress, true));
    assert_eq!((wide.answer_arp, wide.answer_echo), (false, false));

    let any = target(serde_json::json!({ "name": "a", "address": "2001:db8::1", "ports": "any" }));
    assert_eq!((any.key.width, any.key.port.number(), any.last_port), (129, 1, 65535));

    let quic = target(serde_json::json!({
        "name": "a", "address": "2001:db8::1", "port": 443, "protocol": "udp", "answer_echo": true,
        "quic": { "scheme": "quic-lb", "config_id": 5, "server_id_length": 3 },
        "backends": [{ "address": "fd00::1", "server_id": "00a1b2" }, { "address": "fd00::2" }],
    }));
    assert_eq!((quic.key.width, quic.last_port, quic.answer_echo), (0, 0, true));
    let ServiceSettings { quic: scheme, quic_config, quic_server_id_len, .. } = quic.settings;
    assert_eq!((scheme, quic_config, quic_server_id_len), (QuicScheme::QuicLb, 5, 3));
    let ids: Vec<_> = quic.backends.iter().map(|backend| backend.server_id).collect();
    assert_eq!(ids, [Some(0xa1b2), None]);
}

#[test]
fn every_change_is_a_generation_that_followers_see() {
    let state = DesiredState::in_memory();
    let mut follower = state.subscribe();
    assert_eq!(put(&state, service(true)).unwrap().generation, 1);
    assert!(follower.has_changed().unwrap());
    assert_eq!(follower.borrow_and_update().generation, 1);
    assert_eq!(put(&state, service(true)).unwrap().generation, 1, "nothing changes");
    assert_eq!(state.set_health("shop", at(), Health::Down), Some(2));
    assert_eq!(follower.borrow_and_update().services["shop"].backends[&at()].health, Health::Down);
    assert_eq!(state.set_health("shop", at(), Health::Down), None, "the same verdict");
    assert_eq!(state.set_health("bank", at(), Health::Down), None, "no such service");
    put(&state, service(false)).unwrap();
    assert_eq!(state.set_health("shop", at(), Health::Up), None, "without checks there is no verdict");
}

#[test]
fn verdicts_that_come_together_share_a_generation_and_none_is_lost() {
    let state = DesiredState::in_memory();
    let mut many = service(true);
    let backend = Backend { weight: 1, server_id: None, draining: None, health: Health::Unknown };
    many.backends =
        (1..=200u8).map(|host| (SocketAddr::from(([10, 1, 0, host], 80)), backend.clone())).collect();
    put(&state, many.clone()).unwrap();
    let held = state.lock();
    std::thread::scope(|scope| {
        for at in many.backends.keys() {
            scope.spawn(|| assert!(state.set_health("shop", *at, Health::Down).is_some()));
        }
        while state.waiting_verdicts().len() < 200 {
            std::thread::yield_now();
        }
        drop(held);
    });
    let after = state.current();
    assert_eq!(after.generation, 2);
    assert!(after.services["shop"].backends.values().all(|backend| backend.health == Health::Down));
}

#[test]
fn slots_are_counted_before_an_order_is_accepted() {
    let state = DesiredState::in_memory();
    state.set_slots(1024);
    put(&state, service(false)).unwrap();
    let other = Service {
        name: "bank".into(),
        address: "10.0.0.2".parse().unwrap(),
        backends: BTreeMap::new(),
        ..service(false)
    };
    let Err(Refusal::Capacity { rule, .. }) = put(&state, other) else { panic!("there is no room") };
    assert_eq!(rule, "the tables of all services would take 2048 slots of 1024");
}

/// A disk that is full.
struct Full;

impl Store for Full {
    fn load(&self) -> Result<Desired, StoreError> {
        Ok(Desired::default())
    }

    fn save(&mut self, _: &Desired, _: &[String]) -> Result<(), StoreError> {
        Err(StoreError::Io { path: "/state".into(), reason: "no space left".into() })
    }

    fn reserve(&mut self, _: u64) -> Result<(), StoreError> {
        Ok(())
    }
}

#[test]
fn what_is_not_stored_is_not_published() {
    let state = DesiredState::with_store(Box::new(Full)).unwrap();
    let Err(Refusal::Store(reason)) = put(&state, service(false)) else { panic!("it cannot be stored") };
    assert_eq!(reason, "/state: no space left");
    assert_eq!(*state.current(), Desired::default());
}

#[test]
fn generations_grow_across_restarts() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("state.redb");
    let state = DesiredState::open(&path).unwrap();
    put(&state, service(true)).unwrap();
    drop(state);
    let state = DesiredState::open(&path).unwrap();
    assert_eq!(state.current().generation, 1, "orders alone leave no gap");
    for flap in 0..600 {
        let health = if flap % 2 == 0 { Health::Down } else { Health::Up };
        state.set_health("shop", at(), health).unwrap();
    }
    let given_out = state.current().generation;
    drop(state);
    let state = DesiredState::open(&path).unwrap();
    assert!(state.current().generation >= given_out);
    assert_eq!(state.current().services["shop"].backends[&at()].health, Health::Unknown, "observed anew");
}
