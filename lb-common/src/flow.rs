//! Remembered flows.

use crate::{Address, BackendId, Port};

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
    /// Zero.
    pub reserved: [u8; 3],
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

const CLOSED: u64 = 1 << 32;

impl Flow {
    /// A flow of `backend` whose packet was seen in second `now` of the monotonic clock.
    #[inline(always)]
    pub const fn new(backend: BackendId, tag: u32, now: u32, closed: bool) -> Self {
        Self {
            owner: backend.0 as u64 | (tag as u64) << 32,
            seen: now as u64 | if closed { CLOSED } else { 0 },
        }
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

    /// Whether the client has sent FIN or RST: its next SYN opens another flow.
    #[inline(always)]
    pub const fn closed(self) -> bool {
        self.seen & CLOSED != 0
    }

    /// Seconds since its last packet; zero where another CPU saw one in a later second.
    #[inline(always)]
    pub const fn idle_seconds(self, now: u32) -> u32 {
        let idle = now.wrapping_sub(self.last_seen());
        if idle > u32::MAX / 2 { 0 } else { idle }
    }
}

const _: () = assert!(size_of::<FlowKey>() == 40 && size_of::<Flow>() == 16);
