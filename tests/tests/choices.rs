//! How backends are chosen, with real connections: by live connections, by response times, in turns, by the client, and
//! up to a cap.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use anyhow::{Context as _, Result, ensure};
use hyper::{Method, body::Bytes};
use serde_json::{Value, json};
use tests::{
    control::{backend_body, service},
    eventually::eventually,
    held::Held,
    http::Connection,
    load::{Load, Plan},
    netns::Namespace,
    server::PORT,
    stage::Stage,
};

const LIMIT: Duration = Duration::from_secs(30);
const WEB: u16 = 80;

fn chosen_by(algorithm: &str, backends: &[SocketAddr]) -> Value {
    let mut web = service("web", WEB, "nat", backends);
    web["algorithm"] = json!(algorithm);
    web
}

/// The largest ratio of a backend's connections to its weight's share of all.
fn unevenness(servers: &BTreeMap<String, usize>, weights: &[(SocketAddr, u32)]) -> f64 {
    let (all, sum): (usize, u32) = (servers.values().sum(), weights.iter().map(|(_, weight)| weight).sum());
    let ratio = |(at, weight): &(SocketAddr, u32)| {
        let own = servers.get(&at.ip().to_string()).copied().unwrap_or_default();
        own as f64 / (all as f64 * f64::from(*weight) / f64::from(sum))
    };
    weights.iter().map(ratio).fold(0.0, f64::max)
}

/// Sixteen backends of weights 1 to 16 under 5,000 connections: none has more than 15 % above its share, also after a
/// third of the connections went and came back.
#[test]
fn least_connections_follow_the_weights() -> Result<()> {
    const CONNECTIONS: usize = 5_000;
    let stage = Stage::farm(16)?;
    let (topology, control) = (&stage.topology, &stage.control);
    let weights: Vec<(SocketAddr, u32)> = stage.backends.iter().copied().zip(1..).collect();
    let mut web = chosen_by("least-connections", &[]);
    web["backends"] = weights.iter().map(|(at, weight)| backend_body(*at, *weight)).collect();
    control.create(&web)?;

    let held = Held::open(&topology.client, topology.vip(WEB), CONNECTIONS * 2 / 3, LIMIT)?;
    let more = Held::open(&topology.client, topology.vip(WEB), CONNECTIONS / 3, LIMIT)?;
    let mut met = held.servers().clone();
    for (server, count) in more.servers() {
        *met.entry(server.clone()).or_default() += count;
    }
    let uneven = unevenness(&met, &weights);
    println!("least-connections: max/mean {uneven:.3} of the weights' shares over {CONNECTIONS} connections");
    assert!(uneven <= 1.15, "{uneven}: {met:?}");
    held.ask_and_expect_all(CONNECTIONS * 2 / 3)?;

    // What the program counts is what there is.
    let live = |expected: usize| {
        eventually("live connections are counted", LIMIT, || {
            let count = |(at, _): &(SocketAddr, u32)| -> Result<u64> {
                let found = control.backend("web", *at)?;
                found["installed"]["connections"].as_u64().with_context(|| found.to_string())
            };
            let counted: u64 = weights.iter().map(count).sum::<Result<u64>>()?;
            ensure!(counted == expected as u64, "{counted} of {expected}");
            Ok(())
        })
    };
    let open = CONNECTIONS * 2 / 3 + CONNECTIONS / 3;
    live(open)?;
    drop(more);
    live(CONNECTIONS * 2 / 3)?;
    let again = Held::open(&topology.client, topology.vip(WEB), CONNECTIONS / 3, LIMIT)?;
    live(open)?;
    drop((held, again));
    live(0)
}

/// In turns: of every sixteen connections that come one after the other each backend gets exactly its weight's share.
#[test]
fn round_robin_takes_turns() -> Result<()> {
    let stage = Stage::farm(4)?;
    let (topology, control) = (&stage.topology, &stage.control);
    let weights: Vec<(SocketAddr, u32)> = stage.backends.iter().copied().zip([1, 1, 2, 4]).collect();
    let mut web = chosen_by("round-robin", &[]);
    web["backends"] = weights.iter().map(|(at, weight)| backend_body(*at, *weight)).collect();
    control.create(&web)?;
    let held = Held::open(&topology.client, topology.vip(WEB), 160, LIMIT)?;
    for (at, weight) in &weights {
        let met = held.servers().get(&at.ip().to_string()).copied().unwrap_or_default();
        assert_eq!(met, *weight as usize * 20, "{:?}", held.servers());
    }
    Ok(())
}

/// A backend that becomes ten times slower gets little, and its share again when it is well.
#[test]
fn least_response_time_leaves_the_slow() -> Result<()> {
    const SERVERS: usize = 4;
    let stage = Stage::routed(SERVERS)?;
    let (topology, control, backends) = (&stage.topology, &stage.control, &stage.backends);
    for server in &topology.servers {
        delay(server, 10)?;
    }
    control.create(&chosen_by("least-response-time", backends))?;
    let plan = Plan { keep_alive: 0, fresh: 40, ..Plan::steady(topology.vip(WEB)) };
    let load = Load::start(&topology.client, plan)?;
    let fair = 1.0 / SERVERS as f64;
    // Of the requests of a second.
    let share = || {
        let before = load.tally();
        std::thread::sleep(Duration::from_secs(1));
        let since = load.tally().since(&before);
        (since.share("web1"), since.answered)
    };
    eventually("all get something", LIMIT, || {
        let (share, answered) = share();
        ensure!(answered > 100 && share > fair / 2.0, "{share} of {answered}");
        Ok(())
    })?;

    delay(&topology.servers[0], 100)?;
    let slow_since = std::time::Instant::now();
    eventually("the slow one gets at most 15 % of its share", LIMIT, || {
        let (share, answered) = share();
        println!("{:.1} s slow: {share:.3} of {answered} requests", slow_since.elapsed().as_secs_f64());
        ensure!(share <= 0.15 * fair, "{share} of {answered}");
        Ok(())
    })?;
    delay(&topology.servers[0], 10)?;
    let well_since = std::time::Instant::now();
    eventually("it has its share again", LIMIT, || {
        let (share, answered) = share();
        println!("{:.1} s well: {share:.3} of {answered} requests", well_since.elapsed().as_secs_f64());
        ensure!(share >= 0.8 * fair, "{share} of {answered}");
        Ok(())
    })?;
    let tally = load.stop()?;
    assert_eq!(tally.failed(), 0, "{:?}", tally.failures.first());
    Ok(())
}

/// All connections of one client meet one backend, by the hash of its address and by memory.
#[test]
fn a_client_keeps_to_its_backend() -> Result<()> {
    let stage = Stage::farm(8)?;
    let (topology, control, backends) = (&stage.topology, &stage.control, &stage.backends);
    control.create(&chosen_by("source-hash", backends))?;
    let held = Held::open(&topology.client, topology.vip(WEB), 50, LIMIT)?;
    assert_eq!(held.servers().len(), 1, "{:?}", held.servers());
    drop(held);
    control.order(Method::DELETE, "/v1/services/web", None)?;
    control.installed()?;

    let mut web = chosen_by("random", backends);
    web["affinity_seconds"] = json!(60);
    control.create(&web)?;
    let held = Held::open(&topology.client, topology.vip(WEB), 50, LIMIT)?;
    // Those that are opened in one moment may not know of each other yet.
    let (server, count) = held.servers().iter().max_by_key(|(_, count)| **count).context("one is met")?;
    assert!(*count >= 48, "{:?}", held.servers());
    let again = Held::open(&topology.client, topology.vip(WEB), 50, LIMIT)?;
    assert_eq!(again.servers().get(server), Some(&50), "{:?} after {server}", again.servers());
    // A backend that drains gets no new ones, and keeps the old.
    let own = backends.iter().find(|at| at.ip().to_string() == *server).context("a backend")?;
    control.drain("web", *own)?;
    let elsewhere = Held::open(&topology.client, topology.vip(WEB), 50, LIMIT)?;
    assert_eq!(elsewhere.servers().get(server), None, "{:?}", elsewhere.servers());
    again.ask_and_expect_all(50)
}

/// A backend takes as many connections as it may; the next go to others, and when all are full, nowhere.
#[test]
fn caps_overflow_to_others() -> Result<()> {
    let stage = Stage::farm(3)?;
    let (topology, control, backends) = (&stage.topology, &stage.control, &stage.backends);
    let mut web = chosen_by("random", backends);
    web["backends"][0]["max_connections"] = json!(5);
    web["backends"][1]["max_connections"] = json!(10);
    control.create(&web)?;
    let held = Held::open(&topology.client, topology.vip(WEB), 100, LIMIT)?;
    let of = |index: usize| held.servers().get(&backends[index].ip().to_string()).copied();
    // CPUs that choose in one moment may each go over by one.
    let cpus = std::thread::available_parallelism()?.get();
    for (index, cap) in [(0, 5), (1, 10)] {
        let met = of(index).unwrap_or_default();
        assert!((cap..cap + cpus).contains(&met), "{met} of {cap}: {:?}", held.servers());
    }
    eventually("overflows are counted", LIMIT, || {
        let status = control.service("web")?;
        ensure!(status["counters"]["overflowed"].as_u64() > Some(0), "{status}");
        Ok(())
    })?;
    held.ask_and_expect_all(100)?;

    let path = format!("/v1/services/web/backends/{}", backends[2]);
    control.order(Method::PATCH, &path, Some(&json!({ "max_connections": 1 })))?;
    control.installed()?;
    let refused = Held::open(&topology.client, topology.vip(WEB), 1, Duration::from_secs(2));
    assert!(refused.is_err(), "all are full");
    control.counted("backends_full")?;
    held.ask_and_expect_all(100)
}

/// From the table's choice to the fewest connections and back, under connections that stay.
#[test]
fn algorithms_change_under_connections() -> Result<()> {
    let stage = Stage::farm(8)?;
    let (topology, control, backends) = (&stage.topology, &stage.control, &stage.backends);
    let mut web = service("web", WEB, "nat", backends);
    web["flow_idle_seconds"] = json!(5);
    control.create(&web)?;
    let held = Held::open(&topology.client, topology.vip(WEB), 500, LIMIT)?;
    for algorithm in ["least-connections", "round-robin", "maglev", "random", "least-response-time", "maglev"]
    {
        web["algorithm"] = json!(algorithm);
        control.order(Method::PUT, "/v1/services/web", Some(&web))?;
        control.installed()?;
        held.ask_and_expect_all(500).with_context(|| format!("after a change to {algorithm}"))?;
        let more = Held::open(&topology.client, topology.vip(WEB), 100, LIMIT)?;
        more.ask_and_expect_all(100)?;
        held.ask_and_expect_all(500).with_context(|| format!("some time after a change to {algorithm}"))?;
    }
    eventually("slots come to rest", LIMIT, || {
        held.ask_and_expect_all(500)?;
        let moving = control.slots("web", "moving")?;
        ensure!(moving == 0, "{moving} are moving");
        Ok(())
    })
}

/// The pages of the server in a namespace come after so many milliseconds from now on.
fn delay(server: &Namespace, milliseconds: u64) -> Result<()> {
    server.enter(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let mut connection = Connection::open(SocketAddr::from(([127, 0, 0, 1], PORT)), LIMIT).await?;
            connection.post(&format!("/delay/{milliseconds}"), Bytes::new()).await?;
            Ok(())
        })
    })?
}
