//! The budget check of the packet path: hands over to the verifying program in crate `tests`.

use std::process::Command;

use anyhow::{Result, anyhow};

use crate::host;
use crate::setup::{self, Needs};
use crate::step::{shown, step};
use crate::workspace::{self, Profile};

/// Check the BPF object against its budget
///
/// Loads every program of the object into this kernel and prints its instructions, the instructions that
/// the verifier walked, its machine code and its stack. Fails over the budget, which stands in
/// tests/src/bin/verify.rs, and where a panic can be reached.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  cargo xtask verify")]
pub struct Args {}

pub fn run(_args: &Args) -> Result<()> {
    host::runs_bpf().map_err(|why| anyhow!("{why}; run\n  {}", host::as_root()))?;
    setup::ensure(Needs::default())?;
    verify()
}

/// The check itself, for a machine that is set up.
pub fn verify() -> Result<()> {
    let built = step("build", || workspace::build(Profile::Dev, &["-p", "tests", "--bin", "verify"]))?;
    step("verify", || shown(&mut Command::new(built.executable("verify")?)))
}
