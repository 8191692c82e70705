//! The stories of balancer and gateway together as a program: `cargo xtask demo`.

use std::process::ExitCode;

use clap::Parser;
use tests::demo::{
    cast::{Shape, Story},
    play,
};

/// Plays a bank or a shop in network namespaces, while gateways and services are added, drained, killed and
/// brought back. On a terminal it stays up afterwards, until Ctrl-C.
#[derive(Parser)]
struct Options {
    /// Where the balancer stands
    #[arg(long, value_enum, default_value = "hybrid")]
    topology: Shape,
    /// Which story to play
    #[arg(long, value_enum, default_value = "bank")]
    story: Story,
    /// End after the story: exit code 0 if every promise was kept, else 1.
    #[arg(long)]
    check: bool,
}

fn main() -> ExitCode {
    let options = Options::parse();
    match play(options.topology, options.story, options.check) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("demo: {error:#}");
            ExitCode::FAILURE
        }
    }
}
