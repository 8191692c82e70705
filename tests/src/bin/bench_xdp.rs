//! Measures what a packet costs; `cargo xtask bench xdp` builds what it needs and runs it.

use std::{fs, path::PathBuf, process::ExitCode};

use anyhow::{Context as _, Result, ensure};
use clap::Parser;
use lb_common::{Mode, Reason};
use tests::{
    bench::{
        exit, measuring_object,
        offer::Offer,
        pin_to_cpu, report,
        row::{Family, Floor, Row, Scenario},
        stage::{Routes, Stage},
        write_rows,
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
    /// Only rows of the load balancer whose "mode family scenario flows" contains this; floor rows always run
    #[arg(long, value_name = "TEXT", default_value = "")]
    filter: String,
}

fn main() -> ExitCode {
    exit(run(&Args::parse()))
}

fn run(args: &Args) -> Result<()> {
    prepare()?;
    let measuring = measuring_object("xdp")?;
    let load_balancer = fs::read(env!("PORTCULLIS_BPF_OBJECT")).context(env!("PORTCULLIS_BPF_OBJECT"))?;
    let pin_dir = PathBuf::from(format!("/sys/fs/bpf/{DIRECTORY_PREFIX}{}-bench", std::process::id()));

    let rows = chosen(&args.filter)?;
    let routes = Routes::create()?;
    let rounds = routes.enter(|| {
        pin_to_one_cpu()?;
        let stage = Stage::build(&load_balancer, &measuring, pin_dir, &rows)?;
        measure(stage, args, rows)
    })??;
    let (rounds, at_once) = rounds;

    let measured = report::outcomes(&rounds);
    println!("{}", report::table(&measured));
    for line in report::bars(&measured).into_iter().chain(at_once) {
        println!("{line}");
    }
    write_rows(args.json.as_ref(), || report::json(&measured))?;
    Ok(())
}

/// The floors, and the rows that contain `filter`.
fn chosen(filter: &str) -> Result<Vec<Row>> {
    let wanted = |row: &Row| {
        let (_, mode, family, scenario) = row.names();
        matches!(row, Row::Floor(..))
            || format!("{mode} {family} {scenario} {}", row.flows()).contains(filter)
    };
    let rows: Vec<Row> = Row::all().into_iter().filter(wanted).collect();
    let any = rows.iter().any(|row| matches!(row, Row::Shipped(..)));
    ensure!(any, "no row's \"mode family scenario flows\" contains {filter:?}");
    Ok(rows)
}

/// Every row once in every round, so that a machine that drifts drifts for all alike.
fn measure(mut stage: Stage, args: &Args, rows: Vec<Row>) -> Result<(Rounds, Vec<String>)> {
    let mut rounds: Rounds = rows.into_iter().map(|row| (row, Vec::new())).collect();
    let (mut alone, mut together) = ([Vec::new(), Vec::new()], [Vec::new(), Vec::new()]);
    for round in 0..args.rounds.max(1) {
        pin_to_one_cpu()?;
        eprintln!("round {} of {}", round + 1, args.rounds.max(1));
        for (row, times) in &mut rounds {
            stage.prepare(*row)?;
            times.push(measure_row(&mut stage, *row)?);
        }
        if args.filter.is_empty() {
            stage.prepare(AT_ONCE)?;
            for cpu in [0, 1] {
                alone[cpu].extend(stage.measure_at_once(&[cpu], 2 * REPEAT)?);
            }
            for (times, time) in together.iter_mut().zip(stage.measure_at_once(&[0, 1], 2 * REPEAT)?) {
                times.push(time);
            }
        }
    }
    let median = |times: &Vec<f64>| report::quantile(times, 0.5);
    let at_once = if args.filter.is_empty() {
        report::at_once(&alone.each_ref().map(median), &together.each_ref().map(median))
    } else {
        Vec::new()
    };
    Ok((rounds, at_once))
}

type Rounds = Vec<(Row, Vec<f64>)>;

/// What two CPUs run at once.
const AT_ONCE: Row = Row::Shipped(Offer::OnChange(Mode::Nat), Family::V4, Scenario::Settled, 1 << 16);

fn measure_row(stage: &mut Stage, row: Row) -> Result<f64> {
    let repeat = match row {
        // Each flow once, on purpose without a warm-up.
        Row::Shipped(_, _, scenario, flows) if scenario.runs_once() => flows,
        _ => {
            stage.measure(row, WARM_UP)?;
            REPEAT
        }
    };
    let before = stage.reasons()?;
    let (nanoseconds, action) = stage.measure(row, repeat)?;
    if let Row::Shipped(_, _, scenario, _) = row {
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
    if let Row::Shipped(offer, _, scenario, flows) = row
        && scenario.inserts()
    {
        // Sixteen flows of a client have an entry more.
        let flows = if offer == Offer::Affinity { flows + flows / 16 } else { flows };
        let remembered = stage.flow_count()?;
        ensure!(remembered == flows as usize, "{row:?}: {remembered} of {flows} flows are remembered");
    }
    Ok(nanoseconds)
}

/// What must have become of every packet, or the row measured something else.
const fn reason(scenario: Scenario) -> Reason {
    match scenario {
        Scenario::Settled
        | Scenario::AllFeatures
        | Scenario::MovingInsert
        | Scenario::MovingHit
        | Scenario::PinnedMiss
        | Scenario::Syn
        | Scenario::Established
        | Scenario::Open
        | Scenario::Close
        | Scenario::Udp => Reason::Forwarded,
        Scenario::Reply => Reason::Replied,
        Scenario::NotOurs => Reason::NotOurs,
        Scenario::Drop => Reason::FragmentUnknown,
    }
}

/// Keeps this thread on the CPU that it is on.
fn pin_to_one_cpu() -> Result<()> {
    // SAFETY: a plain call.
    pin_to_cpu(unsafe { libc::sched_getcpu() }.max(0) as usize)
}
