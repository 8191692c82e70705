//! Every mode with every family of addresses, with real clients, real servers and large transfers.
//!
//! `nat` and `full-nat` run in networks that the balancer joins, the others in one network where servers answer clients
//! themselves. Tunnels end in `lbctl decap`; what does not fit through them is found out by the client, which the
//! balancer tells (RFC 1191, RFC 8201).

use std::{collections::BTreeSet, time::Duration};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use tests::{
    control::{Control, service},
    dual::Family::{self, V4, V6},
    eventually::eventually,
    http::transfer_bytes,
    netns::Namespace,
    server::{PORT, UDP_PORT},
    stage::Stage,
};

const LIMIT: Duration = Duration::from_secs(20);

#[test]
fn nat_over_ipv4() -> Result<()> {
    routed("nat", V4)
}

#[test]
fn nat_over_ipv6() -> Result<()> {
    routed("nat", V6)
}

#[test]
fn full_nat_over_ipv4() -> Result<()> {
    routed("full-nat", V4)
}

#[test]
fn full_nat_over_ipv6() -> Result<()> {
    routed("full-nat", V6)
}

#[test]
fn dsr_l2_over_ipv6() -> Result<()> {
    segment("dsr-l2", V6, V6)
}

#[test]
fn ipip_of_ipv4_in_ipv4() -> Result<()> {
    segment("dsr-ipip", V4, V4)
}

#[test]
fn ipip_of_ipv4_in_ipv6() -> Result<()> {
    segment("dsr-ipip", V4, V6)
}

#[test]
fn ipip_of_ipv6_in_ipv4() -> Result<()> {
    segment("dsr-ipip", V6, V4)
}

#[test]
fn ipip_of_ipv6_in_ipv6() -> Result<()> {
    segment("dsr-ipip", V6, V6)
}

#[test]
fn gue_of_ipv4_in_ipv4() -> Result<()> {
    segment("dsr-gue", V4, V4)
}

#[test]
fn gue_of_ipv4_in_ipv6() -> Result<()> {
    segment("dsr-gue", V4, V6)
}

#[test]
fn gue_of_ipv6_in_ipv4() -> Result<()> {
    segment("dsr-gue", V6, V4)
}

#[test]
fn gue_of_ipv6_in_ipv6() -> Result<()> {
    segment("dsr-gue", V6, V6)
}

fn routed(mode: &str, family: Family) -> Result<()> {
    let stage = Stage::dual_routed(2)?;
    serve(&stage, mode, family, family)
}

fn segment(mode: &str, family: Family, of_backends: Family) -> Result<()> {
    let stage = Stage::dual_segment(2)?;
    let tunnels = if mode == "dsr-l2" { Vec::new() } else { stage.topology.open_tunnels()? };
    serve(&stage, mode, family, of_backends)?;
    let mut counts = Vec::new();
    for tunnel in &tunnels {
        let (status, kind) = (tunnel.status()?, &mode["dsr-".len()..]);
        let count = status.lines().find_map(|line| line.strip_prefix(kind)?.trim().parse::<u64>().ok());
        counts.push(count.with_context(|| format!("no {kind} in\n{status}"))?);
    }
    // The transfers went through one of them, the rest of the traffic through both.
    let met = counts.iter().all(|count| *count > 0) && counts.iter().sum::<u64>() > 1_000;
    ensure!(tunnels.is_empty() || met, "{counts:?} packets came through {mode}");
    let replied = stage.control.reason("replied")?;
    ensure!(replied == 0, "{replied} answers went through the balancer");
    Ok(())
}

/// Both servers are met, by TCP and UDP, ping is answered, and 4 MB go each way unchanged.
fn serve(stage: &Stage, mode: &str, family: Family, of_backends: Family) -> Result<()> {
    let (topology, control) = (&stage.topology, &stage.control);
    let client = &topology.client;
    create(control, "web", "tcp", mode, family, &topology.servers_at(of_backends, PORT))?;
    create(control, "echo", "udp", mode, family, &topology.servers_at(of_backends, UDP_PORT))?;

    let url = match family {
        V4 => format!("http://{}:{PORT}/whoami", family.vip()),
        V6 => format!("http://[{}]:{PORT}/whoami", family.vip()),
    };
    let mut seen = BTreeSet::new();
    eventually("curl meets both servers", LIMIT, || {
        seen.insert(run(client, "curl", &["-sS", "-m", "5", &url])?);
        ensure!(seen.len() == 2, "{seen:?}");
        Ok(())
    })?;
    let answered =
        run(client, "ping", &["-n", "-c", "3", "-i", "0.2", "-W", "2", &family.vip().to_string()])?;
    ensure!(answered.contains(" 3 received"), "{answered}");
    echo(client, family)?;
    transfer_bytes(client, (family.vip(), PORT).into(), 4_000_000, LIMIT)
}

fn create(
    control: &Control,
    name: &str,
    protocol: &str,
    mode: &str,
    family: Family,
    backends: &[std::net::SocketAddr],
) -> Result<()> {
    let mut body: Value = service(name, backends[0].port(), mode, backends);
    body["address"] = json!(family.vip().to_string());
    body["protocol"] = json!(protocol);
    body["answer_echo"] = json!(true);
    control.create(&body)
}

fn run(namespace: &Namespace, program: &str, arguments: &[&str]) -> Result<String> {
    let output = namespace.command(program).args(arguments).output().with_context(|| program.to_owned())?;
    let text = |bytes| String::from_utf8_lossy(bytes).trim().to_owned();
    ensure!(output.status.success(), "{program}: {}{}", text(&output.stdout), text(&output.stderr));
    Ok(text(&output.stdout))
}

/// Datagrams of several sizes come back from the address that they were sent to.
fn echo(client: &Namespace, family: Family) -> Result<()> {
    let any = match family {
        V4 => "0.0.0.0:0",
        V6 => "[::]:0",
    };
    let socket = client.enter(|| std::net::UdpSocket::bind(any))??;
    socket.set_read_timeout(Some(LIMIT))?;
    socket.connect((family.vip(), UDP_PORT))?;
    for length in [0, 1, 17, 512, 1_200] {
        let payload: Vec<u8> = (0..length).map(|index| index as u8).collect();
        socket.send(&payload)?;
        let mut answer = vec![0; 2_000];
        let length = socket.recv(&mut answer)?;
        ensure!(answer[..length].ends_with(&payload), "a datagram changed");
    }
    Ok(())
}
