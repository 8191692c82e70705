//! The harness itself, without the balancer: what other tests rely on, seen with plain routing.

use std::{net::SocketAddr, path::Path, process::Command, time::Duration};

use anyhow::{Result, ensure};
use tests::{
    eventually::eventually_true,
    held::Held,
    load::{Load, Plan},
    requires::{pin_directory, requires, sweep},
    server::{PORT, Server},
    topology::{CLIENT, Topology},
    udp::Udp,
    xdp::{PassProgram, pin_map},
};

const LIMIT: Duration = Duration::from_secs(10);

/// A server that is asked to close loses no request of clients that keep or open connections.
#[test]
fn a_closing_server_loses_nothing() -> Result<()> {
    requires();
    let topology = Topology::routed(1)?;
    let server = Server::start(&topology, 0)?;
    let target = SocketAddr::from((topology.server_address(0), PORT));
    let load = Load::start(&topology.client, Plan { fresh: 0, ..Plan::steady(target) })?;
    eventually_true("requests are answered", LIMIT, || Ok(load.tally().answered > 500))?;
    server.begin_closing()?;
    let closing = load.tally().answered;
    eventually_true("it goes on", LIMIT, || Ok(load.tally().answered > closing + 500))?;
    let tally = load.stop()?;
    assert_eq!((tally.failed(), tally.resteered), (0, 0), "{:?}", tally.failures.first());
    assert_eq!(tally.of("web1"), tally.answered);
    server.close(LIMIT)
}

/// A connection that is cut is seen, and so are requests in flight.
#[test]
fn a_killed_server_is_noticed() -> Result<()> {
    requires();
    let topology = Topology::segment(2)?;
    let server = Server::start(&topology, 1)?;
    let target = SocketAddr::from((topology.server_address(1), PORT));
    let held = Held::open(&topology.client, target, 300, LIMIT)?;
    held.ask_and_expect_all(300)?;
    assert_eq!(held.servers().get("web2"), Some(&300));
    let load = Load::start(&topology.client, Plan::steady(target))?;
    eventually_true("requests are answered", LIMIT, || Ok(load.tally().answered > 100))?;
    server.kill()?;
    eventually_true("requests fail", LIMIT, || Ok(load.tally().failed() > 10))?;
    let round = held.ask()?;
    assert_eq!((round.kept, round.cut.len()), (0, 300));
    Ok(())
}

/// The time to live tells who forwarded a datagram: here the kernel did.
#[test]
fn a_router_on_the_way_shows() -> Result<()> {
    requires();
    let topology = Topology::routed(1)?;
    let client = Udp::bind(&topology.client, CLIENT, 0, LIMIT)?;
    let server = Udp::bind(&topology.servers[0], topology.server_address(0), 53, LIMIT)?;
    client.send(b"hello", SocketAddr::from((topology.server_address(0), 53)))?;
    let request = server.receive()?;
    assert_eq!((request.payload.as_slice(), request.ttl), (&b"hello"[..], 63));
    assert_eq!(request.from.ip(), CLIENT);
    Ok(())
}

/// A run that was killed leaves namespaces, processes in them, pins and directories; the next one removes them.
#[test]
fn what_a_dead_run_left_is_swept() -> Result<()> {
    requires();
    let mut run = Command::new("true").spawn()?;
    let (name, number) = (format!("pc-{}-left", run.id()), run.id());
    run.wait()?;
    let directory = format!("/tmp/portcullis-test-{number}-0");
    std::fs::create_dir(&directory)?;
    ensure!(Command::new("ip").args(["netns", "add", &name]).status()?.success());
    let mut sleeper = Command::new("ip").args(["netns", "exec", &name, "sleep", "1000"]).spawn()?;
    eventually_true("it runs inside", LIMIT, || {
        let inside = Command::new("ip").args(["netns", "pids", &name]).output()?;
        Ok(String::from_utf8(inside.stdout)?.trim() == sleeper.id().to_string())
    })?;
    sweep();
    assert!(!Path::new("/run/netns").join(&name).exists() && !Path::new(&directory).exists());
    eventually_true("its process is gone", LIMIT, || Ok(sleeper.try_wait()?.is_some()))
}

#[test]
fn another_program_and_another_map_can_be_there() -> Result<()> {
    requires();
    let topology = Topology::routed(0)?;
    let foreign = PassProgram::attach(&topology.balancer, "b0")?;
    ensure!(PassProgram::attach(&topology.balancer, "b0").is_err(), "two programs on one interface");
    drop(foreign);
    let _again = PassProgram::attach(&topology.balancer, "b0")?;
    let directory = pin_directory(1_000);
    std::fs::create_dir(&directory)?;
    let pinned = pin_map(&directory.join("SERVICES"));
    std::fs::remove_dir_all(&directory)?;
    pinned
}
