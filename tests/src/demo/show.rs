//! A running act: what it waits for, and what the audience sees of it.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use anyhow::{Result, bail, ensure};

use crate::{
    demo::{cast::Part, stage::Stage},
    eventually::eventually,
    interrupt,
    load::Tally,
    screen::{Act, Screen},
};

/// The longest that anything in a story takes on a slow machine.
const LIMIT: Duration = Duration::from_secs(60);

/// The running act.
pub struct Show<'a> {
    /// Everything that is up.
    pub stage: &'a mut Stage,
    screen: &'a mut Screen,
    tally: Tally,
}

/// Lets an act happen and judges its requests when it is over.
pub fn act(
    stage: &mut Stage,
    screen: &mut Screen,
    title: &'static str,
    happen: impl FnOnce(&mut Show) -> Result<()>,
    judge: impl FnOnce(&Tally) -> Option<String>,
) -> Result<()> {
    screen.say(&format!("{}{}", title[..1].to_uppercase(), &title[1..]));
    let (begun, before, served) = (Instant::now(), stage.tally(), stage.served()?);
    let mut show = Show { stage, screen, tally: before.clone() };
    happen(&mut show)?;
    let tally = stage.tally().since(&before);
    let served = difference(stage.served()?, &served);
    let broken = judge(&tally);
    screen.end_act(Act { title, tally, served, took: begun.elapsed(), broken });
    Ok(())
}

impl Show<'_> {
    /// A line that stays.
    pub fn say(&mut self, line: &str) {
        self.screen.say(line);
    }

    /// What an operator types, shown as such.
    pub fn lbctl(&mut self, arguments: &[&str]) -> Result<()> {
        self.say(&format!("  lbctl {}", arguments.join(" ")));
        self.stage.control().lbctl_ok(arguments).map(drop)
    }

    /// Waits until `look` succeeds.
    pub fn until(&mut self, what: &str, mut look: impl FnMut(&mut Stage) -> Result<()>) -> Result<()> {
        let (stage, screen) = (&mut *self.stage, &mut *self.screen);
        eventually(what, LIMIT, || {
            // The inner error is final, the outer one is "not yet".
            if let Err(interrupted) = interrupt::check() {
                return Ok(Err(interrupted));
            }
            screen.live(&stage.tally());
            look(stage).map(Ok)
        })?
    }

    /// Waits until this moment has come.
    pub fn until_instant(&mut self, what: &str, moment: Instant) -> Result<()> {
        self.until(what, |_| {
            ensure!(Instant::now() >= moment);
            Ok(())
        })
    }

    /// Waits for so many answers more.
    pub fn until_answers(&mut self, count: u64) -> Result<()> {
        let goal = self.stage.tally().answered + count;
        self.until("requests are answered", |stage| {
            let answered = stage.tally().answered;
            ensure!(answered >= goal, "{answered} of {goal}");
            Ok(())
        })
    }

    /// Waits until a gateway has answered in this act.
    pub fn until_gateway_answers(&mut self, name: &str) -> Result<()> {
        let before = self.tally.of(name);
        self.until("the gateway answers", |stage| {
            let tally = stage.tally();
            ensure!(tally.of(name) > before, "{name} has no answers: {:?}", tally.by_server);
            Ok(())
        })
    }

    /// Waits until each of these instances serves at least this part of its service's requests, counted over
    /// some time.
    pub fn until_shares(&mut self, parts: &[Part], share: f64) -> Result<()> {
        /// Requests of a service after which its shares are looked at, and counted anew if they do not do.
        const WINDOW: u64 = 150;
        let mut before = self.stage.served()?;
        let mut seen = Vec::new();
        self.until("the instances have their shares", |stage| {
            let since = difference(stage.served()?, &before);
            seen = parts.iter().map(|part| share_of(&since, *part)).collect();
            ensure!(seen.iter().all(|(_, all)| *all >= WINDOW), "{seen:?}");
            if seen.iter().any(|(share_seen, _)| *share_seen < share) {
                before = stage.served()?;
                bail!("{parts:?}: {seen:?}");
            }
            Ok(())
        })?;
        for (part, (share, _)) in parts.iter().zip(seen) {
            self.say(&format!("  {} serves {:.0} % of {}", part.name(), 100.0 * share, part.service));
        }
        Ok(())
    }
}

/// An instance's part of its service's requests, and how many those are.
fn share_of(served: &BTreeMap<String, u64>, part: Part) -> (f64, u64) {
    let of_service = |name: &str| name.trim_end_matches(|c: char| c.is_ascii_digit()) == part.service;
    let all: u64 = served.iter().filter(|(name, _)| of_service(name)).map(|(_, count)| count).sum();
    (served.get(&part.name()).copied().unwrap_or_default() as f64 / all.max(1) as f64, all)
}

/// What was served since `earlier`.
fn difference(mut now: BTreeMap<String, u64>, earlier: &BTreeMap<String, u64>) -> BTreeMap<String, u64> {
    for (name, count) in &mut now {
        *count = count.saturating_sub(earlier.get(name).copied().unwrap_or_default());
    }
    now
}
