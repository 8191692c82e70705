//! Sends the gateway what foreign clients send and what nobody should; `cargo xtask conformance gateway` installs and
//! builds what it needs and runs it.

use std::{path::PathBuf, process::ExitCode, time::Instant};

use anyhow::{Result, bail};
use clap::{Parser, ValueEnum};
use tests::{
    bench::exit,
    conformance::{endurance, protocols, report::Report, smuggling, stage::Stage},
};

/// Hold the gateway against the protocols.
#[derive(Parser)]
struct Args {
    /// Our gateway's program
    #[arg(long, value_name = "FILE")]
    gateway: PathBuf,
    /// Python's environment with the packages that the parts use
    #[arg(long, value_name = "FOLDER")]
    venv: PathBuf,
    /// How long the storm of new configurations lasts
    #[arg(long, value_name = "N", default_value_t = 60)]
    seconds: u32,
    /// What to prove; by default everything
    #[arg(value_enum)]
    parts: Vec<Part>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Part {
    /// Eight origins see what we logged, or nothing
    Smuggling,
    /// HTTP/2 as nobody should speak it
    Http2,
    /// Python's websockets on both sides
    Websocket,
    /// gRPC's Python on both sides
    Grpc,
    /// curl's protocol options
    Curl,
    /// Slow clients keep nobody from being served
    Slow,
    /// Ten configurations a second under load
    ReloadStorm,
}

fn main() -> ExitCode {
    exit(run(&Args::parse()))
}

fn run(args: &Args) -> Result<()> {
    let parts = if args.parts.is_empty() { Part::value_variants() } else { &args.parts };
    let mut failed = Vec::new();
    for part in parts {
        let name = part.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default();
        println!("{name}");
        let begun = Instant::now();
        let report = prove(*part, args)?;
        println!("{report}, {:.1} s", begun.elapsed().as_secs_f32());
        if report.failed() > 0 || report.cases() == 0 {
            failed.push(name);
        }
    }
    if !failed.is_empty() {
        bail!("failed: {}", failed.join(", "));
    }
    Ok(())
}

fn prove(part: Part, args: &Args) -> Result<Report> {
    let stage = |programs| Stage::build(&args.gateway, &args.venv, programs);
    let script = |script| protocols::run_script(&stage(&protocols::PROGRAMS)?, script);
    match part {
        Part::Smuggling => smuggling::run(&stage(&smuggling::PROGRAMS)?),
        Part::Http2 => script("http2.py"),
        Part::Websocket => script("websocket.py"),
        Part::Grpc => script("calls.py"),
        Part::Curl => script("curl.py"),
        Part::Slow => endurance::slow(&stage(&endurance::PROGRAMS)?),
        Part::ReloadStorm => endurance::reload_storm(&stage(&endurance::PROGRAMS)?, args.seconds),
    }
}
