//! Decisions by table, and against a token bucket in exact fractions.

use super::*;
use proptest::prelude::*;

const SECOND_NS: u64 = 1_000_000_000;

fn rate(text: &str, burst: u32) -> Rate {
    Rate::new(text.parse().unwrap(), burst).unwrap()
}

#[test]
fn rates_are_read_or_refused_with_a_reason() {
    for text in ["1/s", "10/s", "100/m", "5/h", "1000000/d"] {
        assert_eq!(text.parse::<PerPeriod>().unwrap().to_string(), text);
    }
    for (text, part) in [
        ("", "is no rate"),
        ("10", "is no rate"),
        ("10/", "is no rate"),
        ("/s", "is no rate"),
        ("10/sec", "is no rate"),
        ("10 / s", "is no rate"),
        ("-1/s", "is no rate"),
        ("+1/s", "is no rate"),
        ("1.5/s", "is no rate"),
        ("10/s/s", "is no rate"),
        ("0/s", "counts 1 to 1000000"),
        ("1000001/s", "counts 1 to 1000000"),
        ("99999999999999999999/s", "counts 1 to 1000000"),
    ] {
        let error = text.parse::<PerPeriod>().unwrap_err().to_string();
        assert!(error.contains(part), "{text}: {error}");
    }
}

#[test]
fn bursts_have_bounds() {
    for (per, burst, part) in [
        ("10/s", 0, "a burst is 1"),
        ("10/s", 1_000_001, "a burst is 1"),
        ("1/d", 367, "longer than 366 days"),
        ("1/h", 1_000_000, "longer than 366 days"),
    ] {
        let error = Rate::new(per.parse().unwrap(), burst).unwrap_err().to_string();
        assert!(error.contains(part), "{per} {burst}: {error}");
    }
    for (per, burst) in [("1/d", 366), ("1000000/d", 1_000_000), ("999983/s", 1_000_000)] {
        rate(per, burst);
    }
}

#[test]
fn a_bucket_empties_and_fills() {
    let rate = rate("2/s", 3);
    let steps = [
        // now ms, admitted, remaining, reset ms, retry after ms
        (1_000, true, 2, 500, 0),
        (1_000, true, 1, 1_000, 0),
        (1_000, true, 0, 1_500, 0),
        (1_000, false, 0, 1_500, 500),
        (1_499, false, 0, 1_001, 1),
        (1_500, true, 0, 1_500, 0),
        (3_000, true, 2, 500, 0),
        (2_900, true, 0, 1_100, 0),
    ];
    let mut tat = 0;
    for (now_ms, admitted, remaining, reset_ms, retry_ms) in steps {
        let expected_reset = reset_ms * 1_000_000;
        match rate.decide(tat, rate.ticks(now_ms * 1_000_000), 1) {
            Verdict::Admit { tat: next, remaining: r, reset_ns } => {
                assert!(admitted, "at {now_ms}");
                assert_eq!((r, reset_ns), (remaining, expected_reset), "at {now_ms}");
                tat = next;
            }
            Verdict::Refuse { remaining: r, reset_ns, retry_after_ns } => {
                assert!(!admitted, "at {now_ms}");
                assert_eq!((r, reset_ns), (remaining, expected_reset), "at {now_ms}");
                assert_eq!(retry_after_ns, retry_ms * 1_000_000, "at {now_ms}");
            }
        }
    }
}

#[test]
fn what_costs_more_than_the_burst_never_passes() {
    let rate = rate("2/s", 3);
    let verdict = rate.decide(0, rate.ticks(SECOND_NS), 4);
    assert_eq!(verdict, Verdict::Refuse { remaining: 3, reset_ns: 0, retry_after_ns: u64::MAX });
    assert!(matches!(rate.decide(0, 0, u32::MAX), Verdict::Refuse { retry_after_ns: u64::MAX, .. }));
}

#[test]
fn the_ends_of_time_do_not_overflow() {
    for per in ["1/d", "999983/s", "1000000/s", "7/m"] {
        let rate = rate(per, 300);
        for (tat, now) in [(0, u64::MAX), (u64::MAX, 0), (u64::MAX, u64::MAX), (0, 0)] {
            rate.decide(tat, rate.ticks(now), 300);
            rate.decide(tat, now, u32::MAX);
        }
    }
}

/// Overloaded evenly for 30 s, awkward rates admit what they promise.
#[test]
fn thirty_seconds_of_overload_admit_rate_times_time_and_burst() {
    for count in [1_u64, 3, 7, 997, 30_000, 29_989] {
        let (rate, mut tat, mut admitted) = (rate(&format!("{count}/s"), 10), 0, 0_u64);
        let (start_ns, step_ns) = (12_345_678_901, SECOND_NS / (count * 10));
        for step in 0..=30 * SECOND_NS / step_ns {
            if let Verdict::Admit { tat: next, .. } =
                rate.decide(tat, rate.ticks(start_ns + step * step_ns), 1)
            {
                (tat, admitted) = (next, admitted + 1);
            }
        }
        assert!(admitted.abs_diff(30 * count + 10) <= 1, "{count}/s: {admitted}");
    }
}

/// A token bucket in exact fractions: tokens are counted in units of 1 / period.
struct Bucket {
    tokens: u128,
    full: u128,
    count: u128,
    price: u128,
    last_ns: u64,
}

impl Bucket {
    fn take(&mut self, now_ns: u64, cost: u32) -> bool {
        self.tokens = (self.tokens + u128::from(now_ns - self.last_ns) * self.count).min(self.full);
        self.last_ns = now_ns;
        let price = self.price * u128::from(cost);
        let enough = self.tokens >= price;
        if enough {
            self.tokens -= price;
        }
        enough
    }
}

fn any_period() -> impl Strategy<Value = Period> {
    prop_oneof![Just(Period::Second), Just(Period::Minute), Just(Period::Hour), Just(Period::Day)]
}

proptest! {
    /// Where ticks are exact, the decisions are those of a token bucket, at every instant.
    #[test]
    fn decides_as_a_token_bucket(
        count in prop_oneof![1_u32..=16, Just(100), Just(1_000), Just(30_000)],
        period in any_period(),
        burst in 1_u32..=50,
        start_ns in 0_u64..10_u64.pow(17),
        // In 1/64 of the time per request.
        steps in prop::collection::vec((0_u64..200, 1_u32..4), 1..200),
    ) {
        let rate = Rate::new(PerPeriod { count, period }, burst).unwrap();
        prop_assert_eq!(rate.divisor, 1);
        let price = u128::from(period.nanoseconds());
        let full = price * u128::from(burst);
        let mut bucket = Bucket { tokens: full, full, count: count.into(), price, last_ns: start_ns };
        let (mut tat, mut now_ns) = (0, start_ns);
        for (gap, cost) in steps {
            now_ns += gap * rate.per.emission_ns() / 64;
            let verdict = rate.decide(tat, rate.ticks(now_ns), cost);
            let tokens = bucket.take(now_ns, cost);
            match verdict {
                Verdict::Admit { tat: next, remaining, .. } => {
                    prop_assert!(tokens);
                    prop_assert_eq!(u128::from(remaining), bucket.tokens / price);
                    tat = next;
                }
                Verdict::Refuse { remaining, retry_after_ns, .. } => {
                    prop_assert!(!tokens);
                    prop_assert_eq!(u128::from(remaining), bucket.tokens / price);
                    if retry_after_ns < u64::MAX {
                        let at = |ns: u64| rate.decide(tat, rate.ticks(now_ns + ns), cost);
                        prop_assert!(matches!(at(retry_after_ns), Verdict::Admit { .. }), "retry-after is enough");
                        prop_assert!(matches!(at(retry_after_ns - 1), Verdict::Refuse { .. }), "and no less is");
                    }
                }
            }
        }
    }

    /// Any rate, any window: never more than rate * time + burst, but for one tick where ticks are not exact.
    #[test]
    fn no_window_admits_more(
        count in 1_u32..=COUNT_MAX,
        period in any_period(),
        burst in 1_u32..=20,
        gaps in prop::collection::vec(0_u64..200, 1..150),
    ) {
        let Ok(rate) = Rate::new(PerPeriod { count, period }, burst) else { return Ok(()) };
        let (mut tat, mut now_ns, mut admitted) = (0, 77_777, Vec::new());
        for gap in gaps {
            now_ns += gap * rate.per.emission_ns() / 64;
            if let Verdict::Admit { tat: next, .. } = rate.decide(tat, rate.ticks(now_ns), 1) {
                tat = next;
                admitted.push(now_ns);
            }
        }
        let (emission, divisor) = (u128::from(rate.emission), u128::from(rate.divisor));
        for (first, from) in admitted.iter().enumerate() {
            for (last, until) in admitted.iter().enumerate().skip(first) {
                let price = (last - first + 1) as u128 * emission * divisor;
                let earned = u128::from(until - from) * u128::from(rate.multiplier);
                let slack = if divisor == 1 { 0 } else { divisor };
                prop_assert!(price <= earned + u128::from(rate.tolerance) * divisor + slack);
            }
        }
    }
}
