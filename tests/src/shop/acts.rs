//! What happens, in order. Each act says what it promises; its requests are judged when it is over.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use crate::{
    eventually::eventually,
    interrupt,
    load::Tally,
    screen::{Act, Screen},
    server::name,
    shop::stage::{SERVERS, SHOP, Stage},
};

/// The longest that anything in the story takes on a slow machine.
const LIMIT: Duration = Duration::from_secs(60);
/// Answers that an act sees before it ends.
const ANSWERS: u64 = 1_500;
/// From a verdict of the health checks to the last packet that was steered by the table before it.
const INSTALLING: Duration = Duration::from_millis(500);

/// The server that is drained.
const DRAINED: usize = 1;
/// The server that is killed.
const KILLED: usize = 2;
/// The server that joins.
const JOINING: usize = SERVERS - 1;

/// All acts.
pub fn play(stage: &mut Stage, screen: &mut Screen) -> Result<()> {
    act(stage, screen, "three servers are open", nothing_fails, |show| {
        show.until_answers(ANSWERS)?;
        let server = show.stage.curl()?;
        show.say(&format!("  curl was served by {server}"));
        Ok(())
    })?;
    act(stage, screen, "a fourth joins", nothing_fails, |show| {
        show.stage.open(JOINING)?;
        show.lbctl(&["backend", "add", SHOP, &show.stage.backend(JOINING).to_string()])?;
        show.until_served_by(JOINING)?;
        show.until_answers(ANSWERS)
    })?;
    act(stage, screen, "one is drained and closes", nothing_fails, |show| {
        let backend = show.stage.backend(DRAINED);
        show.lbctl(&["backend", "drain", SHOP, &backend.to_string()])?;
        show.stage.control().installed()?;
        // The proof: none of its flows is left, and none that nobody knows of can be.
        show.until("its drain has ended", |stage| {
            let found = stage.control().backend(SHOP, backend)?;
            ensure!(found["drain"]["ended"] == "0 left", "{found}");
            Ok(())
        })?;
        show.say("  the drain ended: 0 left");
        let mut server = show.stage.take(DRAINED)?;
        server.begin_closing()?;
        show.until("the server has closed", |_| {
            ensure!(server.has_ended()?, "it has connections");
            Ok(())
        })?;
        show.lbctl(&["backend", "delete", SHOP, &backend.to_string()])?;
        show.until_answers(ANSWERS)
    })?;
    let killed = Instant::now();
    let judge = |tally: &Tally| only_the_killed_fails(tally, killed);
    act(stage, screen, "one is killed", judge, |show| {
        show.stage.take(KILLED)?.kill()?;
        let backend = show.stage.backend(KILLED);
        show.until("the controller knows", |stage| {
            let found = stage.control().backend(SHOP, backend)?;
            ensure!(found["installed"]["state"] == "down", "{found}");
            Ok(())
        })?;
        show.until_answers(ANSWERS)
    })?;
    act(stage, screen, "both come back", nothing_fails, |show| {
        show.stage.open(KILLED)?;
        show.stage.open(DRAINED)?;
        show.lbctl(&["backend", "add", SHOP, &show.stage.backend(DRAINED).to_string()])?;
        show.until_served_by(KILLED)?;
        show.until_served_by(DRAINED)?;
        show.until_answers(ANSWERS)
    })?;
    act(stage, screen, "a rush, by wrk too", nothing_fails, |show| {
        match show.stage.wrk()? {
            Some(summary) => show.say(&format!("  wrk: {summary}, no errors")),
            None => show.say("  wrk is not installed: left out"),
        }
        show.until_answers(ANSWERS)
    })
}

/// The running act.
struct Show<'a> {
    stage: &'a mut Stage,
    screen: &'a mut Screen,
    before: Tally,
}

fn act(
    stage: &mut Stage,
    screen: &mut Screen,
    title: &'static str,
    judge: impl Fn(&Tally) -> Option<String>,
    happen: impl FnOnce(&mut Show) -> Result<()>,
) -> Result<()> {
    screen.say(&format!("{}{}", title[..1].to_uppercase(), &title[1..]));
    let (begun, before) = (Instant::now(), stage.load.tally());
    let mut show = Show { stage, screen, before: before.clone() };
    happen(&mut show)?;
    let tally = stage.load.tally().since(&before);
    let (broken, served) = (judge(&tally), tally.by_server.clone());
    screen.end_act(Act { title, tally, served, took: begun.elapsed(), broken });
    Ok(())
}

impl Show<'_> {
    fn say(&mut self, line: &str) {
        self.screen.say(line);
    }

    /// What an operator types, shown as such.
    fn lbctl(&mut self, arguments: &[&str]) -> Result<()> {
        self.say(&format!("  lbctl {}", arguments.join(" ")));
        self.stage.control().lbctl_ok(arguments).map(drop)
    }

    fn until(&mut self, what: &str, mut look: impl FnMut(&Stage) -> Result<()>) -> Result<()> {
        let (stage, screen) = (&*self.stage, &mut *self.screen);
        eventually(what, LIMIT, || {
            // The inner error is final, the outer one is "not yet".
            if let Err(interrupted) = interrupt::check() {
                return Ok(Err(interrupted));
            }
            screen.live(&stage.load.tally());
            look(stage).map(Ok)
        })?
    }

    fn until_answers(&mut self, count: u64) -> Result<()> {
        let goal = self.stage.load.tally().answered + count;
        self.until("requests are answered", |stage| {
            let answered = stage.load.tally().answered;
            ensure!(answered >= goal, "{answered} of {goal}");
            Ok(())
        })
    }

    fn until_served_by(&mut self, index: usize) -> Result<()> {
        let (name, before) = (name(index), self.before.of(&name(index)));
        self.until("it serves", |stage| {
            let tally = stage.load.tally();
            ensure!(tally.of(&name) > before, "{name} has no answers: {:?}", tally.by_server);
            Ok(())
        })
    }
}

fn nothing_fails(tally: &Tally) -> Option<String> {
    match (tally.failed(), tally.resteered) {
        (0, 0) => None,
        (failed, resteered) => Some(format!("{failed} requests failed, {resteered} connections moved")),
    }
}

/// Failures on connections of other servers, or begun after the death must have been known, are too many.
fn only_the_killed_fails(tally: &Tally, killed: Instant) -> Option<String> {
    let killed_name = name(KILLED);
    let known = killed + Stage::detection() + INSTALLING;
    let others = tally
        .failures
        .iter()
        .filter(|failure| failure.server.as_ref().is_some_and(|name| *name != killed_name));
    let late = tally.failures.iter().filter(|failure| failure.begun > known);
    match (others.count(), late.count(), tally.resteered) {
        (0, 0, 0) => None,
        (others, late, resteered) => Some(format!(
            "{others} failed on other servers, {late} began after detection, {resteered} connections moved"
        )),
    }
}
