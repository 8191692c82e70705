//! A backend for a new flow, by the service's algorithm.
//!
//! Every algorithm draws from the service's slots, in which each backend stands as often as its weight says, and
//! differs in which slots it draws and in how many backends it compares ([`Algorithm::compared`]). One that cannot take
//! the flow is passed over for the next, up to [`lb_common::limits::TRIES`] slots.

use lb_common::{Algorithm, Backend, BackendId, BackendState, Load, Service, limits::TRIES};

use crate::{steps::steps, tables::Tables};

/// What was chosen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Chosen {
    /// [`BackendId::NONE`] where no backend that was tried takes the flow.
    pub backend: BackendId,
    /// A backend was passed over because it has as many connections as it may.
    pub overflowed: bool,
    /// Nobody takes it, for this reason.
    pub full: bool,
}

/// Whether new flows may be sent to a backend of the service.
#[inline(always)]
pub fn takes_new<T: Tables>(tables: &T, service: &Service, id: BackendId) -> bool {
    let up = |backend: &Backend| backend.state == BackendState::Up.word() && backend.service == service.id;
    let (Some(backend), Some(load)) = (tables.backend(id), tables.load(id)) else { return false };
    up(backend) && !is_full(load, backend)
}

#[inline(always)]
const fn is_full(load: Load, backend: &Backend) -> bool {
    backend.max_connections != 0 && load.connections as i64 >= backend.max_connections as i64
}

/// Draws a backend; `hash` is the flow's.
#[inline(always)]
pub fn choose<T: Tables>(tables: &T, service: &Service, hash: u64) -> Chosen {
    let draw = Draw::new(tables, service, hash);
    // What changes from step to step is laundered: the steps are then verified once for all ways through them.
    let mut best = Best { id: BackendId::NONE, compared: 0, full: false };
    let mut least = Cost { load: 0, weight: 0 };
    for step in steps(TRIES) {
        best = Best::from_word(tables.launder(best.word()));
        least = Cost { load: tables.launder(least.load), weight: tables.launder(least.weight) };
        if best.compared >= draw.compared() {
            break;
        }
        let index = draw.index(tables, step as u32) >> (service.slots_shift & 31);
        let Some(slot) = tables.slot(service.slots_start + index) else { break };
        let id = slot.current();
        let (Some(backend), Some(load)) = (tables.backend(id), tables.load(id)) else { break };
        if backend.state != BackendState::Up.word() || backend.service != service.id {
            continue;
        }
        if is_full(load, backend) {
            best.full = true;
            continue;
        }
        best.compared += 1;
        let cost = Cost::of(load, backend, draw.response_at());
        if best.id == BackendId::NONE || cost.is_less_than(least) {
            (best.id, least) = (id, cost);
        }
    }
    Chosen {
        backend: best.id,
        overflowed: best.full && best.id != BackendId::NONE,
        full: best.full && best.id == BackendId::NONE,
    }
}

/// The best so far.
#[derive(Clone, Copy)]
struct Best {
    id: BackendId,
    compared: u32,
    full: bool,
}

impl Best {
    #[inline(always)]
    const fn word(self) -> u64 {
        self.id.0 as u64 | (self.compared as u64) << 32 | (self.full as u64) << 40
    }

    #[inline(always)]
    const fn from_word(word: u64) -> Self {
        Self { id: BackendId(word as u32), compared: (word >> 32 & 0xff) as u32, full: word >> 40 & 1 != 0 }
    }
}

/// Which slots are drawn, in two words that neither compiler nor verifier sees through.
#[derive(Clone, Copy)]
struct Draw {
    /// Where the first is (low half), how many are compared, and whether the others are random.
    word: u64,
    /// From one to the next.
    stride: u32,
    /// Microseconds of the monotonic clock where response times count, else 0.
    now: u64,
}

const COMPARED_SHIFT: u32 = 32;
const RANDOM: u64 = 1 << 40;
/// The golden ratio of 2^32: steps that fill the circle evenly (Knuth, volume 3, 6.4).
const GOLDEN: u32 = 0x9e37_79b9;

impl Draw {
    #[inline(always)]
    fn new<T: Tables>(tables: &T, service: &Service, hash: u64) -> Self {
        let algorithm = service.algorithm();
        let slot = 1u32 << (service.slots_shift & 31);
        let (start, stride) = match algorithm {
            Algorithm::RoundRobin => (tables.next_turn(service.id).wrapping_mul(slot), slot),
            // The flow's own slot, then others that only it determines.
            _ => ((hash >> 32) as u32, GOLDEN),
        };
        let random =
            if algorithm.is_hash() || matches!(algorithm, Algorithm::RoundRobin) { 0 } else { RANDOM };
        let word = start as u64 | (algorithm.compared() as u64) << COMPARED_SHIFT | random;
        let timed = matches!(algorithm, Algorithm::LeastResponseTime);
        let now = if timed { tables.now_micros() } else { 0 };
        Self {
            word: tables.launder(word),
            stride: tables.launder(stride as u64) as u32,
            now: tables.launder(now),
        }
    }

    #[inline(always)]
    const fn compared(self) -> u32 {
        (self.word >> COMPARED_SHIFT & 0xff) as u32
    }

    #[inline(always)]
    fn index<T: Tables>(self, tables: &T, step: u32) -> u32 {
        if self.word & RANDOM != 0 {
            return tables.random();
        }
        (self.word as u32).wrapping_add(step.wrapping_mul(self.stride))
    }

    #[inline(always)]
    const fn response_at(self) -> u64 {
        self.now
    }
}

/// What another flow would cost a backend.
#[derive(Clone, Copy)]
struct Cost {
    /// At most 52 bits.
    load: u64,
    /// At most 10 bits.
    weight: u64,
}

impl Cost {
    /// By live connections, and by the response time at `now` unless that is 0.
    #[inline(always)]
    fn of(load: Load, backend: &Backend, now: u64) -> Self {
        // A count that a lost race left below zero is none.
        let connections = if load.connections >> 63 != 0 { 0 } else { load.connections & 0xf_ffff } + 1;
        let response = if now == 0 { 1 } else { load.response_micros(now) as u64 };
        Self { load: response * connections, weight: (backend.weight & 0x3ff) as u64 }
    }

    #[inline(always)]
    const fn is_less_than(self, other: Self) -> bool {
        self.load * other.weight < other.load * self.weight
    }
}
