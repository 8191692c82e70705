//! What a service's table takes: to build, to change by one backend, to grow, and to swap into the mapped slots.

use std::{
    hint::black_box,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use lb_common::{Address, BackendId, Port, Slot};
use lb_control::{
    datapath::{Change, Datapath as _, bpf::BpfDatapath},
    engine::monotonic_seconds,
    maglev::{self, Candidate},
    settle,
};
use serde_json::{Value, json};

use super::report::quantile;

/// Backends of a service.
const BACKENDS: [u32; 3] = [10, 100, 1_000];
/// Slots of its table, and of the one that it grows to.
const SLOTS: [u32; 4] = [1_024, 8_192, 65_536, 131_072];

/// What is timed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Work {
    /// The owners of all slots, from nothing.
    Build,
    /// One backend leaves: the owners anew, and the state of every slot.
    Change,
    /// The table doubles: likewise, from half as many slots.
    Growth,
    /// All slots written where packets read them.
    Swap,
}

/// One thing that is measured.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Row {
    /// What is timed.
    pub work: Work,
    /// Of how many backends.
    pub backends: u32,
    /// With so many slots afterwards.
    pub slots: u32,
}

/// What was measured of it.
pub struct Measured {
    /// Which.
    pub row: Row,
    /// Median.
    pub micros: f64,
    /// From the first to the third quartile.
    pub spread: f64,
    /// Slots that another backend owns afterwards than before; of [`Work::Growth`], than its parent.
    pub moved: usize,
}

impl Work {
    /// As it stands in a row.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Build => "build",
            Self::Change => "change",
            Self::Growth => "growth",
            Self::Swap => "swap",
        }
    }
}

impl Row {
    /// All rows whose backends find a place in their slots.
    pub fn all() -> Vec<Self> {
        let mut rows = Vec::new();
        for backends in BACKENDS {
            for slots in SLOTS.into_iter().filter(|slots| *slots >= 2 * backends) {
                for work in [Work::Build, Work::Change, Work::Growth, Work::Swap] {
                    rows.push(Self { work, backends, slots });
                }
            }
        }
        rows
    }

    /// Measures it so many times. Slots are written to the first of the map: no service may be there.
    pub fn measure(self, datapath: &mut BpfDatapath, rounds: u32) -> Result<Measured> {
        let candidates = candidates(self.backends);
        let remaining = &candidates[1..];
        let (before, after) = match self.work {
            Work::Growth => (settled(&candidates, self.slots / 2), maglev::build(&candidates, self.slots)),
            _ => (settled(&candidates, self.slots), maglev::build(remaining, self.slots)),
        };
        let serves = |id: &BackendId| id.0 != 1;
        let now = monotonic_seconds();
        let mut times = Vec::new();
        for _ in 0..rounds.max(1) {
            let swap = Change::WriteSlots(0, Arc::new(before.clone()));
            let started = Instant::now();
            match self.work {
                Work::Build => drop(black_box(maglev::build(black_box(&candidates), self.slots))),
                Work::Change => {
                    let owners = maglev::build(black_box(remaining), self.slots);
                    drop(black_box(settle::change_owners(&before, &owners, |id| serves(&id), now)));
                }
                Work::Growth => {
                    let owners = maglev::build(black_box(&candidates), self.slots);
                    drop(black_box(settle::change_owners(&before, &owners, |_| true, now)));
                }
                Work::Swap => datapath.apply(&swap)?,
            }
            times.push(micros(started.elapsed()));
        }
        let parent = |index: usize| before[index * before.len() / after.len()].current();
        let moved = match self.work {
            Work::Build | Work::Swap => 0,
            Work::Change | Work::Growth => {
                after.iter().enumerate().filter(|(index, owner)| parent(*index) != **owner).count()
            }
        };
        Ok(Measured {
            row: self,
            micros: quantile(&times, 0.5),
            spread: quantile(&times, 0.75) - quantile(&times, 0.25),
            moved,
        })
    }
}

/// The rows for machines.
pub fn json(measured: &[Measured]) -> Value {
    let row = |one: &Measured| {
        json!({
            "work": one.row.work.name(),
            "backends": one.row.backends,
            "slots": one.row.slots,
            "micros": one.micros,
            "spread_micros": one.spread,
            "slots_moved": one.moved,
        })
    };
    Value::Array(measured.iter().map(row).collect())
}

/// The rows for people: a line for backends and slots.
pub fn table(measured: &[Measured]) -> Result<String> {
    let mut text = format!(
        "milliseconds: medians; a change is one backend that leaves, and beside it the slots that move over those it had\n\
         {:>8} {:>8} {:>9} {:>9} {:>9} {:>9} {:>12}\n",
        "backends", "slots", "build", "change", "growth", "swap", "moved/ideal"
    );
    for one in measured.iter().filter(|one| one.row.work == Work::Build) {
        let Row { backends, slots, .. } = one.row;
        let of = |work| {
            let row = Row { work, ..one.row };
            measured.iter().find(|other| other.row == row).context("every row has all four")
        };
        text += &format!("{backends:>8} {slots:>8}");
        for work in [Work::Build, Work::Change, Work::Growth, Work::Swap] {
            text += &format!(" {:>9.3}", of(work)?.micros / 1e3);
        }
        text += &format!(" {:>12.2}\n", disruption(of(Work::Change)?));
    }
    Ok(text)
}

/// Slots that moved, over those that the backend that left had on average.
fn disruption(change: &Measured) -> f64 {
    change.moved as f64 * change.row.backends as f64 / change.row.slots as f64
}

fn settled(candidates: &[Candidate], slots: u32) -> Vec<Slot> {
    maglev::build(candidates, slots).into_iter().map(Slot::settled).collect()
}

fn candidates(count: u32) -> Vec<Candidate> {
    (1..=count)
        .map(|id| {
            let address = Address::from_ipv4([10, 0, (id >> 8) as u8, id as u8]);
            Candidate { id: BackendId(id), identity: maglev::identity(address, Port::new(80)), weight: 1 }
        })
        .collect()
}

fn micros(duration: Duration) -> f64 {
    duration.as_nanos() as f64 / 1e3
}
