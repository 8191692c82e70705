//! Medians, the table for people, the rows for machines, and the bars in words.

use lb_common::Mode;
use serde_json::{Value, json};

use super::row::{Floor, Names, Row, Scenario};

/// What was measured of one row.
#[derive(Clone, Copy, Debug)]
pub struct Measured {
    /// Which.
    pub row: Row,
    /// Median nanoseconds of one packet, without the wrapper.
    pub net_ns: f64,
    /// From the first to the third quartile of the rounds.
    pub spread_ns: f64,
    /// The wrapper's median, which was taken off; zero where it does not run.
    pub wrapper_ns: f64,
}

/// The outcome of all rows from the nanoseconds of each round.
pub fn outcomes(rounds: &[(Row, Vec<f64>)]) -> Vec<Measured> {
    let wrapper = |flows: u32| {
        let row = Row::Floor(Floor::Empty, flows);
        rounds.iter().find(|(other, _)| *other == row).map_or(0.0, |(_, times)| quantile(times, 0.5))
    };
    rounds
        .iter()
        .map(|(row, times)| {
            let wrapper_ns =
                if matches!(row, Row::Floor(Floor::Loop, _)) { 0.0 } else { wrapper(row.flows()) };
            Measured {
                row: *row,
                net_ns: quantile(times, 0.5) - wrapper_ns,
                spread_ns: quantile(times, 0.75) - quantile(times, 0.25),
                wrapper_ns,
            }
        })
        .collect()
}

/// The rows for machines.
pub fn json(measured: &[Measured]) -> Value {
    let row = |one: &Measured| {
        let (program, mode, scenario) = one.row.names();
        json!({
            "program": program,
            "mode": mode,
            "family": "ipv4",
            "scenario": scenario,
            "flows": one.row.flows(),
            "net_ns": one.net_ns,
            "spread_ns": one.spread_ns,
            "wrapper_ns": one.wrapper_ns,
        })
    };
    Value::Array(measured.iter().map(row).collect())
}

/// The rows for people: a line for a scenario, a column for a number of flows.
pub fn table(measured: &[Measured]) -> String {
    let mut text = format!(
        "nanoseconds of one packet: median, and from the first to the third quartile of the rounds\n\
         {:<12} {:<8} {:<18} {:>14} {:>14} {:>14}\n",
        "program", "mode", "scenario", "1 flow", "64 Ki flows", "1 Mi flows"
    );
    let mut lines: Vec<(Names, [String; 3])> = Vec::new();
    for one in measured {
        let names = one.row.names();
        let column = super::row::FLOWS.iter().position(|&flows| flows == one.row.flows()).unwrap_or(0);
        let at = lines.iter().position(|(other, _)| *other == names).unwrap_or_else(|| {
            lines.push((names, Default::default()));
            lines.len() - 1
        });
        lines[at].1[column] = format!("{:.0} ±{:.0}", one.net_ns, one.spread_ns / 2.0);
    }
    for ((program, mode, scenario), [one, some, many]) in lines {
        text += &format!("{program:<12} {mode:<8} {scenario:<18} {one:>14} {some:>14} {many:>14}\n");
    }
    let wrapper = net(measured, Row::Floor(Floor::Loop, 1));
    if let (Some(of_loop), Some(one)) = (wrapper, measured.iter().find(|one| one.wrapper_ns > 0.0)) {
        text += &format!(
            "the wrapper, which is taken off, takes {:.0} ns, the kernel's loop around a program {of_loop:.0}\n",
            one.wrapper_ns
        );
    }
    text
}

/// The bars that the packet path is held to, each met or missed with its figures. Those whose rows were not
/// measured are left out.
pub fn bars(measured: &[Measured]) -> Vec<String> {
    let of = |row| net(measured, row);
    let settled = |flows| of(Row::Shipped(Mode::Nat, Scenario::Settled, flows));
    let floor = |floor, flows| of(Row::Floor(floor, flows));
    let (some, many) = (1 << 16, 1 << 20);
    let mut lines = Vec::new();
    if let (Some(one), Some(floor)) = (settled(1), floor(Floor::ParseService, 1)) {
        lines.push(bar("nat, settled, 1 flow", one, "the floor (parse and one hash lookup)", floor, 40.0));
    }
    if let (Some(many), Some(one)) = (settled(many), settled(1)) {
        lines.push(bar("nat, settled, 1 Mi flows", many, "1 flow", one, 20.0));
    }
    if let (Some(hit), Some(settled), Some(parse), Some(lookup)) = (
        of(Row::Shipped(Mode::Nat, Scenario::MovingHit, some)),
        settled(some),
        floor(Floor::Parse, some),
        floor(Floor::ParseFlow, some),
    ) {
        lines.push(bar(
            "nat, moving-hit, 64 Ki flows",
            hit,
            "settled and one lookup in a plain hash",
            settled + (lookup - parse),
            15.0,
        ));
    }
    lines
}

fn bar(what: &str, found: f64, than: &str, base: f64, allowed: f64) -> String {
    let over = found - base;
    let verdict = if over <= allowed { "met" } else { "MISSED" };
    format!("{verdict}: {what} {found:.0} ns, {over:+.0} over {than} of {base:.0}; +{allowed:.0} are allowed")
}

fn net(measured: &[Measured], row: Row) -> Option<f64> {
    measured.iter().find(|one| one.row == row).map(|one| one.net_ns)
}

/// What `part` of the times are below, between the nearest two; 0.5 is the median.
pub fn quantile(times: &[f64], part: f64) -> f64 {
    let mut sorted = times.to_vec();
    sorted.sort_by(f64::total_cmp);
    let position = part * (sorted.len() - 1) as f64;
    let (low, high) = (sorted[position.floor() as usize], sorted[position.ceil() as usize]);
    low + (high - low) * position.fract()
}
