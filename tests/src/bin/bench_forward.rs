//! Measures packets per second beside the kernel's own; `cargo xtask bench forward` builds what it needs and runs it.

use std::{fs, path::PathBuf, process::ExitCode};

use anyhow::{Context as _, Result, ensure};
use clap::Parser;
use tests::{
    bench::{
        exit,
        forward::{
            Row, System,
            report::{self, Measured},
            stage::Stage,
            world,
        },
        measuring_object,
        row::Family,
        write_rows,
    },
    requires::{DIRECTORY_PREFIX, is_installed, prepare},
};

/// Measure packets per second on one core, beside the kernel's forwarding and nftables.
#[derive(Parser)]
struct Args {
    /// Also write the rows to this file, as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Also write a chart for each family into this folder, as forward-ipv4.svg and forward-ipv6.svg
    #[arg(long, value_name = "FOLDER")]
    charts: Option<PathBuf>,
    /// Measurements of each row; their median counts
    #[arg(long, value_name = "N", default_value_t = 7)]
    rounds: u32,
    /// The CPU that does everything
    #[arg(long, value_name = "N", default_value_t = 0)]
    cpu: usize,
    /// Only rows whose "system mode family flows" contains this; rows of the relay always run
    #[arg(long, value_name = "TEXT", default_value = "")]
    filter: String,
}

fn main() -> ExitCode {
    exit(run(&Args::parse()))
}

fn run(args: &Args) -> Result<()> {
    prepare()?;
    for tool in ["nft", "conntrack"] {
        ensure!(is_installed(tool), "`{tool}` is not installed: apt-get install nftables conntrack");
    }
    let measuring = measuring_object("forward")?;
    let load_balancer = fs::read(env!("PORTCULLIS_BPF_OBJECT")).context(env!("PORTCULLIS_BPF_OBJECT"))?;
    let pin_dir = PathBuf::from(format!("/sys/fs/bpf/{DIRECTORY_PREFIX}{}-forward", std::process::id()));
    let has_ipvs = world::has_ipvs();
    if !has_ipvs {
        eprintln!("no rows of IPVS: this kernel has none, or ipvsadm is not installed");
    }
    let wanted = |row: &Row| {
        let (system, mode) = row.names();
        let name = format!("{system} {mode} {} {}", row.family.name(), row.flows);
        (row.system != System::Ipvs || has_ipvs)
            && (row.system == System::Relay || name.contains(&args.filter))
    };
    let mut rounds: Vec<_> = Row::all().into_iter().filter(wanted).map(|row| (row, Vec::new())).collect();
    let mut stage = Stage::build(&load_balancer, &measuring, pin_dir, args.cpu)?;
    for round in 0..args.rounds.max(1) {
        eprintln!("round {} of {}", round + 1, args.rounds.max(1));
        for (row, samples) in &mut rounds {
            samples.push(stage.measure(*row)?);
        }
    }
    show(args, &report::outcomes(&rounds))
}

fn show(args: &Args, measured: &[Measured]) -> Result<()> {
    println!("{}", report::table(measured));
    for line in report::bars(measured) {
        println!("{line}");
    }
    write_rows(args.json.as_ref(), || report::json(measured))?;
    if let Some(folder) = &args.charts {
        for family in [Family::V4, Family::V6] {
            let path = folder.join(format!("forward-{}.svg", family.name()));
            fs::write(&path, report::chart(measured, family)).with_context(|| path.display().to_string())?;
        }
    }
    Ok(())
}
