//! How a service chooses a backend for a new flow.

/// See `docs/algorithms.md` for what each is good at.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Algorithm {
    /// The slot of the flow's hash (Eisenbud et al., NSDI 2016).
    #[default]
    Maglev,
    /// The slot of the hash of the client's network: all of its flows go to one backend.
    SourceHash,
    /// One slot after the other of a table in which each backend stands as often, and as evenly, as its weight says.
    RoundRobin,
    /// Any slot.
    Random,
    /// Of several slots, the backend with the fewest live connections for its weight.
    LeastConnections,
    /// Of several slots, the backend with the lowest product of response time and live connections for its weight.
    LeastResponseTime,
    /// Of two slots, the backend with the fewer live connections for its weight (Mitzenmacher, 2001).
    PowerOfTwo,
}

impl Algorithm {
    /// Every one, in the order of its byte.
    pub const ALL: [Self; 7] = [
        Self::Maglev,
        Self::SourceHash,
        Self::RoundRobin,
        Self::Random,
        Self::LeastConnections,
        Self::LeastResponseTime,
        Self::PowerOfTwo,
    ];

    /// The byte in an entry.
    #[inline(always)]
    pub const fn byte(self) -> u8 {
        match self {
            Self::Maglev => 0,
            Self::SourceHash => 1,
            Self::RoundRobin => 2,
            Self::Random => 3,
            Self::LeastConnections => 4,
            Self::LeastResponseTime => 5,
            Self::PowerOfTwo => 6,
        }
    }

    /// From the byte in an entry.
    #[inline(always)]
    pub const fn from_byte(byte: u8) -> Self {
        match byte {
            0 => Self::Maglev,
            1 => Self::SourceHash,
            2 => Self::RoundRobin,
            3 => Self::Random,
            4 => Self::LeastConnections,
            5 => Self::LeastResponseTime,
            _ => Self::PowerOfTwo,
        }
    }

    /// Whether the flow alone decides: the same flow finds the same slot again.
    #[inline(always)]
    pub const fn is_hash(self) -> bool {
        matches!(self, Self::Maglev | Self::SourceHash)
    }

    /// How many backends that could take the flow are compared.
    #[inline(always)]
    pub const fn compared(self) -> u32 {
        match self {
            Self::Maglev | Self::SourceHash | Self::RoundRobin | Self::Random => 1,
            Self::PowerOfTwo => 2,
            Self::LeastResponseTime => 4,
            Self::LeastConnections => 8,
        }
    }
}
