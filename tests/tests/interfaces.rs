//! Interfaces vanish and return, and neighbours change their address.

use std::{collections::BTreeSet, time::Duration};

use anyhow::{Result, ensure};
use serde_json::Value;
use tests::{
    control::{Control, service},
    eventually::eventually,
    http,
    stage::Stage,
    topology::Topology,
    udp::Udp,
};

const LIMIT: Duration = Duration::from_secs(30);
const WEB: u16 = 80;

#[test]
fn an_interface_that_returns_is_attached_again() -> Result<()> {
    let stage = Stage::routed(2)?;
    let (topology, control, backends) = (&stage.topology, &stage.control, &stage.backends);
    control.create(&service("web", WEB, "nat", backends))?;
    everybody_serves(topology)?;

    topology.balancer.ip("link del c0")?;
    attached(control, "c0", false)?;
    topology.reconnect_client()?;
    attached(control, "c0", true)?;
    everybody_serves(topology)?;

    topology.balancer.ip("link del b0")?;
    attached(control, "b0", false)?;
    topology.connect_switch()?;
    attached(control, "b0", true)?;
    control.installed()?;
    everybody_serves(topology)
}

/// A server that is replaced by another machine has the same address and another MAC.
#[test]
fn a_neighbour_with_a_new_address_is_found() -> Result<()> {
    let stage = Stage::routed(1)?;
    let (topology, control, backends) = (&stage.topology, &stage.control, &stage.backends);
    control.create(&service("web", WEB, "nat", backends))?;
    everybody_serves(topology)?;
    let mac = "02:00:00:00:be:ef";
    topology.servers[0].ip(&format!("link set eth0 address {mac}"))?;
    // A machine that takes over an address asks for its gateway, and so tells the gateway about itself.
    topology.servers[0].ip("neigh flush dev eth0")?;
    let own = Udp::bind(&topology.servers[0], topology.server_address(0), 0, LIMIT)?;
    own.send(b"here I am", "10.20.0.1:9".parse()?)?;
    eventually("the next hop is the new one", LIMIT, || {
        let backend = control.backend("web", backends[0])?;
        ensure!(backend["installed"]["next_hop"]["mac"] == mac, "{backend}");
        Ok(())
    })?;
    everybody_serves(topology)
}

fn attached(control: &Control, interface: &str, expected: bool) -> Result<()> {
    eventually(&format!("{interface} is attached: {expected}"), LIMIT, || {
        let status = control.get("/v1/status")?;
        let interfaces = status["interfaces"].as_array().cloned().unwrap_or_default();
        let found = interfaces.into_iter().find(|found| found["name"] == interface).unwrap_or(Value::Null);
        ensure!(found["attached"] == expected, "{status}");
        Ok(())
    })
}

/// Every server answers new connections through the virtual address.
fn everybody_serves(topology: &Topology) -> Result<()> {
    let target = topology.vip(WEB);
    let mut seen = BTreeSet::new();
    eventually("every server answers", LIMIT, || {
        let answer = topology.client.enter(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            Ok::<_, anyhow::Error>(runtime.block_on(http::get(target, "/whoami", Duration::from_secs(2)))?)
        })??;
        seen.insert(answer.server);
        ensure!(seen.len() == topology.servers.len(), "{seen:?}");
        Ok(())
    })
}
