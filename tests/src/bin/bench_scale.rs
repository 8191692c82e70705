//! Measures how the controller bears many services; `cargo xtask bench scale` builds what it needs and runs it.

use std::{
    net::UdpSocket,
    path::PathBuf,
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use clap::Parser;
use tests::{
    bench::{exit, write_rows},
    bench_scale::{
        probe::{Load, Orders, Probe, Receiver},
        row::Row,
        world::{BIG, BIG_PORT, BIG_VIP, BIG_VIP_PORT, Size, World, small_name},
    },
    process::binary,
    requires::prepare,
};

/// The bars.
const EFFECTIVE_BAR: Duration = Duration::from_millis(20);
const START_BAR: Duration = Duration::from_secs(5);
/// Datagrams in a second while orders are given.
const LOAD_DATAGRAMS: u32 = 20_000;
/// Orders on small services in a second meanwhile.
const LOAD_ORDERS: u32 = 10;

/// Measure orders and starts with many services.
#[derive(Parser)]
struct Args {
    /// The controller's program
    #[arg(long, value_name = "FILE")]
    controller: Option<PathBuf>,
    /// Also write the rows to this file, as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Backends that are changed, twice each
    #[arg(long, value_name = "N", default_value_t = 200)]
    rounds: usize,
    /// Starts of each kind
    #[arg(long, value_name = "N", default_value_t = 3)]
    starts: usize,
    /// Services
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    services: usize,
    /// Backends of all services together
    #[arg(long, value_name = "N", default_value_t = 100_000)]
    backends: usize,
    /// Backends of the service that is changed
    #[arg(long, value_name = "N", default_value_t = 1_000)]
    big: usize,
}

fn main() -> ExitCode {
    exit(run(&Args::parse()))
}

fn run(args: &Args) -> Result<()> {
    prepare()?;
    let program = args.controller.clone().map_or_else(|| binary("lb-control"), Ok)?;
    let size = Size { services: args.services, backends: args.backends, big: args.big };
    eprintln!("{} services, {} backends, {} of them of one service", size.services, size.backends, size.big);
    let mut world = World::build(size, program)?;
    let mut rows = Vec::new();
    let mut keep = |row: Row| {
        println!("{row}");
        rows.push(row);
    };
    println!("{:<58} {:>5} {:>10} {:>10} {:>10}", "what", "times", "p50 ms", "p99 ms", "max ms");
    let (mut fresh, mut again) = (Vec::new(), Vec::new());
    for _ in 0..args.starts.max(1) {
        fresh.push(world.start()?);
        world.kill()?;
        again.push(world.start()?);
        world.kill()?;
        world.unload()?;
    }
    keep(Row::new("start from the store, nothing installed", fresh).with_bar(1.0, START_BAR));
    keep(Row::new("start from the store, all installed", again).with_bar(1.0, START_BAR));

    world.start()?;
    eprintln!("the controller is process {}", world.process()?.id());
    let receiver = Receiver::start(&world)?;
    let kinds = [Kind::Weight, Kind::Backend];
    for kind in kinds {
        keep(measure(&world, &receiver, kind, args.rounds, "alone")?);
    }
    let load = load(&world)?;
    for kind in kinds {
        let row = measure(&world, &receiver, kind, args.rounds, "under load")?;
        keep(row.with_bar(0.99, EFFECTIVE_BAR));
    }
    ensure!(load.done() > 0, "there was no load");
    drop(load);
    for line in exported(&world)? {
        println!("{line}");
    }
    write_rows(args.json.as_ref(), || rows.iter().map(Row::json).collect())?;
    Ok(())
}

/// What is changed of one backend, to and fro.
#[derive(Clone, Copy)]
enum Kind {
    Weight,
    Backend,
}

impl Kind {
    const fn name(self) -> &'static str {
        match self {
            Self::Weight => "weight of one backend, until the first packet",
            Self::Backend => "backend removed or added, until the first packet",
        }
    }
}

fn measure(world: &World, receiver: &Receiver, kind: Kind, rounds: usize, how: &str) -> Result<Row> {
    let mut orders = Orders::connect(world.control().socket())?;
    let mut times = Vec::new();
    for _ in 0..rounds.max(1) {
        let probe = Probe::new(world, receiver)?;
        let backend = probe.backend()?;
        let all = format!("/v1/services/{BIG}/backends");
        let one = format!("{all}/{backend}:{BIG_PORT}");
        let again = format!("{{\"address\":\"{backend}\",\"port\":{BIG_PORT}}}");
        let (away, back) = match kind {
            Kind::Weight => (("PATCH", &one, "{\"weight\":0}"), ("PATCH", &one, "{\"weight\":1}")),
            Kind::Backend => (("DELETE", &one, ""), ("POST", &all, again.as_str())),
        };
        for ((method, path, body), leaves) in [(away, true), (back, false)] {
            let begun = Instant::now();
            let effective = std::thread::scope(|scope| {
                let given = scope.spawn(|| orders.give(method, path, body));
                let effective = probe.until("the order is effective", |_, now| (now == backend) != leaves);
                given.join().map_err(|_| anyhow::anyhow!("an order panicked"))??;
                effective
            })?;
            times.push(effective - begun);
        }
    }
    Ok(Row::new(format!("{}, {how}", kind.name()), times))
}

fn load(world: &World) -> Result<Load> {
    let mut load = Load::none();
    let socket = world.topology.client.enter(|| UdpSocket::bind("0.0.0.0:0"))??;
    let small = world.size.services - 1;
    let vips: Vec<_> = (0..small).map(|index| world.small_vip(index)).collect();
    load.add(LOAD_DATAGRAMS, move |number| {
        let to = match number % 2 {
            0 => (BIG_VIP, BIG_VIP_PORT).into(),
            _ => vips[(number as usize).wrapping_mul(7_919) % vips.len()],
        };
        let _ = socket.send_to(b"load", to);
    });
    let mut orders = Orders::connect(world.control().socket())?;
    load.add(LOAD_ORDERS, move |number| {
        let name = small_name((number as usize).wrapping_mul(7_919) % small);
        let body = format!("{{\"answer_echo\":{}}}", number / small as u64 % 2 == 1);
        if let Err(error) = orders.give("PATCH", &format!("/v1/services/{name}"), &body) {
            eprintln!("an order of the load: {error:#}");
        }
    });
    Ok(load)
}

/// What the controller tells of itself.
fn exported(world: &World) -> Result<Vec<String>> {
    let reply = world.control().send(hyper::Method::GET, "/metrics", "")?;
    let text = reply.body.as_str().context("metrics are text")?.to_owned();
    let lines = text.lines().filter(|line| line.starts_with("portcullis_order_effective_seconds"));
    Ok(lines.map(str::to_owned).collect())
}
