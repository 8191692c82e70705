//! Packets reach a backend and answers reach the client, in every mode, as real clients see it.

use std::{collections::BTreeSet, time::Duration};

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use tests::{
    control::{backend_body, service},
    eventually::{eventually, eventually_true},
    http::transfer_bytes,
    load::{Load, Plan},
    netns::Namespace,
    server::{PORT, UDP_PORT},
    stage::Stage,
    topology::{CLIENT, Topology, VIP},
    udp::Udp,
};

const LIMIT: Duration = Duration::from_secs(20);
const WEB: u16 = 80;

#[test]
fn smoke_nat_serves_curl_from_every_backend() -> Result<()> {
    let stage = Stage::routed(3)?;
    let (topology, control) = (&stage.topology, &stage.control);
    control.create(&service("web", WEB, "nat", &stage.backends))?;

    let url = format!("http://{VIP}/whoami");
    let mut seen = BTreeSet::new();
    eventually("curl meets every server", LIMIT, || {
        seen.insert(curl(&topology.client, &[&url])?);
        ensure!(seen.len() == 3, "{seen:?}");
        Ok(())
    })?;
    let known: BTreeSet<String> = ["web1", "web2", "web3"].map(String::from).into();
    assert_eq!(seen, known);

    let neighbours = topology.client.command("ip").args(["neigh", "show", &VIP.to_string()]).output()?;
    let neighbours = String::from_utf8(neighbours.stdout)?;
    assert!(neighbours.contains("lladdr"), "no answer to ARP: {neighbours}");
    for reason in ["arp_answered", "forwarded", "replied"] {
        control.counted(reason)?;
    }
    eventually("the service's packets are counted", LIMIT, || {
        let counters = control.service("web")?["counters"].take();
        ensure!(counters["new_flows"].as_u64() >= Some(3), "{counters}");
        ensure!(counters["packets"].as_u64() > counters["new_flows"].as_u64(), "{counters}");
        Ok(())
    })
}

#[test]
fn large_bodies_arrive_whole_both_ways() -> Result<()> {
    let stage = Stage::routed(1)?;
    let (topology, control) = (&stage.topology, &stage.control);
    control.create(&service("web", WEB, "nat", &stage.backends))?;
    transfer(topology)
}

#[test]
fn smoke_dsr_l2_serves_without_seeing_the_answers() -> Result<()> {
    let stage = Stage::segment(2)?;
    let (topology, control) = (&stage.topology, &stage.control);
    control.create(&service("web", PORT, "dsr-l2", &stage.backends))?;
    let url = format!("http://{VIP}:{PORT}/whoami");
    let mut seen = BTreeSet::new();
    eventually("curl meets both servers", LIMIT, || {
        seen.insert(curl(&topology.client, &[&url])?);
        ensure!(seen.len() == 2, "{seen:?}");
        Ok(())
    })?;

    let mut echo = service("echo", UDP_PORT, "dsr-l2", &stage.at(UDP_PORT));
    echo["protocol"] = json!("udp");
    control.create(&echo)?;
    let client = Udp::bind(&topology.client, CLIENT, 0, LIMIT)?;
    client.send(b"hello", topology.vip(UDP_PORT))?;
    let answer = client.receive()?;
    assert!(answer.payload.ends_with(b" hello") && answer.from == topology.vip(UDP_PORT), "{answer:?}");

    transfer_at(topology, PORT)?;
    control.counted("forwarded")?;
    assert_eq!(control.reason("replied")?, 0, "answers went through the balancer");
    Ok(())
}

/// The balancer is a router in the mode `nat`: both directions lose one hop, and the source is the client's.
#[test]
fn nat_for_datagrams_takes_one_hop_and_keeps_the_client() -> Result<()> {
    let stage = Stage::routed(1)?;
    let (topology, control) = (&stage.topology, &stage.control);
    let mut echo = service("echo", 53, "nat", &stage.at(5353));
    echo["protocol"] = json!("udp");
    control.create(&echo)?;
    let client = Udp::bind(&topology.client, CLIENT, 0, LIMIT)?;
    let server = Udp::bind(&topology.servers[0], topology.server_address(0), 5353, LIMIT)?;
    for length in [0, 1, 2, 17, 512, 1472] {
        let payload: Vec<u8> = (0..length).map(|index| index as u8).collect();
        client.send(&payload, topology.vip(53))?;
        let request = server.receive()?;
        assert_eq!((request.ttl, request.from.ip().to_string()), (63, CLIENT.to_string()));
        assert!(request.payload == payload, "a payload of {length} bytes changed");
        server.send(&request.payload, request.from)?;
        let answer = client.receive()?;
        assert_eq!((answer.ttl, answer.from), (63, topology.vip(53)));
        assert!(answer.payload == payload, "an answer of {length} bytes changed");
    }
    Ok(())
}

#[test]
fn weights_are_respected() -> Result<()> {
    let stage = Stage::routed(3)?;
    let (topology, control) = (&stage.topology, &stage.control);
    let mut web = service("web", WEB, "nat", &[]);
    let weights = [1, 2, 5];
    web["backends"] = stage.backends.iter().zip(weights).map(|(at, w)| backend_body(*at, w)).collect();
    control.create(&web)?;
    let plan = Plan { keep_alive: 0, fresh: 20, pause: Duration::ZERO, ..Plan::steady(topology.vip(WEB)) };
    let load = Load::start(&topology.client, plan)?;
    eventually_true("there are enough answers to judge", LIMIT, || Ok(load.tally().answered >= 2_000))?;
    let tally = load.stop()?;
    assert_eq!(tally.failed(), 0, "{:?}", tally.failures.first());
    for (name, weight) in ["web1", "web2", "web3"].into_iter().zip(weights) {
        let (share, expected) = (tally.share(name), f64::from(weight) / 8.0);
        // Six standard deviations of 2,000 draws are 0.067.
        assert!((share - expected).abs() < 0.08, "{name}: {share:.3} instead of {expected:.3}");
    }
    Ok(())
}

/// Drivers without XDP are served by the kernel's generic hook, with the same outcome.
#[test]
fn generic_mode_serves_too() -> Result<()> {
    let stage = Stage::routed_in("generic", 1)?;
    let (topology, control) = (&stage.topology, &stage.control);
    let status = control.get("/v1/status")?;
    let generic = |interface: &Value| interface["mode"] == "generic";
    assert!(status["interfaces"].as_array().is_some_and(|all| all.iter().all(generic)), "{status}");
    control.create(&service("web", WEB, "nat", &stage.backends))?;
    transfer(topology)
}

/// What the way out does not take and may not be fragmented goes no further, in both directions: its sender is told. A
/// change of MTU is followed.
#[test]
fn packets_larger_than_the_way_out_are_told_of() -> Result<()> {
    // The IPv4 and the UDP header.
    const HEADERS: usize = 28;
    const MTU: usize = 1_000;
    let stage = Stage::routed(1)?;
    let (topology, control) = (&stage.topology, &stage.control);
    topology.balancer.ip(&format!("link set b0 mtu {MTU}"))?;
    let mut echo = service("echo", 53, "nat", &stage.at(5353));
    echo["protocol"] = json!("udp");
    control.create(&echo)?;
    let client = Udp::bind(&topology.client, CLIENT, 0, LIMIT)?.unfragmented()?;
    let server = Udp::bind(&topology.servers[0], topology.server_address(0), 5353, LIMIT)?.unfragmented()?;
    let (fits, too_large) = (vec![1; MTU - HEADERS], vec![2; MTU - HEADERS + 1]);
    // Datagrams of one socket keep their order: the first to arrive tells what became of those before it.
    let first_to_arrive = |payload: &[u8]| -> Result<Vec<u8>> {
        client.send(payload, topology.vip(53))?;
        client.send(b"small", topology.vip(53))?;
        Ok(server.receive()?.payload)
    };
    let told = || control.reason("too_big_answered");
    eventually("the smaller MTU is known", LIMIT, || {
        let first = first_to_arrive(&too_large)?;
        assert!(first == b"small", "a datagram of {} bytes was forwarded", too_large.len());
        ensure!(told()? > 0, "nothing is counted");
        Ok(())
    })?;
    let before = told()?;
    for _ in 0..10 {
        client.send(&too_large, topology.vip(53))?;
    }
    client.send(&fits, topology.vip(53))?;
    let arrived = server.receive()?;
    assert!(arrived.payload == fits, "{} bytes arrived", arrived.payload.len());
    eventually("every large one is counted", LIMIT, || {
        ensure!(told()? >= before + 10, "{before}, then {}", told()?);
        Ok(())
    })?;

    topology.balancer.ip(&format!("link set b0 mtu 1500\nlink set c0 mtu {MTU}"))?;
    eventually("the larger MTU is known", LIMIT, || {
        let first = first_to_arrive(&too_large)?;
        ensure!(first == too_large && server.receive()?.payload == b"small", "it is still dropped");
        Ok(())
    })?;
    let left = || control.reason("reply_left");
    let before = left()?;
    server.send(&too_large, arrived.from)?;
    server.send(&fits, arrived.from)?;
    let answer = client.receive()?;
    assert!(answer.payload == fits && answer.from == topology.vip(53), "{} bytes", answer.payload.len());
    eventually("the large answer is counted", LIMIT, || {
        ensure!(left()? > before, "{before}");
        Ok(())
    })
}

/// One interface for both sides: packets leave where they came in, requests as well as answers.
#[test]
fn nat_serves_on_one_arm() -> Result<()> {
    let stage = Stage::segment(2)?;
    let (topology, control) = (&stage.topology, &stage.control);
    for server in &topology.servers {
        // Answers to a neighbour must come back through the balancer all the same.
        server.ip(&format!("route add {CLIENT}/32 via 10.10.0.1"))?;
    }
    control.create(&service("web", WEB, "nat", &stage.backends))?;
    let url = format!("http://{VIP}/whoami");
    let mut seen = BTreeSet::new();
    eventually("curl meets both servers", LIMIT, || {
        seen.insert(curl(&topology.client, &[&url])?);
        ensure!(seen.len() == 2, "{seen:?}");
        Ok(())
    })?;
    // The kernel finds the neighbours; from then on it has no part in it.
    let by_kernel = topology.balancer.counter("Ip", "ForwDatagrams")?;
    transfer(topology)?;
    for reason in ["forwarded", "replied"] {
        control.counted(reason)?;
    }

    let mut echo = service("echo", 53, "nat", &stage.at(5353)[..1]);
    echo["protocol"] = json!("udp");
    control.create(&echo)?;
    let client = Udp::bind(&topology.client, CLIENT, 0, LIMIT)?;
    let server = Udp::bind(&topology.servers[0], topology.server_address(0), 5353, LIMIT)?;
    client.send(b"one hop", topology.vip(53))?;
    let request = server.receive()?;
    assert_eq!((request.ttl, request.from.ip().to_string()), (63, CLIENT.to_string()));
    server.send(b"and back", request.from)?;
    let answer = client.receive()?;
    assert_eq!((answer.payload.as_slice(), answer.ttl), (&b"and back"[..], 63));
    assert_eq!(answer.from, topology.vip(53));
    assert_eq!(topology.balancer.counter("Ip", "ForwDatagrams")?, by_kernel);
    Ok(())
}

/// Nobody to send to is a reason of its own, and the balancer's own port 80 is not reached either.
#[test]
fn a_service_without_backends_drops_with_a_reason() -> Result<()> {
    let stage = Stage::routed(1)?;
    let (topology, control) = (&stage.topology, &stage.control);
    control.create(&service("web", WEB, "nat", &[]))?;
    let output = topology
        .client
        .command("curl")
        .args(["-sS", "--connect-timeout", "1", &format!("http://{VIP}/")])
        .output()?;
    assert_eq!(output.status.code(), Some(28), "curl ends with its code for a timeout");
    control.counted("no_backend")
}

/// Traffic that belongs to no service is the kernel's, as if nobody were there.
#[test]
fn other_traffic_is_routed_by_the_kernel() -> Result<()> {
    let stage = Stage::routed(1)?;
    let (topology, control) = (&stage.topology, &stage.control);
    let address = topology.server_address(0);
    assert_eq!(curl(&topology.client, &[&format!("http://{address}:{PORT}/whoami")])?, "web1");
    control.counted("not_ours")
}

fn curl(namespace: &Namespace, arguments: &[&str]) -> Result<String> {
    let output = namespace.command("curl").args(["-sS", "-m", "5"]).args(arguments).output()?;
    ensure!(output.status.success(), "curl: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?.trim().to_string())
}

fn transfer(topology: &Topology) -> Result<()> {
    transfer_at(topology, WEB)
}

/// Eight million bytes down, as many up, each one compared.
fn transfer_at(topology: &Topology, port: u16) -> Result<()> {
    transfer_bytes(&topology.client, topology.vip(port), 8_000_000, LIMIT)
}
