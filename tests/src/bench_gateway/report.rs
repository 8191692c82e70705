//! Medians, paired ratios, the table for people, the rows for machines, and the bars in words. Pure.

use serde_json::{Value, json};

use super::{
    row::{Proxy, Row, Work},
    stage::Measured,
};
use crate::bench::report::quantile;

/// A core that was idle for more than this waited for its origin or clients.
const BUSY_LEAST: f64 = 0.95;
/// What ours may cost, as a multiple of nginx's plain proxy in the same round.
const BARS: [(Work, f64); 2] = [(Work::Plain, 1.15), (Work::KeyLimitJwt, 1.4)];

/// What was measured: by round, each row at most once.
pub type Rounds = [Vec<(Row, Measured)>];

/// The rows for machines: the median of each figure over the rounds.
pub fn json(rounds: &Rounds) -> Value {
    let row = |row: Row| {
        let median = |figure: fn(&Measured) -> f64| quantile(&of(rounds, row, figure), 0.5);
        json!({
            "proxy": row.proxy.name(),
            "row": row.work.name(),
            "cpu_us_per_request": median(|one| one.cpu_us_per_request),
            "rps": median(|one| one.seen.rps),
            "p50_us": median(|one| one.seen.p50_us),
            "p99_us": median(|one| one.seen.p99_us),
            "p999_us": median(|one| one.seen.p999_us),
            "rss_kib": median(|one| one.rss_kib),
            "core_busy": median(|one| one.core_busy),
        })
    };
    Value::Array(rows(rounds).into_iter().map(row).collect())
}

/// The rows for people, and the ratios of ours to nginx.
pub fn table(rounds: &Rounds) -> String {
    let mut text = format!(
        "medians of {} rounds; ± is half the distance between the quartiles\n\
         {:<11} {:<21} {:>14} {:>9} {:>8} {:>8} {:>8} {:>9} {:>6}\n",
        rounds.len(),
        "proxy",
        "row",
        "CPU µs/request",
        "rps",
        "p50 µs",
        "p99 µs",
        "p99.9 µs",
        "RSS KiB",
        "core"
    );
    for row in rows(rounds) {
        let median = |figure: fn(&Measured) -> f64| quantile(&of(rounds, row, figure), 0.5);
        let cpu = of(rounds, row, |one| one.cpu_us_per_request);
        let spread = (quantile(&cpu, 0.75) - quantile(&cpu, 0.25)) / 2.0;
        let cpu = format!("{:.1} ±{spread:.1}", quantile(&cpu, 0.5));
        text += &format!(
            "{:<11} {:<21} {cpu:>14} {:>9.0} {:>8.0} {:>8.0} {:>8.0} {:>9.0} {:>4.0} %\n",
            row.proxy.name(),
            row.work.name(),
            median(|one| one.seen.rps),
            median(|one| one.seen.p50_us),
            median(|one| one.seen.p99_us),
            median(|one| one.seen.p999_us),
            median(|one| one.rss_kib),
            100.0 * median(|one| one.core_busy),
        );
    }
    let ratios: String = Work::ALL.into_iter().flat_map(|work| comparisons(rounds, work)).collect();
    if !ratios.is_empty() {
        text += &format!(
            "\nCPU per request, ours over theirs in the same round: median (95 % interval)\n{ratios}"
        );
    }
    text
}

/// Rows whose core was not busy: their figures tell of the origin.
pub fn warnings(rounds: &Rounds) -> Vec<String> {
    let idle = |row: Row| {
        let busy = quantile(&of(rounds, row, |one| one.core_busy), 0.5);
        (busy < BUSY_LEAST).then(|| {
            format!(
                "warning: {}: the proxy's core was busy for {:.0} % of the time only, so that origin and clients \
                 were the bottleneck; its rps and latencies are theirs",
                row.name(),
                100.0 * busy
            )
        })
    };
    rows(rounds).into_iter().filter_map(idle).collect()
}

/// The bars that the gateway is held to, each met or missed with its figures. Those whose rows were not measured
/// are left out.
pub fn bars(rounds: &Rounds) -> Vec<String> {
    BARS.into_iter()
        .filter_map(|(work, allowed)| {
            let ratios = ratios(rounds, work, Row { proxy: Proxy::Nginx, work: Work::Plain });
            let found = (!ratios.is_empty()).then(|| quantile(&ratios, 0.5))?;
            let verdict = if found <= allowed { "met" } else { "MISSED" };
            Some(format!(
                "{verdict}: {} costs {found:.2} of nginx's plain proxy; {allowed:.2} are allowed",
                work.name()
            ))
        })
        .collect()
}

/// A line for each proxy that ours is compared with: the same work, or their plain proxy where they cannot do it.
fn comparisons(rounds: &Rounds, work: Work) -> Vec<String> {
    let line = |proxy: Proxy| {
        let same = Row { proxy, work };
        let other = if rows(rounds).contains(&same) { same } else { Row { proxy, work: Work::Plain } };
        let ratios = ratios(rounds, work, other);
        (!ratios.is_empty()).then(|| {
            let (median, (low, high)) = (quantile(&ratios, 0.5), interval(&ratios));
            format!("{:<21} over {:<20} {median:.2} ({low:.2} to {high:.2})\n", work.name(), other.name())
        })
    };
    Proxy::ALL.into_iter().skip(1).filter_map(line).collect()
}

/// Ours at `work` over another row, round by round.
fn ratios(rounds: &Rounds, work: Work, other: Row) -> Vec<f64> {
    let ours = Row { proxy: Proxy::Portcullis, work };
    let in_round = |round: &Vec<(Row, Measured)>, row: Row| {
        round.iter().find(|(found, _)| *found == row).map(|(_, measured)| measured.cpu_us_per_request)
    };
    rounds.iter().filter_map(|round| Some(in_round(round, ours)? / in_round(round, other)?)).collect()
}

/// Where the true median lies with a probability of 95 %, whatever the distribution: between the order statistics that
/// a fair coin leaves out. Of fewer than six values it is their whole range, and less sure.
fn interval(values: &[f64]) -> (f64, f64) {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let count = sorted.len();
    // The probability that at most `outside` of the values lie on one side of the median.
    let (mut outside, mut sum, mut term) = (0, 0.0, 0.5_f64.powi(count as i32));
    loop {
        sum += term;
        if sum > 0.025 {
            break;
        }
        outside += 1;
        term *= (count + 1 - outside) as f64 / outside as f64;
    }
    let cut = outside.saturating_sub(1);
    (sorted[cut], sorted[count - 1 - cut])
}

/// The rows that were measured, in the order of the table.
fn rows(rounds: &Rounds) -> Vec<Row> {
    let all = Work::ALL.into_iter().flat_map(|work| Proxy::ALL.map(|proxy| Row { proxy, work }));
    all.filter(|row| rounds.iter().flatten().any(|(found, _)| found == row)).collect()
}

fn of(rounds: &Rounds, row: Row, figure: fn(&Measured) -> f64) -> Vec<f64> {
    rounds.iter().flatten().filter(|(found, _)| *found == row).map(|(_, measured)| figure(measured)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench_gateway::load::Seen;

    fn measured(cpu_us_per_request: f64, core_busy: f64) -> Measured {
        let seen = Seen { answers: 1, rps: 1.0, p50_us: 1.0, p99_us: 1.0, p999_us: 1.0 };
        Measured { cpu_us_per_request, seen, rss_kib: 1.0, core_busy }
    }

    /// Each round: ours plain, ours with a token, nginx plain.
    fn rounds(figures: &[[f64; 3]]) -> Vec<Vec<(Row, Measured)>> {
        let row = |proxy, work| Row { proxy, work };
        let round = |&[plain, verified, nginx]: &[f64; 3]| {
            vec![
                (row(Proxy::Portcullis, Work::Plain), measured(plain, 1.0)),
                (row(Proxy::Portcullis, Work::KeyLimitJwt), measured(verified, 0.5)),
                (row(Proxy::Nginx, Work::Plain), measured(nginx, 1.0)),
            ]
        };
        figures.iter().map(round).collect()
    }

    #[test]
    fn ratios_are_taken_within_a_round() {
        // The machine is half as fast in the second round: the medians of the columns would say 1.0 and 1.5.
        let rounds = rounds(&[[10.0, 15.0, 10.0], [22.0, 28.0, 20.0], [11.0, 13.0, 10.0]]);
        assert_eq!(
            bars(&rounds),
            [
                "met: plain proxy costs 1.10 of nginx's plain proxy; 1.15 are allowed",
                "met: key + limit + jwt costs 1.40 of nginx's plain proxy; 1.40 are allowed",
            ]
        );
        assert!(
            table(&rounds).contains("key + limit + jwt     over nginx plain proxy    1.40 (1.30 to 1.50)")
        );
    }

    #[test]
    fn what_was_not_measured_is_left_out() {
        let mut rounds = rounds(&[[10.0, 15.0, 10.0]]);
        rounds[0].retain(|(row, _)| row.proxy == Proxy::Nginx);
        assert!(bars(&rounds).is_empty());
        assert!(!table(&rounds).contains("ours over theirs"));
        assert_eq!(json(&rounds).as_array().map(Vec::len), Some(1));
    }

    #[test]
    fn an_interval_leaves_out_what_a_coin_would() {
        let values = |count: u32| (1..=count).map(f64::from).collect::<Vec<_>>();
        // One of nine on each side: 1 - 2 (1 + 9) / 512 = 96 %.
        assert_eq!(interval(&values(9)), (2.0, 8.0));
        assert_eq!(interval(&values(6)), (1.0, 6.0));
        assert_eq!(interval(&values(1)), (1.0, 1.0));
        assert_eq!(interval(&values(25)), (8.0, 18.0));
    }

    #[test]
    fn an_idle_core_is_warned_of() {
        let warnings = warnings(&rounds(&[[10.0, 15.0, 10.0]]));
        assert_eq!(warnings.len(), 1);
        assert!(warnings[0].contains("portcullis key + limit + jwt") && warnings[0].contains("50 %"));
    }

    #[test]
    fn every_round_has_every_row_and_another_order() {
        let rounds: Vec<_> = (0..Proxy::ALL.len()).map(Row::round).collect();
        for round in &rounds {
            assert_eq!(round.len(), 23);
        }
        let first: Vec<_> = rounds.iter().map(|round| round[0].proxy).collect();
        assert_eq!(first, Proxy::ALL);
    }
}
