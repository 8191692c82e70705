//! The harness itself, without the balancer: what other tests rely on, seen with plain routing.

use std::{net::SocketAddr, thread, time::Duration};

use anyhow::Result;
use tests::{
    eventually::eventually_true,
    held::Held,
    load::{Load, Plan},
    requires::requires,
    server::{PORT, Server},
    topology::Topology,
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
    thread::yield_now();
    Ok(())
}
