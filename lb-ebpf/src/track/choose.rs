//! A backend for a new flow, by the service's algorithm.
//!
//! Every algorithm draws from the service's slots, in which each backend stands as often as its weight says, and
//! differs in which slots it draws and in how many backends it compares ([`Algorithm::compared`]). One that cannot take
//! the flow is passed over for the next, up to [`TRIES`] slots; then for any that takes it, of [`MORE_TRIES`] more.
//!
//! In the kernel it is a function of its own, of plain numbers, which the verifier walks once and not for every way that
//! leads there.

use lb_common::{Algorithm, Backend, BackendId, BackendState, Load, Service, limits::TRIES};

use crate::{select::Choice, steps::steps, tables::Tables};

/// So many more slots are drawn where none of the first takes the flow.
const MORE_TRIES: u8 = 64;

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

impl Chosen {
    /// All in one word.
    #[inline(always)]
    pub const fn word(self) -> u64 {
        self.backend.0 as u64 | (self.overflowed as u64) << 32 | (self.full as u64) << 33
    }

    /// From [`Self::word`].
    #[inline(always)]
    pub const fn from_word(word: u64) -> Self {
        Self { backend: BackendId(word as u32), overflowed: word >> 32 & 1 != 0, full: word >> 33 & 1 != 0 }
    }

    /// The choice for a packet that is `like` this otherwise.
    #[inline(always)]
    pub const fn into_choice(self, like: Choice) -> Choice {
        Choice { backend: self.backend, overflowed: self.overflowed, full: self.full, ..like }
    }
}

/// What of a service decides.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Terms {
    service: u32,
    slots_start: u32,
    slots_shift: u8,
    algorithm: Algorithm,
}

impl Terms {
    /// Those of a service.
    #[inline(always)]
    pub const fn of(service: &Service) -> Self {
        Self {
            service: service.id,
            slots_start: service.slots_start,
            slots_shift: service.slots_shift,
            algorithm: service.algorithm(),
        }
    }

    /// A slot's part of the circle of 2^32.
    #[inline(always)]
    const fn slot_width(self) -> u32 {
        1 << (self.slots_shift & 31)
    }

    /// The same; or what follows from them would be kept from step to step, for which the stack has no room.
    #[inline(always)]
    fn again<T: Tables>(self, tables: &T) -> Self {
        let [place, table] = self.words();
        Self::from_words([tables.launder(place), tables.launder(table)])
    }

    /// All in two words.
    #[inline(always)]
    pub const fn words(self) -> [u64; 2] {
        let place = self.service as u64 | (self.slots_start as u64) << 32;
        [place, self.slots_shift as u64 | (self.algorithm.byte() as u64) << 8]
    }

    /// From [`Self::words`].
    #[inline(always)]
    pub const fn from_words([place, table]: [u64; 2]) -> Self {
        Self {
            service: place as u32,
            slots_start: (place >> 32) as u32,
            slots_shift: table as u8,
            algorithm: Algorithm::from_byte((table >> 8) as u8),
        }
    }
}

/// Whether a backend takes new flows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Takes {
    /// It does.
    Yes,
    /// It has as many connections as it may.
    Full,
    /// It drains, or serves no more, or is another service's.
    No,
}

/// Whether new flows of the service may be sent to a backend.
#[inline(always)]
pub fn takes_new<T: Tables>(tables: &T, service: &Service, id: BackendId) -> Takes {
    let (Some(backend), Some(load)) = (tables.backend(id), tables.load(id)) else { return Takes::No };
    takes(service.id, backend, load)
}

#[inline(always)]
fn takes(service: u32, backend: &Backend, load: Load) -> Takes {
    if backend.state != BackendState::Up.word() || backend.service != service {
        Takes::No
    } else if backend.max_connections != 0 && load.connections as i64 >= backend.max_connections as i64 {
        Takes::Full
    } else {
        Takes::Yes
    }
}

/// Draws a backend; `hash` is the flow's, `full` whether a backend was passed over already. Programs call it by [`Tables::choose`].
#[inline(always)]
pub fn choose<T: Tables>(tables: &T, mut terms: Terms, hash: u64, full: bool) -> Chosen {
    let mut draw = Draw::new(tables, terms, hash);
    // What changes from step to step is laundered: the steps are then verified once for all ways through them.
    let mut best = Best { id: BackendId::NONE, compared: 0, full };
    let mut least = 0;
    for step in steps(TRIES + MORE_TRIES) {
        best = Best::from_word(tables.launder(best.word()));
        least = tables.launder(least);
        draw = draw.again(tables);
        terms = terms.again(tables);
        let tried = step >= TRIES as u64;
        if best.compared >= draw.compared() || (tried && best.compared != 0) {
            break;
        }
        let index = draw.at(tables, terms, step as u32, tried) >> (terms.slots_shift & 31);
        let Some(slot) = tables.slot(terms.slots_start.wrapping_add(index)) else { break };
        let id = slot.current();
        let (Some(backend), Some(load)) = (tables.backend(id), tables.load(id)) else { break };
        match takes(terms.service, backend, load) {
            Takes::No => continue,
            Takes::Full => {
                best.full = true;
                continue;
            }
            Takes::Yes => {}
        }
        let cost = cost(load, backend, draw.is_timed().then(|| tables.now_micros()));
        if best.compared == 0 || cost < least {
            (best.id, least) = (id, cost);
        }
        best.compared += 1;
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

/// Which slots are drawn: where the first is (low half), how many are compared, how the others are found, and whether
/// response times count.
#[derive(Clone, Copy)]
struct Draw(u64);

const COMPARED_SHIFT: u32 = 32;
/// The others are random.
const RANDOM: u64 = 1 << 40;
/// They are the ones that follow. Else those that only the first determines.
const FOLLOWING: u64 = 1 << 41;
const TIMED: u64 = 1 << 42;
/// The golden ratio of 2^32: steps that fill the circle evenly (Knuth, volume 3, 6.4).
const GOLDEN: u32 = 0x9e37_79b9;

impl Draw {
    #[inline(always)]
    fn new<T: Tables>(tables: &T, terms: Terms, hash: u64) -> Self {
        let algorithm = terms.algorithm;
        let (start, others) = match algorithm {
            Algorithm::RoundRobin => {
                (tables.next_turn(terms.service).wrapping_mul(terms.slot_width()), FOLLOWING)
            }
            // The flow's own slot.
            Algorithm::Maglev | Algorithm::SourceHash => ((hash >> 32) as u32, 0),
            _ => (0, RANDOM),
        };
        let timed = if matches!(algorithm, Algorithm::LeastResponseTime) { TIMED } else { 0 };
        Self(start as u64 | (algorithm.compared() as u64) << COMPARED_SHIFT | others | timed)
    }

    /// The same; what was found out of it in one step is forgotten in the next.
    #[inline(always)]
    fn again<T: Tables>(self, tables: &T) -> Self {
        Self(tables.launder(self.0))
    }

    #[inline(always)]
    const fn compared(self) -> u32 {
        (self.0 >> COMPARED_SHIFT & 0xff) as u32
    }

    #[inline(always)]
    const fn is_timed(self) -> bool {
        self.0 & TIMED != 0
    }

    /// Where the slot of a step is on the circle of 2^32; `any`: anywhere.
    #[inline(always)]
    fn at<T: Tables>(self, tables: &T, terms: Terms, step: u32, any: bool) -> u32 {
        if any || self.0 & RANDOM != 0 {
            return tables.random();
        }
        let stride = if self.0 & FOLLOWING != 0 { terms.slot_width() } else { GOLDEN };
        (self.0 as u32).wrapping_add(step.wrapping_mul(stride))
    }
}

/// What a backend is taken to need that has connections, but has not answered any yet: it gets no more until it does.
const UNKNOWN_MICROS: u64 = 1 << 27;
/// Costs are fractions of so many bits.
const FRACTION_BITS: u32 = 14;

/// What another flow would cost a backend for its weight: by live connections, and by the response time at `now`
/// microseconds of the monotonic clock, if that counts.
#[inline(always)]
fn cost(load: Load, backend: &Backend, now: Option<u64>) -> u64 {
    // A count that a lost race left below zero is none.
    let connections = if load.connections >> 63 != 0 { 0 } else { load.connections & 0xf_ffff };
    let response = match now {
        None => 1,
        Some(now) => match load.response_micros(now) as u64 & 0xfff_ffff {
            0 if connections != 0 => UNKNOWN_MICROS,
            known => known,
        },
    };
    ((response * (connections + 1)) << FRACTION_BITS).checked_div(backend.weight as u64).unwrap_or(u64::MAX)
}
