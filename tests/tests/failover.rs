//! Backends die, go silent, drain and come back.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use hyper::Method;
use serde_json::{Value, json};
use tests::{
    control::service,
    eventually::{eventually, eventually_true},
    held::Held,
    load::{Load, Plan},
    server::Server,
    stage::Stage,
};

const LIMIT: Duration = Duration::from_secs(30);
const WEB: u16 = 80;
/// `INTERVAL_MS × FALL + TIMEOUT_MS` is the longest time to detection.
const INTERVAL_MS: u64 = 300;
const TIMEOUT_MS: u64 = 300;
const FALL: u64 = 3;
/// From a verdict to the last packet that was steered by the table before it.
const INSTALLING: Duration = Duration::from_millis(500);

#[test]
fn a_killed_backend_costs_only_its_own_requests() -> Result<()> {
    let mut stage = Stage::routed(3)?;
    let (topology, control, backends) = (&stage.topology, &stage.control, &stage.backends);
    control.create(&checked(backends))?;
    let load = Load::start(&topology.client, Plan::steady(topology.vip(WEB)))?;
    eventually("every server answers", LIMIT, || {
        let tally = load.tally();
        ensure!(tally.by_server.len() == 3, "{:?}", tally.by_server);
        Ok(())
    })?;

    let killed = Instant::now();
    stage.servers.remove(1).kill()?;
    control.backend_is("web", backends[1], "down", LIMIT)?;
    let after = load.tally().answered;
    eventually_true("the others go on", LIMIT, || Ok(load.tally().answered > after + 1_000))?;
    let tally = load.tally();
    let known = killed + Duration::from_millis(INTERVAL_MS * FALL + TIMEOUT_MS) + INSTALLING;
    for failure in &tally.failures {
        assert!(failure.begun <= known, "it failed after detection: {failure}");
        assert!(failure.server.as_deref().is_none_or(|server| server == "web2"), "{failure}");
    }
    assert_eq!(tally.resteered, 0);

    let before = load.tally();
    let _again = Server::start(topology, 1)?;
    control.backend_is("web", backends[1], "up", LIMIT)?;
    eventually_true("it serves again", LIMIT, || Ok(load.tally().since(&before).of("web2") > 0))?;
    let tally = load.stop()?.since(&before);
    assert_eq!((tally.failed(), tally.resteered), (0, 0), "{:?}", tally.failures.first());
    Ok(())
}

/// A server whose cable is cut answers nothing at all: no reset, no refusal.
#[test]
fn a_silent_backend_is_found_and_the_others_keep_their_connections() -> Result<()> {
    let stage = Stage::routed(3)?;
    let (topology, control, backends) = (&stage.topology, &stage.control, &stage.backends);
    control.create(&checked(backends))?;
    let held = Held::open(&topology.client, topology.vip(WEB), 150, Duration::from_secs(3))?;
    let silent = held.servers().get("web3").copied().unwrap_or_default();
    topology.switch.ip("link set p2 down")?;
    control.backend_is("web", backends[2], "down", LIMIT)?;

    let round = held.ask()?;
    assert_eq!((round.kept, round.resteered.len()), (150 - silent, 0), "{:?}", round.cut.first());
    assert!(round.cut.iter().all(|failure| failure.server.as_deref() == Some("web3")));
    let fresh = Held::open(&topology.client, topology.vip(WEB), 60, LIMIT)?;
    assert_eq!(fresh.servers().get("web3"), None);

    topology.switch.ip("link set p2 up")?;
    control.backend_is("web", backends[2], "up", LIMIT)?;
    // Its return is a change of the table like any other: nobody moves.
    let left = 150 - silent;
    held.ask_and_expect_all(left)
}

#[test]
fn a_drain_loses_no_request() -> Result<()> {
    let mut stage = Stage::routed(3)?;
    let (topology, control, backends) = (&stage.topology, &stage.control, &stage.backends);
    control.create(&checked(backends))?;
    let load = Load::start(&topology.client, Plan::steady(topology.vip(WEB)))?;
    let held = Held::open(&topology.client, topology.vip(WEB), 90, LIMIT)?;
    eventually_true("every server answers", LIMIT, || Ok(load.tally().by_server.len() == 3))?;

    control.lbctl_ok(&["backend", "drain", "web", &backends[0].to_string()])?;
    control.installed()?;
    control.backend_is("web", backends[0], "draining", LIMIT)?;
    // What is open stays; what is new goes elsewhere once no SYN can be one that is sent again.
    held.ask_and_expect_all(90)?;
    eventually("a draining backend gets no new connections", LIMIT, || {
        let fresh = Held::open(&topology.client, topology.vip(WEB), 60, LIMIT)?;
        ensure!(fresh.servers().get("web1").is_none(), "{:?}", fresh.servers());
        held.ask_and_expect_all(90)
    })?;

    let mut closing = stage.servers.remove(0);
    closing.begin_closing()?;
    let (own, mut closed) = (held.servers().get("web1").copied().unwrap_or_default(), 0);
    eventually("the server closes its connections, each after an answer", LIMIT, || {
        let left = 90 - closed;
        let round = held.ask()?;
        closed += round.closed;
        let lost = (round.kept, round.cut.len(), round.resteered.len()) != (left, 0, 0);
        assert!(!lost, "of {left} kept {}, cut {:?}, resteered {:?}", round.kept, round.cut, round.resteered);
        ensure!(closed == own, "{closed} of {own} are closed");
        Ok(())
    })?;
    eventually("the server has closed", LIMIT, || {
        ensure!(closing.has_ended()?, "it has connections");
        Ok(())
    })?;
    control.remove_backend("web", backends[0])?;
    let tally = load.stop()?;
    assert_eq!((tally.failed(), tally.resteered), (0, 0), "{:?}", tally.failures.first());
    Ok(())
}

/// A check by connection alone: who refuses it goes down, and comes up after `rise` successes, no sooner.
#[test]
fn a_tcp_check_takes_a_backend_out_and_back_in() -> Result<()> {
    const RISE: u64 = 4;
    let mut stage = Stage::routed(2)?;
    let (topology, control, backends) = (&stage.topology, &stage.control, &stage.backends);
    let mut web = service("web", WEB, "nat", backends);
    web["health_check"] = json!({
        "type": "tcp", "interval_ms": INTERVAL_MS, "timeout_ms": TIMEOUT_MS, "rise": RISE, "fall": FALL,
    });
    control.create(&web)?;
    let healthy = |index: usize, expected: &str| {
        eventually(&format!("{} is {expected}", backends[index]), LIMIT, || {
            let found = control.backend("web", backends[index])?;
            ensure!(found["health"] == expected, "{found}");
            Ok(())
        })
    };
    healthy(0, "up")?;
    healthy(1, "up")?;

    stage.servers.remove(1).kill()?;
    healthy(1, "down")?;
    control.backend_is("web", backends[1], "down", LIMIT)?;
    let fresh = Held::open(&topology.client, topology.vip(WEB), 60, LIMIT)?;
    assert_eq!(fresh.servers().get("web1"), Some(&60), "{:?}", fresh.servers());

    let started = Instant::now();
    stage.servers.push(Server::start(topology, 1)?);
    healthy(1, "up")?;
    // Between the first success and the last, up to the lateness of a busy machine's timers.
    let between = Duration::from_millis(INTERVAL_MS * (RISE - 1));
    assert!(started.elapsed() > between - INSTALLING, "up after {:?}", started.elapsed());
    control.backend_is("web", backends[1], "up", LIMIT)?;
    eventually("it gets new connections", LIMIT, || {
        let fresh = Held::open(&topology.client, topology.vip(WEB), 60, LIMIT)?;
        ensure!(fresh.servers().contains_key("web2"), "{:?}", fresh.servers());
        Ok(())
    })?;
    fresh.ask_and_expect_all(60)
}

/// With `on_failure: keep` a backend that fails its checks, but still answers, keeps its connections.
#[test]
fn a_failing_backend_may_keep_its_connections() -> Result<()> {
    let stage = Stage::routed(2)?;
    let (topology, control, backends) = (&stage.topology, &stage.control, &stage.backends);
    let mut web = checked(backends);
    web["on_failure"] = json!("keep");
    control.create(&web)?;
    control.backend_is("web", backends[0], "up", LIMIT)?;
    let held = Held::open(&topology.client, topology.vip(WEB), 60, LIMIT)?;
    // The checks ask for something that no server has; only their verdict changes.
    control.order(
        Method::PATCH,
        "/v1/services/web",
        Some(&json!({ "health_check": { "path": "/none" } })),
    )?;
    control.backend_is("web", backends[0], "draining", LIMIT)?;
    held.ask_and_expect_all(60)
}

/// Takes no part in the flows: a delete says how many it may cut, and cuts only those.
#[test]
fn deleting_a_backend_cuts_only_its_own_connections() -> Result<()> {
    let stage = Stage::routed(2)?;
    let (topology, control, backends) = (&stage.topology, &stage.control, &stage.backends);
    control.create(&service("web", WEB, "nat", backends))?;
    let held = Held::open(&topology.client, topology.vip(WEB), 100, Duration::from_secs(3))?;
    let cut = held.servers().get("web2").copied().unwrap_or_default();
    control.remove_backend("web", backends[1])?;
    let round = held.ask()?;
    assert_eq!((round.kept, round.cut.len()), (100 - cut, cut), "{:?}", round.resteered.first());
    Ok(())
}

fn checked(backends: &[SocketAddr]) -> Value {
    let mut web = service("web", WEB, "nat", backends);
    web["health_check"] = json!({
        "type": "http", "path": "/healthz", "interval_ms": INTERVAL_MS, "timeout_ms": TIMEOUT_MS,
        "rise": 2, "fall": FALL,
    });
    web
}
