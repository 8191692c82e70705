//! What the audience sees: a live line while something happens, a line per act, a table at the end.

use std::{
    io::{IsTerminal as _, Write as _, stdout},
    time::{Duration, Instant},
};

use crate::{load::Tally, server::name, shop::stage::SERVERS};

/// Between two states of the live line.
pub const REFRESH: Duration = Duration::from_millis(200);

/// The terminal, or a log, and the acts so far.
pub struct Screen {
    live: bool,
    shown: Instant,
    acts: Vec<Act>,
}

/// One act that is over.
struct Act {
    title: &'static str,
    tally: Tally,
    /// What was promised and broken, if anything.
    broken: Option<String>,
}

impl Screen {
    /// An empty one.
    pub fn new() -> Self {
        Self { live: stdout().is_terminal(), shown: Instant::now(), acts: Vec::new() }
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

    /// An act is over; `broken` says which promise it broke.
    pub fn end_act(&mut self, title: &'static str, tally: Tally, broken: Option<String>) {
        let verdict = match &broken {
            None => "as promised".to_string(),
            Some(broken) => format!("BROKEN: {broken}"),
        };
        self.say(&format!("  {} answered, {} failed: {verdict}", tally.answered, tally.failed(),));
        if let (Some(_), Some(failure)) = (&broken, tally.failures.first()) {
            self.say(&format!("  first failure: {failure}"));
        }
        self.acts.push(Act { title, tally, broken });
    }

    /// The table of all acts. True: every promise was kept.
    pub fn table(&mut self) -> bool {
        self.clear();
        let names: Vec<String> = (0..SERVERS).map(name).collect();
        let columns: String = names.iter().map(|name| format!("{name:>8}")).collect();
        println!("\n{:<34}{:>9}{:>10}{:>8}{columns}", "act", "sent", "answered", "failed");
        for Act { title, tally, broken } in &self.acts {
            let shares: String =
                names.iter().map(|name| format!("{:>7.1}%", 100.0 * tally.share(name))).collect();
            println!(
                "{title:<34}{:>9}{:>10}{:>8}{shares}{}",
                tally.sent,
                tally.answered,
                tally.failed(),
                if broken.is_some() { "  BROKEN" } else { "" },
            );
        }
        let total = |count: fn(&Tally) -> u64| self.acts.iter().map(|act| count(&act.tally)).sum::<u64>();
        println!(
            "{:<34}{:>9}{:>10}{:>8}",
            "in all",
            total(|tally| tally.sent),
            total(|tally| tally.answered),
            total(Tally::failed),
        );
        let kept = self.acts.iter().all(|act| act.broken.is_none());
        println!("{}\n", if kept { "Every promise was kept." } else { "A promise was broken." });
        kept
    }

    fn clear(&self) {
        if self.live {
            print!("\r\x1b[K");
        }
    }
}
