//! Which instance answers.

use std::collections::BTreeSet;

use crate::stage::{Origin, Stage, eventually, findings};

#[test]
fn requests_of_a_key_meet_the_same_instance_through_every_gateway() {
    let origins = ["a", "b", "c"].map(Origin::start);
    let endpoints: Vec<_> = origins.iter().map(|origin| origin.address).collect();
    let reversed: Vec<_> = endpoints.iter().rev().copied().collect();
    for (key, header) in [("header:x-user", "x-user: "), ("cookie:sid", "cookie: other=1; sid=")] {
        let balance = format!("balance: {{ consistent-hash: {{ key: '{key}' }} }}");
        let (one, two) = (Stage::set(&endpoints, &balance, ""), Stage::set(&reversed, &balance, ""));
        let mut names = BTreeSet::new();
        for user in 0..12 {
            let header = format!("{header}{user}");
            let ask = |stage: &Stage| stage.curl(&["-H", &header], "/x").answer().body;
            let name = ask(&one);
            assert_eq!([ask(&one), ask(&two)], [name.clone(), name.clone()]);
            names.insert(name);
        }
        assert!(names.len() > 1, "not all to one");
    }
    let stage = Stage::set(&endpoints, "balance: { consistent-hash: { key: path } }", "");
    let ask = |path: &str| stage.curl(&[], path).answer().body;
    assert_eq!(ask("/one?a"), ask("/one?b"));
    let stage = Stage::set(&endpoints, "balance: { consistent-hash: { key: address } }", "");
    assert_eq!(stage.get().body, stage.get().body);
    let stage = Stage::set(&endpoints, "balance: { consistent-hash: { key: 'header:x-user' } }", "");
    let spread: BTreeSet<_> = (0..3).map(|_| stage.get().body).collect();
    assert_eq!(spread.len(), 3, "requests without the key");
}

#[test]
fn endpoints_have_requests_by_their_weights() {
    let (small, large) = (Origin::start("small"), Origin::start("large"));
    for balance in ["round-robin", "least-request"] {
        let (small_before, large_before) = (small.requests(), large.requests());
        let endpoints = format!(
            "endpoints: ['{}', {{ address: '{}', weight: 9 }}], balance: {balance}",
            small.address, large.address
        );
        let stage = Stage::written(&endpoints, "", "");
        (0..40).for_each(|_| assert_eq!(stage.get().status, 200));
        let (few, many) = (small.requests() - small_before, large.requests() - large_before);
        match balance {
            "round-robin" => assert_eq!((few, many), (4, 36)),
            _ => assert!(few < many && few + many == 40, "{few} and {many}"),
        }
    }
}

#[test]
fn a_lower_priority_serves_while_too_few_of_the_first_are_well() {
    let origins = ["a", "b", "spare"].map(Origin::start);
    let [a, b, spare] = &origins;
    let upstream = format!(
        "endpoints: ['{}', '{}', {{ address: '{}', priority: 1 }}], failover_percent: 100, \
         health: {{ path: /health, interval: 20ms, timeout: 5s, rise: 1, fall: 1 }}, ejection: {{ failures: 0 }}",
        a.address, b.address, spare.address
    );
    let stage = Stage::written(&upstream, "", "");
    let chosen = || (0..4).map(|_| stage.get().body).collect::<BTreeSet<_>>();
    let only = |names: &[&str]| names.iter().map(|name| format!("{name} 0")).collect::<BTreeSet<_>>();
    eventually("both are asked", || chosen() == only(&["a", "b"]));
    a.becomes("status=500");
    eventually("the spare has all", || chosen() == only(&["spare"]));
    spare.becomes("status=500");
    eventually("one of the first is better than none", || chosen() == only(&["b"]));
    a.becomes("");
    eventually("both again", || chosen() == only(&["a", "b"]));
}

#[test]
fn an_endpoint_that_comes_back_has_its_part_little_by_little() {
    let (returning, other) = (Origin::start("returning"), Origin::start("other"));
    for (slow_start, part) in [("slow_start: 1h, ", 0..=15), ("", 30..=30)] {
        let more = format!(
            "{slow_start} health: {{ path: /health, interval: 20ms, timeout: 5s, rise: 1, fall: 1 }}, \
             ejection: {{ failures: 0 }}"
        );
        let stage = Stage::set(&[returning.address, other.address], &more, "");
        let chosen = || stage.get().body;
        eventually("both are asked", || chosen() == "returning 0");
        returning.becomes("status=500");
        eventually("it is down", || (0..4).all(|_| chosen() == "other 0"));
        returning.becomes("");
        eventually("it is back", || chosen() == "returning 0");
        let count = (0..60).filter(|_| chosen() == "returning 0").count();
        assert!(part.contains(&count), "{slow_start}{count} of 60");
    }
}

#[test]
fn an_endpoint_that_fails_too_often_is_left_out_and_never_more_than_some() {
    let (flaky, steady) = (Origin::start("flaky"), Origin::start("steady"));
    flaky.becomes("status=503&every=2");
    let ejected = |stage: &Stage, origin: &Origin| {
        stage.metric(&format!("gateway_upstream_ejected{{upstream=\"all\",endpoint=\"{}\"}}", origin.address))
    };
    let ejection = "ejection: { failures: 3, duration: 1h, percent_max: 50, \
                    ratio: { percent: 40, volume: 10, window: 1h } }";
    let stage = Stage::set(&[flaky.address, steady.address], ejection, "");
    eventually("it fails too often", || stage.get().status != 0 && ejected(&stage, &flaky) == 1);
    assert!(flaky.requests() >= 10);
    (0..4).for_each(|_| assert_eq!(stage.get().body, "steady 0"));
    steady.becomes("status=503");
    (0..12).for_each(|_| assert_eq!(stage.get().status, 503));
    assert_eq!((ejected(&stage, &flaky), ejected(&stage, &steady)), (1, 0), "half at most");
}

#[test]
fn a_slow_endpoint_is_left_alone_by_peak_ewma() {
    let (slow, quick) = (Origin::start("slow"), Origin::start("quick"));
    slow.becomes("delay=2");
    let stage = Stage::set(&[slow.address, quick.address], "balance: peak-ewma", "");
    // The second request tries the one of which nothing is known.
    let tried = BTreeSet::from([stage.get().body, stage.get().body]);
    assert_eq!(tried, BTreeSet::from(["quick 0".to_owned(), "slow 0".to_owned()]));
    for _ in 0..10 {
        assert_eq!(stage.get().body, "quick 0");
    }
    assert_eq!(slow.requests(), 1);
}

#[test]
fn contradictions_are_refused() {
    for (balance, rule) in [
        ("{ consistent-hash: { key: user } }", "header:NAME, cookie:NAME, address or path"),
        ("{ consistent-hash: { key: path, load: 0.5 } }", "load 0.5 is not from 1 to 10"),
        ("{ consistent-hash: {} }", "key"),
        ("random", "random"),
    ] {
        let found = findings(&format!("endpoints: ['127.0.0.1:1'], balance: {balance}"), "");
        assert!(found.contains(rule), "{balance}: {found}");
    }
    for (endpoints, rule) in [
        ("[{ address: '127.0.0.1:1', weight: 0 }]", "weight 0 is not from 1 to 100"),
        ("[{ address: '127.0.0.1:1', weight: 101 }]", "weight 101 is not from 1 to 100"),
        ("[{ weight: 1 }]", "address"),
        ("[{ address: '127.0.0.1:1', zone: a }]", "zone"),
        ("['127.0.0.1:1', { address: '127.0.0.1:1', weight: 2 }]", "each address once"),
        ("['127.0.0.1:1'], failover_percent: 70", "failover_percent: all endpoints have one priority"),
        (
            "['127.0.0.1:1', { address: '127.0.0.1:2', priority: 1 }], failover_percent: 101",
            "upstreams.all.failover_percent: from 1 to 100",
        ),
        ("[{ address: '127.0.0.1:1', priority: 256 }]", "priority 256 is not from 0 to 255"),
        (
            "['127.0.0.1:1'], ejection: { percent_max: 0 }",
            "upstreams.all.ejection.percent_max: from 1 to 100",
        ),
        ("['127.0.0.1:1'], ejection: { percent_max: 99 }", "that is less than one endpoint"),
        ("['127.0.0.1:1'], ejection: { failures: 0, percent_max: 100 }", "name failures or ratio"),
        ("['127.0.0.1:1'], ejection: { ratio: { percent: 101 } }", "upstreams.all.ejection.ratio.percent"),
        ("['127.0.0.1:1'], ejection: { ratio: { volume: 0 } }", "ejection.ratio.volume: at least 1"),
        ("['127.0.0.1:1'], ejection: { ratio: { window: 0s } }", "ejection.ratio.window: longer than 0s"),
        ("['127.0.0.1:1'], slow_start: 0s", "upstreams.all.slow_start: longer than 0s"),
        ("[somewhere]", "somewhere is no address"),
    ] {
        let found = findings(&format!("endpoints: {endpoints}"), "");
        assert!(found.contains(rule), "{endpoints}: {found}");
    }
}
