//! When backends return or are added: slow starts begin then. Pure.

use super::{Backend, Desired, Health, Service};

impl Backend {
    /// Takes a verdict of the checks at `now_unix` seconds.
    pub fn set_health(&mut self, health: Health, now_unix: u64) {
        if (self.health, health) == (Health::Down, Health::Up) {
            self.up_since_unix = Some(now_unix);
        }
        self.health = health;
    }
}

/// Notes in the services named in `changed` which backends an order adds to a service at work, and which it takes
/// back from a drain.
pub fn note_arrivals(before: &Desired, after: &mut Desired, changed: &[String], now_unix: u64) {
    for name in changed {
        let (Some(old), Some(new)) = (before.services.get(name), after.services.get_mut(name)) else {
            continue;
        };
        if new.slow_start_seconds > 0 && serves(old) {
            arrivals(old, new, now_unix);
        }
    }
}

fn serves(service: &Service) -> bool {
    let takes_new = |backend: &Backend| {
        backend.weight > 0 && backend.draining.is_none() && backend.health != Health::Down
    };
    service.backends.values().any(takes_new)
}

fn arrivals(old: &Service, new: &mut Service, now_unix: u64) {
    for (at, backend) in &mut new.backends {
        let arrives = match old.backends.get(at) {
            None => true,
            Some(known) => known.draining.is_some() && backend.draining.is_none(),
        };
        if arrives {
            backend.up_since_unix = Some(now_unix);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::model::{Drain, OnDeadline, ServiceSpec};

    fn desired(slow_start_seconds: u32, backends: &[&str]) -> Desired {
        let backends: Vec<Value> = backends.iter().map(|address| json!({ "address": address })).collect();
        let spec: ServiceSpec = serde_json::from_value(json!({
            "name": "a", "address": "10.0.0.1", "port": 80, "slow_start_seconds": slow_start_seconds,
            "backends": backends,
        }))
        .expect("it is a service");
        let service = Service::new(&spec).expect("it keeps the rules");
        Desired { generation: 1, services: [("a".into(), service)].into() }
    }

    fn since(before: &Desired, after: &Desired) -> Vec<Option<u64>> {
        let mut after = after.clone();
        note_arrivals(before, &mut after, &["a".into()], 7);
        after.services["a"].backends.values().map(|backend| backend.up_since_unix).collect()
    }

    #[test]
    fn who_is_added_or_taken_back_starts_slowly() {
        let (one, two) = (&["10.1.0.1"][..], &["10.1.0.1", "10.1.0.2"][..]);
        let with = |mut desired: Desired, edit: fn(&mut Backend)| {
            edit(desired.services.get_mut("a").unwrap().backends.values_mut().next().unwrap());
            desired
        };
        let drain = |backend: &mut Backend| {
            backend.draining = Some(Drain {
                since_unix_seconds: 1,
                deadline_unix_seconds: None,
                on_deadline: OnDeadline::Resteer,
            });
        };
        for (before, after, expected) in [
            (Desired::default(), desired(60, two), vec![None, None]),
            (desired(60, one), desired(60, two), vec![None, Some(7)]),
            (desired(0, one), desired(0, two), vec![None, None]),
            (desired(60, two), desired(60, two), vec![None, None]),
            (with(desired(60, two), drain), desired(60, two), vec![Some(7), None]),
            (desired(60, two), with(desired(60, two), drain), vec![None, None]),
            // Nobody serves whom it could relieve.
            (with(desired(60, one), |backend| backend.weight = 0), desired(60, two), vec![None, None]),
            (
                with(desired(60, one), |backend| backend.health = Health::Down),
                desired(60, two),
                vec![None, None],
            ),
        ] {
            assert_eq!(since(&before, &after), expected);
        }
    }

    #[test]
    fn only_who_was_down_returns() {
        for (was, is, expected) in [
            (Health::Unknown, Health::Up, None),
            (Health::Unknown, Health::Down, None),
            (Health::Up, Health::Down, None),
            (Health::Down, Health::Up, Some(9)),
        ] {
            let mut backend =
                desired(0, &["10.1.0.1"]).services["a"].backends.values().next().unwrap().clone();
            backend.health = was;
            backend.set_health(is, 9);
            assert_eq!((backend.health, backend.up_since_unix), (is, expected));
        }
    }
}
