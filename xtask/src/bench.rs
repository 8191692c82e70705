//! Benches: builds them and hands over to the measuring program in crate `tests`.

use std::env;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Result, anyhow};

use crate::build_ebpf;
use crate::host;
use crate::python::{self, List};
use crate::setup::{self, Needs};
use crate::step::{describe, shown, step};
use crate::workspace::{self, Profile};

/// Rows that insert flows and find them again: a round takes five seconds.
const SHORT_ROUND: &str = "nat ipv4 moving";

/// Measure what a packet costs, or a request
///
/// xdp: runs the packet path's stages in the kernel over prepared packets, each many times, and subtracts what
/// the measuring itself costs. forward: packets per second over virtual cables on one core, beside the kernel's own
/// forwarding and nftables. table: what a service's table takes to build, change, grow and swap. scale: has
/// a controller with 10,000 services take orders and start. gateway: loads the
/// gateway, nginx, HAProxy, Envoy, Traefik and Caddy in turn over loopback, on a core of their own in a namespace of
/// their own. Close other
/// programs first: the numbers are nanoseconds and microseconds.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  \
    cargo xtask bench xdp                      a table on the terminal\n  \
    cargo xtask bench xdp --json rows.json     the rows for machines as well\n  \
    cargo xtask bench forward                  beside kernel forwarding and nftables, seven minutes\n  \
    cargo xtask bench table                    a minute after a release build\n  \
    cargo xtask bench scale                    ten minutes after a release build\n  \
    cargo xtask bench gateway                  beside five other proxies, twenty minutes\n\n\
    What follows `--` goes to the measuring program as it is: cargo xtask bench xdp -- --help")]
pub struct Args {
    /// What to measure
    #[arg(value_enum)]
    what: What,
    /// Also write the rows to this file, as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Measurements of each row; their median counts
    #[arg(long, value_name = "N")]
    rounds: Option<u32>,
    /// Options of the measuring program itself
    #[arg(last = true)]
    rest: Vec<String>,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum What {
    /// The packet path, one row per mode, scenario and number of flows
    Xdp,
    /// Packets per second on one core, one row per system, mode, family and number of flows
    Forward,
    /// A service's table, one row per kind of work, number of backends and of slots
    Table,
    /// The controller with 10,000 services: orders until the first packet, and starts
    Scale,
    /// The gateway beside other proxies, one row per proxy and kind of work
    Gateway,
}

pub fn run(args: &Args) -> Result<()> {
    let mut command = match args.what {
        What::Xdp => {
            host::runs_bpf().map_err(|why| anyhow!("{why}; run\n  {}", host::as_root()))?;
            setup::ensure(Needs::default())?;
            built_for_packets("bench_xdp")?
        }
        What::Forward => {
            host::runs_bpf().map_err(|why| anyhow!("{why}; run\n  {}", host::as_root()))?;
            setup::ensure(Needs { network: true, peers: true, ..Needs::default() })?;
            built_for_packets("bench_forward")?
        }
        What::Table => {
            host::runs_bpf().map_err(|why| anyhow!("{why}; run\n  {}", host::as_root()))?;
            setup::ensure(Needs::default())?;
            // The controller's own code is measured here, so it is built as it is for a balancer that stays.
            let built = step("build", || {
                workspace::build(Profile::Release, &["-p", "tests", "--bin", "bench_table"])
            })?;
            Command::new(built.executable("bench_table")?)
        }
        What::Scale => {
            host::runs_bpf().map_err(|why| anyhow!("{why}; run\n  {}", host::as_root()))?;
            setup::ensure(Needs { network: true, ..Needs::default() })?;
            built_for_orders()?
        }
        What::Gateway => {
            setup::ensure(Needs { network: true, peers: true, ..Needs::default() })?;
            built_for_requests(Profile::Release)?
        }
    };
    if let Some(json) = &args.json {
        command.arg("--json").arg(env::current_dir()?.join(json));
    }
    if let Some(rounds) = args.rounds {
        command.args(["--rounds", &rounds.to_string()]);
    }
    command.args(&args.rest);
    Err(anyhow!(command.exec()).context(format!("cannot run {}", describe(&command))))
}

/// A few rows in one round, for a machine that is set up: that it runs, and that each row measures what it says.
pub fn short_rounds() -> Result<()> {
    shown(built_for_packets("bench_xdp")?.args(["--rounds", "1", "--filter", SHORT_ROUND]))?;
    // Every row; how fast it is does not matter, so that the build may be the tests' own.
    shown(built_for_requests(Profile::Dev)?.arg("--check"))
}

/// A program that measures packets, built, without options.
fn built_for_packets(program: &str) -> Result<Command> {
    let object =
        step("build the measuring program for BPF", || Ok(build_ebpf::build(&workspace::root(), "bench")?))?;
    let built = step("build", || workspace::build(Profile::Dev, &["-p", "tests", "--bin", program]))?;
    let mut command = Command::new(built.executable(program)?);
    command.env("PORTCULLIS_BENCH_OBJECT", object);
    Ok(command)
}

/// The program that measures orders, built, with the controller as it is for a balancer that stays.
fn built_for_orders() -> Result<Command> {
    let controller =
        step("build the controller", || workspace::build(Profile::Release, &["-p", "lb-control", "--bins"]))?;
    let built = step("build", || workspace::build(Profile::Dev, &["-p", "tests", "--bin", "bench_scale"]))?;
    let mut command = Command::new(built.executable("bench_scale")?);
    command.arg("--controller").arg(controller.executable("lb-control")?);
    Ok(command)
}

/// The program that measures requests, built, with a gateway that was built as `profile` says.
fn built_for_requests(profile: Profile) -> Result<Command> {
    let gateway = step("build the gateway", || workspace::build(profile, &["-p", "gateway", "--bins"]))?;
    let built = step("build", || workspace::build(Profile::Dev, &["-p", "tests", "--bin", "bench_gateway"]))?;
    let mut command = Command::new(built.executable("bench_gateway")?);
    command.arg("--gateway").arg(gateway.executable("gateway")?);
    command.arg("--venv").arg(python::ensure(List::Proxies)?);
    Ok(command)
}
