//! Measures what a service's table takes; `cargo xtask bench table` builds what it needs and runs it.

use std::{fs, path::PathBuf, process::ExitCode};

use anyhow::{Context as _, Result};
use clap::Parser;
use lb_common::Features;
use lb_control::datapath::bpf::{BpfDatapath, BpfOptions};
use tests::{
    bench::{
        exit, pin_to_cpu,
        table::{self, Row},
        write_rows,
    },
    requires::{DIRECTORY_PREFIX, prepare},
};

/// Measure what a service's table takes to build, change, grow and swap.
#[derive(Parser)]
struct Args {
    /// Also write the rows to this file, as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Measurements of each row; their median counts
    #[arg(long, value_name = "N", default_value_t = 31)]
    rounds: u32,
}

fn main() -> ExitCode {
    exit(run(&Args::parse()))
}

fn run(args: &Args) -> Result<()> {
    prepare()?;
    let object = fs::read(env!("PORTCULLIS_BPF_OBJECT")).context(env!("PORTCULLIS_BPF_OBJECT"))?;
    let pin_dir = PathBuf::from(format!("/sys/fs/bpf/{DIRECTORY_PREFIX}{}-table", std::process::id()));
    let measured = measure(&object, pin_dir.clone(), args.rounds);
    BpfDatapath::unload(&pin_dir)?;
    let measured = measured?;
    println!("{}", table::table(&measured)?);
    write_rows(args.json.as_ref(), || table::json(&measured))?;
    Ok(())
}

fn measure(object: &[u8], pin_dir: PathBuf, rounds: u32) -> Result<Vec<table::Measured>> {
    let options =
        BpfOptions { object, pin_dir, log_level: 0, features: Features::NONE, max_entries: Vec::new() };
    let mut datapath = BpfDatapath::open(options)?;
    // SAFETY: a plain call.
    pin_to_cpu(unsafe { libc::sched_getcpu() }.max(0) as usize)?;
    Row::all().into_iter().map(|row| row.measure(&mut datapath, rounds)).collect()
}
