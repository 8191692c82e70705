//! The daemon `lb-control`.

#[cfg(all(bpf_object_missing, not(clippy)))]
compile_error!(
    "the BPF object could not be built: no BPF-capable Rust toolchain was found; run `cargo xtask setup`"
);

use std::{io::IsTerminal as _, process::ExitCode};

use anyhow::Context as _;
use clap::Parser as _;
use lb_control::{
    config::{self, Cli, Command, Config, LogLevel},
    controller,
};
use tracing_subscriber::EnvFilter;

/// Orders free on one thread what another allocated, and tables of a megabyte come and go: mimalloc does that without
/// asking the kernel.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The BPF object, aligned as its ELF header asks.
#[cfg(not(bpf_object_missing))]
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/lb-ebpf.o"));
#[cfg(bpf_object_missing)]
static OBJECT: &[u8] = &[];

fn main() -> ExitCode {
    match execute(Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn execute(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Run(args) => {
            let config = Config::load(args)?;
            log_to_stderr(config.log_level);
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .worker_threads(2)
                .enable_all()
                .build()
                .context("cannot start the runtime")?;
            let ended = runtime.block_on(controller::run(config, OBJECT));
            // A check or a poll that is still under way is not waited for.
            runtime.shutdown_background();
            ended
        }
        Command::Unload(args) => {
            log_to_stderr(LogLevel::Warn);
            controller::unload(&args.pin_dir)
        }
        Command::Check { file } => {
            config::read(&file)?;
            println!("{}: is right", file.display());
            Ok(())
        }
    }
}

/// `RUST_LOG` wins over the level; libraries are quiet unless asked.
fn log_to_stderr(level: LogLevel) {
    let level = level.name();
    let default = format!("warn,lb_control={level},portcullis={level},lb_ebpf={level}");
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(default));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_target(false)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
}
