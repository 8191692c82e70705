//! The demo: builds everything and hands over to the story's program in crate `tests`.

use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, anyhow};

use crate::host;
use crate::setup::{self, Needs};
use crate::step::step;
use crate::vm::{self, VmJob};
use crate::workspace::{self, Profile};

/// A story under emulation takes several times as long.
const VM_TIMEOUT: Duration = Duration::from_secs(600);

/// Run Portcullis on real traffic, in network namespaces of its own
///
/// Builds everything, makes namespaces for clients, balancer and servers, starts real HTTP servers and
/// sends real requests through the virtual address while backends are added, drained, killed and
/// brought back. Nothing outside the namespaces is touched. On a terminal it stays up afterwards and says
/// what to try, until Ctrl-C. Where this host lacks root or BPF it runs inside a virtual machine.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  \
    cargo xtask demo             the shop, on this host if it can, else in the virtual machine\n  \
    cargo xtask demo --check     the same, ending with exit code 0 or 1\n  \
    cargo xtask demo --vm        in the virtual machine, with a stock Debian kernel")]
pub struct Args {
    /// Which story to play
    #[arg(long, value_enum, default_value = "shop")]
    story: Story,
    /// End after the story, with exit code 0 if it went as promised and 1 if not
    #[arg(long)]
    check: bool,
    /// Play it inside the virtual machine, which needs no root
    #[arg(long)]
    vm: bool,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Story {
    /// An e-commerce site under load: backends come, drain, die and return
    Shop,
}

impl Story {
    fn binary(self) -> &'static str {
        match self {
            Story::Shop => "shop",
        }
    }
}

pub fn run(args: &Args) -> Result<()> {
    let obstacle = if args.vm { Some("as asked".to_owned()) } else { host::runs_bpf().err() };
    setup::ensure(Needs { network: true, machine: obstacle.is_some(), ..Needs::default() })?;
    let binary = args.story.binary();
    let built =
        step("build", || workspace::build(Profile::Dev, &["-p", "lb-control", "-p", "tests", "--bins"]))?;
    let story = built.executable(binary)?;
    match obstacle {
        None => {
            let mut command = Command::new(story);
            if args.check {
                command.arg("--check");
            }
            // Ctrl-C and the exit code are the story's own from here on.
            Err(anyhow!(command.exec()).context(format!("cannot run {}", story.display())))
        }
        Some(why) => {
            println!("inside the virtual machine ({why})");
            // The story looks for the daemon beside itself, and for its configuration in the checkout.
            let mut files: Vec<_> = built.executables.iter().map(|(_, path)| path.clone()).collect();
            files.push(workspace::root().join("examples"));
            vm::run(&VmJob { command: format!("{} --check", story.display()), files, timeout: VM_TIMEOUT })?
                .into_result()
        }
    }
}
