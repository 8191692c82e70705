//! Medians, the table for people, the rows for machines, the chart, and the bars in words. Pure.

use lb_common::Mode;
use serde_json::{Value, json};

use super::{Row, System, Way, stage::Sample};
use crate::bench::{
    chart::Chart,
    report::quantile,
    row::{FLOWS, Family},
};

/// What was measured of one row.
pub struct Measured {
    /// Which.
    pub row: Row,
    /// Median packets per second of the core's time.
    pub pps: f64,
    /// From the first to the third quartile of the rounds.
    pub pps_spread: f64,
    /// Median nanoseconds of CPU per packet.
    pub cpu_ns: f64,
    /// The smallest part of the time that the CPU worked on it.
    pub busy: f64,
}

/// The outcome of all rows from the samples of each round.
pub fn outcomes(rounds: &[(Row, Vec<Sample>)]) -> Vec<Measured> {
    let one = |(row, samples): &(Row, Vec<Sample>)| {
        let all = |of: fn(&Sample) -> f64| samples.iter().map(of).collect::<Vec<_>>();
        let pps = all(|sample| sample.pps);
        Measured {
            row: *row,
            pps: quantile(&pps, 0.5),
            pps_spread: quantile(&pps, 0.75) - quantile(&pps, 0.25),
            cpu_ns: quantile(&all(|sample| sample.cpu_ns), 0.5),
            busy: all(|sample| sample.busy).into_iter().fold(1.0, f64::min),
        }
    };
    rounds.iter().filter(|(_, samples)| !samples.is_empty()).map(one).collect()
}

/// The rows for machines.
pub fn json(measured: &[Measured]) -> Value {
    let row = |one: &Measured| {
        let (system, mode) = one.row.names();
        json!({
            "system": system,
            "mode": mode,
            "family": one.row.family.name(),
            "flows": one.row.flows,
            "pps": one.pps,
            "pps_spread": one.pps_spread,
            "cpu_ns_per_packet": one.cpu_ns,
            "core_busy": one.busy,
        })
    };
    Value::Array(measured.iter().map(row).collect())
}

/// The rows for people: a line for a system, mode and family, a column for a number of flows.
pub fn table(measured: &[Measured]) -> String {
    let mut text = format!(
        "million packets per second of one core's time, and nanoseconds of it per packet: medians of the rounds\n\
         {:<11} {:<9} {:<6} {:>16} {:>16} {:>16}\n",
        "system", "mode", "family", "1 flow", "64 Ki flows", "1 Mi flows"
    );
    for one in measured.iter().filter(|one| is_first(measured, one)) {
        let (system, mode) = one.row.names();
        text += &format!("{system:<11} {mode:<9} {:<6}", one.row.family.name());
        for flows in FLOWS {
            let cell = find(measured, Row { flows, ..one.row })
                .map_or(String::new(), |one| format!("{:.2} {:>5.0} ns", one.pps / 1e6, one.cpu_ns));
            text += &format!(" {cell:>16}");
        }
        text += "\n";
    }
    if let Some(idle) = measured.iter().map(|one| one.busy).filter(|busy| *busy < 0.9).reduce(f64::min) {
        text += &format!(
            "note: in a round other programs held the core for {:.0} % of the time, which is not counted\n",
            (1.0 - idle) * 100.0
        );
    }
    text
}

/// Packets per second by system and flows, of one family.
pub fn chart(measured: &[Measured], family: Family) -> String {
    let groups =
        measured.iter().filter(|one| one.row.family == family && is_first(measured, one)).map(|one| {
            let (system, mode) = one.row.names();
            let values = FLOWS.map(|flows| find(measured, Row { flows, ..one.row }).map(|one| one.pps / 1e6));
            (format!("{system} {mode}"), values.to_vec())
        });
    let title = format!("Million packets per second on one core, {}", family.name());
    let series = ["1 flow", "64 Ki flows", "1 Mi flows"];
    Chart { title: &title, series: &series, groups: groups.collect(), label: |value| format!("{value:.2}") }
        .svg()
}

/// What Portcullis is held to, each met or missed with its figures; and what it is not held to, without a verdict.
pub fn bars(measured: &[Measured]) -> Vec<String> {
    let mut lines = Vec::new();
    for family in [Family::V4, Family::V6] {
        let of = |system, flows| find(measured, Row { system, family, flows });
        for way in Way::ALL {
            let (_, mode) = Row { system: System::Portcullis(way), family, flows: 1 }.names();
            let name = format!("{mode} {}", family.name());
            for flows in FLOWS {
                let (ours, theirs) = (of(System::Portcullis(way), flows), of(System::Nftables, flows));
                if let (Some(ours), Some(theirs)) = (ours, theirs) {
                    let times = ours.pps / theirs.pps;
                    let verdict = if times >= 2.5 { "met" } else { "MISSED" };
                    lines.push(format!(
                        "{verdict}: {name}, {flows} flows: {times:.2} x nftables, at least 2.5 x is wanted"
                    ));
                }
            }
            let (one, many) = (of(System::Portcullis(way), FLOWS[0]), of(System::Portcullis(way), FLOWS[2]));
            if let (Some(one), Some(many)) = (one, many) {
                let fall = (1.0 - many.pps / one.pps) * 100.0;
                let verdict = match way {
                    Way::Tracked => "no bar",
                    Way::Mode(Mode::FullNat) => "no bar",
                    Way::Mode(_) if fall <= 10.0 => "met",
                    Way::Mode(_) => "MISSED",
                };
                lines.push(format!(
                    "{verdict}: {name}, 1 Mi flows: {fall:+.1} % below 1 flow, 10 % is allowed"
                ));
            }
        }
    }
    lines
}

fn find(measured: &[Measured], row: Row) -> Option<&Measured> {
    measured.iter().find(|one| one.row == row)
}

fn is_first(measured: &[Measured], one: &Measured) -> bool {
    let same = |other: &&Measured| (other.row.system, other.row.family) == (one.row.system, one.row.family);
    measured.iter().find(same).is_some_and(|first| first.row == one.row)
}
