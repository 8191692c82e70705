//! What counters must have grown by: every packet is one reason, and counted where it went.

use std::collections::HashMap;

use anyhow::Result;
use lb_common::{BackendId, Counters, Reason};

use super::outcome::Outcome;

/// Sums that counters should have.
#[derive(Default)]
pub struct Expected {
    /// By number.
    pub reasons: Vec<u64>,
    /// By number.
    pub services: HashMap<u32, Counters>,
    /// By id.
    pub backends: HashMap<u32, Counters>,
}

impl Expected {
    /// Takes a packet's outcome in.
    pub fn count(&mut self, outcome: &Outcome) {
        self.reasons[outcome.reason as usize] += 1;
        let Some(tally) = outcome.effects.tally else { return };
        for counters in
            [self.services.entry(tally.service).or_default(), self.backends.entry(tally.backend).or_default()]
        {
            counters.packets += 1;
            counters.bytes += tally.bytes;
            counters.new_flows += u64::from(tally.new_flow);
            counters.refused_flows += u64::from(tally.refused);
        }
    }

    /// Conservation: every packet is one counted reason, and counted where it went.
    pub fn check(
        &self,
        lane: &impl lb_control::datapath::Datapath,
        base: &[u64],
    ) -> Result<Result<(), String>> {
        let reasons = lane.reason_counters()?;
        for reason in Reason::ALL {
            let index = *reason as usize;
            let grown = reasons[index] - base.get(index).copied().unwrap_or(0);
            if grown != self.reasons[index] {
                let wanted = self.reasons[index];
                return Ok(Err(format!("{} was counted {grown} times, expected {wanted}", reason.name())));
            }
        }
        for (&id, wanted) in &self.services {
            let found = lane.service_counters(id)?;
            if found != *wanted {
                return Ok(Err(format!("service {id}: {found:?}, expected {wanted:?}")));
            }
        }
        for (&id, wanted) in &self.backends {
            let found = lane.backend_counters(BackendId(id))?;
            if found != *wanted {
                return Ok(Err(format!("backend {id}: {found:?}, expected {wanted:?}")));
            }
        }
        Ok(Ok(()))
    }
}

/// The one reason that was counted since.
pub fn counted(now: &[u64], base: &[u64], known: &[u64]) -> Option<Reason> {
    let grew = |reason: &&Reason| {
        let index = **reason as usize;
        now[index] - base[index] > known[index]
    };
    Reason::ALL.iter().find(grew).copied()
}
