//! The long differential run; `cargo xtask fuzz diff` builds what it needs and runs it.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Result;
use clap::Parser;
use tests::oracle::run::{Plan, both, host};
use tests::requires::prepare;

/// Judge random packets through the packet path by an oracle of its own.
#[derive(Parser)]
struct Args {
    /// Everything follows from it
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Begin with this configuration of the seed
    #[arg(long, default_value_t = 0)]
    scene: u64,
    /// Stop after so many packets
    #[arg(long, default_value_t = 10_000_000)]
    packets: u64,
    /// Stop after so many minutes
    #[arg(long)]
    minutes: Option<u64>,
    /// Packets of one configuration
    #[arg(long, default_value_t = 5_000)]
    per_scene: u64,
    /// Only the host build: needs neither root nor BPF
    #[arg(long)]
    host: bool,
    /// Read the kernel's reason of every packet, to find the one that a batch's sum speaks of
    #[arg(long)]
    every_reason: bool,
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<bool> {
    let plan = Plan {
        seed: args.seed,
        first_scene: args.scene,
        packets: args.packets,
        per_scene: args.per_scene,
        until: args.minutes.map(|minutes| Instant::now() + Duration::from_secs(60 * minutes)),
        every_reason: args.every_reason,
    };
    println!("seed {}", plan.seed);
    let (report, difference) = if args.host {
        host(&plan)?
    } else {
        prepare()?;
        both(&plan)?
    };
    println!("{}", report.text());
    if let Some(difference) = difference {
        println!("a difference:\n{difference}");
        return Ok(false);
    }
    println!("no difference");
    Ok(true)
}
