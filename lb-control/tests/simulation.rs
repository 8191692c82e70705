//! Simulations over the shipped planner, settling and packet code: the flow promise under everything that may happen,
//! what a change of the table costs, and how evenly each algorithm spreads flows.
//!
//! Everything follows from a seed, which is printed where a simulation fails. `cargo test` runs a short form of each,
//! `cargo xtask simulate` the long one, which also prints the figures of `docs/algorithms.md` and `docs/proof.md`.

#[path = "simulation/balancers.rs"]
mod balancers;
#[path = "simulation/crowd.rs"]
mod crowd;
#[path = "simulation/disturbance.rs"]
mod disturbance;
#[path = "simulation/drift.rs"]
mod drift;
#[path = "simulation/promise.rs"]
mod promise;
#[path = "simulation/quality.rs"]
mod quality;
#[path = "simulation/random.rs"]
mod random;
#[path = "simulation/response.rs"]
mod response;
#[path = "simulation/scarcity.rs"]
mod scarcity;
#[path = "simulation/tracked.rs"]
mod tracked;
#[path = "simulation/world.rs"]
mod world;

use std::sync::atomic::{AtomicU64, Ordering};

/// The first number in the short form, the second where `SIMULATION=long`.
fn short_or_long<T>(short: T, long: T) -> T {
    if std::env::var_os("SIMULATION").is_some_and(|form| form == "long") { long } else { short }
}

/// A number that the caller asks for.
fn asked(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|error| panic!("{variable}={text}: {error}")))
}

/// How many seeds: `SIMULATION_SEEDS`, else by the form.
fn seeds(short: u64, long: u64) -> u64 {
    asked("SIMULATION_SEEDS").unwrap_or(short_or_long(short, long))
}

/// Runs `simulate` for `seeds` seeds from `SIMULATION_SEED` on, on all cores, and adds up what it returns.
fn for_seeds(seeds: u64, simulate: impl Fn(u64) -> u64 + Sync) -> u64 {
    let first = asked("SIMULATION_SEED").unwrap_or(1);
    let (next, sum) = (AtomicU64::new(first), AtomicU64::new(0));
    let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get());
    std::thread::scope(|scope| {
        for _ in 0..cores {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= first + seeds {
                        break;
                    }
                    sum.fetch_add(simulate(seed), Ordering::Relaxed);
                }
            });
        }
    });
    sum.into_inner()
}
