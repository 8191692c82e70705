//! Drains followed to their end by `lbctl`: cut at the deadline, or done when the clients are gone.

use std::{
    process::Output,
    thread::{JoinHandle, spawn},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, Result, anyhow, ensure};
use serde_json::json;
use tests::{
    control::{Control, service},
    eventually::eventually,
    held::Held,
    stage::Stage,
};

const LIMIT: Duration = Duration::from_secs(30);
const WEB: u16 = 80;
const CONNECTIONS: usize = 80;

#[test]
fn a_deadline_cuts_what_is_left() -> Result<()> {
    let stage = Stage::routed(2)?;
    let (topology, control, drained) = (&stage.topology, &stage.control, stage.backends[0]);
    control.create(&service("web", WEB, "nat", &stage.backends))?;
    let held = Held::open(&topology.client, topology.vip(WEB), CONNECTIONS, LIMIT)?;
    let own = held.servers().get("web1").copied().unwrap_or_default();
    ensure!(0 < own && own < CONNECTIONS, "{:?}", held.servers());

    let following = drain(control, &[&drained.to_string(), "--deadline", "5", "--wait"]);
    let deadline = eventually("the drain has begun", LIMIT, || {
        let found = control.backend("web", drained)?;
        found["drain"]["deadline_unix_seconds"].as_u64().with_context(|| found.to_string())
    })?;
    let (mut cut, mut left) = (0, CONNECTIONS);
    eventually("the deadline cuts connections", LIMIT, || {
        let round = held.ask()?;
        cut += round.cut.len();
        assert_eq!(
            (round.kept + round.cut.len(), round.resteered.len()),
            (left, 0),
            "{:?}",
            round.cut.first()
        );
        left = round.kept;
        let others = round.cut.iter().find(|failure| failure.server.as_deref() != Some("web1"));
        assert!(others.is_none(), "another backend's connection was cut: {others:?}");
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
        assert!(cut == 0 || now >= deadline, "cut {} s too early", deadline - now);
        ensure!(cut == own, "{cut} of {own} are cut");
        Ok(())
    })?;

    let printed = succeeded(following)?;
    assert!(printed.contains(&format!("done: {own} cut\n")), "{printed}");
    let found = control.backend("web", drained)?;
    assert!(found["drain"]["done"] == true && found["state"] == "down", "{found}");
    held.ask_and_expect_all(CONNECTIONS - own)
}

#[test]
fn a_drain_without_deadline_ends_when_its_clients_are_gone() -> Result<()> {
    let stage = Stage::routed(2)?;
    let (topology, control, drained) = (&stage.topology, &stage.control, stage.backends[0]);
    let mut web = service("web", WEB, "nat", &stage.backends);
    web["flow_idle_seconds"] = json!(3);
    control.create(&web)?;
    let held = Held::open(&topology.client, topology.vip(WEB), CONNECTIONS, LIMIT)?;
    let own = held.servers().get("web1").copied().unwrap_or_default();

    let following = drain(control, &[&drained.to_string(), "--wait"]);
    control.backend_is("web", drained, "draining", LIMIT)?;
    eventually("all its flows are remembered and no slot is moving", LIMIT, || {
        held.ask_and_expect_all(CONNECTIONS)?;
        let found = control.backend("web", drained)?;
        assert_eq!(found["drain"]["done"], false, "it has clients: {found}");
        ensure!(found["drain"]["tracked_flows"] == own, "{own} connections: {found}");
        let moving = control.slots("web", "moving")?;
        ensure!(moving == 0, "{moving} slots are moving");
        Ok(())
    })?;
    assert!(!following.is_finished(), "lbctl does not wait for {own} connections");

    drop(held);
    let printed = succeeded(following)?;
    assert!(printed.contains("done: 0 left\n"), "{printed}");
    let found = control.backend("web", drained)?;
    assert!(found["drain"]["done"] == true && found["state"] == "draining", "{found}");
    Ok(())
}

/// Begins `lbctl backend drain`, which goes on by itself.
fn drain(control: &Control, arguments: &[&str]) -> JoinHandle<Result<Output>> {
    let control = control.clone();
    let arguments: Vec<String> =
        ["backend", "drain", "web"].iter().chain(arguments).map(|word| word.to_string()).collect();
    spawn(move || control.lbctl(&arguments.iter().map(String::as_str).collect::<Vec<_>>()))
}

/// What it printed, once it has ended well.
fn succeeded(following: JoinHandle<Result<Output>>) -> Result<String> {
    eventually("lbctl ends", LIMIT, || {
        ensure!(following.is_finished(), "it waits");
        Ok(())
    })?;
    let output = following.join().map_err(|_| anyhow!("its thread panicked"))??;
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?)
}
