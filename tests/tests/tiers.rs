//! Three tiers joined by one balancer: XDP on three interfaces, and plain routing beside it.

use std::{net::SocketAddr, process::Command, time::Duration};

use anyhow::{Result, ensure};
use serde_json::json;
use tests::{
    control::service,
    controller::Controller,
    netns::Namespace,
    process::Process,
    process::binary,
    requires::requires,
    server::{PORT, Server},
    topology::Topology,
};

const LIMIT: Duration = Duration::from_secs(10);
/// The service's virtual address, in the gateways' network.
const SERVICE: &str = "10.20.0.101";

#[test]
fn smoke_every_tier_reaches_the_next_by_a_virtual_address_and_by_its_own() -> Result<()> {
    requires();
    let topology = Topology::tiers(2, &["accounts1", "accounts2"])?;
    let _gateways = [Server::start(&topology, 0)?, Server::start(&topology, 1)?];
    let _services = [start(&topology, 0)?, start(&topology, 1)?];
    let controller = Controller::start(&topology)?;
    let control = controller.control();
    let at = |addresses: [std::net::Ipv4Addr; 2]| addresses.map(|address| SocketAddr::from((address, PORT)));
    let gateways = at([topology.server_address(0), topology.server_address(1)]);
    let services = at([Topology::service_address(0), Topology::service_address(1)]);

    // Nothing is balanced yet: packets between the tiers are routed.
    ensure!(asked(&topology.client, &format!("{}/whoami", gateways[0]))? == "web1");
    ensure!(asked(&topology.servers[0], &format!("{}/whoami", services[1]))? == "accounts2");

    control.create(&service("gateways", 80, "nat", &gateways))?;
    let mut accounts = service("accounts", 80, "nat", &services);
    accounts["address"] = json!(SERVICE);
    control.create(&accounts)?;
    everybody_answers(&topology.client, "10.10.0.100", &["web1", "web2"])?;
    for gateway in &topology.servers {
        everybody_answers(gateway, SERVICE, &["accounts1", "accounts2"])?;
    }
    Ok(())
}

fn start(topology: &Topology, index: usize) -> Result<Process> {
    let namespace = topology.service_namespace(index)?;
    let name = format!("accounts{}", index + 1);
    let mut command = namespace.command(binary("shop_server")?);
    command.args(["--listen", &format!("0.0.0.0:{PORT}"), "--name", &name]);
    let mut process = Process::start(command, &name, &topology.directory().join(format!("{name}.log")))?;
    process.ready(LIMIT, || asked(namespace, &format!("127.0.0.1:{PORT}/whoami")))?;
    Ok(process)
}

/// New connections reach all of these servers.
fn everybody_answers(namespace: &Namespace, address: &str, names: &[&str]) -> Result<()> {
    let mut seen = std::collections::BTreeSet::new();
    tests::eventually::eventually("everybody answers", LIMIT, || {
        seen.insert(asked(namespace, &format!("{address}/whoami"))?);
        ensure!(names.iter().all(|name| seen.contains(*name)), "{seen:?}");
        Ok(())
    })
}

fn asked(namespace: &Namespace, url: &str) -> Result<String> {
    let mut command: Command = namespace.command("curl");
    let output = command.args(["-sS", "-m", "2", &format!("http://{url}")]).output()?;
    ensure!(output.status.success(), "{url}: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_string())
}
