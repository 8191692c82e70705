//! The program `gateway`.

use std::process::ExitCode;

use clap::Parser as _;
use gateway::cli::{Cli, execute};

/// Threads allocate and free the same sizes over and over: mimalloc does that without a lock.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    execute(Cli::parse())
}
