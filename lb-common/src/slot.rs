//! One slot of a service's table: who owns it, who owned it, and when that changed, in one aligned word.

use crate::BackendId;

/// How far a slot is with remembering the flows that a change of its owner could have broken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SlotState {
    /// Every flow of the slot belongs to `current`: nothing is looked up and nothing is remembered.
    Settled,
    /// The owner changed less than an idle timeout ago: flows are looked up and remembered.
    Moving,
    /// Every live flow of before the change is remembered: flows are looked up, a miss is a new one.
    Pinned,
}

/// `current` and `previous` backend (20 bits each), the [`SlotState`] (2 bits) and the second in which the
/// slot last moved (22 bits of the monotonic clock, which wrap after 48 days; a slot moves for minutes).
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Slot(u64);

const ID_BITS: u32 = 20;
const ID_MASK: u64 = (1 << ID_BITS) - 1;
const STATE_SHIFT: u32 = 2 * ID_BITS;
const MOVED_SHIFT: u32 = STATE_SHIFT + 2;
const MOVED_MASK: u64 = (1 << (64 - MOVED_SHIFT)) - 1;

impl Slot {
    /// A slot that has always belonged to `current`.
    pub const fn settled(current: BackendId) -> Self {
        Self::new(current, current, SlotState::Settled, 0)
    }

    /// A slot of these parts; `moved_at` is a second of the monotonic clock.
    pub const fn new(current: BackendId, previous: BackendId, state: SlotState, moved_at: u32) -> Self {
        let state = match state {
            SlotState::Settled => 0,
            SlotState::Moving => 1,
            SlotState::Pinned => 2,
        };
        Self(
            (current.0 as u64 & ID_MASK)
                | (previous.0 as u64 & ID_MASK) << ID_BITS
                | state << STATE_SHIFT
                | (moved_at as u64 & MOVED_MASK) << MOVED_SHIFT,
        )
    }

    /// From the word in the map.
    #[inline(always)]
    pub const fn from_word(word: u64) -> Self {
        Self(word)
    }

    /// The word that stands in the map.
    #[inline(always)]
    pub const fn word(self) -> u64 {
        self.0
    }

    /// The owner of new flows.
    #[inline(always)]
    pub const fn current(self) -> BackendId {
        BackendId((self.0 & ID_MASK) as u32)
    }

    /// The last owner before moving began; equal to `current` where settled.
    #[inline(always)]
    pub const fn previous(self) -> BackendId {
        BackendId((self.0 >> ID_BITS & ID_MASK) as u32)
    }

    /// See [`SlotState`].
    #[inline(always)]
    pub const fn state(self) -> SlotState {
        match self.0 >> STATE_SHIFT & 3 {
            0 => SlotState::Settled,
            1 => SlotState::Moving,
            _ => SlotState::Pinned,
        }
    }

    /// Seconds since the slot last moved, at `now` of the monotonic clock; zero where the writer's clock was
    /// ahead by a moment.
    #[inline(always)]
    pub const fn seconds_since_move(self, now: u32) -> u32 {
        let since = (now as u64).wrapping_sub(self.0 >> MOVED_SHIFT) as u32 & MOVED_MASK as u32;
        if since > MOVED_MASK as u32 / 2 { 0 } else { since }
    }

    /// The second in which the slot last moved, modulo 2^22.
    pub const fn moved_at(self) -> u32 {
        (self.0 >> MOVED_SHIFT) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_come_back_and_the_clock_wraps() {
        let slot = Slot::new(BackendId(0xf_ffff), BackendId(7), SlotState::Pinned, 0x003f_fffe);
        assert_eq!(slot.current(), BackendId(0xf_ffff));
        assert_eq!(slot.previous(), BackendId(7));
        assert_eq!(slot.state(), SlotState::Pinned);
        assert_eq!(slot.seconds_since_move(0x0040_0003), 5);
        assert_eq!(slot.seconds_since_move(0x003f_fffd), 0, "the writer's clock was ahead");
        assert_eq!(Slot::from_word(slot.word()), slot);
    }
}
