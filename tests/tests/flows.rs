//! The flow promise with real connections: whatever happens to others, a connection keeps its backend.

use std::time::Duration;

use anyhow::{Result, ensure};
use hyper::Method;
use serde_json::json;
use tests::{
    control::{backend_body, service},
    eventually::{eventually, eventually_true},
    held::Held,
    load::{Load, Plan},
    stage::Stage,
};

const LIMIT: Duration = Duration::from_secs(30);
const WEB: u16 = 80;

/// Adding, re-weighting, draining and taking back, one after another, under connections that stay open.
#[test]
fn changes_of_the_table_move_nobody() -> Result<()> {
    let stage = Stage::routed(4)?;
    let (topology, control, backends) = (&stage.topology, &stage.control, &stage.backends);
    let mut web = service("web", WEB, "nat", &backends[..2]);
    web["flow_idle_seconds"] = json!(3);
    control.create(&web)?;
    let load = Load::start(&topology.client, Plan::steady(topology.vip(WEB)))?;
    let held = Held::open(&topology.client, topology.vip(WEB), 200, LIMIT)?;

    control.add_backend("web", backends[2])?;
    held.ask_and_expect_all(200)?;
    for weight in [7, 0, 3] {
        let path = format!("/v1/services/web/backends/{}", backends[1]);
        control.order(Method::PATCH, &path, Some(&json!({ "weight": weight })))?;
        control.installed()?;
        held.ask_and_expect_all(200)?;
    }
    control.add_backend("web", backends[3])?;
    held.ask_and_expect_all(200)?;
    control.drain("web", backends[0])?;
    held.ask_and_expect_all(200)?;
    // Through pinning and settling, without being idle for longer than the flow timeout.
    eventually("no slot is moving any more", LIMIT, || {
        held.ask_and_expect_all(200)?;
        let moving = control.slots("web", "moving")?;
        ensure!(moving == 0, "{moving} are");
        Ok(())
    })?;
    held.ask_and_expect_all(200)?;
    let tally = load.stop()?;
    assert_eq!((tally.failed(), tally.resteered), (0, 0), "{:?}", tally.failures.first());
    drop(held);
    eventually("slots settle when the flows are gone", LIMIT, || {
        let web = control.service("web")?;
        ensure!(web["slots_settled"] == web["slots"], "{web}");
        Ok(())
    })
}

/// One of a hundred backends goes under thousands of live connections: only its own are cut.
#[test]
fn removing_one_of_a_hundred_moves_no_other() -> Result<()> {
    const CONNECTIONS: usize = 2_500;
    let stage = Stage::farm(100)?;
    let (topology, control, farm) = (&stage.topology, &stage.control, &stage.backends);
    control.create(&service("web", WEB, "nat", farm))?;
    let held = Held::open(&topology.client, topology.vip(WEB), CONNECTIONS, LIMIT)?;
    assert!(held.servers().len() > 95, "only {} of 100 backends were met", held.servers().len());

    let victim = farm[41];
    let own = held.servers().get(&victim.ip().to_string()).copied().unwrap_or_default();
    control.remove_backend("web", victim)?;
    let round = held.ask()?;
    let (kept, gone) = (round.kept, round.cut.len() + round.resteered.len());
    assert_eq!((kept, gone), (CONNECTIONS - own, own), "{:?}", round.resteered.first());
    let victims_only = round.cut.iter().all(|failure| failure.server == Some(victim.ip().to_string()));
    assert!(victims_only, "another backend's connection was cut");
    held.ask_and_expect_all(CONNECTIONS - own)
}

/// From five backends to a hundred: the table must grow, and nobody moves.
#[test]
fn growth_of_the_table_moves_nobody() -> Result<()> {
    const CONNECTIONS: usize = 1_000;
    let stage = Stage::farm(100)?;
    let (topology, control, farm) = (&stage.topology, &stage.control, &stage.backends);
    let mut web = service("web", WEB, "nat", &farm[..5]);
    control.create(&web)?;
    let slots = || Ok::<_, anyhow::Error>(control.service("web")?["slots"].as_u64());
    eventually_true("it is observed", LIMIT, || Ok(slots()? > Some(0)))?;
    let before = slots()?;
    let held = Held::open(&topology.client, topology.vip(WEB), CONNECTIONS, LIMIT)?;

    web["backends"] = farm.iter().map(|backend| backend_body(*backend, 1)).collect();
    control.order(Method::PUT, "/v1/services/web", Some(&web))?;
    control.installed()?;
    eventually_true("the table grows", LIMIT, || Ok(slots()? > before))?;
    held.ask_and_expect_all(CONNECTIONS)?;
    // New connections follow once no SYN can be one that is sent again.
    eventually("new connections reach the new backends", LIMIT, || {
        let fresh = Held::open(&topology.client, topology.vip(WEB), 500, LIMIT)?;
        ensure!(fresh.servers().len() > 50, "{} servers", fresh.servers().len());
        Ok(())
    })?;
    held.ask_and_expect_all(CONNECTIONS)
}

/// Datagrams of one socket keep their backend through a change, too.
#[test]
fn datagrams_keep_their_backend() -> Result<()> {
    use tests::{server::UDP_PORT, topology::CLIENT, udp::Udp};
    let stage = Stage::routed(3)?;
    let (topology, control, backends) = (&stage.topology, &stage.control, stage.at(UDP_PORT));
    let mut echo = service("echo", UDP_PORT, "nat", &backends[..2]);
    echo["protocol"] = json!("udp");
    echo["flow_idle_seconds"] = json!(4);
    control.create(&echo)?;
    let ask = |client: &Udp| -> Result<Vec<u8>> {
        client.send(b"?", topology.vip(UDP_PORT))?;
        Ok(client.receive()?.payload)
    };
    let clients: Vec<Udp> =
        (0..60).map(|_| Udp::bind(&topology.client, CLIENT, 0, LIMIT)).collect::<Result<_>>()?;
    let met: Vec<Vec<u8>> = clients.iter().map(&ask).collect::<Result<_>>()?;
    control.add_backend("echo", backends[2])?;
    for _ in 0..3 {
        let meets: Vec<Vec<u8>> = clients.iter().map(&ask).collect::<Result<_>>()?;
        assert!(meets == met, "a client's datagrams moved");
    }
    let newcomer = || ask(&Udp::bind(&topology.client, CLIENT, 0, LIMIT)?);
    // A table that settles gives the third its share; until then new sockets stay with the old owners.
    eventually_true("some socket meets the third", Duration::from_secs(90), || {
        Ok(newcomer()?.starts_with(b"web3"))
    })
}
