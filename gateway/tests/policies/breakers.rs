//! What a service is spared.

use crate::stage::{Origin, Stage, eventually, findings};

#[test]
fn requests_beyond_the_bound_are_refused_at_once() {
    let slow = Origin::start("slow");
    slow.becomes("delay=3");
    let stage = Stage::set(&[slow.address], "breaker: { requests: 2 }", "");
    let waiting = [stage.curl(&[], "/x"), stage.curl(&[], "/x")];
    eventually("both are there", || slow.requests() == 2);
    assert_eq!((stage.get().status, stage.failures("service_full")), (503, 1));
    for curl in waiting {
        assert_eq!(curl.answer().status, 200);
    }
    slow.becomes("");
    assert_eq!(stage.get().status, 200);
}

#[test]
fn a_circuit_opens_on_failures_and_closes_on_successes() {
    let origin = Origin::start("one");
    origin.becomes("status=500");
    let open = "open: { percent: 50, volume: 5, duration: 500ms, probes: 1 }";
    let stage = Stage::set(&[origin.address], &format!("breaker: {{ {open} }}"), "");
    for _ in 0..5 {
        assert_eq!(stage.get().status, 500);
    }
    assert_eq!(stage.get().status, 503);
    assert_eq!((origin.requests(), stage.failures("circuit_open")), (5, 1));
    assert_eq!(stage.metric("gateway_upstream_circuit_opened_total{upstream=\"all\"}"), 1);
    origin.becomes("");
    eventually("a probe goes through", || stage.get().status == 200);
    assert_eq!(stage.get().status, 200);
    assert_eq!(stage.metric("gateway_upstream_circuit_open{upstream=\"all\"}"), 0);
}

#[test]
fn repetitions_at_the_same_time_are_bounded() {
    let ill = Origin::start("ill");
    ill.becomes("status=503&delay=1");
    let policy = "retry: { on: [503], tries: 2, backoff: { base: 0s } }, breaker: { retries: 1 }";
    let stage = Stage::set(&[ill.address], policy, "");
    let both = [stage.curl(&[], "/x"), stage.curl(&[], "/x")];
    eventually("both are there", || ill.requests() == 2);
    // The one that is repeated first is still in flight when the other would be.
    ill.becomes("status=503&delay=3");
    for curl in both {
        assert_eq!(curl.answer().status, 503);
    }
    assert_eq!(ill.requests(), 3);
    let refused = "gateway_upstream_retries_refused_total{upstream=\"all\",reason=\"in_flight\"}";
    assert_eq!(stage.metric(refused), 1);
}

#[test]
fn contradictions_are_refused() {
    for (upstream, rule) in [
        ("breaker: {}", "upstreams.all.breaker: name requests, retries or open"),
        ("breaker: { requests: 0 }", "upstreams.all.breaker: requests and retries are at least 1"),
        ("breaker: { open: { percent: 0 } }", "upstreams.all.breaker.open.percent: from 1 to 100"),
        ("breaker: { open: { probes: 0 } }", "upstreams.all.breaker.open.probes: at least 1"),
        ("breaker: { connections: 3 }", "unknown field"),
    ] {
        let found = findings(&format!("endpoints: ['127.0.0.1:1'], {upstream}"), "");
        assert!(found.contains(rule), "{upstream}: {found}");
    }
}
