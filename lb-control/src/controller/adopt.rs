//! What a new controller learns from what an earlier one installed.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
};

use lb_common::{BackendState, NextHop, ServiceKey};

use crate::{
    datapath::Contents,
    desired::{DesiredState, effective_state},
    model::{Backend, Health, address},
};

/// Health is not stored. A backend that is installed as failed is known to have failed and needs its
/// successes first; every other is unknown, which serves.
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
        for (at, ordered) in &service.backends {
            let failed = Backend { health: Health::Down, ..ordered.clone() };
            let state = |backend| Some(effective_state(backend, service.on_failure, now_unix));
            let found = installed.get(&(key, *at)).copied();
            // Told apart from what the order alone would have made of it, such as a drain that is over.
            if found == state(&failed)
                && found != state(ordered)
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
            "health_check": { "type": "tcp" }, "backends": [{ "address": "10.0.0.1" }],
        });
        let spec: ServiceSpec = serde_json::from_value(spec).expect("it is a service");
        Service::new(&spec).expect("it keeps the rules")
    }

    /// What becomes of a backend that is installed in `state`.
    fn adopted(on_failure: OnFailure, draining: Option<Drain>, state: BackendState) -> Health {
        let mut service = shop(if on_failure == OnFailure::Keep { "keep" } else { "resteer" });
        let at = *service.backends.keys().next().expect("it has one");
        service.backends.get_mut(&at).expect("it has one").draining = draining;
        let desired = DesiredState::in_memory();
        let insert = |all: &mut crate::model::Desired| {
            all.services.insert("shop".into(), service);
            Ok(())
        };
        desired.order(Condition::None, insert).expect("it is taken");
        let key = address::key("192.0.2.1:80".parse().expect("an address"), Protocol::Tcp);
        let entry =
            lb_common::Service::new(7, 0, 1024, ServiceSettings::new(Mode::Nat, Tracking::OnChange, 300));
        let backend = lb_common::Backend {
            address: address::to_map(at.ip()),
            port: lb_common::Port::new(at.port()),
            service: 7,
            state: state.word(),
            ..lb_common::Backend::default()
        };
        let contents = Contents {
            services: vec![(key, entry, Vec::new())],
            backends: vec![(BackendId(1), backend)],
            ..Contents::default()
        };
        health(&desired, &contents, NOW);
        desired.current().services["shop"].backends[&at].health
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
            (OnFailure::Resteer, drain(None), down, Health::Down),
            // The drain is over: that alone makes it down.
            (OnFailure::Resteer, drain(Some(NOW - 1)), down, Health::Unknown),
        ] {
            assert_eq!(adopted(on_failure, drain, state), expected, "{on_failure:?} {drain:?} {state:?}");
        }
    }
}
