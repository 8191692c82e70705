//! `lbctl decap`: orders to this host's kernel, not to a controller.

use std::path::PathBuf;

use clap::{Subcommand, ValueEnum};
use lb_common::DecapReason;
use serde_json::{Value, json};

use super::{client::Failure, show};
use crate::{
    datapath::{
        bpf::{AttachedMode, WantedMode},
        decap::{self, Attached, Options, PIN_DIR},
    },
    model::Network,
};

#[derive(Debug, Subcommand)]
pub enum DecapCommand {
    /// Takes packets out of tunnels on an interface, until it is detached; attached again, with other options.
    ///
    /// IPIP of both families in both, and GUE (UDP) without options. The stack gets the inner packets.
    #[command(after_help = "Example: lbctl decap attach --interface eth0 --from 10.255.0.0/16")]
    Attach {
        /// Where tunnel packets arrive.
        #[arg(long, value_name = "NAME")]
        interface: String,
        /// The UDP port of GUE.
        #[arg(long, value_name = "PORT", default_value_t = 6080, value_parser = clap::value_parser!(u16).range(1..))]
        gue_port: u16,
        /// In the driver, in the stack, or in the driver where it can.
        #[arg(long, value_enum, default_value_t)]
        mode: Mode,
        /// Drops tunnel packets from other sources; up to 16 times. From anybody by default.
        #[arg(long = "from", value_name = "NETWORK")]
        sources: Vec<Network>,
        #[command(flatten)]
        pins: Pins,
    },
    /// Leaves the packets of an interface alone.
    Detach {
        /// Its name, or its number where it has vanished.
        #[arg(long, value_name = "NAME")]
        interface: String,
        #[command(flatten)]
        pins: Pins,
    },
    /// Where it runs, and what became of the packets.
    Status {
        /// Of this interface only.
        #[arg(long, value_name = "NAME")]
        interface: Option<String>,
        #[command(flatten)]
        pins: Pins,
    },
}

/// Where links and maps are kept.
#[derive(clap::Args, Debug)]
pub struct Pins {
    /// Below a mounted bpffs.
    #[arg(long, value_name = "PATH", default_value = PIN_DIR)]
    pin_dir: PathBuf,
}

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
pub enum Mode {
    #[default]
    Auto,
    Driver,
    Generic,
}

impl Mode {
    fn wanted(self) -> WantedMode {
        match self {
            Self::Auto => WantedMode::Auto,
            Self::Driver => WantedMode::Only(AttachedMode::Driver),
            Self::Generic => WantedMode::Only(AttachedMode::Generic),
        }
    }
}

/// How people see an answer.
pub type Show = fn(&Value) -> String;

/// Does what was asked; the answer, and how people see it.
pub fn run(command: &DecapCommand) -> Result<(Value, Show), Failure> {
    let answer = match command {
        DecapCommand::Attach { interface, gue_port, mode, sources, pins } => {
            let options = Options { gue_port: *gue_port, sources: sources.clone() };
            decap::attach(&pins.pin_dir, interface, mode.wanted(), &options).map(|mode| {
                (json!({ "interface": interface, "mode": mode.name() }), show::decap_attached as _)
            })
        }
        DecapCommand::Detach { interface, pins } => decap::detach(&pins.pin_dir, interface)
            .map(|()| (json!({ "interface": interface }), show::decap_detached as _)),
        DecapCommand::Status { interface, pins } => decap::status(&pins.pin_dir).map(|all| {
            let asked = |one: &&Attached| interface.is_none() || one.interface == *interface;
            let interfaces: Vec<Value> = all.iter().filter(asked).map(status).collect();
            (json!({ "interfaces": interfaces }), show::decap_status as _)
        }),
    };
    answer.map_err(|error| Failure::Local(format!("{error:#}")))
}

fn status(one: &Attached) -> Value {
    let reasons = DecapReason::ALL.iter().zip(&one.reasons);
    let reasons: Vec<_> =
        reasons.map(|(reason, count)| json!({ "name": reason.name(), "count": count })).collect();
    json!({
        "interface": one.interface,
        "ifindex": one.ifindex,
        "mode": one.mode.name(),
        "gue_port": one.options.gue_port,
        "from": one.options.sources,
        "reasons": reasons,
    })
}
