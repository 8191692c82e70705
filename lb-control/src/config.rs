//! The daemon's configuration: command line over file over defaults. An error names line, field and rule.

mod file;
mod packets;

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail};
use clap::{Args, Parser, Subcommand, ValueEnum};
use lb_common::limits;
use serde::Deserialize;

use crate::{api::TcpConfig, model::Service};

pub use file::{File, Invalid};
pub use packets::{FullNat, Packets, Tunnel};

/// Portcullis' controller: balances TCP and UDP connections in the kernel's receive path
///
/// Attaches an XDP program to network interfaces, checks the health of backends and keeps the program's
/// tables true. Orders are taken over a Unix socket in the runtime directory: use `lbctl`.
#[derive(Debug, Parser)]
#[command(name = "lb-control", version, propagate_version = true)]
pub struct Cli {
    /// What to do
    #[command(subcommand)]
    pub command: Command,
}

/// What the daemon can be asked to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Attach to interfaces and balance until SIGTERM
    ///
    /// When it ends, however it ends, the program and its tables stay: packets keep flowing, and the next
    /// start takes over from what is installed. `lb-control unload` removes everything.
    #[command(after_long_help = RUN_EXAMPLES)]
    Run(RunArgs),
    /// Take the program and its tables off this host
    ///
    /// Every connection through the balancer is cut. Refuses while a controller runs.
    Unload(UnloadArgs),
    /// Check a configuration file and say what is wrong with it, line by line
    Check {
        /// The file to check
        file: PathBuf,
    },
}

const RUN_EXAMPLES: &str = "\
Examples:
  One interface, orders by lbctl:
    lb-control run --iface eth0
    lbctl service create shop --address 192.0.2.10 --port 80 --backend 10.0.0.11:8080
  Clients on eth0, backends on eth1, settings and first services from a file:
    lb-control run --iface eth0,eth1 --config /etc/portcullis/lb-control.toml
  The API over TCP too, for holders of a token in the file:
    lb-control run --iface eth0 --listen-tcp 10.0.0.5:9180 --token-file /etc/portcullis/tokens";

/// Options of `run`; each wins over the file's setting of the same name.
#[derive(Debug, Default, Args)]
pub struct RunArgs {
    /// Interfaces to attach to, separated by commas: where clients' packets and backends' replies arrive
    #[arg(long = "iface", value_name = "IFACE[,IFACE]", value_delimiter = ',')]
    pub interfaces: Vec<String>,
    /// Settings and first services (TOML); see examples/lb-control.toml
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Where orders are kept across restarts [default: /var/lib/portcullis]
    #[arg(long, value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
    /// Where the API's socket is made [default: /run/portcullis]
    #[arg(long, value_name = "DIR")]
    pub runtime_dir: Option<PathBuf>,
    /// Where program and tables are pinned, on a bpffs [default: /sys/fs/bpf/portcullis]
    #[arg(long, value_name = "DIR")]
    pub pin_dir: Option<PathBuf>,
    /// Where the program runs [default: auto]
    #[arg(long)]
    pub mode: Option<AttachMode>,
    /// What is logged, by the daemon and by the program in the kernel [default: info]
    #[arg(long, value_name = "LEVEL")]
    pub log_level: Option<LogLevel>,
    /// Serve the API on this TCP address too
    #[arg(long, value_name = "ADDR:PORT")]
    pub listen_tcp: Option<SocketAddr>,
    /// Bearer tokens that the TCP address accepts, one a line
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
}

/// Options of `unload`.
#[derive(Debug, Args)]
pub struct UnloadArgs {
    /// Where program and tables are pinned
    #[arg(long, value_name = "DIR", default_value = Directories::PINS)]
    pub pin_dir: PathBuf,
}

/// Where the program is attached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum AttachMode {
    /// In the driver where it can, else in the generic hook
    #[default]
    Auto,
    /// In the driver or not at all
    Driver,
    /// In the generic hook: works with every driver, slower
    Generic,
}

/// How much is logged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)]
pub enum LogLevel {
    Error,
    Warn,
    #[default]
    Info,
    Debug,
    Trace,
}

impl LogLevel {
    /// The word that filters take.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }

    /// The number that the program's logging takes.
    pub const fn number(self) -> u8 {
        match self {
            Self::Error => 1,
            Self::Warn => 2,
            Self::Info => 3,
            Self::Debug => 4,
            Self::Trace => 5,
        }
    }
}

/// Whether sockets of this host reach services.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum LocalClients {
    /// What they send to a virtual address goes where routes say.
    #[default]
    Off,
    /// They are turned to backends, if their process is in this cgroup or below it; by default in any.
    On(Option<PathBuf>),
}

/// Where things are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Directories {
    /// The store.
    pub state: PathBuf,
    /// The socket.
    pub runtime: PathBuf,
    /// Pinned program, links and maps.
    pub pins: PathBuf,
}

impl Directories {
    const STATE: &str = "/var/lib/portcullis";
    const RUNTIME: &str = "/run/portcullis";
    const PINS: &str = "/sys/fs/bpf/portcullis";
}

/// Capacities of the maps, for when they are created.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacities {
    /// Remembered flows.
    pub flows: u32,
    /// Slots of all services.
    pub slots: u32,
}

impl Default for Capacities {
    fn default() -> Self {
        Self { flows: limits::FLOWS, slots: limits::SLOTS }
    }
}

/// Everything that `run` needs, checked.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Names of the interfaces to attach to.
    pub interfaces: Vec<String>,
    /// How to attach.
    pub mode: AttachMode,
    /// See [`LogLevel`].
    pub log_level: LogLevel,
    /// See [`Directories`].
    pub directories: Directories,
    /// See [`Capacities`].
    pub capacities: Capacities,
    /// See [`Packets`].
    pub packets: Packets,
    /// See [`LocalClients`].
    pub local_clients: LocalClients,
    /// The API over TCP, where wanted.
    pub tcp_api: Option<TcpConfig>,
    /// Services that are made at the start unless the store has them.
    pub services: Vec<Service>,
}

impl Config {
    /// From the command line and the file that it names.
    pub fn load(args: RunArgs) -> anyhow::Result<Self> {
        let file = match &args.config {
            Some(path) => read(path)?,
            None => File::default(),
        };
        Self::merge(args, file)
    }

    fn merge(args: RunArgs, file: File) -> anyhow::Result<Self> {
        let interfaces = if args.interfaces.is_empty() { file.interfaces } else { args.interfaces };
        if interfaces.is_empty() {
            bail!("no interface is given: use `--iface eth0`, or `interfaces = [\"eth0\"]` in the file");
        }
        if let Some((index, rule)) = file::interface_rule(&interfaces) {
            bail!("--iface: {:?} {rule}", interfaces[index]);
        }
        let listen = args.listen_tcp.or(file.listen_tcp);
        let token_file = args.token_file.or(file.token_file);
        let tcp_api = match (listen, token_file) {
            (Some(listen), Some(token_file)) => Some(TcpConfig { address: listen, token_file }),
            (Some(listen), None) => {
                bail!("--listen-tcp {listen}: needs --token-file, the bearer tokens that it accepts")
            }
            (None, _) => None,
        };
        let directory = |args: Option<PathBuf>, file: Option<PathBuf>, default: &str| {
            args.or(file).unwrap_or_else(|| default.into())
        };
        Ok(Self {
            interfaces,
            mode: args.mode.unwrap_or(file.mode),
            log_level: args.log_level.unwrap_or(file.log_level),
            directories: Directories {
                state: directory(args.state_dir, file.state_dir, Directories::STATE),
                runtime: directory(args.runtime_dir, file.runtime_dir, Directories::RUNTIME),
                pins: directory(args.pin_dir, file.pin_dir, Directories::PINS),
            },
            capacities: file.capacities,
            packets: file.packets,
            local_clients: file.local_clients,
            tcp_api,
            services: file.services,
        })
    }
}

/// Reads and checks a file.
pub fn read(path: &Path) -> anyhow::Result<File> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    File::parse(&text).map_err(|invalid| anyhow::anyhow!("{}", invalid.in_file(path)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(line: &str) -> RunArgs {
        let words = ["lb-control", "run"].into_iter().chain(line.split_whitespace());
        match Cli::try_parse_from(words).map(|cli| cli.command) {
            Ok(Command::Run(args)) => args,
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn the_command_line_wins_over_the_file_over_the_defaults() {
        let file = "interfaces = [\"eth7\"]\nmode = \"driver\"\nlog_level = \"warn\"\nstate_dir = \"/s\"\n";
        let file = File::parse(file).expect("it is right");
        let config = Config::merge(args("--iface eth0,eth1 --mode generic"), file).expect("it is right");
        assert_eq!(config.interfaces, ["eth0", "eth1"]);
        assert_eq!(config.mode, AttachMode::Generic);
        assert_eq!(config.log_level, LogLevel::Warn);
        assert_eq!(config.directories.state, Path::new("/s"));
        assert_eq!(config.directories.pins, Path::new("/sys/fs/bpf/portcullis"));
    }

    #[test]
    fn what_the_command_line_lacks_is_named() {
        for (line, expected) in [
            ("", "no interface"),
            ("--iface eth0 --listen-tcp 127.0.0.1:9180", "needs --token-file"),
            ("--iface eth0,eth0", "is given twice"),
            ("--iface a-name-that-is-too-long", "is no interface name"),
        ] {
            let error = Config::merge(args(line), File::default()).expect_err(line).to_string();
            assert!(error.contains(expected), "{line}: {error}");
        }
    }

    #[test]
    fn the_help_is_consistent() {
        use clap::CommandFactory as _;
        Cli::command().debug_assert();
    }
}
