//! Clients on the balancer's own host: their connections and datagrams reach backends, and they see the service.

use std::{
    collections::BTreeSet,
    fs,
    net::SocketAddr,
    path::PathBuf,
    process::{Command, Output},
    sync::Arc,
    time::Duration,
};

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use tests::{
    cgroup::Cgroup,
    control::{Control, backend_body},
    controller::Controller,
    dual::Family,
    eventually::eventually,
    process::binary,
    requires::requires,
    server::{PORT, Server, UDP_PORT},
    topology::{Topology, VIP},
};

const LIMIT: Duration = Duration::from_secs(30);
const FAMILIES: [Family; 2] = [Family::V4, Family::V6];
const WEB: u16 = 80;
const ECHO: u16 = 53;
/// Of curl: nobody listens there.
const REFUSED: i32 = 7;

/// A routed topology of both families, whose balancer turns the sockets of one cgroup.
struct Stage {
    control: Control,
    controller: Controller,
    servers: Vec<Server>,
    topology: Arc<Topology>,
    cgroup: Cgroup,
    configuration: PathBuf,
}

impl Stage {
    fn new() -> Result<Self> {
        requires();
        let topology = Topology::routed(2)?;
        topology.dual_stack()?;
        let servers = (0..2).map(|index| Server::start(&topology, index)).collect::<Result<_>>()?;
        let cgroup = Cgroup::create()?;
        let configuration = topology.directory().join("lb-control.toml");
        let cgroup_path = cgroup.path().display();
        fs::write(
            &configuration,
            format!("local_clients = \"on\"\nlocal_clients_cgroup = \"{cgroup_path}\"\n"),
        )?;
        let controller = Controller::start_configured(&topology, &configuration)?;
        let control = controller.control().clone();
        let stage = Self { control, controller, servers, topology, cgroup, configuration };
        for family in FAMILIES {
            stage.create(family, "tcp", WEB, PORT)?;
            stage.create(family, "udp", ECHO, UDP_PORT)?;
        }
        Ok(stage)
    }

    fn create(&self, family: Family, protocol: &str, port: u16, at: u16) -> Result<()> {
        let backends = self.topology.servers_at(family, at);
        let backends: Vec<Value> = backends.into_iter().map(|at| backend_body(at, 1)).collect();
        let check = json!({ "type": "tcp", "port": PORT, "interval_ms": 100, "timeout_ms": 100, "fall": 1 });
        self.control.create(&json!({
            "name": format!("{protocol}-{family:?}").to_lowercase(), "address": family.vip(), "port": port,
            "protocol": protocol, "mode": "nat", "backends": backends, "health_check": check,
        }))
    }

    /// A command on the balancer's host.
    fn local(&self, program: &str) -> Result<Command> {
        self.cgroup.command(&self.topology.balancer, program)
    }

    /// Asks for the server's name, and prints it after the peer that the socket has.
    fn curl(&self, mut command: Command, family: Family) -> Result<Output> {
        let url = format!("http://{}/whoami", SocketAddr::new(family.vip(), WEB));
        let format = "\\n%{remote_ip} %{remote_port}";
        Ok(command.args(["-sS", "--connect-timeout", "2", "-m", "5", "-w", format, &url]).output()?)
    }

    /// The server that answers, whose address the client does not see.
    fn server(&self, family: Family) -> Result<String> {
        let output = self.curl(self.local("curl")?, family)?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let (server, peer) = text.split_once('\n').unwrap_or((&text, ""));
        assert_eq!(peer.trim(), format!("{} {WEB}", family.vip()));
        Ok(server.trim().to_owned())
    }

    fn everybody_serves(&self) -> Result<()> {
        for family in FAMILIES {
            let mut seen = BTreeSet::new();
            eventually("both servers answer", LIMIT, || {
                seen.insert(self.server(family)?);
                ensure!(seen.len() == 2, "{seen:?}");
                Ok(())
            })?;
        }
        Ok(())
    }
}

#[test]
fn connections_reach_backends_and_see_the_service() -> Result<()> {
    let stage = Stage::new()?;
    stage.everybody_serves()?;
    // Neither processes outside the cgroup nor those in other namespaces are turned.
    for family in FAMILIES {
        let outside = stage.curl(stage.topology.balancer.command("curl"), family)?;
        ensure!(!outside.status.success(), "a process outside the cgroup was answered");
        let before = stage.control.reason("forwarded")?;
        let elsewhere = stage.curl(stage.cgroup.command(&stage.topology.client, "curl")?, family)?;
        ensure!(elsewhere.status.success(), "{}", String::from_utf8_lossy(&elsewhere.stderr));
        eventually("a client elsewhere went through the balancer", LIMIT, || {
            ensure!(stage.control.reason("forwarded")? > before, "{before}");
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn datagrams_reach_backends_and_seem_to_come_from_the_service() -> Result<()> {
    let stage = Stage::new()?;
    // An IPv6 socket reaches IPv4 too, by the mapped address.
    let mapped = VIP.to_ipv6_mapped().into();
    for address in [Family::V4.vip(), Family::V6.vip(), mapped] {
        let vip = SocketAddr::new(address, ECHO);
        let mut seen = BTreeSet::new();
        eventually("both servers answer", LIMIT, || {
            let client = binary("datagram_client")?;
            let mut command = stage.local(client.to_str().expect("a name"))?;
            let output = command.arg(vip.to_string()).output()?;
            ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            let text = String::from_utf8(output.stdout)?;
            let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split(' ').collect()).collect();
            let [connected, first, second] = &lines[..] else { panic!("{text}") };
            assert_eq!(connected[..3], ["connected", &vip.to_string(), &vip.to_string()], "{text}");
            assert_eq!(first[..3], ["free", "none", &vip.to_string()], "{text}");
            assert_eq!(first, second, "datagrams of one socket go to one server: {text}");
            assert_eq!(first[4], "hello", "{text}");
            seen.extend([connected[3].to_owned(), first[3].to_owned()]);
            ensure!(seen.len() == 2, "{seen:?}");
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn dead_backends_are_not_chosen() -> Result<()> {
    let mut stage = Stage::new()?;
    stage.everybody_serves()?;
    let mut running = std::mem::take(&mut stage.servers);
    drop(running.remove(0));
    for family in FAMILIES {
        let name = format!("tcp-{family:?}").to_lowercase();
        let dead = stage.topology.servers_at(family, PORT)[0];
        stage.control.backend_is(&name, dead, "down", LIMIT)?;
        for _ in 0..30 {
            assert_eq!(stage.server(family)?, "web2");
        }
    }
    drop(running);
    for family in FAMILIES {
        let name = format!("tcp-{family:?}").to_lowercase();
        let dead = stage.topology.servers_at(family, PORT)[1];
        stage.control.backend_is(&name, dead, "down", LIMIT)?;
        let output = stage.curl(stage.local("curl")?, family)?;
        assert_eq!(output.status.code(), Some(REFUSED), "{}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(())
}

/// Programs stay while no controller runs; the next one takes over, and takes them off where it is told to.
#[test]
fn programs_outlive_their_controller_until_they_are_switched_off() -> Result<()> {
    let mut stage = Stage::new()?;
    stage.everybody_serves()?;
    let pins = pins(&stage);
    assert_eq!(pins.len(), 9, "eight links and a table: {pins:?}");
    stage.controller.kill()?;
    stage.server(Family::V4)?;
    stage.controller.start_again()?;
    assert_eq!(self::pins(&stage), pins);
    stage.everybody_serves()?;

    stage.controller.kill()?;
    fs::write(&stage.configuration, "local_clients = \"off\"\n")?;
    stage.controller.start_again()?;
    ensure!(self::pins(&stage).is_empty());
    ensure!(stage.server(Family::V4).is_err(), "it is still turned");
    Ok(())
}

#[test]
fn a_wrong_cgroup_is_refused_in_words() -> Result<()> {
    requires();
    let topology = Topology::routed(1)?;
    let configuration = topology.directory().join("lb-control.toml");
    for (cgroup, words) in [
        ("/sys/fs/cgroup/is/not/there", "local_clients: the cgroup /sys/fs/cgroup/is/not/there"),
        ("/tmp", "of /tmp: is it in a cgroup2 file system?"),
    ] {
        fs::write(&configuration, format!("local_clients = \"on\"\nlocal_clients_cgroup = \"{cgroup}\"\n"))?;
        let error = Controller::start_configured(&topology, &configuration).err();
        let error = error.map(|error| format!("{error:#}")).unwrap_or_default();
        ensure!(error.contains(words), "{cgroup}: {error}");
    }
    Ok(())
}

fn pins(stage: &Stage) -> BTreeSet<String> {
    let layouts = fs::read_dir(stage.topology.pins()).into_iter().flatten().flatten();
    let sockets = layouts.filter_map(|layout| fs::read_dir(layout.path().join("sockets")).ok()).flatten();
    sockets.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}
