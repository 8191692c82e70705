//! The command line.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::{Args, Parser, Subcommand};

use crate::{
    key::{self, KeyCommand},
    log,
    reload::{self, LoadError},
    run,
};

/// Portcullis' API gateway: one entry point in front of HTTP services
///
/// Authenticates callers, checks what they may do and how often, routes requests by host, path and method, joins the
/// answers of several services into one, and reshapes what goes in and out. Everything is said in one YAML file.
#[derive(Debug, Parser)]
#[command(name = "gateway", version, propagate_version = true)]
pub struct Cli {
    /// What to do
    #[command(subcommand)]
    pub command: Command,
}

/// What the gateway can be asked to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve until SIGTERM
    ///
    /// The file is read again when it changes and on SIGHUP: a valid one takes the place of the present configuration
    /// without losing a request, one with an error changes nothing and is logged with line and column.
    #[command(after_long_help = RUN_NOTES)]
    Run(RunArgs),
    /// Check a configuration file and say what is wrong with it, with line and column
    ///
    /// Ends with 0 if the gateway would take the file (warnings do not count), with 1 if not.
    #[command(after_long_help = CHECK_EXAMPLES)]
    Check {
        /// The file to check
        file: PathBuf,
    },
    /// Make API keys, and the digests by which the configuration knows them
    #[command(subcommand, after_long_help = KEY_EXAMPLES)]
    Key(KeyCommand),
}

const RUN_NOTES: &str = "\
Signals:
  SIGTERM, SIGINT  stop: the health path answers 503 for drain.unready, then answers close their
                   connections for drain.close, then idle connections are closed and requests may
                   end for drain.end; a second one ends at once
  SIGHUP           read the configuration again, open the access log's file anew
  SIGUSR2          start this program anew, which may be another version by now, and let it take
                   over: it gets the listening sockets, and this process serves what it has taken
                   for drain.close and drain.end; if the new one does not serve, this one goes on

Examples:
  gateway run --config /etc/portcullis/gateway.yaml
  RUST_LOG=gateway=debug gateway run --config gateway.yaml

The smallest configuration:
  listen: [127.0.0.1:8080]
  upstreams:
    shop: { endpoints: [127.0.0.1:9001] }
  routes:
    - { name: shop, path: '/{*rest}', authenticate: [anonymous], upstream: shop }";

const CHECK_EXAMPLES: &str = "\
Examples:
  gateway check gateway.yaml
  gateway check new.yaml && mv new.yaml /etc/portcullis/gateway.yaml";

const KEY_EXAMPLES: &str = "\
Examples:
  gateway key new
  gateway key digest < key.txt";

/// Options of `run`.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// The configuration (YAML)
    #[arg(long, value_name = "FILE", env = "GATEWAY_CONFIG")]
    pub config: PathBuf,
}

/// Does what the command line says.
pub fn execute(cli: Cli) -> ExitCode {
    let done = match cli.command {
        Command::Run(args) => {
            log::to_stderr();
            run::run(&args.config)
        }
        Command::Check { file } => return check(&file),
        Command::Key(command) => key::run(&command, std::io::stdin(), std::io::stdout()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn check(file: &Path) -> ExitCode {
    let shown = file.display();
    match reload::load(file, None) {
        Ok((_, warnings)) => {
            for finding in &warnings.0 {
                eprintln!("{shown}:{finding}");
            }
            println!("{shown}: can be used");
            ExitCode::SUCCESS
        }
        Err(LoadError::Wrong(findings)) => {
            for finding in &findings.0 {
                eprintln!("{shown}:{finding}");
            }
            eprintln!("{shown}: is refused");
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
