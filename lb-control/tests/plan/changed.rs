//! A plan looks at what changed, and at nothing else: counted, not timed.

use lb_common::{BackendState, FragmentPolicy, NextHop, SlotState};
use lb_control::{
    datapath::{Change, memory::MemoryDatapath},
    engine::Engine,
    plan::{Plan, plan},
    target::{Target, TargetService},
};

use super::shape::{CAPACITY, backend, engine, key, nothing_installed, service, target};

const SERVICES: u16 = 12;

/// Service `n` at port 80 + n, with backends of its own.
fn many() -> Target {
    let one = |number: u16| {
        let first = u32::from(number) * 10 + 1;
        service(80 + number, first..first + 3)
    };
    target((0..SERVICES).map(one).collect())
}

fn edited(of: &Target, number: usize, change: impl Fn(&mut TargetService)) -> Target {
    let mut target = of.clone();
    change(&mut target.services[number]);
    target
}

#[test]
fn only_what_differs_is_looked_at() {
    let base = many();
    let without_the_last = |target: &Target| {
        let mut target = target.clone();
        target.services.pop();
        target
    };
    // The same, but not shared with what was planned.
    let rebuilt = many();
    let cases: [(&str, Target, usize, usize); 8] = [
        ("the same", base.clone(), 0, 0),
        ("the same, built anew", rebuilt, 0, 0),
        ("a weight", edited(&base, 3, |one| one.backends[0].weight = 2), 1, 1),
        (
            "a weight and its share",
            edited(&base, 3, |one| {
                (one.backends[0].weight, one.backends[0].share) = (2, 2);
            }),
            1,
            2,
        ),
        (
            "a way",
            edited(&base, 5, |one| {
                one.backends[0].next_hop = one.backends[0]
                    .next_hop
                    .map(|_| NextHop { interface: 0, mac: lb_common::Mac::new([2; 6]) });
            }),
            1,
            1,
        ),
        ("a backend more", edited(&base, 7, |one| one.backends.push(backend(900, BackendState::Up))), 1, 3),
        (
            "fragments, which all at an address share",
            edited(&base, 0, |one| one.fragments = FragmentPolicy::Pass),
            1,
            1,
        ),
        ("a service less", without_the_last(&base), 0, 5),
    ];
    for (name, next, services, changes) in cases {
        let mut installed = nothing_installed();
        let first = plan(&mut installed, &base, 0);
        assert_eq!(first.services, SERVICES as usize, "{name}: at first all");
        let Plan { services: looked_at, changes: made, .. } = plan(&mut installed, &next, 10);
        assert_eq!((looked_at, made.len()), (services, changes), "{name}: {made:?}");
        let again = plan(&mut installed, &next, 20);
        assert_eq!((again.services, again.changes), (0, vec![]), "{name}: and again");
    }
}

#[test]
fn what_changed_since_is_looked_at_again() {
    let base = many();
    let mut installed = nothing_installed();
    plan(&mut installed, &base, 0);
    let id = *installed.services[&key(84)].backends.values().next().expect("it has some");
    installed.record(&Change::SetNextHop(id, None), 1);
    let mended = plan(&mut installed, &base, 2);
    assert_eq!((mended.services, mended.changes.len()), (1, 1), "{:?}", mended.changes);
    assert_eq!(plan(&mut installed, &base, 3).services, 0);

    installed.forget_planned();
    let all = plan(&mut installed, &base, 4);
    assert_eq!((all.services, all.changes), (SERVICES as usize, vec![]));
}

#[test]
fn what_did_not_fit_is_tried_again_alone() {
    let one_too_many = (CAPACITY.services + 1) as u16;
    let base =
        target((0..one_too_many).map(|number| service(80 + number, [u32::from(number) + 1])).collect());
    let mut installed = nothing_installed();
    assert_eq!(plan(&mut installed, &base, 0).shortages.len(), 1);
    let again = plan(&mut installed, &base, 1);
    assert_eq!((again.services, again.shortages.len()), (1, 1));
}

/// The counts that the engine asks for every second are those of a picture that is read afresh.
#[test]
fn what_is_counted_as_it_changes_is_what_a_new_controller_counts() {
    let mut engine: Engine<MemoryDatapath> = engine();
    let base = many();
    engine.apply(&base, 10).expect("memory does not fail");
    let fewer = edited(&base, 2, |one| {
        one.backends.pop();
    });
    engine.apply(&fewer, 20).expect("memory does not fail");
    assert_eq!(engine.installed().retired().len(), 1);
    let moving = |engine: &Engine<MemoryDatapath>| -> Vec<_> {
        let services = engine.installed().services.iter();
        let unsettled =
            services.filter(|(_, one)| one.slots.iter().any(|slot| slot.state() != SlotState::Settled));
        unsettled.map(|(&key, _)| key).collect()
    };
    let drained = edited(&fewer, 4, |one| one.backends[0].state = BackendState::Draining);
    engine.apply(&drained, 30).expect("memory does not fail");
    let unsettled: Vec<_> = engine.installed().unsettled().iter().copied().collect();
    assert!(unsettled.contains(&key(84)));
    assert_eq!(unsettled, moving(&engine));
    let again = Engine::adopt(engine.into_datapath()).expect("it is read");
    assert_eq!(again.installed().unsettled().iter().copied().collect::<Vec<_>>(), unsettled);
}
