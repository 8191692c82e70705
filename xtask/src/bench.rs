//! Benches: builds them and hands over to the measuring program in crate `tests`.

use std::env;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Result, anyhow};

use crate::build_ebpf;
use crate::host;
use crate::setup::{self, Needs};
use crate::step::{describe, shown, step};
use crate::workspace::{self, Profile};

/// Rows that insert flows and find them again: a round takes five seconds.
const SHORT_ROUND: &str = "nat moving";

/// Measure what a packet costs
///
/// Runs the packet path's stages in the kernel over prepared packets, each many times, and subtracts what
/// the measuring itself costs. Close other programs first: the numbers are nanoseconds.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  \
    cargo xtask bench xdp                      a table on the terminal\n  \
    cargo xtask bench xdp --json rows.json     the rows for machines as well\n\n\
    What follows `--` goes to the measuring program as it is: cargo xtask bench xdp -- --help")]
pub struct Args {
    /// What to measure
    #[arg(value_enum)]
    what: What,
    /// Also write the rows to this file, as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Options of the measuring program itself
    #[arg(last = true)]
    rest: Vec<String>,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum What {
    /// The packet path, one row per mode, scenario and number of flows
    Xdp,
}

pub fn run(args: &Args) -> Result<()> {
    let What::Xdp = args.what;
    host::runs_bpf().map_err(|why| anyhow!("{why}; run\n  {}", host::as_root()))?;
    setup::ensure(Needs::default())?;
    let mut command = built()?;
    if let Some(json) = &args.json {
        command.arg("--json").arg(env::current_dir()?.join(json));
    }
    command.args(&args.rest);
    Err(anyhow!(command.exec()).context(format!("cannot run {}", describe(&command))))
}

/// A few rows in one round, for a machine that is set up: that it runs, and that each row measures what it says.
pub fn short_round() -> Result<()> {
    let mut command = built()?;
    shown(command.args(["--rounds", "1", "--filter", SHORT_ROUND]))
}

/// The measuring program, built, without options.
fn built() -> Result<Command> {
    let object =
        step("build the measuring program for BPF", || Ok(build_ebpf::build(&workspace::root(), "bench")?))?;
    let built = step("build", || workspace::build(Profile::Dev, &["-p", "tests", "--bin", "bench_xdp"]))?;
    let mut command = Command::new(built.executable("bench_xdp")?);
    command.env("PORTCULLIS_BENCH_OBJECT", object);
    Ok(command)
}
