//! The command line: what may be asked, and the help that teaches it.

use std::{net::SocketAddr, path::PathBuf};

use clap::{Args, Parser, Subcommand};

const EXAMPLES: &str = "\
Examples:
  lbctl service create shop --address 10.0.0.1 --port 80 --mode nat \\
      --backend 10.1.0.2:8080,weight=2 --backend 10.1.0.3:8080 --check-http /healthz
  lbctl service list
  lbctl service get shop --json > shop.json     edit it, then:
  lbctl service replace shop -f shop.json
  lbctl service patch shop '{\"on_failure\": \"keep\"}'
  lbctl backend add shop 10.1.0.4:8080 --weight 2
  lbctl backend set shop 10.1.0.4:8080 --weight 5
  lbctl backend drain shop 10.1.0.2:8080 --deadline 30 --wait
  lbctl backend delete shop 10.1.0.2:8080
  lbctl status

Exit codes: 0 done; 1 the controller refused, and nothing was changed; 2 the command line is wrong
or no controller was reached.";

/// Asks and orders Portcullis' controller.
#[derive(Debug, Parser)]
#[command(name = "lbctl", version, after_help = EXAMPLES)]
pub struct Cli {
    #[command(flatten)]
    pub connection: Connection,
    /// Prints the controller's answer as JSON.
    #[arg(long, global = true)]
    pub json: bool,
    #[command(subcommand)]
    pub command: Command,
}

/// How to reach the controller.
#[derive(Args, Debug)]
pub struct Connection {
    /// The controller's Unix socket.
    #[arg(
        long,
        global = true,
        value_name = "PATH",
        default_value = "/run/portcullis/control.sock",
        env = "PORTCULLIS_SOCKET",
        hide_env_values = true,
        help_heading = "Connection"
    )]
    pub socket: PathBuf,
    /// Goes over TCP instead, like http://10.0.0.9:9180; needs a token.
    #[arg(long, global = true, value_name = "URL", requires = "token_file", help_heading = "Connection")]
    pub url: Option<String>,
    /// A file whose first line is a token; mode 0600.
    #[arg(long, global = true, value_name = "FILE", requires = "url", help_heading = "Connection")]
    pub token_file: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Services: a virtual address, port and protocol, and its backends.
    #[command(subcommand, visible_alias = "services")]
    Service(ServiceCommand),
    /// Backends of a service.
    #[command(subcommand, visible_alias = "backends")]
    Backend(BackendCommand),
    /// Generations, interfaces, the flow table and the last error.
    Status,
    /// Packets, bytes and flows of every service and backend.
    Counters,
    /// Why packets left the program, and how many.
    Reasons,
    /// Where the program runs.
    Interfaces,
}

/// What every order may say.
#[derive(Args, Clone, Debug, Default)]
pub struct Terms {
    /// Orders only if no other order changed the service after this generation.
    #[arg(long, value_name = "GENERATION")]
    pub if_match: Option<u64>,
}

#[derive(Debug, Subcommand)]
pub enum ServiceCommand {
    /// Lists services.
    #[command(visible_alias = "ls")]
    List,
    /// Shows a service and its backends.
    Get {
        /// The service's name.
        name: String,
    },
    /// Creates a service, from flags or from a JSON file.
    #[command(after_help = "\
Examples:
  lbctl service create shop --address 10.0.0.1 --port 80 --backend 10.1.0.2:8080,weight=2 --check-http /healthz
  lbctl service create dns --address 10.0.0.1 --port 53 --protocol udp --connectionless --backend 10.1.0.5
  lbctl service create -f shop.json        or -f - for standard input")]
    Create {
        /// The service's name; may stand in the file instead.
        name: Option<String>,
        #[command(flatten)]
        service: Box<ServiceFlags>,
        #[command(flatten)]
        terms: Terms,
        /// Returns once the order is installed.
        #[arg(long)]
        wait: bool,
    },
    /// Replaces a service by what a JSON file or flags say; creates it where there is none.
    Replace {
        /// The service's name.
        name: String,
        #[command(flatten)]
        service: Box<ServiceFlags>,
        #[command(flatten)]
        terms: Terms,
        /// Returns once the order is installed.
        #[arg(long)]
        wait: bool,
    },
    /// Changes fields by a JSON merge patch (RFC 7396); null restores a default.
    #[command(after_help = "Example: lbctl service patch shop '{\"health_check\": {\"interval_ms\": 500}}'")]
    Patch {
        /// The service's name.
        name: String,
        /// The patch, unless -f names a file.
        #[arg(required_unless_present = "file")]
        patch: Option<String>,
        /// A file with the patch, or - for standard input.
        #[arg(short, long, value_name = "FILE", conflicts_with = "patch")]
        file: Option<PathBuf>,
        #[command(flatten)]
        terms: Terms,
        /// Returns once the order is installed.
        #[arg(long)]
        wait: bool,
    },
    /// Deletes a service; says how many remembered flows that cuts.
    #[command(visible_aliases = ["remove", "rm"])]
    Delete {
        /// The service's name.
        name: String,
        #[command(flatten)]
        terms: Terms,
        /// Returns once the order is installed.
        #[arg(long)]
        wait: bool,
    },
}

/// A service in flags. What is not given is left to the controller's defaults.
#[derive(Args, Debug, Default)]
pub struct ServiceFlags {
    /// A JSON file as `service get --json` prints it, or - for standard input; flags win over it.
    #[arg(short, long, value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// The virtual address.
    #[arg(long)]
    pub address: Option<String>,
    /// The virtual port.
    #[arg(long)]
    pub port: Option<u16>,
    /// tcp (default) or udp.
    #[arg(long)]
    pub protocol: Option<String>,
    /// nat (default) or dsr-l2.
    #[arg(long)]
    pub mode: Option<String>,
    /// UDP only: remembers nothing, every packet goes where the table says.
    #[arg(long)]
    pub connectionless: bool,
    /// Forgets a flow without a packet for so long; 300 for TCP, 60 for UDP by default.
    #[arg(long, value_name = "SECONDS")]
    pub flow_idle: Option<u32>,
    /// Leaves ARP for the address to others.
    #[arg(long)]
    pub no_arp: bool,
    /// resteer (default) or keep: what happens to the flows of a backend that fails.
    #[arg(long, value_name = "WHAT")]
    pub on_failure: Option<String>,
    /// A backend, like 10.1.0.2:8080 or 10.1.0.2:8080,weight=2; may be given many times.
    #[arg(long = "backend", value_name = "ADDRESS[:PORT][,weight=N]")]
    pub backends: Vec<String>,
    /// Checks backends by opening a connection.
    #[arg(long, conflicts_with = "check_http")]
    pub check_tcp: bool,
    /// Checks backends by a GET of this path.
    #[arg(long, value_name = "PATH")]
    pub check_http: Option<String>,
    /// The Host header of an HTTP check.
    #[arg(long, value_name = "HOST", requires = "check_http")]
    pub check_host: Option<String>,
    /// Between the beginnings of two checks; 2000 by default.
    #[arg(long, value_name = "MS")]
    pub check_interval_ms: Option<u32>,
    /// A check without an answer for so long has failed; 1000 by default.
    #[arg(long, value_name = "MS")]
    pub check_timeout_ms: Option<u32>,
    /// Successes in a row that make a backend healthy; 2 by default.
    #[arg(long, value_name = "N")]
    pub check_rise: Option<u32>,
    /// Failures in a row that make it unhealthy; 3 by default.
    #[arg(long, value_name = "N")]
    pub check_fall: Option<u32>,
    /// The port to check, where it is not the backend's own.
    #[arg(long, value_name = "PORT")]
    pub check_port: Option<u16>,
}

#[derive(Debug, Subcommand)]
pub enum BackendCommand {
    /// Lists a service's backends.
    #[command(visible_alias = "ls")]
    List {
        /// The service's name.
        service: String,
    },
    /// Shows a backend, with the progress of its drain.
    Get {
        #[command(flatten)]
        at: At,
    },
    /// Adds a backend.
    Add {
        /// The service's name.
        service: String,
        /// Like 10.1.0.2:8080 or 10.1.0.2:8080,weight=2; the service's port by default.
        backend: String,
        /// Its share of new flows relative to the others'; 1 by default, 0 takes none.
        #[arg(long)]
        weight: Option<u32>,
        #[command(flatten)]
        terms: Terms,
        /// Returns once the order is installed.
        #[arg(long)]
        wait: bool,
    },
    /// Replaces a backend, or adds it.
    Replace {
        #[command(flatten)]
        at: At,
        /// 1 by default.
        #[arg(long)]
        weight: Option<u32>,
        #[command(flatten)]
        terms: Terms,
        /// Returns once the order is installed.
        #[arg(long)]
        wait: bool,
    },
    /// Changes a backend's weight; no flow moves to another backend.
    Set {
        #[command(flatten)]
        at: At,
        /// Its share of new flows relative to the others'; 0 takes none.
        #[arg(long)]
        weight: u32,
        #[command(flatten)]
        terms: Terms,
        /// Returns once the order is installed.
        #[arg(long)]
        wait: bool,
    },
    /// Drains a backend: old flows stay, new ones go elsewhere.
    ///
    /// For 3 s it still gets the SYNs of what it owned, because such a SYN may be sent again by a client that it
    /// has answered: stop the server after `--wait` is done, or at least that much later.
    #[command(after_help = "Example: lbctl backend drain shop 10.1.0.2:8080 --deadline 30 --wait")]
    Drain {
        #[command(flatten)]
        at: At,
        /// After so many seconds flows that are left are cut; never, by default.
        #[arg(long, value_name = "SECONDS")]
        deadline: Option<u64>,
        #[command(flatten)]
        terms: Terms,
        /// Shows progress until no flow is left or the deadline cuts the rest.
        #[arg(long)]
        wait: bool,
    },
    /// Ends a drain: the backend takes new flows again.
    Undrain {
        #[command(flatten)]
        at: At,
        #[command(flatten)]
        terms: Terms,
        /// Returns once the order is installed.
        #[arg(long)]
        wait: bool,
    },
    /// Deletes a backend at once; says how many remembered flows that cuts.
    #[command(visible_aliases = ["remove", "rm"])]
    Delete {
        #[command(flatten)]
        at: At,
        #[command(flatten)]
        terms: Terms,
        /// Returns once the order is installed.
        #[arg(long)]
        wait: bool,
    },
}

/// A backend of a service.
#[derive(Args, Debug)]
pub struct At {
    /// The service's name.
    pub service: String,
    /// Like 10.1.0.2:8080.
    pub backend: SocketAddr,
}
