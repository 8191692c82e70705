//! The controller is killed; packets do not notice.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use serde_json::json;
use tests::{
    control::service,
    eventually::{eventually, eventually_true},
    held::Held,
    load::{Load, Plan},
    process::binary,
    stage::Stage,
};

const LIMIT: Duration = Duration::from_secs(30);
const WEB: u16 = 80;
const CONNECTIONS: usize = 200;

#[test]
fn ten_seconds_without_a_controller_cut_and_move_nothing() -> Result<()> {
    let mut stage = Stage::routed(3)?;
    let (topology, control, backends) = (&stage.topology, &stage.control, &stage.backends);
    control.create(&checked(backends))?;
    let load = Load::start(&topology.client, Plan::steady(topology.vip(WEB)))?;
    let held = Held::open(&topology.client, topology.vip(WEB), CONNECTIONS, LIMIT)?;
    let before = control.service("web")?;

    stage.controller.kill()?;
    let back = Instant::now() + Duration::from_secs(10);
    let mut rounds = 0;
    while Instant::now() < back {
        held.ask_and_expect_all(CONNECTIONS)?;
        rounds += 1;
        // The pace of the requests, not a wait for something to happen.
        thread::sleep(Duration::from_millis(100));
    }
    ensure!(rounds > 10, "only {rounds} rounds in ten seconds");
    let fresh = Held::open(&topology.client, topology.vip(WEB), 60, LIMIT)?;
    assert_eq!(fresh.servers().len(), 3, "new connections go to every backend meanwhile");

    stage.controller.start_again()?;
    control.installed()?;
    held.ask_and_expect_all(CONNECTIONS)?;
    fresh.ask_and_expect_all(60)?;
    let after = control.service("web")?;
    for same in ["slots", "slots_settled"] {
        assert_eq!(before[same], after[same], "the table was not taken over: {before} {after}");
    }
    let tally = load.stop()?;
    assert_eq!((tally.failed(), tally.resteered), (0, 0), "{:?}", tally.failures.first());
    Ok(())
}

/// Slots that were moving when the controller died go on moving, and settle under its successor.
#[test]
fn a_controller_killed_while_slots_move_is_succeeded() -> Result<()> {
    let mut stage = Stage::routed(3)?;
    let (topology, control, backends) = (&stage.topology, &stage.control, &stage.backends);
    let mut web = checked(&backends[..2]);
    web["flow_idle_seconds"] = json!(4);
    control.create(&web)?;
    let held = Held::open(&topology.client, topology.vip(WEB), CONNECTIONS, LIMIT)?;
    control.add_backend("web", backends[2])?;
    eventually_true("slots are moving", LIMIT, || Ok(control.slots("web", "moving")? > 0))?;
    held.ask_and_expect_all(CONNECTIONS)?;

    stage.controller.kill()?;
    held.ask_and_expect_all(CONNECTIONS)?;
    stage.controller.start_again()?;
    eventually("no slot is moving any more", LIMIT, || {
        held.ask_and_expect_all(CONNECTIONS)?;
        let moving = control.slots("web", "moving")?;
        ensure!(moving == 0, "{moving} are");
        Ok(())
    })?;
    // A second successor, now among pinned slots.
    stage.controller.kill()?;
    stage.controller.start_again()?;
    held.ask_and_expect_all(CONNECTIONS)?;
    let fresh = Held::open(&topology.client, topology.vip(WEB), 90, LIMIT)?;
    ensure!(
        fresh.servers().contains_key("web3"),
        "the new backend gets no connections: {:?}",
        fresh.servers()
    );
    Ok(())
}

/// Unknown is not down: a start without verdicts serves, and then learns who died meanwhile.
#[test]
fn a_successor_learns_who_died_meanwhile() -> Result<()> {
    let mut stage = Stage::routed(2)?;
    let (topology, control, backends) = (&stage.topology, &stage.control, &stage.backends);
    control.create(&checked(backends))?;
    stage.controller.kill()?;
    stage.servers.remove(0).kill()?;
    stage.controller.start_again()?;
    control.backend_is("web", backends[0], "down", LIMIT)?;
    let load = Load::start(&topology.client, Plan::steady(topology.vip(WEB)))?;
    eventually_true("the other one serves", LIMIT, || Ok(load.tally().answered > 200))?;
    let tally = load.stop()?;
    assert_eq!((tally.failed(), tally.of("web1")), (0, 0), "{:?}", tally.failures.first());
    Ok(())
}

/// `unload` takes everything off, but not under a controller that runs.
#[test]
fn unload_leaves_nothing_behind() -> Result<()> {
    let mut stage = Stage::routed(1)?;
    let (topology, control, backends) = (&stage.topology, &stage.control, &stage.backends);
    control.create(&service("web", WEB, "nat", backends))?;
    let unload = || {
        let mut command = topology.balancer.command(binary("lb-control")?);
        Ok::<_, anyhow::Error>(command.arg("unload").arg("--pin-dir").arg(topology.pins()).output()?)
    };
    let held = Held::open(&topology.client, topology.vip(WEB), 5, LIMIT)?;
    let refused = unload()?;
    assert!(!refused.status.success(), "it unloads under a running controller");
    held.ask_and_expect_all(5)?;

    stage.controller.kill()?;
    held.ask_and_expect_all(5)?;
    let done = unload()?;
    ensure!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let links = topology.balancer.command("ip").args(["-d", "link"]).output()?;
    let links = String::from_utf8(links.stdout)?;
    assert!(!links.contains("prog/xdp"), "{links}");
    assert!(!topology.pins().exists(), "{} is still there", topology.pins().display());
    Ok(())
}

fn checked(backends: &[std::net::SocketAddr]) -> serde_json::Value {
    let mut web = service("web", WEB, "nat", backends);
    web["health_check"] = json!({
        "type": "http", "path": "/healthz", "interval_ms": 300, "timeout_ms": 300, "rise": 2, "fall": 3,
    });
    web
}
