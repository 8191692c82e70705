//! What a new controller learns from what an earlier one installed.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
};

use lb_common::{BackendState, NextHop, ServiceKey};

use crate::{
    datapath::Contents,
    desired::{DesiredState, active, effective_state},
    model::{Backend, Health, address},
};

/// Health is not stored. A backend that is installed as failed is known to have failed and needs its
/// successes first; every other is unknown, which serves. So is one that the order alone explains: it stands by, or its
/// drain is over; it stays as it is installed.
pub fn health(desired: &DesiredState, contents: &Contents, now_unix: u64) {
    let keys: HashMap<u32, ServiceKey> =
        contents.services.iter().map(|(key, service, _)| (service.id, *key)).collect();
    let installed: HashMap<(ServiceKey, SocketAddr), BackendState> = contents
        .backends
        .iter()
        .filter_map(|(_, backend)| {
            let at = SocketAddr::new(address::from_map(backend.address), backend.port.number());
            Some(((*keys.get(&backend.service)?, at), BackendState::from_word(backend.state)))
        })
        .collect();
    for service in desired.current().services.values() {
        let key = address::service_key(service);
        for ((at, ordered), alone) in service.backends.iter().zip(active(service, now_unix)) {
            let failed = Backend { health: Health::Down, ..ordered.clone() };
            let failed = effective_state(&failed, service.on_failure, now_unix);
            let found = installed.get(&(key, *at)).copied();
            if found == Some(failed)
                && failed != alone.state
                && ordered.draining.is_none()
                && desired.set_health(&service.name, *at, Health::Down).is_some()
            {
                tracing::info!(service = %service.name, backend = %at, "was down before the start");
            }
        }
    }
}

/// The ways that are installed, by backend address.
pub fn ways(contents: &Contents) -> Vec<(IpAddr, NextHop)> {
    let way = |backend: &lb_common::Backend| {
        Some((address::from_map(backend.address), NextHop::from_word(backend.next_hop)?))
    };
    contents.backends.iter().filter_map(|(_, backend)| way(backend)).collect()
}

#[cfg(test)]
mod tests {
    use lb_common::{BackendId, Mode, Protocol, ServiceSettings, Tracking};

    use super::*;
    use crate::{
        desired::Condition,
        model::{Drain, OnDeadline, OnFailure, Service, ServiceSpec},
    };

    const NOW: u64 = 1_000;

    fn shop(on_failure: &str) -> Service {
        let spec = serde_json::json!({
            "name": "shop", "address": "192.0.2.1", "port": 80, "on_failure": on_failure,
            "health_check": { "type": "tcp" },
            "backends": [{ "address": "10.0.0.1" }, { "address": "10.0.0.2", "priority": 1 }],
        });
        let spec: ServiceSpec = serde_json::from_value(spec).expect("it is a service");
        Service::new(&spec).expect("it keeps the rules")
    }

    /// What becomes of the backends of a service that are installed in these states.
    fn adopted(service: Service, states: [BackendState; 2]) -> [Health; 2] {
        let places: Vec<SocketAddr> = service.backends.keys().copied().collect();
        let desired = DesiredState::in_memory();
        let insert = |all: &mut crate::model::Desired| {
            all.services.insert("shop".into(), service);
            Ok(())
        };
        desired.order(Condition::None, insert).expect("it is taken");
        let key = address::key("192.0.2.1:80".parse().expect("an address"), Protocol::Tcp);
        let entry =
            lb_common::Service::new(7, 0, 1024, ServiceSettings::new(Mode::Nat, Tracking::OnChange, 300));
        let backends = places.iter().zip(states).map(|(at, state)| lb_common::Backend {
            address: address::to_map(at.ip()),
            port: lb_common::Port::new(at.port()),
            service: 7,
            state: state.word(),
            ..lb_common::Backend::default()
        });
        let contents = Contents {
            services: vec![(key, entry, Vec::new())],
            backends: (1..).map(BackendId).zip(backends).collect(),
            ..Contents::default()
        };
        health(&desired, &contents, NOW);
        [0, 1].map(|index| desired.current().services["shop"].backends[&places[index]].health)
    }

    #[test]
    fn only_what_failed_is_taken_for_failed() {
        let drain = |deadline_unix_seconds| {
            Some(Drain { since_unix_seconds: 1, deadline_unix_seconds, on_deadline: OnDeadline::Resteer })
        };
        let (up, draining, down) = (BackendState::Up, BackendState::Draining, BackendState::Down);
        for (on_failure, drain, state, expected) in [
            (OnFailure::Resteer, None, up, Health::Unknown),
            (OnFailure::Resteer, None, down, Health::Down),
            (OnFailure::Keep, None, draining, Health::Down),
            // A drain that was taken back and not installed any more.
            (OnFailure::Resteer, None, draining, Health::Unknown),
            (OnFailure::Resteer, drain(None), draining, Health::Unknown),
            // It is drained, or it failed meanwhile: nothing is sent to it either way.
            (OnFailure::Resteer, drain(None), down, Health::Unknown),
            (OnFailure::Keep, drain(None), draining, Health::Unknown),
            // The drain is over: that alone makes it down.
            (OnFailure::Resteer, drain(Some(NOW - 1)), down, Health::Unknown),
        ] {
            let mut service = shop(if on_failure == OnFailure::Keep { "keep" } else { "resteer" });
            service.backends.values_mut().next().expect("it has two").draining = drain;
            let [first, _] = adopted(service, [state, draining]);
            assert_eq!(first, expected, "{on_failure:?} {drain:?} {state:?}");
        }
    }

    #[test]
    fn who_stands_by_is_not_taken_for_failed() {
        let (up, draining, down) = (BackendState::Up, BackendState::Draining, BackendState::Down);
        for (on_failure, states, expected) in [
            ("keep", [up, draining], [Health::Unknown, Health::Unknown]),
            ("keep", [draining, up], [Health::Down, Health::Unknown]),
            ("resteer", [up, draining], [Health::Unknown, Health::Unknown]),
            ("resteer", [up, down], [Health::Unknown, Health::Down]),
            ("resteer", [down, up], [Health::Down, Health::Unknown]),
        ] {
            assert_eq!(adopted(shop(on_failure), states), expected, "{on_failure} {states:?}");
        }
    }
}
