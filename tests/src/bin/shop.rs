//! The story of the shop as a program: `cargo xtask demo --story shop`.

use std::process::ExitCode;

use clap::Parser;

/// Plays an e-commerce site under load in network namespaces, while servers are added, drained, killed and
/// brought back. On a terminal it stays up afterwards, until Ctrl-C.
#[derive(Parser)]
struct Options {
    /// End after the story: exit code 0 if every promise was kept, else 1.
    #[arg(long)]
    check: bool,
}

fn main() -> ExitCode {
    match tests::shop::play(Options::parse().check) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("shop: {error:#}");
            ExitCode::FAILURE
        }
    }
}
