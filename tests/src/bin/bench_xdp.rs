//! Measures what a packet costs; `cargo xtask bench xdp` builds what it needs and runs it.

use std::{fs, path::PathBuf, process::ExitCode};

use anyhow::{Context as _, Result, ensure};
use clap::Parser;
use lb_common::Reason;
use tests::{
    bench::{
        report,
        row::{Floor, Row, Scenario},
        stage::{Routes, Stage},
    },
    requires::{DIRECTORY_PREFIX, prepare},
};

/// Packets of one measurement, and of the warm-up before it.
const REPEAT: u32 = 1_000_000;
const WARM_UP: u32 = 100_000;

/// Measure what a packet costs in each mode and scenario.
#[derive(Parser)]
struct Args {
    /// Also write the rows to this file, as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Measurements of each row; their median counts
    #[arg(long, value_name = "N", default_value_t = 9)]
    rounds: u32,
    /// Only rows of the load balancer whose "mode scenario flows" contains this; floor rows always run
    #[arg(long, value_name = "TEXT", default_value = "")]
    filter: String,
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<()> {
    prepare()?;
    let object = std::env::var_os("PORTCULLIS_BENCH_OBJECT").context(
        "PORTCULLIS_BENCH_OBJECT names no object with the measuring programs: run\n  cargo xtask bench xdp",
    )?;
    let measuring = fs::read(&object).with_context(|| object.display().to_string())?;
    let load_balancer = fs::read(env!("PORTCULLIS_BPF_OBJECT")).context(env!("PORTCULLIS_BPF_OBJECT"))?;
    let pin_dir = PathBuf::from(format!("/sys/fs/bpf/{DIRECTORY_PREFIX}{}-bench", std::process::id()));

    let routes = Routes::create()?;
    let rounds = routes.enter(|| {
        pin_to_one_cpu()?;
        let stage = Stage::build(&load_balancer, &measuring, pin_dir)?;
        measure(stage, args)
    })??;

    let measured = report::outcomes(&rounds);
    println!("{}", report::table(&measured));
    for line in report::bars(&measured) {
        println!("{line}");
    }
    if let Some(path) = &args.json {
        let text = serde_json::to_string_pretty(&report::json(&measured))?;
        fs::write(path, text + "\n").with_context(|| path.display().to_string())?;
    }
    Ok(())
}

/// Every row once in every round, so that a machine that drifts drifts for all alike.
fn measure(mut stage: Stage, args: &Args) -> Result<Vec<(Row, Vec<f64>)>> {
    let wanted = |row: &Row| {
        let (_, mode, scenario) = row.names();
        matches!(row, Row::Floor(..)) || format!("{mode} {scenario} {}", row.flows()).contains(&args.filter)
    };
    let mut rounds: Vec<(Row, Vec<f64>)> =
        Row::all().into_iter().filter(wanted).map(|row| (row, Vec::new())).collect();
    let chosen = rounds.iter().any(|(row, _)| matches!(row, Row::Shipped(..)));
    ensure!(chosen, "no row's \"mode scenario flows\" contains {:?}", args.filter);
    for round in 0..args.rounds.max(1) {
        eprintln!("round {} of {}", round + 1, args.rounds.max(1));
        for (row, times) in &mut rounds {
            stage.prepare(*row)?;
            times.push(measure_row(&mut stage, *row)?);
        }
    }
    Ok(rounds)
}

fn measure_row(stage: &mut Stage, row: Row) -> Result<f64> {
    let repeat = match row {
        // Each flow once, on purpose without a warm-up.
        Row::Shipped(_, Scenario::MovingInsert, flows) => flows,
        _ => {
            stage.measure(row, WARM_UP)?;
            REPEAT
        }
    };
    let before = stage.reasons()?;
    let (nanoseconds, action) = stage.measure(row, repeat)?;
    if let Row::Shipped(_, scenario, _) = row {
        let expected = reason(scenario);
        let counted = stage.reasons()?[expected as usize] - before[expected as usize];
        ensure!(
            counted == repeat as u64,
            "{row:?}: {counted} of {repeat} packets were {}, action {action}",
            expected.name()
        );
    } else if !matches!(row, Row::Floor(Floor::Loop, _)) {
        const XDP_TX: u32 = 3;
        ensure!(action == XDP_TX, "{row:?}: action {action}");
    }
    if let Row::Shipped(_, Scenario::MovingInsert, flows) = row {
        let remembered = stage.flow_count()?;
        ensure!(remembered == flows as usize, "{row:?}: {remembered} of {flows} flows are remembered");
    }
    Ok(nanoseconds)
}

/// What must have become of every packet, or the row measured something else.
const fn reason(scenario: Scenario) -> Reason {
    match scenario {
        Scenario::Settled
        | Scenario::MovingInsert
        | Scenario::MovingHit
        | Scenario::PinnedMiss
        | Scenario::Syn
        | Scenario::Udp => Reason::Forwarded,
        Scenario::Reply => Reason::Replied,
        Scenario::NotOurs => Reason::NotOurs,
        Scenario::Drop => Reason::FragmentUnknown,
    }
}

/// Keeps this thread on the CPU that it is on: the caches of another are cold.
fn pin_to_one_cpu() -> Result<()> {
    // SAFETY: a zeroed set is empty; the calls take it by pointer and length.
    let result = unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(libc::sched_getcpu().max(0) as usize, &mut set);
        libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &set)
    };
    ensure!(result == 0, "sched_setaffinity: {}", std::io::Error::last_os_error());
    Ok(())
}
