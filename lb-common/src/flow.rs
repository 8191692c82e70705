//! Remembered flows.

use crate::{Address, BackendId, Port, limits};

/// A flow as the client sends it. Forty bytes without implicit padding.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
pub struct FlowKey {
    /// Source address of the client's packets.
    pub client: Address,
    /// Their destination: the virtual address.
    pub vip: Address,
    /// Source port.
    pub client_port: Port,
    /// Destination port.
    pub vip_port: Port,
    /// IP protocol number.
    pub protocol: u8,
    /// Zero, or [`FlowKey::AFFINITY`].
    pub reserved: [u8; 3],
}

impl FlowKey {
    /// Not a flow, but the backend that a client's network keeps to: `client` is its prefix, and there is no client port.
    pub const AFFINITY: [u8; 3] = [1, 0, 0];

    /// Whether it is a flow's.
    pub const fn is_flow(&self) -> bool {
        self.reserved[0] == 0
    }
}

/// What is remembered of a flow: two words, each read and written whole.
///
/// Elements of the map are recycled without a grace period, so a reader may hold an element that another
/// flow has taken over meanwhile: `owner` carries a tag of the tuple, and who finds another tag has missed.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Flow {
    owner: u64,
    seen: u64,
}

/// How far a remembered flow has come, as far as its client's packets tell.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FlowState {
    /// TCP: a SYN, and nothing after it.
    Opening,
    /// TCP: more than a SYN; UDP always.
    Established,
    /// TCP: FIN seen. The other direction may go on for long.
    Closing,
    /// TCP: RST seen.
    Reset,
}

const STATE_SHIFT: u32 = 32;
const COUNTED: u64 = 1 << 34;
const ASKED: u64 = 1 << 35;
const ASKED_SHIFT: u32 = 36;
/// Microseconds of the monotonic clock, which wrap after 268 s.
const ASKED_MASK: u64 = (1 << (64 - ASKED_SHIFT)) - 1;

impl FlowState {
    const fn bits(self) -> u64 {
        match self {
            Self::Opening => 0,
            Self::Established => 1,
            Self::Closing => 2,
            Self::Reset => 3,
        }
    }

    const fn from_bits(bits: u64) -> Self {
        match bits & 3 {
            0 => Self::Opening,
            1 => Self::Established,
            2 => Self::Closing,
            _ => Self::Reset,
        }
    }

    /// Whether the client's next SYN opens another flow.
    #[inline(always)]
    pub const fn is_over(self) -> bool {
        matches!(self, Self::Closing | Self::Reset)
    }

    /// Seconds without a packet after which a flow in this state is forgotten; `idle_seconds` is the service's
    /// timeout of established ones, and an upper bound of the others.
    #[inline(always)]
    pub const fn timeout_seconds(self, idle_seconds: u32) -> u32 {
        let own = match self {
            Self::Opening => limits::OPENING_SECONDS,
            Self::Established => idle_seconds,
            Self::Closing => limits::CLOSING_SECONDS,
            Self::Reset => limits::RESET_SECONDS,
        };
        if own < idle_seconds { own } else { idle_seconds }
    }
}

impl Flow {
    /// A flow of `backend` whose packet was seen in second `now` of the monotonic clock.
    #[inline(always)]
    pub const fn new(backend: BackendId, tag: u32, now: u32, state: FlowState) -> Self {
        Self { owner: backend.0 as u64 | (tag as u64) << 32, seen: now as u64 | state.bits() << STATE_SHIFT }
    }

    /// From the two words in the map.
    #[inline(always)]
    pub const fn from_words(words: [u64; 2]) -> Self {
        Self { owner: words[0], seen: words[1] }
    }

    /// The two words that stand in the map.
    #[inline(always)]
    pub const fn words(self) -> [u64; 2] {
        [self.owner, self.seen]
    }

    /// The backend that the flow belongs to.
    #[inline(always)]
    pub const fn backend(self) -> BackendId {
        BackendId(self.owner as u32)
    }

    /// The tag of the tuple that the element was filled for: bits of its hash that do not choose the slot.
    #[inline(always)]
    pub const fn tag(self) -> u32 {
        (self.owner >> 32) as u32
    }

    /// The second of its last packet.
    #[inline(always)]
    pub const fn last_seen(self) -> u32 {
        self.seen as u32
    }

    /// See [`FlowState`].
    #[inline(always)]
    pub const fn state(self) -> FlowState {
        FlowState::from_bits(self.seen >> STATE_SHIFT)
    }

    /// The same flow in another second and state. What it counts for and what was asked stay.
    #[inline(always)]
    pub const fn seen_at(self, now: u32, state: FlowState) -> Self {
        let kept = self.seen & !(u32::MAX as u64 | 3 << STATE_SHIFT);
        Self { owner: self.owner, seen: kept | now as u64 | state.bits() << STATE_SHIFT }
    }

    /// Whether it is one of its backend's live connections.
    #[inline(always)]
    pub const fn is_counted(self) -> bool {
        self.seen & COUNTED != 0
    }

    /// The same flow, counted or not.
    #[inline(always)]
    pub const fn counted(self, counted: bool) -> Self {
        let seen = if counted { self.seen | COUNTED } else { self.seen & !COUNTED };
        Self { owner: self.owner, seen }
    }

    /// Whether its client waits for an answer whose time is taken.
    #[inline(always)]
    pub const fn is_asked(self) -> bool {
        self.seen & ASKED != 0
    }

    /// The same flow, whose client asks at `now` microseconds of the monotonic clock.
    #[inline(always)]
    pub const fn asked(self, now: u64) -> Self {
        let kept = self.seen & !(ASKED_MASK << ASKED_SHIFT);
        Self { owner: self.owner, seen: kept | ASKED | (now & ASKED_MASK) << ASKED_SHIFT }
    }

    /// The same flow, whose client waits for nothing.
    #[inline(always)]
    pub const fn answered(self) -> Self {
        Self { owner: self.owner, seen: self.seen & !(ASKED | ASKED_MASK << ASKED_SHIFT) }
    }

    /// Microseconds since its client asked, modulo 2^28.
    #[inline(always)]
    pub const fn micros_since_asked(self, now: u64) -> u32 {
        (now.wrapping_sub(self.seen >> ASKED_SHIFT) & ASKED_MASK) as u32
    }

    /// Seconds since its last packet; zero where another CPU saw one in a later second.
    #[inline(always)]
    pub const fn idle_seconds(self, now: u32) -> u32 {
        let idle = now.wrapping_sub(self.last_seen());
        if idle > u32::MAX / 2 { 0 } else { idle }
    }
}

const _: () = assert!(size_of::<FlowKey>() == 40 && size_of::<Flow>() == 16);
