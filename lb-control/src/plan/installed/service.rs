//! One service as it is installed, and how its slots are shared out. Pure.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    hash::{BuildHasherDefault, Hasher},
    sync::{Arc, OnceLock},
};

use lb_common::{Address, BackendId, Port, Service, Slot, SlotState};

use crate::maglev::Candidate;

/// One service.
#[derive(Clone, Debug)]
pub struct InstalledService {
    /// As it stands in the map.
    pub entry: Service,
    /// Its region.
    pub slots: Arc<Vec<Slot>>,
    /// Ids by (address, port), those of retired backends included until they are freed.
    pub backends: BTreeMap<(Address, Port), BackendId>,
    /// What the slots were last computed from; unknown after a take-over.
    pub built: Option<BuiltFor>,
    /// Counted when asked for, until a slot changes.
    shares: OnceLock<Shares>,
}

/// Slots by state and backend.
#[derive(Clone, Debug, Default)]
pub struct Shares {
    /// See [`SlotState::Settled`].
    pub settled: u32,
    /// See [`SlotState::Moving`].
    pub moving: u32,
    /// See [`SlotState::Pinned`].
    pub pinned: u32,
    by_backend: HashMap<BackendId, Share, BuildHasherDefault<IdHasher>>,
}

/// Slots of one backend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Share {
    /// It owns them.
    pub owned: u32,
    /// They have not settled and name it as `current` or `previous`.
    pub unsettled: u32,
}

impl InstalledService {
    /// One of which nothing but its entry and its backends is known yet.
    pub fn new(entry: Service, backends: BTreeMap<(Address, Port), BackendId>) -> Self {
        Self { entry, slots: Arc::default(), backends, built: None, shares: OnceLock::new() }
    }

    /// Replaces its slots.
    pub fn set_slots(&mut self, slots: Arc<Vec<Slot>>) {
        (self.slots, self.shares) = (slots, OnceLock::new());
    }

    /// Whether all of its slots have settled.
    pub fn is_settled(&self) -> bool {
        self.slots.iter().all(|slot| slot.state() == SlotState::Settled)
    }

    /// Its slots by state and backend.
    pub fn shares(&self) -> &Shares {
        self.shares.get_or_init(|| Shares::of(&self.slots))
    }
}

impl Shares {
    /// Whether a slot names a backend.
    pub fn name(&self, id: BackendId) -> bool {
        self.by_backend.contains_key(&id)
    }

    /// The part of one backend.
    pub fn of_backend(&self, id: BackendId) -> Share {
        self.by_backend.get(&id).copied().unwrap_or_default()
    }

    fn of(slots: &[Slot]) -> Self {
        let mut shares = Self::default();
        for slot in slots {
            let (current, previous) = (slot.current(), slot.previous());
            let unsettled = u32::from(slot.state() != SlotState::Settled);
            match slot.state() {
                SlotState::Settled => shares.settled += 1,
                SlotState::Moving => shares.moving += 1,
                SlotState::Pinned => shares.pinned += 1,
            }
            let owner = shares.by_backend.entry(current).or_default();
            owner.owned += 1;
            owner.unsettled += unsettled;
            if previous != current {
                shares.by_backend.entry(previous).or_default().unsettled += unsettled;
            }
        }
        shares
    }
}

/// For ids, which the controller gives out itself: nobody chooses them so that they collide.
#[derive(Default)]
struct IdHasher(u64);

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u32(u32::from(*byte)));
    }

    fn write_u32(&mut self, id: u32) {
        // The golden ratio: the upper bits, which the map reads too, depend on all of the id.
        self.0 = (self.0.rotate_left(5) ^ u64::from(id)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}

/// What a service's slots follow from.
#[derive(Clone, Debug, PartialEq)]
pub struct BuiltFor {
    /// Who competes for slots.
    pub candidates: Vec<Candidate>,
    /// Whose flows are still sent to them.
    pub serving: BTreeSet<BackendId>,
    /// All backends that are desired, those that are down included.
    pub wanted: BTreeSet<BackendId>,
}
