//! Measures what a request costs; `cargo xtask bench gateway` builds what it needs and runs it.

use std::{path::PathBuf, process::ExitCode};

use anyhow::{Result, ensure};
use clap::Parser;
use tests::{
    bench::{exit, write_rows},
    bench_gateway::{report, row::Row, stage::Stage},
};

/// Measure what a request costs at the gateway and at other proxies.
#[derive(Parser)]
struct Args {
    /// Our gateway's program
    #[arg(long, value_name = "FILE")]
    gateway: Option<PathBuf>,
    /// Python's environment with the proxies that Debian has not
    #[arg(long, value_name = "FOLDER")]
    venv: Option<PathBuf>,
    /// Also write the rows to this file, as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Measurements of each row; their median counts
    #[arg(long, value_name = "N", default_value_t = 9)]
    rounds: usize,
    /// How long each measurement takes
    #[arg(long, value_name = "N", default_value_t = 3)]
    seconds: u32,
    /// Only rows whose "proxy row" contains this
    #[arg(long, value_name = "TEXT", default_value = "")]
    filter: String,
    /// One short round, without figures: whether each row measures what it says
    #[arg(long)]
    check: bool,
}

fn main() -> ExitCode {
    exit(run(&Args::parse()))
}

fn run(args: &Args) -> Result<()> {
    let wanted = |row: &Row| row.name().contains(&args.filter);
    ensure!(Row::round(0).iter().any(wanted), "no row's \"proxy row\" contains {:?}", args.filter);
    let stage = Stage::build(args.gateway.clone(), args.venv.clone())?;
    let cores = stage.cores();
    eprintln!("the proxy on core {}, origin and clients on core {}", cores.proxy, cores.others);

    if args.check {
        let rows: Vec<Row> = Row::round(0).into_iter().filter(wanted).collect();
        for row in &rows {
            stage.measure(*row, 1)?;
        }
        println!("{} rows measure what they say", rows.len());
        return Ok(());
    }
    let mut rounds = Vec::new();
    for number in 0..args.rounds.max(1) {
        eprintln!("round {} of {}", number + 1, args.rounds.max(1));
        let mut round = Vec::new();
        for row in Row::round(number).into_iter().filter(wanted) {
            round.push((row, stage.measure(row, args.seconds.max(1))?));
        }
        rounds.push(round);
    }

    println!("{}", report::table(&rounds));
    for line in report::bars(&rounds).into_iter().chain(report::warnings(&rounds)) {
        println!("{line}");
    }
    write_rows(args.json.as_ref(), || report::json(&rounds))?;
    Ok(())
}
