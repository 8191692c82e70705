//! Conformance: installs foreign clients and servers, builds the gateway, and hands over to the program in crate
//! `tests` that holds it against them.

use std::os::unix::process::CommandExt;
use std::process::Command;

use anyhow::{Result, anyhow};

use crate::host;
use crate::packages;
use crate::python::{self, List};
use crate::setup::{self, Needs};
use crate::step::{describe, shown, step};
use crate::workspace::{self, Profile};

/// Clients and servers from Debian; none of their daemons is started.
const PACKAGES: [&str; 10] = [
    "nginx-light",
    "apache2",
    "haproxy",
    "varnish",
    "gcc", // compiles Varnish's rules
    "lighttpd",
    "nodejs",
    "curl",
    "wrk",
    "slowhttptest",
];

/// Hold the gateway against the protocols, beside foreign clients and servers
///
/// Each part starts real programs in a network namespace of its own, counts its cases by class, and fails with the
/// smallest case that shows what is wrong. It needs root. Without a part, all of them run.
#[derive(clap::Args)]
#[command(after_help = "Parts:\n  \
    smuggling      929 odd requests: we refuse and close, or nginx, Apache, HAProxy, Varnish, lighttpd, Node,\n                 \
                   gunicorn and hyper see exactly what we logged\n  \
    http2          frames and fields that HTTP/2 forbids, made by hand with Python's hyperframe and hpack\n  \
    websocket      Python's websockets through the gateway\n  \
    curl           protocol options of curl\n  \
    slow           slowhttptest: slow heads, bodies and readers keep nobody from being served\n  \
    reload-storm   ten new configurations a second under load: nothing fails, memory stays\n\n\
    Examples:\n  \
    cargo xtask conformance gateway                    all of them, about six minutes\n  \
    cargo xtask conformance gateway smuggling http2    two of them\n\n\
    What the parts prove is written in docs/conformance.md.")]
pub struct Args {
    /// What to hold against the protocols
    #[arg(value_enum)]
    what: What,
    /// Parts, by name
    #[arg(value_name = "PART")]
    parts: Vec<String>,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum What {
    /// The API gateway
    Gateway,
}

pub fn run(args: &Args) -> Result<()> {
    let What::Gateway = args.what;
    let mut command = built()?;
    command.args(&args.parts);
    Err(anyhow!(command.exec()).context(format!("cannot run {}", describe(&command))))
}

/// The parts that are quick enough for every test run.
pub fn short_parts() -> Result<()> {
    shown(built()?.args(["smuggling", "http2", "websocket", "grpc"]))
}

/// The program, with everything that it needs, without parts.
fn built() -> Result<Command> {
    if !host::is_root() {
        return Err(anyhow!("it makes network namespaces; run\n  {}", host::as_root()));
    }
    setup::ensure(Needs { network: true, ..Needs::default() })?;
    if packages::available() {
        packages::install("clients and servers", &PACKAGES)?;
    }
    let venv = python::ensure(List::Conformance)?;
    let gateway = step("build the gateway", || workspace::build(Profile::Dev, &["-p", "gateway", "--bins"]))?;
    let built = step("build", || workspace::build(Profile::Dev, &["-p", "tests", "--bin", "conformance"]))?;
    let mut command = Command::new(built.executable("conformance")?);
    command.arg("--gateway").arg(gateway.executable("gateway")?).arg("--venv").arg(venv);
    Ok(command)
}
