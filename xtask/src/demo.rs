//! The demo: builds everything and hands over to the story's program in crate `tests`.

use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, anyhow, bail};

use crate::host;
use crate::setup::{self, Needs};
use crate::step::step;
use crate::vm::{self, VmJob};
use crate::workspace::{self, Profile};

/// A story under emulation takes several times as long.
const VM_TIMEOUT: Duration = Duration::from_secs(600);

/// Run Portcullis on real traffic, in network namespaces of its own
///
/// Builds everything, makes namespaces for clients, balancer, gateways and services, and sends real requests
/// while gateways and services are added, drained, killed and brought back. The configuration is that in
/// `examples/`. Nothing outside the namespaces is touched. On a terminal it stays up afterwards and says
/// what to try, until Ctrl-C. Where this host lacks root or BPF it runs inside a virtual machine.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  \
    cargo xtask demo                               the bank, with the balancer before and after the gateways\n  \
    cargo xtask demo --topology before --story shop\n  \
    cargo xtask demo --topology balancer           the balancer alone, before a shop's servers\n  \
    cargo xtask demo --check                       ends by itself, with exit code 0 or 1\n  \
    cargo xtask demo --vm                          in the virtual machine, with a stock Debian kernel")]
pub struct Args {
    /// Where the balancer stands
    #[arg(long, value_enum, default_value = "hybrid")]
    topology: Topology,
    /// Which story to play; the balancer alone plays the shop
    #[arg(long, value_enum)]
    story: Option<Story>,
    /// End after the story, with exit code 0 if it went as promised and 1 if not
    #[arg(long)]
    check: bool,
    /// Play it inside the virtual machine, which needs no root
    #[arg(long)]
    vm: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Topology {
    /// Before three gateways: it spreads clients' connections over them
    Before,
    /// After one gateway: every service has a virtual address of its own
    After,
    /// Before the gateways and after them
    Hybrid,
    /// Without gateways: before the servers
    Balancer,
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Story {
    /// A mobile bank: one call returns account, transactions and exchange rates of three services
    Bank,
    /// An e-commerce site under load
    Shop,
}

impl Args {
    /// The program in crate `tests` that plays it, and its options.
    fn program(&self) -> Result<(&'static str, Vec<String>)> {
        let mut options = Vec::new();
        let program = match (self.topology, self.story) {
            (Topology::Balancer, Some(Story::Bank)) => {
                bail!("the bank needs a gateway: --topology before, after or hybrid")
            }
            (Topology::Balancer, _) => "shop",
            (topology, story) => {
                options.extend(["--topology".to_owned(), word(topology)]);
                options.extend(["--story".to_owned(), word(story.unwrap_or(Story::Bank))]);
                "demo"
            }
        };
        if self.check {
            options.push("--check".to_owned());
        }
        Ok((program, options))
    }
}

/// A value as it is written on the command line.
fn word(value: impl clap::ValueEnum) -> String {
    value.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
}

pub fn run(args: &Args) -> Result<()> {
    let (program, mut options) = args.program()?;
    let obstacle = if args.vm { Some("as asked".to_owned()) } else { host::runs_bpf().err() };
    setup::ensure(Needs { network: true, machine: obstacle.is_some(), ..Needs::default() })?;
    let built = step("build", || workspace::build(Profile::Dev, &workspace::DAEMONS))?;
    let story = built.executable(program)?;
    match obstacle {
        None => {
            let mut command = Command::new(story);
            command.args(options);
            // Ctrl-C and the exit code are the story's own from here on.
            Err(anyhow!(command.exec()).context(format!("cannot run {}", story.display())))
        }
        Some(why) => {
            println!("inside the virtual machine ({why})");
            if !args.check {
                options.push("--check".to_owned());
            }
            // The story looks for the daemons beside itself, and for their configuration in the checkout.
            let mut files: Vec<_> = built.executables.iter().map(|(_, path)| path.clone()).collect();
            files.push(workspace::root().join("examples"));
            let command = format!("{} {}", story.display(), options.join(" "));
            vm::run(&VmJob { command, files, timeout: VM_TIMEOUT })?.into_result()
        }
    }
}
