//! The command line: what may be asked, and the help that teaches it.

mod flags;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use super::decap::DecapCommand;

use crate::model::address::parse_place;

pub use flags::{BackendFlags, ServiceFlags};

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
  lbctl service patch shop '{\"algorithm\": \"least-connections\"}'
  lbctl backend drain shop 10.1.0.2:8080 --deadline 30 --wait
  lbctl backend delete shop 10.1.0.2:8080 --dry-run
  lbctl backend delete shop 10.1.0.2:8080
  lbctl status
  lbctl decap attach --interface eth0         on a backend of a tunnelled service

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
    pub task: Task,
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

/// Whose business it is.
#[derive(Debug, Subcommand)]
pub enum Task {
    #[command(flatten)]
    Order(Command),
    /// On a backend: takes the balancer's packets out of their tunnels.
    #[command(subcommand)]
    Decap(DecapCommand),
}

/// Orders to the controller.
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
    /// Changes nothing: says how many slots the order would move and how many live flows it would touch.
    #[arg(long, conflicts_with = "wait")]
    pub dry_run: bool,
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
  lbctl service create api --address 10.0.0.1 --port 443 --algorithm least-connections --slow-start 30 \\
      --backend 10.1.0.2,max_connections=500 --backend 10.1.0.3,priority=1 --backend 10.1.0.9,fallback
  lbctl service create dns --address 10.0.0.1 --port 53 --protocol udp --connectionless --backend 10.1.0.5
  lbctl service create web6 --address 2001:db8::80 --port 443 --mode dsr-gue --backend 10.1.0.2 --echo
  lbctl service create media --address 203.0.113.0/24 --ports 8000-8999 --mode dsr-ipip --backend 10.1.0.2
  lbctl service create h3 --address 10.0.0.1 --port 443 --protocol udp --mode dsr-ipip \\
      --quic quic-lb --quic-server-id-length 2 --backend 10.1.0.2,server_id=0a1b
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
        /// Like 10.1.0.2:8080, [2001:db8::2]:8080 or 10.1.0.2,weight=2,server_id=0a1b; the service's port by default.
        backend: String,
        #[command(flatten)]
        fields: BackendFlags,
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
        #[command(flatten)]
        fields: BackendFlags,
        #[command(flatten)]
        terms: Terms,
        /// Returns once the order is installed.
        #[arg(long)]
        wait: bool,
    },
    /// Changes what is given of a backend; no flow that goes by its addresses moves to another backend.
    #[command(group = clap::ArgGroup::new("change").required(true).multiple(true).args(BackendFlags::ALL))]
    Set {
        #[command(flatten)]
        at: At,
        #[command(flatten)]
        fields: BackendFlags,
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
        /// resteer (default) or reset: their packets go to other backends, or for ten seconds the next packet from either
        /// end is answered with a TCP reset.
        #[arg(long, value_name = "HOW", requires = "deadline")]
        on_deadline: Option<String>,
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
    /// Like 10.1.0.2:8080 or [2001:db8::2]:8080; without a port where the service has several.
    #[arg(value_parser = place)]
    pub backend: String,
}

fn place(text: &str) -> Result<String, String> {
    match parse_place(text) {
        Some(_) => Ok(text.to_owned()),
        None => Err("write a backend like 10.1.0.2:8080, [2001:db8::2]:8080 or 10.1.0.2".into()),
    }
}
