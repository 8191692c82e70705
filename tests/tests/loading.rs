//! The program is loaded for what is desired, and again for what comes later, while packets flow.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use hyper::Method;
use serde_json::{Value, json};
use tests::{
    control::service,
    dual::VIP_V6,
    eventually::eventually,
    load::{Load, Plan},
    netns::Namespace,
    process::binary,
    server::{PORT, UDP_PORT},
    stage::Stage,
};

const LIMIT: Duration = Duration::from_secs(20);
const WEB: u16 = 80;

#[test]
fn features_come_under_load_without_a_gap() -> Result<()> {
    let mut stage = Stage::routed(3)?;
    let (topology, control) = (stage.topology.clone(), stage.control.clone());
    control.create(&service("web", WEB, "nat", &stage.backends))?;
    let load = Load::start(&topology.client, Plan::steady(topology.vip(WEB)))?;
    let mut known = vec![program(&topology.balancer, "c0")?];

    let mut ipv6 = service("web6", WEB, "nat", &[]);
    ipv6["address"] = json!(VIP_V6);
    let mut segments = service("segments", 81, "nat", &stage.at(PORT + 1));
    segments["mss"] = json!(1_400);
    let tunnel = service("tunnel", PORT, "dsr-ipip", &stage.backends);
    for wanted in [&ipv6, &segments, &tunnel] {
        control.create(wanted)?;
        let now = program(&topology.balancer, "c0")?;
        ensure!(!known.contains(&now), "{wanted} is served by a program of before: {now} of {known:?}");
        assert_eq!(program(&topology.balancer, "b0")?, now, "every interface runs the same");
        known.push(now);
    }
    let again = service("again", 82, "nat", &stage.at(PORT + 2));
    control.create(&again)?;
    assert_eq!(program(&topology.balancer, "c0")?, known[3], "what it does already needs no other");

    stage.controller.kill()?;
    stage.controller.start_again()?;
    control.installed()?;
    let tally = load.stop()?;
    assert_eq!((tally.failed(), tally.resteered), (0, 0), "{:?}", tally.failures.first());
    Ok(())
}

#[test]
fn interfaces_hear_solicitations_while_an_ipv6_service_answers_them() -> Result<()> {
    let mut stage = Stage::routed(1)?;
    let (topology, control) = (stage.topology.clone(), stage.control.clone());
    let hears = |interface: &str| -> Result<bool> {
        let flags = &link(&topology.balancer, interface)?["flags"];
        Ok(flags.as_array().context("no flags")?.contains(&json!("ALLMULTI")))
    };
    let expect = |what: &str, c0: bool, b0: bool| {
        eventually(what, LIMIT, || {
            let now = (hears("c0")?, hears("b0")?);
            ensure!(now == (c0, b0), "{now:?}");
            Ok(())
        })
    };
    // What somebody else set is theirs.
    topology.balancer.ip("link set b0 allmulticast on")?;
    expect("no need of it", false, true)?;

    let mut echo = service("echo", UDP_PORT, "nat", &[]);
    (echo["address"], echo["protocol"]) = (json!(VIP_V6), json!("udp"));
    control.create(&echo)?;
    expect("it is set", true, true)?;
    for setting in ["c0/forwarding", "c0/force_forwarding"] {
        let path = format!("/proc/sys/net/ipv6/conf/{setting}");
        let read = topology.balancer.command("cat").arg(path).output()?;
        // Kernels before 6.17 have no forwarding by interface.
        ensure!(!read.status.success() || read.stdout == b"1\n", "{setting} is {:?}", read.stdout);
    }
    control.order(Method::DELETE, "/v1/services/echo", None)?;
    expect("it is taken back", false, true)?;

    control.create(&echo)?;
    expect("it is set again", true, true)?;
    stage.controller.kill()?;
    stage.controller.start_again()?;
    expect("it is kept", true, true)?;
    stage.controller.kill()?;
    let mut unload = topology.balancer.command(binary("lb-control")?);
    let unloaded = unload.arg("unload").arg("--pin-dir").arg(topology.pins()).output()?;
    ensure!(unloaded.status.success(), "{}", String::from_utf8_lossy(&unloaded.stderr));
    expect("unloading takes it back", false, true)
}

/// The number of the program that an interface runs.
fn program(namespace: &Namespace, interface: &str) -> Result<u64> {
    let link = link(namespace, interface)?;
    link["xdp"]["prog"]["id"].as_u64().with_context(|| format!("{interface} runs no program: {link}"))
}

fn link(namespace: &Namespace, interface: &str) -> Result<Value> {
    let shown = namespace.command("ip").args(["-j", "-d", "link", "show", interface]).output()?;
    let mut links: Value = serde_json::from_slice(&shown.stdout)?;
    Ok(links[0].take())
}
