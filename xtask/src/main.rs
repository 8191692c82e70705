//! Every command of the README: `cargo xtask <command>`.
//!
//! One command, one file. `setup` comes before the others by itself, so none needs to be run by hand.

use clap::{Parser, Subcommand};

mod bench;
#[allow(dead_code, reason = "the build scripts of lb-control and tests include it, and use the rest")]
mod build_ebpf;
mod conformance;
mod cpio;
mod demo;
mod fuzz;
mod host;
mod load;
mod packages;
mod python;
mod setup;
mod simulate;
mod step;
mod test;
#[cfg(test)]
mod tidy;
mod toolchain;
mod verify;
mod vm;
mod workspace;

#[derive(Parser)]
#[command(
    name = "cargo xtask",
    bin_name = "cargo xtask",
    about = "Build, try, test and measure Portcullis",
    after_help = "Start here:\n  \
        cargo xtask demo      installs what is missing, builds, and balances real traffic\n  \
        cargo xtask test      the same set-up, then every test\n\n\
        Each command explains itself: cargo xtask <COMMAND> --help"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Setup(setup::Args),
    Demo(demo::Args),
    Test(test::Args),
    Verify(verify::Args),
    Fuzz(fuzz::Args),
    Simulate(simulate::Args),
    Vm(vm::Args),
    Load(load::LoadArgs),
    Unload(load::UnloadArgs),
    Bench(bench::Args),
    Conformance(conformance::Args),
}

fn main() {
    let outcome = match Cli::parse().command {
        Command::Setup(args) => setup::run(&args),
        Command::Demo(args) => demo::run(&args),
        Command::Test(args) => test::run(&args),
        Command::Vm(args) => vm::command(&args),
        Command::Verify(args) => verify::run(&args),
        Command::Fuzz(args) => fuzz::run(&args),
        Command::Simulate(args) => simulate::run(&args),
        Command::Load(args) => load::load(&args),
        Command::Unload(args) => load::unload(&args),
        Command::Bench(args) => bench::run(&args),
        Command::Conformance(args) => conformance::run(&args),
    };
    if let Err(error) = outcome {
        eprintln!("\nerror: {error:#}");
        std::process::exit(1);
    }
}
