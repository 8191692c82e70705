//! What real networks do to packets: fragments, narrow ways, jumbo frames, ports that nobody listens on, clients that
//! are neighbours, backends that are clients.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use tests::{
    control::service,
    dual::{
        CLIENT_V6,
        Family::{self, V4, V6},
        VIP_V6,
    },
    eventually::eventually,
    netns::Namespace,
    server::{PORT, UDP_PORT},
    stage::Stage,
    topology::{CLIENT, VIP},
};

const LIMIT: Duration = Duration::from_secs(20);

fn echo(stage: &Stage, mode: &str, family: Family) -> Result<()> {
    let mut body = service("echo", UDP_PORT, mode, &stage.topology.servers_at(family, UDP_PORT));
    body["address"] = json!(family.vip().to_string());
    body["protocol"] = json!("udp");
    stage.control.create(&body)
}

fn socket(namespace: &Namespace, family: Family) -> Result<std::net::UdpSocket> {
    let any: SocketAddr = if family == V4 { "0.0.0.0:0" } else { "[::]:0" }.parse()?;
    let socket = namespace.enter(|| std::net::UdpSocket::bind(any))??;
    socket.set_read_timeout(Some(LIMIT))?;
    Ok(socket)
}

/// Datagrams of many fragments come back whole; only the first fragment has ports, both ways.
fn fragments(mode: &str, family: Family) -> Result<()> {
    let stage = Stage::dual_routed(2)?;
    echo(&stage, mode, family)?;
    let client = socket(&stage.topology.client, family)?;
    client.connect((family.vip(), UDP_PORT))?;
    for length in [1_473, 2_000, 2_953, 8_000, 40_000] {
        let payload: Vec<u8> = (0..length).map(|index| (index % 251) as u8).collect();
        client.send(&payload)?;
        let mut answer = vec![0; 65_536];
        let received = client.recv(&mut answer).with_context(|| format!("{length} bytes"))?;
        ensure!(answer[..received].ends_with(&payload), "{length} bytes changed on their way");
    }
    ensure!(stage.control.reason("fragment_unknown")? == 0, "a fragment did not follow its first");
    Ok(())
}

#[test]
fn fragments_follow_their_first_in_nat() -> Result<()> {
    fragments("nat", V4)
}

#[test]
fn fragments_follow_their_first_in_nat_over_ipv6() -> Result<()> {
    fragments("nat", V6)
}

#[test]
fn fragments_follow_their_first_in_full_nat() -> Result<()> {
    fragments("full-nat", V4)
}

/// The client's own tool finds out how much the way through the balancer takes, which is told in the name of the
/// virtual address; and the hop that ends there.
#[test]
fn tracepath_finds_the_narrow_way() -> Result<()> {
    const MTU: &str = "1380";
    let stage = Stage::dual_routed(1)?;
    let (topology, control) = (&stage.topology, &stage.control);
    topology.balancer.ip(&format!("link set b0 mtu {MTU}"))?;
    // tracepath probes ports from 44444 on.
    for (name, family) in [("probes", V4), ("probes6", V6)] {
        let address = match family {
            V4 => json!(topology.server_address(0).to_string()),
            V6 => json!(topology.server_address_v6(0).to_string()),
        };
        control.create(&json!({
            "name": name, "address": family.vip().to_string(), "ports": "44444-44544", "protocol": "udp",
            "mode": "nat", "backends": [{ "address": address }],
        }))?;
        let vip = family.vip().to_string();
        eventually("tracepath finds the MTU", LIMIT, || {
            let output =
                topology.client.command("tracepath").args(["-n", "-m", "4", "-p", "44444", &vip]).output()?;
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            ensure!(text.contains(&format!("pmtu {MTU}")), "{text}");
            // The balancer is the first hop, the backend the second: its port is closed, which it says in the name of
            // the virtual address.
            ensure!(text.contains("reached"), "{text}");
            Ok(())
        })?;
    }
    for reason in ["too_big_answered", "time_exceeded_answered"] {
        control.counted(reason)?;
    }
    Ok(())
}

/// A closed port is refused at once, because the backend's ICMP error reaches the client about the address it knows.
#[test]
fn a_closed_port_is_refused() -> Result<()> {
    let stage = Stage::dual_routed(1)?;
    let topology = &stage.topology;
    for (mode, family) in [("nat", V4), ("nat", V6), ("full-nat", V4), ("full-nat", V6)] {
        let name = format!("closed-{mode}-{}", if family == V4 { "v4" } else { "v6" });
        let port = if mode == "nat" { 7 } else { 9 };
        let mut body = service(&name, port, mode, &topology.servers_at(family, 1_000 + port));
        body["address"] = json!(family.vip().to_string());
        body["protocol"] = json!("udp");
        stage.control.create(&body)?;
        let client = socket(&topology.client, family)?;
        client.connect((family.vip(), port))?;
        client.send(b"anybody?")?;
        let error = client.recv(&mut [0; 100]).expect_err("nobody listens");
        ensure!(error.kind() == std::io::ErrorKind::ConnectionRefused, "{mode} {family:?}: {error}");
    }
    stage.control.counted("error_replied")
}

/// Frames of 9,000 bytes, which take several buffers.
#[test]
fn jumbo_frames_are_balanced() -> Result<()> {
    let stage = Stage::dual_routed(1)?;
    let topology = &stage.topology;
    for (namespace, interface) in [
        (&topology.client, "eth0"),
        (&topology.balancer, "c0"),
        (&topology.balancer, "b0"),
        (&topology.switch, "b0"),
        (&topology.switch, "p0"),
        (&topology.switch, "br0"),
        (&topology.servers[0], "eth0"),
    ] {
        namespace.ip(&format!("link set {interface} mtu 9000"))?;
    }
    for family in [V4, V6] {
        let name = if family == V4 { "echo4" } else { "echo6" };
        let mut body = service(name, UDP_PORT, "nat", &topology.servers_at(family, UDP_PORT));
        body["address"] = json!(family.vip().to_string());
        body["protocol"] = json!("udp");
        stage.control.create(&body)?;
        let client = socket(&topology.client, family)?;
        client.connect((family.vip(), UDP_PORT))?;
        let payload: Vec<u8> = (0..8_900).map(|index| (index % 251) as u8).collect();
        let mut answer = vec![0; 65_536];
        eventually("the larger MTU is known", LIMIT, || {
            client.set_read_timeout(Some(Duration::from_millis(500)))?;
            client.send(&payload)?;
            let received = client.recv(&mut answer)?;
            ensure!(answer[..received].ends_with(&payload), "the datagram changed");
            Ok(())
        })?;
    }
    Ok(())
}

/// A backend that is a client of its own service, and clients on the backends' link: `full-nat` serves both, `nat`
/// says why it does not.
#[test]
fn backends_may_be_clients_in_full_nat() -> Result<()> {
    let stage = Stage::dual_routed(1)?;
    let topology = &stage.topology;
    for (mode, port) in [("nat", 80), ("full-nat", 81)] {
        stage.control.create(&service(mode, port, mode, &stage.backends))?;
    }
    let server = &topology.servers[0];
    let ask = |port: u16| {
        let url = format!("http://{VIP}:{port}/whoami");
        server.command("curl").args(["-sS", "-m", "2", &url]).output()
    };
    let output = ask(81)?;
    ensure!(output.stdout.starts_with(b"web1"), "{}", String::from_utf8_lossy(&output.stderr));
    ensure!(ask(80)?.status.code() == Some(28), "a backend reached itself through nat");
    stage.control.counted("own_client")
}

/// Where the client is a neighbour of the backends, direct answers reach it by its own link.
#[test]
fn neighbours_are_answered_directly() -> Result<()> {
    let stage = Stage::dual_segment(1)?;
    let topology = &stage.topology;
    for (mode, family) in [("dsr-l2", V4), ("dsr-l2", V6)] {
        let name = if family == V4 { "web4" } else { "web6" };
        let mut body = service(name, PORT, mode, &topology.servers_at(family, PORT));
        body["address"] = json!(family.vip().to_string());
        stage.control.create(&body)?;
        let host = if family == V4 { VIP.to_string() } else { format!("[{VIP_V6}]") };
        let output = topology
            .client
            .command("curl")
            .args(["-sS", "-m", "5", &format!("http://{host}:{PORT}/whoami")])
            .output()?;
        ensure!(output.stdout.starts_with(b"web1"), "{}", String::from_utf8_lossy(&output.stderr));
    }
    let seen = topology.servers[0].command("ip").args(["neigh", "show"]).output()?;
    let seen = String::from_utf8_lossy(&seen.stdout).into_owned();
    ensure!(seen.contains(&CLIENT.to_string()) && seen.contains(&CLIENT_V6.to_string()), "{seen}");
    Ok(())
}
