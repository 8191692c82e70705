//! One row: what was done so many times, and how long it took.

use std::{fmt, time::Duration};

use serde_json::{Value, json};

/// Times of one thing.
#[derive(Clone, Debug)]
pub struct Row {
    /// What was done.
    pub what: String,
    /// How long each time took.
    pub times: Vec<Duration>,
    /// The bar, and the share of times that must keep it.
    pub bar: Option<(f64, Duration)>,
}

impl Row {
    /// A row of measured times, at least one.
    pub fn new(what: impl Into<String>, times: Vec<Duration>) -> Self {
        let mut times = times;
        times.sort_unstable();
        Self { what: what.into(), times, bar: None }
    }

    /// With a bar for this share of the times.
    pub fn with_bar(self, share: f64, bar: Duration) -> Self {
        Self { bar: Some((share, bar)), ..self }
    }

    /// The smallest time within which this share of all lies.
    pub fn quantile(&self, share: f64) -> Duration {
        let last = self.times.len().saturating_sub(1);
        let index = (share * self.times.len() as f64).ceil() as usize;
        self.times.get(index.saturating_sub(1).min(last)).copied().unwrap_or_default()
    }

    /// For machines.
    pub fn json(&self) -> Value {
        let ms = |share| milliseconds(self.quantile(share));
        json!({
            "what": self.what, "times": self.times.len(), "p50_ms": ms(0.5), "p99_ms": ms(0.99), "max_ms": ms(1.0),
            "bar_ms": self.bar.map(|(_, bar)| milliseconds(bar)),
            "met": self.bar.map(|(share, bar)| self.quantile(share) <= bar),
        })
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |share| milliseconds(self.quantile(share));
        write!(f, "{:<58} {:>5}", self.what, self.times.len())?;
        write!(f, " {:>10.2} {:>10.2} {:>10.2}", ms(0.5), ms(0.99), ms(1.0))?;
        match self.bar {
            None => Ok(()),
            Some((share, bar)) => {
                let verdict = if self.quantile(share) <= bar { "met" } else { "MISSED" };
                write!(f, "  p{:.0} <= {} ms: {verdict}", share * 100.0, milliseconds(bar))
            }
        }
    }
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_times_that_were_measured() {
        let row = Row::new("orders", (1..=200).rev().map(Duration::from_millis).collect());
        for (share, ms) in [(0.5, 100), (0.99, 198), (1.0, 200), (0.0, 1)] {
            assert_eq!(row.quantile(share), Duration::from_millis(ms), "{share}");
        }
        assert_eq!(row.clone().with_bar(0.99, Duration::from_millis(197)).json()["met"], false);
        assert_eq!(row.with_bar(0.99, Duration::from_millis(198)).json()["met"], true);
    }
}
