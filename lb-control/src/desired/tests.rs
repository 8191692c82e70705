//! The holder and the pure functions beside it.

use lb_common::{Algorithm, BackendState, Features, Mac, Mode, Tracking};

use super::*;
use crate::{
    model::{Drain, HealthCheck, Probe, Protocol},
    target::Target,
};

fn service(health_check: bool) -> Service {
    let check =
        HealthCheck { probe: Probe::Tcp, interval_ms: 1000, timeout_ms: 500, rise: 2, fall: 3, port: None };
    let service = made(serde_json::json!({
        "name": "shop", "address": "10.0.0.1", "port": 80,
        "backends": [
            { "address": "10.1.0.1", "port": 8080 },
            { "address": "10.1.0.2", "port": 8080, "weight": 2 },
        ],
    }));
    Service { health_check: health_check.then_some(check), ..service }
}

fn made(fields: serde_json::Value) -> Service {
    let spec = serde_json::from_value(fields).expect("it is a service");
    Service::new(&spec).expect("it keeps the rules")
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
fn a_target_has_the_forms_of_the_maps() {
    let hop = NextHop { mac: Mac::new([2, 0, 0, 0, 0, 1]), interface: 3 };
    let target = target_service(&service(false), 0, |address| (address == at().ip()).then_some(hop));
    assert_eq!(target.key, address::key("10.0.0.1:80".parse().unwrap(), Protocol::Tcp));
    assert_eq!((target.settings.tracking, target.settings.flow_idle_seconds), (Tracking::OnChange, 300));
    let backends: Vec<_> =
        target.backends.iter().map(|one| (one.port.number(), one.weight, one.next_hop)).collect();
    assert_eq!(backends, [(8080, 1, None), (8080, 2, Some(hop))]);
    let connectionless =
        Service { tracking: Tracking::Connectionless, protocol: Protocol::Udp, ..service(false) };
    assert_eq!(target_service(&connectionless, 0, |_| None).settings.tracking, Tracking::Connectionless);
}

#[test]
fn options_of_a_service_reach_the_target() {
    let target = |fields| target_service(&made(fields), 0, |_| None);
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
fn the_choice_of_backends_reaches_the_target() {
    use Tracking::{Connectionless, EveryFlow, OnChange};
    let fields = |mut fields: serde_json::Value| {
        (fields["name"], fields["port"]) = ("a".into(), 80.into());
        if fields["address"].is_null() {
            fields["address"] = "10.0.0.1".into();
        }
        fields
    };
    for (patch, algorithm, tracking, client_bits) in [
        (serde_json::json!({}), Algorithm::Maglev, OnChange, 128),
        (serde_json::json!({ "tracking": "every-flow" }), Algorithm::Maglev, EveryFlow, 128),
        (
            serde_json::json!({ "protocol": "udp", "connectionless": true }),
            Algorithm::Maglev,
            Connectionless,
            128,
        ),
        (
            serde_json::json!({ "algorithm": "source-hash", "client_prefix": 24 }),
            Algorithm::SourceHash,
            OnChange,
            120,
        ),
        (
            serde_json::json!({ "algorithm": "source-hash", "client_prefix": 64, "address": "2001:db8::1" }),
            Algorithm::SourceHash,
            OnChange,
            64,
        ),
        (
            serde_json::json!({ "algorithm": "source-hash", "mode": "full-nat" }),
            Algorithm::SourceHash,
            EveryFlow,
            128,
        ),
        (serde_json::json!({ "mode": "full-nat" }), Algorithm::Maglev, OnChange, 128),
        (
            serde_json::json!({ "affinity_seconds": 60, "client_prefix": 32 }),
            Algorithm::Maglev,
            EveryFlow,
            128,
        ),
        (serde_json::json!({ "algorithm": "round-robin" }), Algorithm::RoundRobin, EveryFlow, 128),
        (serde_json::json!({ "algorithm": "random" }), Algorithm::Random, EveryFlow, 128),
        (
            serde_json::json!({ "algorithm": "least-connections" }),
            Algorithm::LeastConnections,
            EveryFlow,
            128,
        ),
        (
            serde_json::json!({ "algorithm": "least-response-time" }),
            Algorithm::LeastResponseTime,
            EveryFlow,
            128,
        ),
        (serde_json::json!({ "algorithm": "power-of-two" }), Algorithm::PowerOfTwo, EveryFlow, 128),
    ] {
        let settings = target_service(&made(fields(patch.clone())), 0, |_| None).settings;
        let found = (settings.algorithm, settings.tracking, settings.client_bits);
        assert_eq!(found, (algorithm, tracking, client_bits), "{patch}");
        assert_eq!(settings.affinity_seconds, patch["affinity_seconds"].as_u64().unwrap_or(0) as u32);
    }
    let capped = made(fields(serde_json::json!({
        "slow_start_seconds": 60, "min_active_backends": 2,
        "backends": [
            { "address": "10.1.0.1", "max_connections": 9 },
            { "address": "10.1.0.2", "weight": 3 },
            { "address": "10.1.0.3", "fallback": true },
        ],
    })));
    let mut slow = capped.clone();
    slow.backends.values_mut().next().unwrap().up_since_unix = Some(100);
    for (service, shares) in [(&capped, [1, 3, 1]), (&slow, [1, 48, 16])] {
        let target = target_service(service, 100, |_| None);
        let found: Vec<_> =
            target.backends.iter().map(|one| (one.weight, one.share, one.max_connections)).collect();
        assert_eq!(found, [(1, shares[0], 9), (3, shares[1], 0), (1, shares[2], 0)]);
        assert_eq!(target.backends[2].state, BackendState::Draining);
        assert_eq!(target.settings.tracking, EveryFlow);
    }
}

#[test]
fn resets_are_loaded_before_they_are_needed() {
    let features = |draining, now| {
        let mut service = service(false);
        service.backends.get_mut(&at()).unwrap().draining = draining;
        let services = vec![target_service(&service, now, |_| None).into()];
        Target { services, ..Target::default() }.features()
    };
    let drain =
        |on_deadline| Some(Drain { since_unix_seconds: 1, deadline_unix_seconds: Some(50), on_deadline });
    assert_eq!(features(None, 0), Features::NONE);
    assert_eq!(features(drain(OnDeadline::Resteer), 50), Features::NONE);
    for now in [10, 50, 59, 60] {
        assert_eq!(features(drain(OnDeadline::Reset), now), Features::RESET, "{now}");
    }
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
fn a_rehearsal_is_checked_and_changes_nothing() {
    let state = DesiredState::in_memory();
    put(&state, service(false)).unwrap();
    let before = state.current();
    let mut follower = state.subscribe();
    follower.borrow_and_update();
    let rehearse = |condition, edit: fn(&mut Desired) -> Result<(), Refusal>| {
        state.rehearse(condition, edit).map(|((), after)| after)
    };
    let weigh = |desired: &mut Desired| {
        desired.services.get_mut("shop").unwrap().backends.get_mut(&at()).unwrap().weight = 9;
        Ok(())
    };
    let after = rehearse(Condition::None, weigh).unwrap();
    assert_eq!((after.generation, after.services["shop"].backends[&at()].weight), (1, 9));
    assert!(matches!(rehearse(Condition::Everything(0), weigh), Err(Refusal::Stale { .. })));
    let taken = |desired: &mut Desired| {
        let other = Service { name: "bank".into(), ..desired.services["shop"].clone() };
        desired.services.insert("bank".into(), other);
        Ok(())
    };
    assert!(matches!(rehearse(Condition::None, taken), Err(Refusal::VirtualAddressTaken { .. })));
    assert!(Arc::ptr_eq(&before, &state.current()) && !follower.has_changed().unwrap());
}

#[test]
fn verdicts_that_come_together_share_a_generation_and_none_is_lost() {
    let state = DesiredState::in_memory();
    let mut many = service(true);
    let backend = many.backends.values().next().unwrap().clone();
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
