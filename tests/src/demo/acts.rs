//! What happens, in order. Each act says what it promises; its requests are judged when it is over.

use std::{
    cell::Cell,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use lb_common::limits::SYN_RETRANSMIT_SECONDS;

use crate::{
    demo::{
        bank::{self, Bank},
        cast::{GATEWAY_SERVICE, GATEWAYS, Part},
        judge::{nothing_fails, only_gateway_fails, only_until},
        shop::{self, Shop},
        show::{Show, act},
        stage::{Customers, DETECTION, GATEWAY_DETECTION, POOL_AGE_MAX, Stage},
    },
    gateway,
    screen::Screen,
};

/// Answers that an act sees before it ends.
const ANSWERS: u64 = 400;
/// From a verdict of health checks to the last packet or request that was steered by what was known before it.
const INSTALLING: Duration = Duration::from_millis(500);
/// A third of a service's calls is an instance's share of three; connections come in lumps.
const SHARE_MIN: f64 = 0.12;

/// The gateway that is drained.
const DRAINED: usize = 1;
/// The gateway that is killed.
const KILLED: usize = 2;
/// The gateway that joins.
const JOINING: usize = GATEWAYS - 1;
/// The same of the moving service's instances, by their numbers.
const DRAINED_PART: usize = 1;
const KILLED_PART: usize = 2;
const JOINING_PART: usize = 3;

/// All acts.
pub fn play(stage: &mut Stage, screen: &mut Screen) -> Result<()> {
    act(stage, screen, "open", open, nothing_fails)?;
    if stage.shape.balances_gateways() {
        act(stage, screen, "a gateway joins", gateway_joins, nothing_fails)?;
    }
    if stage.shape.balances_services() {
        act(stage, screen, "an instance of a service joins", instance_joins, nothing_fails)?;
    }
    let title = match (stage.shape.balances_gateways(), stage.shape.balances_services()) {
        (true, false) => "a gateway is drained and closes",
        (false, _) => "an instance is drained and closes",
        (true, true) => "both are drained and close",
    };
    act(stage, screen, title, drain, nothing_fails)?;
    let known = Cell::new(Instant::now());
    if stage.shape.balances_gateways() {
        act(
            stage,
            screen,
            "a gateway is killed",
            |show| gateway_dies(show, &known),
            |tally| only_gateway_fails(tally, &gateway::name(KILLED), known.get()),
        )?;
    }
    act(
        stage,
        screen,
        "an instance is killed",
        |show| instance_dies(show, &known),
        |tally| only_until(tally, known.get()),
    )?;
    act(stage, screen, "the killed come back", come_back, nothing_fails)?;
    match stage.customers.clone() {
        Customers::Bank(bank) => {
            act(stage, screen, "a service is down", |show| rates_are_down(show, &bank), nothing_fails)
        }
        Customers::Shop(shop) => {
            act(stage, screen, "a rush, by wrk too", rush, nothing_fails)?;
            let error = Cell::new(None);
            let audited = |show: &mut Show| {
                error.set(audit(show, &shop).err());
                Ok(())
            };
            act(stage, screen, "the orders are counted", audited, |tally| {
                error.take().map(|error| format!("{error:#}")).or_else(|| nothing_fails(tally))
            })
        }
    }
}

fn open(show: &mut Show) -> Result<()> {
    show.until_answers(ANSWERS)?;
    let mut lines = Vec::new();
    match &show.stage.customers {
        Customers::Bank(bank) => bank::prove(show.stage, bank, |line| lines.push(line.to_string()))?,
        Customers::Shop(_) => shop::prove(show.stage, |line| lines.push(line.to_string()))?,
    }
    lines.iter().for_each(|line| show.say(line));
    if !show.stage.shape.balances_services() {
        // Here the gateway itself balances the calls between the instances.
        show.until_shares(&show.stage.story.parts(), SHARE_MIN)?;
    }
    Ok(())
}

fn gateway_joins(show: &mut Show) -> Result<()> {
    show.stage.open_gateway(JOINING)?;
    let address = show.stage.gateway_address(JOINING).to_string();
    show.lbctl(&["backend", "add", GATEWAY_SERVICE, &address])?;
    show.until_gateway_answers(&gateway::name(JOINING))?;
    show.until_answers(ANSWERS)
}

/// Pools are recycled by age, so that the newcomer gets its share although the gateways keep connections.
fn instance_joins(show: &mut Show) -> Result<()> {
    let part = show.stage.story.mover(JOINING_PART);
    show.stage.open_instance(part)?;
    show.lbctl(&["backend", "add", part.service, &Stage::part_address(part).to_string()])?;
    show.until_shares(&[part], SHARE_MIN)
}

fn drain(show: &mut Show) -> Result<()> {
    let shape = show.stage.shape;
    let gateway = show.stage.gateway_address(DRAINED).to_string();
    let part = show.stage.story.mover(DRAINED_PART);
    let instance = Stage::part_address(part).to_string();
    if shape.balances_gateways() {
        show.lbctl(&["backend", "drain", GATEWAY_SERVICE, &gateway])?;
    }
    if shape.balances_services() {
        show.lbctl(&["backend", "drain", part.service, &instance])?;
    }
    show.stage.control().installed()?;
    // A SYN that was answered may be sent again, and then reaches the same backend again: for so long connections
    // still begin there, and a gateway keeps the last of them until it is too old.
    let mut quiet = Duration::from_secs(u64::from(SYN_RETRANSMIT_SECONDS));
    if shape.balances_services() {
        quiet += POOL_AGE_MAX;
    }
    show.until_instant("retransmitted SYNs have arrived", Instant::now() + quiet + Duration::from_secs(1))?;
    if shape.balances_gateways() {
        show.say("  SIGTERM to the gateway");
        let mut closing = show.stage.take_gateway(DRAINED)?;
        closing.begin_closing()?;
        if shape.balances_services() {
            instance_leaves(show, part)?;
        }
        show.until("the gateway has closed", |_| {
            ensure!(closing.has_ended()?, "it still runs");
            Ok(())
        })?;
        show.lbctl(&["backend", "delete", GATEWAY_SERVICE, &gateway])?;
    } else {
        instance_leaves(show, part)?;
    }
    if shape.balances_services() {
        show.lbctl(&["backend", "delete", part.service, &instance])?;
    }
    show.until_answers(ANSWERS)
}

/// Once the pools' connections from before its drain are too old, a drained instance gets nothing more.
fn instance_leaves(show: &mut Show, part: Part) -> Result<()> {
    let before = show.stage.instance_served(part)?;
    show.until_answers(ANSWERS)?;
    let after = show.stage.instance_served(part)?;
    ensure!(before == after, "{} got {} requests after its drain", part.name(), after - before);
    show.say(&format!("  {} served {after} requests, the last within max_age; SIGTERM to it", part.name()));
    let mut closing = show.stage.take_instance(part)?;
    closing.begin_closing()?;
    show.until("the instance has closed", |_| {
        ensure!(closing.has_ended()?, "it has connections");
        Ok(())
    })
}

/// Notes until when its death may go unnoticed.
fn gateway_dies(show: &mut Show, known: &Cell<Instant>) -> Result<()> {
    show.say(&format!("  SIGKILL to {}", gateway::name(KILLED)));
    show.stage.take_gateway(KILLED)?.kill()?;
    known.set(Instant::now() + DETECTION + INSTALLING);
    let backend = show.stage.gateway_address(KILLED);
    show.until("the balancer knows", |stage| {
        let found = stage.control().backend(GATEWAY_SERVICE, backend)?;
        ensure!(found["health"] == "down", "{found}");
        Ok(())
    })?;
    show.until_instant("everybody knows", known.get())?;
    show.until_answers(ANSWERS)
}

fn instance_dies(show: &mut Show, known: &Cell<Instant>) -> Result<()> {
    let balanced = show.stage.shape.balances_services();
    let part = show.stage.story.mover(KILLED_PART);
    show.say(&format!("  SIGKILL to {}", part.name()));
    show.stage.take_instance(part)?.kill()?;
    known.set(Instant::now() + if balanced { DETECTION } else { GATEWAY_DETECTION } + INSTALLING);
    if balanced {
        show.until("the balancer knows", |stage| {
            let found = stage.control().backend(part.service, Stage::part_address(part))?;
            ensure!(found["installed"]["state"] == "down", "{found}");
            Ok(())
        })?;
    }
    show.until_instant("everybody knows", known.get())?;
    show.until_answers(ANSWERS)
}

fn come_back(show: &mut Show) -> Result<()> {
    let part = show.stage.story.mover(KILLED_PART);
    show.stage.open_instance(part)?;
    if show.stage.shape.balances_gateways() {
        show.stage.open_gateway(KILLED)?;
        show.until_gateway_answers(&gateway::name(KILLED))?;
    }
    show.until_shares(&[part], SHARE_MIN)
}

/// Without its rates the answer is partial and says so; everything else in it is as it was.
fn rates_are_down(show: &mut Show, bank: &Bank) -> Result<()> {
    let parts = show.stage.story.parts();
    let rates: Vec<Part> = parts.into_iter().filter(|part| part.service == "rates").collect();
    bank.allow_partial(true);
    show.say("  SIGKILL to both instances of rates");
    for part in &rates {
        show.stage.take_instance(*part)?.kill()?;
    }
    let (_, partial) = bank.answers();
    show.until("answers are partial", |_| {
        let now = bank.answers().1 - partial;
        ensure!(now >= ANSWERS / 2, "{now} partial answers");
        Ok(())
    })?;
    for part in &rates {
        show.stage.open_instance(*part)?;
    }
    let mut last = bank.answers();
    show.until("answers are whole again", |_| {
        let now = bank.answers();
        if now.1 > last.1 {
            last = now;
        }
        ensure!(now.0 - last.0 >= ANSWERS / 2, "{} whole answers in a row", now.0 - last.0);
        Ok(())
    })?;
    bank.allow_partial(false);
    let (_, all) = bank.answers();
    show.say(&format!(
        "  {} partial answers, each naming what is missing; then whole ones again",
        all - partial
    ));
    show.until_answers(ANSWERS)
}

fn rush(show: &mut Show) -> Result<()> {
    match show.stage.wrk("/shop/items")? {
        Some(summary) => show.say(&format!("  wrk: {summary}, no errors")),
        None => show.say("  wrk is not installed: left out"),
    }
    show.until_answers(ANSWERS)
}

/// No order is under way: what customers know must be what the journals say.
fn audit(show: &mut Show, shop: &Shop) -> Result<()> {
    show.stage.pause()?;
    let orders = shop.audit(show.stage.directory(), &show.stage.story.parts())?;
    show.say(&format!(
        "  {} orders placed once each, {} more whose answer died with a server, none lost, none twice",
        orders.answered, orders.unanswered
    ));
    Ok(())
}
