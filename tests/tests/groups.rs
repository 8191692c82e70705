//! Whose turn it is, with real servers: groups, a fallback, panic; and what an order would do, asked before it is given.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use hyper::Method;
use serde_json::{Value, json};
use tests::{
    control::{Control, service},
    eventually::eventually,
    held::Held,
    server::Server,
    stage::Stage,
};

const LIMIT: Duration = Duration::from_secs(30);
const WEB: u16 = 80;
const CONNECTIONS: usize = 60;

/// The service of a stage whose backends are checked often; `fields` of each in their order.
fn checked(stage: &Stage, fields: &[Value]) -> Value {
    let mut web = service("web", WEB, "nat", &stage.backends);
    web["health_check"] = json!({
        "type": "http", "path": "/healthz", "interval_ms": 200, "timeout_ms": 200, "rise": 2, "fall": 2,
    });
    for (index, fields) in fields.iter().enumerate() {
        for (key, value) in fields.as_object().into_iter().flatten() {
            web["backends"][index][key] = value.clone();
        }
    }
    web
}

/// New connections go to these servers alone, and to each of them.
fn go_to(stage: &Stage, servers: &[&str]) -> Result<()> {
    eventually(&format!("new connections go to {servers:?}"), LIMIT, || {
        let held = Held::open(&stage.topology.client, stage.topology.vip(WEB), CONNECTIONS, LIMIT)?;
        let found: Vec<&str> = held.servers().keys().map(String::as_str).collect();
        ensure!(found == servers, "{:?}", held.servers());
        Ok(())
    })
}

#[test]
fn groups_and_a_fallback_take_their_turns() -> Result<()> {
    let mut stage = Stage::routed(3)?;
    let fields = [json!({}), json!({ "priority": 1 }), json!({ "fallback": true })];
    stage.control.create(&checked(&stage, &fields))?;
    let state = |stage: &Stage, index: usize| -> Result<String> {
        let found = stage.control.backend("web", stage.backends[index])?;
        Ok(found["state"].as_str().context("state")?.to_owned())
    };
    go_to(&stage, &["web1"])?;
    assert_eq!((state(&stage, 1)?.as_str(), state(&stage, 2)?.as_str()), ("standby", "standby"));

    stage.servers.remove(0).kill()?;
    go_to(&stage, &["web2"])?;
    let second = Held::open(&stage.topology.client, stage.topology.vip(WEB), CONNECTIONS, LIMIT)?;
    let first = Server::start(&stage.topology, 0)?;
    go_to(&stage, &["web1"])?;
    second.ask_and_expect_all(CONNECTIONS).context("a group that is not needed any more keeps its flows")?;
    drop(second);

    first.kill()?;
    stage.servers.remove(0).kill()?;
    go_to(&stage, &["web3"])?;
    Ok(())
}

#[test]
fn too_few_healthy_ones_are_not_believed() -> Result<()> {
    let mut stage = Stage::routed(3)?;
    let mut web = checked(&stage, &[]);
    web["panic_threshold_percent"] = json!(50);
    // Checks of the first and second fail, though their servers serve.
    web["health_check"]["port"] = json!(1);
    web["health_check"]["type"] = json!("tcp");
    web["health_check"].as_object_mut().context("an object")?.remove("path");
    stage.control.create(&web)?;
    for backend in &stage.backends {
        eventually("every check fails", LIMIT, || {
            let found = stage.control.backend("web", *backend)?;
            ensure!(found["health"] == "down" && found["state"] == "up", "{found}");
            Ok(())
        })?;
    }
    go_to(&stage, &["web1", "web2", "web3"])?;
    stage.control.order(Method::PATCH, "/v1/services/web", Some(&json!({ "panic_threshold_percent": 0 })))?;
    for backend in &stage.backends {
        stage.control.backend_is("web", *backend, "down", LIMIT)?;
    }
    stage.servers.clear();
    Ok(())
}

fn dry_run(control: &Control, path: &str) -> Result<Value> {
    control.order(Method::DELETE, &format!("{path}?dry_run=true"), None)
}

/// What it tells is what the order then does: the slots that move, and the connections that break.
#[test]
fn a_dry_run_tells_what_the_order_does() -> Result<()> {
    let stage = Stage::routed(2)?;
    let control = &stage.control;
    let mut web = service("web", WEB, "nat", &stage.backends);
    web["tracking"] = json!("every-flow");
    control.create(&web)?;
    let held = Held::open(&stage.topology.client, stage.topology.vip(WEB), CONNECTIONS, LIMIT)?;
    let own = held.servers().get("web1").copied().context("web1 has connections")?;
    let path = format!("/v1/services/web/backends/{}", stage.backends[0]);
    let owned = eventually("its slots are observed", LIMIT, || {
        let found = control.backend("web", stage.backends[0])?;
        let slots = found["installed"]["slots"].as_u64().context("slots")?;
        ensure!(slots > 0 && found["installed"]["tracked_flows"] == own, "{found}");
        Ok(slots)
    })?;

    let told = dry_run(control, &path)?;
    assert_eq!(told["slots_moved"], owned, "{told}");
    assert_eq!((&told["flows_cut"], &told["exact"]), (&json!(own), &json!(true)), "{told}");
    held.ask_and_expect_all(CONNECTIONS).context("nothing was changed")?;
    let of_other = dry_run(control, &format!("{path}0")).expect_err("there is no such backend");
    assert!(of_other.to_string().contains("404"), "{of_other}");

    let moved = slots_moved(control)?;
    control.remove_backend("web", stage.backends[0])?;
    let round = held.ask()?;
    assert_eq!((round.kept, round.cut.len() + round.resteered.len()), (CONNECTIONS - own, own));
    eventually("the moved slots are counted", LIMIT, || {
        let now = slots_moved(control)?;
        ensure!(now == moved + owned, "{moved} + {owned}, found {now}");
        Ok(())
    })
}

fn slots_moved(control: &Control) -> Result<u64> {
    control.get("/v1/status")?["totals"]["slots_moved"].as_u64().context("totals.slots_moved")
}

/// Both ends learn of the cut by their next packet.
#[test]
fn a_drain_ends_in_resets() -> Result<()> {
    let stage = Stage::routed(2)?;
    let (control, drained) = (&stage.control, stage.backends[0]);
    control.create(&service("web", WEB, "nat", &stage.backends))?;
    let held = Held::open(&stage.topology.client, stage.topology.vip(WEB), CONNECTIONS, LIMIT)?;
    let own = held.servers().get("web1").copied().context("web1 has connections")?;
    let order = json!({ "deadline_seconds": 15, "on_deadline": "reset" });
    control.post(&format!("/v1/services/web/backends/{drained}/drain"), &order)?;
    control.installed()?;
    eventually("all of its connections are known", LIMIT, || {
        held.ask_and_expect_all(CONNECTIONS)?;
        let found = control.backend("web", drained)?;
        ensure!(found["drain"]["live_flows"] == own, "{found}");
        Ok(())
    })?;
    control.backend_is("web", drained, "cut", LIMIT)?;
    let round = held.ask()?;
    assert_eq!((round.kept, round.cut.len()), (CONNECTIONS - own, own), "{:?}", round.resteered.first());
    let reset = round.cut.iter().all(|failure| failure.detail.to_lowercase().contains("reset"));
    assert!(reset, "{:?}", round.cut.first().map(ToString::to_string));
    control.counted("connection_reset")?;
    control.backend_is("web", drained, "down", LIMIT)?;
    let found = control.backend("web", drained)?;
    assert_eq!(found["drain"]["ended"], format!("{own} cut"), "{found}");
    held.ask_and_expect_all(CONNECTIONS - own)
}
