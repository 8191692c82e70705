//! Medians, the table for people, the rows for machines, and the bars in words.

use lb_common::{Algorithm, Mode};
use serde_json::{Value, json};

use super::{
    offer::Offer,
    row::{self, Family, Floor, Names, Row, Scenario},
};

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

/// The outcome of all rows from the nanoseconds of each round. Of a program that puts bytes in front, the wrapper takes
/// them off again: half of what that pair costs is taken off with the wrapper.
pub fn outcomes(rounds: &[(Row, Vec<f64>)]) -> Vec<Measured> {
    let median =
        |row: Row| rounds.iter().find(|(other, _)| *other == row).map(|(_, times)| quantile(times, 0.5));
    let wrapper = |row: Row| {
        let empty = median(Row::Floor(Floor::Empty, row.flows())).unwrap_or(0.0);
        match row {
            Row::Floor(Floor::Loop, _) => 0.0,
            _ if row.grown() == 0 => empty,
            _ => {
                let pair = median(Row::Floor(Floor::Grow(row.grown()), row.flows())).unwrap_or(empty) - empty;
                empty + pair / 2.0
            }
        }
    };
    rounds
        .iter()
        .map(|(row, times)| {
            let wrapper_ns = wrapper(*row);
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
        let (program, mode, family, scenario) = one.row.names();
        json!({
            "program": program,
            "mode": mode,
            "family": family,
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
         {:<12} {:<9} {:<7} {:<43} {:>14} {:>14} {:>14}\n",
        "program", "mode", "family", "scenario", "1 flow", "64 Ki flows", "1 Mi flows"
    );
    let mut lines: Vec<(Names, [String; 3])> = Vec::new();
    for one in measured {
        let names = one.row.names();
        let column = row::FLOWS.iter().position(|&flows| flows == one.row.flows()).unwrap_or(0);
        let at = lines.iter().position(|(other, _)| *other == names).unwrap_or_else(|| {
            lines.push((names.clone(), Default::default()));
            lines.len() - 1
        });
        lines[at].1[column] = format!("{:.0} ±{:.0}", one.net_ns, one.spread_ns / 2.0);
    }
    for ((program, mode, family, scenario), [one, some, many]) in lines {
        text +=
            &format!("{program:<12} {mode:<9} {family:<7} {scenario:<43} {one:>14} {some:>14} {many:>14}\n");
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
    use Family::{V4, V6};
    use Scenario::{MovingHit, NotOurs, Settled, Syn};
    const FLOOR: &str = "the floor (parse and one hash lookup)";
    let of = |mode, family, scenario, flows| {
        net(measured, Row::Shipped(Offer::OnChange(mode), family, scenario, flows))
    };
    let floor = |floor, flows| net(measured, Row::Floor(floor, flows));
    let (some, many) = (1 << 16, 1 << 20);
    let mut lines = Vec::new();
    let mut compare = |what: String, found: Option<f64>, than: &str, base: Option<f64>, allowed: f64| {
        if let (Some(found), Some(base)) = (found, base) {
            lines.push(bar(&what, found, than, base, allowed));
        }
    };
    for (mode, allowed) in [(Mode::Nat, 40.0), (Mode::DsrIpip, 45.0), (Mode::DsrGue, 45.0)] {
        let name = row::mode_name(mode);
        let base = floor(Floor::ParseService(V4), 1);
        let one = of(mode, V4, Settled, 1);
        compare(format!("{name}, settled, 1 flow"), one, FLOOR, base, allowed);
        compare(format!("{name}, SYN, 1 flow"), of(mode, V4, Syn, 1), FLOOR, base, allowed);
        compare(format!("{name}, settled, 1 Mi flows"), of(mode, V4, Settled, many), "1 flow", one, 20.0);
        let quarter = one.map_or(0.0, |one| one / 4.0);
        compare(format!("{name} over IPv6, settled, 1 flow"), of(mode, V6, Settled, 1), "IPv4", one, quarter);
    }
    let base = floor(Floor::ParseService(V4), 1);
    compare("not ours, 1 flow".to_owned(), of(Mode::Nat, V4, NotOurs, 1), FLOOR, base, 25.0);
    if let (Some(settled), Some(parse), Some(lookup)) =
        (of(Mode::Nat, V4, Settled, some), floor(Floor::Parse(V4), some), floor(Floor::ParseFlow, some))
    {
        let than = "settled and one lookup in a plain hash";
        let hit = of(Mode::Nat, V4, MovingHit, some);
        compare("nat, moving-hit, 64 Ki flows".to_owned(), hit, than, Some(settled + (lookup - parse)), 15.0);
    }
    for flows in row::FLOWS {
        let lookup = floor(Floor::ParseFlow, flows).zip(floor(Floor::Parse(V4), flows));
        let allowed = floor(Floor::ParseService(V4), flows)
            .zip(lookup)
            .map(|(base, (lookup, parse))| base + lookup - parse);
        for algorithm in Algorithm::ALL {
            let row = Row::Shipped(Offer::By(algorithm), V4, Scenario::Established, flows);
            let (.., scenario) = row.names();
            let than = "the floor and one lookup in a plain hash";
            compare(format!("{scenario}, {flows} flows"), net(measured, row), than, allowed, 45.0);
        }
    }
    lines
}

/// What two CPUs at once cost each other: nanoseconds of a packet on each alone and while the other runs too.
pub fn at_once(alone: &[f64], together: &[f64]) -> Vec<String> {
    let line = |(cpu, (alone, together)): (usize, (&f64, &f64))| {
        let over = (together / alone - 1.0) * 100.0;
        let verdict = if over <= 10.0 { "met" } else { "MISSED" };
        format!(
            "{verdict}: CPU {cpu}, nat settled, {together:.1} ns beside another CPU, {over:+.1} % over {alone:.1} alone \
             (wrapper included); +10 % is allowed"
        )
    };
    alone.iter().zip(together).enumerate().map(line).collect()
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
