//! What is sent once more, and what is not.

use crate::stage::{Origin, Stage, eventually, findings, nobody};

const EJECT_NOBODY: &str = "ejection: { failures: 0 }";
const QUICKLY: &str = "backoff: { base: 1ms, max: 2ms }";

#[test]
fn an_answer_that_may_be_asked_for_again_is_asked_for_elsewhere() {
    let (ill, well) = (Origin::start("ill"), Origin::start("well"));
    ill.becomes("status=503");
    let retry = format!("{EJECT_NOBODY}, retry: {{ on: [503], {QUICKLY} }}");
    let stage = Stage::set(&[ill.address, well.address], &retry, "");
    for _ in 0..6 {
        assert_eq!(stage.get().body, "well 0");
    }
    assert!(ill.requests() >= 3);
    let counted = "gateway_upstream_retries_total{upstream=\"all\",reason=\"status\"}";
    assert_eq!(stage.metric(counted), ill.requests());
    // Without a rule, the same answer is the client's.
    let stage = Stage::set(&[ill.address], EJECT_NOBODY, "");
    assert_eq!(stage.get().status, 503);
}

#[test]
fn a_connection_that_is_reset_is_survived_by_what_may_be_sent_twice() {
    let (ill, well) = (Origin::start("ill"), Origin::start("well"));
    ill.becomes("reset=1");
    let retry = format!("{EJECT_NOBODY}, retry: {{ on: [reset], {QUICKLY} }}");
    let stage = Stage::set(&[ill.address, well.address], &retry, "");
    for _ in 0..4 {
        assert_eq!(stage.get().body, "well 0");
    }
    let order = || stage.curl(&["-d", "order"], "/x").answer();
    let mut statuses = [order().status, order().status];
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 502], "nobody orders twice");
    for _ in 0..4 {
        let keyed = stage.curl(&["-d", "order", "-H", "Idempotency-Key: 1"], "/x").answer();
        assert_eq!(keyed.body, "well 5", "with its body");
    }
}

#[test]
fn large_bodies_and_those_of_unknown_length_are_not_kept() {
    let (ill, well) = (Origin::start("ill"), Origin::start("well"));
    ill.becomes("status=503");
    let retry = format!("{EJECT_NOBODY}, retry: {{ on: [503], {QUICKLY}, body_bytes: 4 }}");
    let stage = Stage::set(&[ill.address, well.address], &retry, "");
    let put = |body: &str| {
        let mut answers = [0, 1].map(|_| stage.curl(&["-X", "PUT", "-d", body], "/x").answer().status);
        answers.sort_unstable();
        answers
    };
    assert_eq!(put("four"), [200, 200]);
    assert_eq!(put("five5"), [200, 503]);
}

#[test]
fn a_try_has_a_time_of_its_own() {
    let (slow, well) = (Origin::start("slow"), Origin::start("well"));
    slow.becomes("delay=10");
    let retry = format!("{EJECT_NOBODY}, retry: {{ on: [timeout], per_try_timeout: 800ms, {QUICKLY} }}");
    let stage = Stage::set(&[slow.address, well.address], &retry, "timeout: 9s");
    assert_eq!([stage.get().body, stage.get().body], ["well 0", "well 0"]);
    // Under load the well one may take longer than a try has as well: how often this one was tried so far is not known.
    let before = slow.requests();
    let alone = Stage::set(&[slow.address], &retry, "timeout: 9s");
    assert_eq!(alone.get().status, 504);
    assert_eq!(alone.failures("try_timeout"), 1);
    eventually("three tries where there is no other instance", || slow.requests() - before >= 3);
    assert_eq!(slow.requests() - before, 3);
}

#[test]
fn the_budget_bounds_what_an_ill_service_is_sent() {
    let ill = Origin::start("ill");
    ill.becomes("status=503");
    let retry =
        format!("{EJECT_NOBODY}, retry: {{ on: [503], {QUICKLY}, budget: {{ percent: 50, min: 0 }} }}");
    let stage = Stage::set(&[ill.address], &retry, "");
    for _ in 0..20 {
        assert_eq!(stage.get().status, 503);
    }
    assert_eq!(ill.requests(), 30);
    assert!(stage.metric("gateway_upstream_retries_refused_total{upstream=\"all\",reason=\"budget\"}") > 0);
}

#[test]
fn a_route_may_say_otherwise() {
    let (ill, well) = (Origin::start("ill"), Origin::start("well"));
    ill.becomes("status=503");
    let endpoints = [ill.address, well.address];
    let stage = Stage::set(&endpoints, EJECT_NOBODY, &format!("retry: {{ on: [503], {QUICKLY} }}"));
    assert_eq!([stage.get().status, stage.get().status], [200, 200]);
    let retry = format!("{EJECT_NOBODY}, retry: {{ on: [503], {QUICKLY} }}");
    let stage = Stage::set(&endpoints, &retry, "retry: { on: [connect] }");
    let mut statuses = [stage.get().status, stage.get().status];
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 503]);
    let stage = Stage::set(&[nobody(), well.address], "retry: { on: [503] }", "");
    let mut statuses = [stage.get().status, stage.get().status];
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 502], "where connect is not named, it is not repeated");
}

#[test]
fn contradictions_are_refused() {
    let endpoints = "endpoints: ['127.0.0.1:1']";
    for (upstream, route, rule) in [
        ("retry: { on: [] }", "", "upstreams.all.retry.on: name at least one cause"),
        ("retry: { on: [200] }", "", "a status from 400 to 599"),
        ("retry: { on: [never] }", "", "connect, reset, timeout"),
        ("retry: { tries: 11 }", "", "upstreams.all.retry.tries: from 1 to 10"),
        ("retry: { backoff: { base: 2s, max: 1s } }", "", "upstreams.all.retry.backoff: base is at most max"),
        ("retry: { budget: { percent: 101 } }", "", "upstreams.all.retry.budget.percent: at most 100"),
        ("retry: { body_bytes: 2MiB }", "", "upstreams.all.retry.body_bytes: at most 1MiB"),
        ("", "retry: { budget: { percent: 1 } }", "routes[0].retry.budget: the budget is the upstream's"),
        ("retry: { on: [503], per_try_timeout: 1s }", "", "warning: upstreams.all.retry.per_try_timeout"),
        ("first_byte_timeout: 0s", "", "upstreams.all.first_byte_timeout: longer than 0s"),
    ] {
        let found = findings(&format!("{endpoints}, {upstream}"), route);
        assert!(found.contains(rule), "{upstream} {route}: {found}");
    }
}
