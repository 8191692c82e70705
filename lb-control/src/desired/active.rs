//! Which backends of a service are sent what, from their health, their drains, their groups and the time. Pure.
//!
//! A deadline passes and a slow start goes on without an order: whoever installs this asks again as time goes by.

use std::net::SocketAddr;

use lb_common::BackendState;

use crate::model::{Backend, Health, OnDeadline, OnFailure, Service};

/// So long the flows that a drain left are answered with resets; then their backend is down.
pub const CUT_SECONDS: u64 = 10;
/// A slow start goes up by sixteenths: each step moves slots, whose flows must be remembered.
const STEPS: u64 = 16;

/// What a backend is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Active {
    /// See [`BackendState`].
    pub state: BackendState,
    /// How often it stands in the table relative to the others of its service.
    pub share: u32,
    /// It would take new flows, but other groups are enough.
    pub stands_by: bool,
}

/// What each backend of a service is sent at `now_unix` seconds, in the order of its backends.
pub fn active(service: &Service, now_unix: u64) -> Vec<Active> {
    let states: Vec<BackendState> = service
        .backends
        .values()
        .map(|backend| effective_state(backend, service.on_failure, now_unix))
        .collect();
    let serving = Serving::of(service, &states);
    let mut all: Vec<Active> = service
        .backends
        .values()
        .zip(states)
        .map(|(backend, state)| {
            let (state, stands_by) = serving.state(backend, state);
            Active { state, share: backend.weight, stands_by }
        })
        .collect();
    slow_starts(service, &mut all, now_unix);
    all
}

/// Likewise, of one backend.
pub fn active_backend(service: &Service, at: &SocketAddr, now_unix: u64) -> Option<Active> {
    let index = service.backends.keys().position(|other| other == at)?;
    active(service, now_unix).get(index).copied()
}

/// What may be sent to a backend by itself, from its health, its drain and the time.
pub fn effective_state(backend: &Backend, on_failure: OnFailure, now_unix: u64) -> BackendState {
    match (backend.health, on_failure, backend.draining) {
        (Health::Down, OnFailure::Resteer, _) => BackendState::Down,
        (_, _, Some(drain)) => match drain.deadline_unix_seconds {
            Some(deadline) if deadline <= now_unix => {
                let resets = drain.on_deadline == OnDeadline::Reset && now_unix < deadline + CUT_SECONDS;
                if resets { BackendState::Cut } else { BackendState::Down }
            }
            _ => BackendState::Draining,
        },
        (Health::Down, OnFailure::Keep, None) => BackendState::Draining,
        (Health::Up | Health::Unknown, _, None) => BackendState::Up,
    }
}

/// Whose turn it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Serving {
    /// The groups up to this one.
    Groups(u8),
    /// Too few are healthy to believe it: all that are not fallbacks.
    All,
    /// No other is healthy: the fallbacks.
    Fallbacks,
}

impl Serving {
    fn of(service: &Service, states: &[BackendState]) -> Self {
        let backends = || service.backends.values().zip(states);
        let is_healthy =
            |(backend, state): &(&Backend, &BackendState)| **state == BackendState::Up && backend.weight > 0;
        let mut priorities: Vec<u8> = backends()
            .filter(|one| is_healthy(one) && !one.0.fallback)
            .map(|(backend, _)| backend.priority)
            .collect();
        priorities.sort_unstable();
        if priorities.is_empty() && backends().any(|one| is_healthy(&one)) {
            return Self::Fallbacks;
        }
        let weights = |healthy_only: bool| -> u64 {
            let counted = backends().filter(|(backend, _)| !backend.fallback && backend.draining.is_none());
            let counted = counted.filter(|one| !healthy_only || is_healthy(one));
            counted.map(|(backend, _)| u64::from(backend.weight)).sum()
        };
        if weights(true) * 100 < u64::from(service.panic_threshold_percent) * weights(false) {
            return Self::All;
        }
        // The group of the last backend that is needed to be enough: all groups where they are too few.
        let needed = service.min_active_backends.max(1) as usize;
        Self::Groups(priorities.get(needed - 1).copied().unwrap_or(u8::MAX))
    }

    /// The state of a backend that by itself would be in `state`, and whether it stands by.
    fn state(self, backend: &Backend, state: BackendState) -> (BackendState, bool) {
        let is_its_turn = match self {
            Self::Groups(last) => !backend.fallback && backend.priority <= last,
            Self::All => !backend.fallback,
            Self::Fallbacks => backend.fallback,
        };
        match state {
            BackendState::Up if !is_its_turn => (BackendState::Draining, true),
            // Only its health keeps it out.
            BackendState::Down | BackendState::Draining
                if self == Self::All && is_its_turn && backend.draining.is_none() =>
            {
                (BackendState::Up, false)
            }
            state => (state, false),
        }
    }
}

/// Lowers the shares of those that returned lately; while there is one, all shares are in sixteenths.
fn slow_starts(service: &Service, all: &mut [Active], now_unix: u64) {
    let step = |backend: &Backend| {
        let elapsed = now_unix.checked_sub(backend.up_since_unix?)?;
        let whole = u64::from(service.slow_start_seconds);
        (elapsed < whole).then(|| 1 + elapsed * (STEPS - 1) / whole)
    };
    let steps: Vec<Option<u64>> = service
        .backends
        .values()
        .zip(all.iter())
        .map(|(backend, one)| if one.state == BackendState::Up { step(backend) } else { None })
        .collect();
    if steps.iter().all(Option::is_none) {
        return;
    }
    for (one, step) in all.iter_mut().zip(steps) {
        one.share *= step.unwrap_or(STEPS) as u32;
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::model::{Drain, ServiceSpec};

    const NOW: u64 = 100;

    /// A service and the state that its backends are in: each `up`, `down` or `drain`.
    fn service(fields: Value, backends: &[(&str, Value)]) -> Service {
        let mut spec = json!({ "name": "a", "address": "10.0.0.1", "port": 80 });
        for (key, value) in fields.as_object().expect("fields are an object") {
            spec[key] = value.clone();
        }
        let written = backends.iter().enumerate().map(|(index, (_, fields))| {
            let mut backend = fields.clone();
            backend["address"] = json!(format!("10.1.0.{}", index + 1));
            backend
        });
        spec["backends"] = written.collect();
        let spec: ServiceSpec = serde_json::from_value(spec).expect("it is a service");
        let mut service = Service::new(&spec).expect("it keeps the rules");
        for (backend, (state, _)) in service.backends.values_mut().zip(backends) {
            match *state {
                "up" => {}
                "down" => backend.health = Health::Down,
                "drain" => {
                    backend.draining = Some(Drain {
                        since_unix_seconds: 1,
                        deadline_unix_seconds: None,
                        on_deadline: OnDeadline::Resteer,
                    });
                }
                other => panic!("{other} is no state"),
            }
        }
        service
    }

    /// One word for each backend.
    fn words(service: &Service) -> String {
        let word = |one: Active| match (one.state, one.stands_by) {
            (BackendState::Draining, true) => "standby",
            (BackendState::Up, false) => "up",
            (BackendState::Draining, false) => "draining",
            (BackendState::Down, false) => "down",
            other => panic!("{other:?}"),
        };
        active(service, NOW).into_iter().map(word).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn health_drain_and_time_make_the_state() {
        use BackendState as Is;
        let drain = |deadline, on_deadline| {
            Some(Drain { since_unix_seconds: 50, deadline_unix_seconds: deadline, on_deadline })
        };
        let (resteer, keep) = (OnFailure::Resteer, OnFailure::Keep);
        let (softly, reset) = (OnDeadline::Resteer, OnDeadline::Reset);
        for (health, on_failure, draining, expected) in [
            (Health::Unknown, resteer, None, Is::Up),
            (Health::Up, resteer, None, Is::Up),
            (Health::Down, resteer, None, Is::Down),
            (Health::Down, keep, None, Is::Draining),
            (Health::Up, keep, drain(None, softly), Is::Draining),
            (Health::Up, resteer, drain(Some(101), softly), Is::Draining),
            (Health::Up, resteer, drain(Some(100), softly), Is::Down),
            (Health::Down, keep, drain(Some(100), softly), Is::Down),
            (Health::Down, keep, drain(None, softly), Is::Draining),
            (Health::Down, resteer, drain(None, softly), Is::Down),
            (Health::Up, resteer, drain(Some(101), reset), Is::Draining),
            (Health::Up, resteer, drain(Some(100), reset), Is::Cut),
            (Health::Down, keep, drain(Some(91), reset), Is::Cut),
            (Health::Up, resteer, drain(Some(90), reset), Is::Down),
            (Health::Down, resteer, drain(Some(100), reset), Is::Down),
        ] {
            let one = service(json!({}), &[("up", json!({}))]);
            let backend = Backend { draining, health, ..one.backends.values().next().unwrap().clone() };
            let found = effective_state(&backend, on_failure, NOW);
            assert_eq!(found, expected, "{health:?} {on_failure:?} {draining:?}");
        }
    }

    #[test]
    fn groups_join_when_the_ones_before_are_too_few() {
        let of = |priority: u8| json!({ "priority": priority });
        let fallback = || json!({ "fallback": true });
        for (least, backends, expected) in [
            (1, &[("up", of(0)), ("up", of(0)), ("up", of(1))][..], "up up standby"),
            (1, &[("down", of(0)), ("up", of(0)), ("up", of(1))], "down up standby"),
            (1, &[("down", of(0)), ("down", of(0)), ("up", of(1)), ("up", of(2))], "down down up standby"),
            (2, &[("down", of(0)), ("up", of(0)), ("up", of(1)), ("up", of(2))], "down up up standby"),
            (3, &[("up", of(0)), ("up", of(0)), ("up", of(1)), ("up", of(1))], "up up up up"),
            (9, &[("up", of(0)), ("up", of(4)), ("down", of(9))], "up up down"),
            (1, &[("drain", of(0)), ("up", of(1)), ("up", of(2))], "draining up standby"),
            (1, &[("up", json!({ "weight": 0 })), ("up", of(1))], "up up"),
            // The first group need not be 0.
            (1, &[("up", of(3)), ("up", of(7))], "up standby"),
            (1, &[("up", of(0)), ("up", fallback())], "up standby"),
            (5, &[("up", of(0)), ("up", of(15)), ("up", fallback())], "up up standby"),
            (1, &[("down", of(0)), ("drain", of(0)), ("up", fallback())], "down draining up"),
            (1, &[("down", of(0)), ("down", fallback())], "down down"),
            (1, &[("up", fallback()), ("drain", fallback())], "up draining"),
        ] {
            let found = words(&service(json!({ "min_active_backends": least }), backends));
            assert_eq!(found, expected, "{least} of {backends:?}");
        }
    }

    #[test]
    fn too_few_healthy_ones_are_not_believed() {
        let heavy = |weight: u32| json!({ "weight": weight });
        let (plain, fallback) = (json!({}), json!({ "fallback": true }));
        for (percent, backends, expected) in [
            (0, &[("up", plain.clone()), ("down", plain.clone())][..], "up down"),
            (50, &[("up", plain.clone()), ("down", plain.clone())], "up down"),
            (51, &[("up", plain.clone()), ("down", plain.clone())], "up up"),
            (50, &[("up", heavy(1)), ("down", heavy(2))], "up up"),
            (50, &[("up", heavy(2)), ("down", heavy(1))], "up down"),
            (50, &[("down", plain.clone()), ("down", plain.clone())], "up up"),
            (0, &[("down", plain.clone()), ("down", plain.clone())], "down down"),
            // Who drains is not ill, and stays out.
            (50, &[("drain", heavy(9)), ("up", plain.clone())], "draining up"),
            (50, &[("drain", plain.clone()), ("down", plain.clone())], "draining up"),
            (100, &[("up", plain.clone()), ("up", json!({ "priority": 1 }))], "up standby"),
            (
                100,
                &[("up", plain.clone()), ("down", plain.clone()), ("up", json!({ "priority": 1 }))],
                "up up up",
            ),
            // Fallbacks are for when no other is healthy: they do not join in, and they come first then.
            (
                60,
                &[("up", plain.clone()), ("down", plain.clone()), ("up", fallback.clone())],
                "up up standby",
            ),
            (60, &[("down", plain.clone()), ("up", fallback.clone())], "down up"),
            (60, &[("down", plain.clone()), ("down", fallback.clone())], "up down"),
        ] {
            for on_failure in ["resteer", "keep"] {
                let fields = json!({ "panic_threshold_percent": percent, "on_failure": on_failure });
                let found = words(&service(fields, backends));
                // Who keeps its flows is sent those.
                let expected =
                    if on_failure == "keep" { expected.replace("down", "draining") } else { expected.into() };
                assert_eq!(found, expected, "{percent} % of {backends:?}, {on_failure}");
            }
        }
    }

    #[test]
    fn who_returns_starts_slowly() {
        let heavy = |weight: u32| ("up", json!({ "weight": weight }));
        for (seconds, since, expected) in [
            (0, Some(NOW), [3, 5]),
            (60, None, [3, 5]),
            (60, Some(NOW), [3, 5 * 16]),
            (60, Some(NOW - 1), [3, 5 * 16]),
            (60, Some(NOW - 4), [2 * 3, 5 * 16]),
            (60, Some(NOW - 30), [8 * 3, 5 * 16]),
            (60, Some(NOW - 59), [15 * 3, 5 * 16]),
            (60, Some(NOW - 60), [3, 5]),
            (1, Some(NOW), [3, 5 * 16]),
            (1, Some(NOW - 1), [3, 5]),
            // A clock that was set back ends it.
            (60, Some(NOW + 9), [3, 5]),
        ] {
            let mut service = service(json!({ "slow_start_seconds": seconds }), &[heavy(3), heavy(5)]);
            service.backends.values_mut().next().unwrap().up_since_unix = since;
            let found: Vec<u32> = active(&service, NOW).iter().map(|one| one.share).collect();
            assert_eq!(found, expected, "{seconds} s since {since:?}");
        }
        let mut away = service(json!({ "slow_start_seconds": 60 }), &[("down", json!({})), heavy(5)]);
        away.backends.values_mut().next().unwrap().up_since_unix = Some(NOW);
        let found: Vec<u32> = active(&away, NOW).iter().map(|one| one.share).collect();
        assert_eq!(found, [1, 5], "who is down changes no shares");
        let mut steps = std::collections::BTreeSet::new();
        let mut slow = service(json!({ "slow_start_seconds": 3_600 }), &[heavy(1_000), heavy(1)]);
        for elapsed in 0..3_600 {
            slow.backends.values_mut().next().unwrap().up_since_unix = Some(5_000 - elapsed);
            let share = active(&slow, 5_000)[0].share;
            assert!(steps.last().is_none_or(|last| *last <= share), "it only grows");
            steps.insert(share);
        }
        assert_eq!(steps.len(), 15);
        assert!(steps.iter().all(|share| *share <= 16_000));
    }
}
