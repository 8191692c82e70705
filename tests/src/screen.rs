//! What the audience of a story sees: a live line while something happens, a line per act, a table at the end.

use std::{
    collections::BTreeMap,
    io::{IsTerminal as _, Write as _, stdout},
    time::{Duration, Instant},
};

use crate::load::Tally;

/// Between two states of the live line.
pub const REFRESH: Duration = Duration::from_millis(200);

/// The terminal, or a log, and the acts so far.
pub struct Screen {
    columns: Vec<String>,
    live: bool,
    shown: Instant,
    acts: Vec<Act>,
}

/// One act that is over.
pub struct Act {
    /// What it is called.
    pub title: &'static str,
    /// What became of the requests meanwhile.
    pub tally: Tally,
    /// Requests by whoever served them; the screen's columns are among these.
    pub served: BTreeMap<String, u64>,
    /// How long it took.
    pub took: Duration,
    /// What was promised and broken, if anything.
    pub broken: Option<String>,
}

impl Screen {
    /// An empty one whose table shows how many requests these served.
    pub fn new(columns: Vec<String>) -> Self {
        Self { columns, live: stdout().is_terminal(), shown: Instant::now(), acts: Vec::new() }
    }

    /// A line that stays.
    pub fn say(&mut self, line: &str) {
        self.clear();
        println!("{line}");
    }

    /// The state of the load, on a terminal only.
    pub fn live(&mut self, tally: &Tally) {
        if !self.live || self.shown.elapsed() < REFRESH {
            return;
        }
        self.shown = Instant::now();
        let shares: Vec<String> =
            tally.by_server.iter().map(|(name, count)| format!("{name} {count}")).collect();
        print!(
            "\r\x1b[K  {} sent · {} answered · {} failed · {}",
            tally.sent,
            tally.answered,
            tally.failed(),
            shares.join(" · ")
        );
        let _ = stdout().flush();
    }

    /// An act is over.
    pub fn end_act(&mut self, act: Act) {
        let verdict = match &act.broken {
            None => "as promised".to_string(),
            Some(broken) => format!("BROKEN: {broken}"),
        };
        let (answered, failed) = (act.tally.answered, act.tally.failed());
        self.say(&format!(
            "  {answered} answered, {failed} failed, {:.1} s: {verdict}",
            act.took.as_secs_f32()
        ));
        if let Some(failure) = act.tally.failures.first() {
            self.say(&format!("  first failure: {failure}"));
        }
        self.acts.push(act);
    }

    /// The table of all acts and the verdict. True: every promise was kept.
    pub fn verdict(&mut self) -> bool {
        self.table();
        let kept = self.acts.iter().all(|act| act.broken.is_none());
        println!("{}\n", if kept { "Every promise was kept." } else { "A promise was broken." });
        kept
    }

    /// The table of the acts that are over.
    pub fn table(&mut self) {
        self.clear();
        let width = |column: &String| column.len().max(7) + 2;
        let heads: String =
            self.columns.iter().map(|column| format!("{column:>width$}", width = width(column))).collect();
        println!("\n{:<36}{:>6}{:>9}{:>10}{:>8}{heads}", "act", "s", "sent", "answered", "failed");
        for Act { title, tally, served, took, broken } in &self.acts {
            let counts: String = self
                .columns
                .iter()
                .map(|column| {
                    let count = served.get(column).copied().unwrap_or_default();
                    format!("{count:>width$}", width = width(column))
                })
                .collect();
            println!(
                "{title:<36}{:>6.1}{:>9}{:>10}{:>8}{counts}{}",
                took.as_secs_f32(),
                tally.sent,
                tally.answered,
                tally.failed(),
                if broken.is_some() { "  BROKEN" } else { "" },
            );
        }
        let total = |count: fn(&Tally) -> u64| self.acts.iter().map(|act| count(&act.tally)).sum::<u64>();
        println!(
            "{:<36}{:>6.1}{:>9}{:>10}{:>8}",
            "in all",
            self.acts.iter().map(|act| act.took).sum::<Duration>().as_secs_f32(),
            total(|tally| tally.sent),
            total(|tally| tally.answered),
            total(Tally::failed),
        );
    }

    fn clear(&self) {
        if self.live {
            print!("\r\x1b[K");
        }
    }
}
