//! The long form of the simulations in `lb-control/tests/simulation`.

use anyhow::Result;

use crate::setup::{self, Needs};
use crate::step::shown;
use crate::workspace;

/// Simulate changes, floods, drifts and slow servers over the shipped planner and packet path
///
/// `cargo test` runs a short form of each simulation. This runs the long one on all cores and prints its figures, those
/// of docs/algorithms.md and docs/proof.md among them. A failure names its seed.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  \
    cargo xtask simulate                               all of them\n  \
    cargo xtask simulate no_flow_of_a_serving          1,000 seeds x 10,000 flows x 200 changes\n  \
    cargo xtask simulate health_flaps --seed 7 --seeds 1\n  \
    cargo xtask simulate quality                       how evenly each algorithm spreads flows")]
pub struct Args {
    /// Only simulations whose name contains this
    filter: Option<String>,
    /// The first seed
    #[arg(long, value_name = "S")]
    seed: Option<u64>,
    /// So many seeds, where a simulation has several
    #[arg(long, value_name = "N")]
    seeds: Option<u64>,
}

pub fn run(args: &Args) -> Result<()> {
    setup::ensure(Needs::default())?;
    let mut command = workspace::cargo();
    command.args(["test", "--profile", "fuzz", "-p", "lb-control", "--test", "simulation", "--"]);
    // Each takes all cores.
    command.args(["--nocapture", "--test-threads=1"]).args(args.filter.as_slice());
    command.env("SIMULATION", "long");
    for (variable, number) in [("SIMULATION_SEED", args.seed), ("SIMULATION_SEEDS", args.seeds)] {
        if let Some(number) = number {
            command.env(variable, number.to_string());
        }
    }
    shown(&mut command)
}
