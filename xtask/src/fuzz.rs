//! Long runs of random input: the differential test, the check that it finds planted bugs, and libFuzzer's targets.

mod mutants;
mod targets;

use std::process::Command;

use anyhow::{Result, anyhow};

use crate::host;
use crate::setup::{self, Needs};
use crate::step::{shown, step};
use crate::workspace;

/// Search for bugs by random input, for as long as you like
///
/// diff: random packets through the packet path, on the host and in the kernel, each judged by an oracle that shares
/// none of its code. mutants: plants the bugs of tests/mutants one by one, and says after how many packets each is
/// found. Anything else is a target of libFuzzer in fuzz/: parser, icmp, quic, api,
/// config, gateway, screen, path, proxy_protocol.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  \
    cargo xtask fuzz diff                         ten million packets\n  \
    cargo xtask fuzz diff --minutes 60 --seed 7   for an hour, from another seed\n  \
    cargo xtask fuzz diff --host                  without root and BPF\n  \
    cargo xtask fuzz mutants                      does the test find what it should?\n  \
    cargo xtask fuzz parser --minutes 5           a target of libFuzzer")]
pub struct Args {
    /// What to run: `diff`, `mutants`, or a target in fuzz/
    what: String,
    /// Stop after so many minutes
    #[arg(long, value_name = "N")]
    minutes: Option<u64>,
    /// Everything follows from it
    #[arg(long, value_name = "S", default_value_t = 1)]
    seed: u64,
    /// Stop after so many packets
    #[arg(long, value_name = "N")]
    packets: Option<u64>,
    /// diff: only the host build
    #[arg(long)]
    host: bool,
    /// diff: begin with this configuration of the seed
    #[arg(long, value_name = "N")]
    scene: Option<u64>,
    /// diff: read the kernel's reason of every packet
    #[arg(long)]
    every_reason: bool,
}

pub fn run(args: &Args) -> Result<()> {
    match args.what.as_str() {
        "diff" => diff(args),
        "mutants" => {
            setup::ensure(Needs::default())?;
            mutants::run(args.packets.unwrap_or(1_000_000))
        }
        target => targets::run(target, args.minutes.unwrap_or(1)),
    }
}

fn diff(args: &Args) -> Result<()> {
    if !args.host {
        host::runs_bpf().map_err(|why| anyhow!("{why}; run\n  {}\nor add --host", host::as_root()))?;
    }
    setup::ensure(Needs::default())?;
    let built = step("build", || workspace::build_as("fuzz", &["-p", "tests", "--bin", "diff"]))?;
    let mut command = Command::new(built.executable("diff")?);
    command.args(["--seed", &args.seed.to_string()]);
    if let Some(minutes) = args.minutes {
        command.args(["--minutes", &minutes.to_string()]);
    }
    // With a time given, only it ends the run.
    let packets = args.packets.or(args.minutes.map(|_| u64::MAX));
    if let Some(packets) = packets {
        command.args(["--packets", &packets.to_string()]);
    }
    if let Some(scene) = args.scene {
        command.args(["--scene", &scene.to_string()]);
    }
    for (flag, given) in [("--host", args.host), ("--every-reason", args.every_reason)] {
        if given {
            command.arg(flag);
        }
    }
    shown(&mut command)
}
