//! The contract of the decapsulating program, which runs on backends, and `lbctl decap`.

/// What became of a packet at a backend. The number is the index into the program's `REASON_COUNTERS`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u32)]
pub enum DecapReason {
    /// Taken out of IPv4 or IPv6 (RFC 2003, 2473, 4213): the inner packet goes to the stack.
    Ipip = 0,
    /// Taken out of GUE: the inner packet goes to the stack.
    Gue = 1,
    /// No tunnel packet for this host: left to the stack.
    NotTunnel = 2,
    /// A fragment of a tunnel packet: left to the stack, which puts it together for a tunnel device, if there is one.
    Fragment = 3,
    /// GUE with options, a control message or another protocol than IP: left to the stack.
    GueUnsupported = 4,
    /// From an outer source that is not allowed: dropped.
    SourceRefused = 5,
    /// What it carries is no IP packet, or a longer one than it has room for: dropped.
    Malformed = 6,
    /// Marked as congested on its way, with an inner packet that cannot carry the mark (RFC 6040, 4.2): dropped.
    CongestionUnmarkable = 7,
}

impl DecapReason {
    /// Every reason, in the order of its number.
    pub const ALL: &'static [Self] = &[
        Self::Ipip,
        Self::Gue,
        Self::NotTunnel,
        Self::Fragment,
        Self::GueUnsupported,
        Self::SourceRefused,
        Self::Malformed,
        Self::CongestionUnmarkable,
    ];

    /// The name in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ipip => "ipip",
            Self::Gue => "gue",
            Self::NotTunnel => "not_tunnel",
            Self::Fragment => "fragment",
            Self::GueUnsupported => "gue_unsupported",
            Self::SourceRefused => "source_refused",
            Self::Malformed => "malformed",
            Self::CongestionUnmarkable => "congestion_unmarkable",
        }
    }
}

/// What the program is told, in one word, and whoever asks for its status reads.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DecapSettings {
    /// The UDP port of GUE, host order.
    pub gue_port: u16,
    /// Outer sources must be in `SOURCES`.
    pub only_listed_sources: bool,
}

impl DecapSettings {
    /// The value in `SOURCES` of an IPv4 network: the network `::/0` contains what IPv4 is mapped to, and does not mean it.
    pub const IPV4_SOURCE: u32 = 4;
    /// The value in `SOURCES` of an IPv6 network.
    pub const IPV6_SOURCE: u32 = 6;
    const ONLY_LISTED_SOURCES: u32 = 1 << 16;

    /// From the word.
    #[inline(always)]
    pub const fn from_word(word: u32) -> Self {
        Self { gue_port: word as u16, only_listed_sources: word & Self::ONLY_LISTED_SOURCES != 0 }
    }

    /// The word.
    pub const fn word(self) -> u32 {
        let only = if self.only_listed_sources { Self::ONLY_LISTED_SOURCES } else { 0 };
        self.gue_port as u32 | only
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_dense_and_names_unique() {
        for (index, reason) in DecapReason::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, index);
            assert_eq!(DecapReason::ALL.iter().filter(|other| other.name() == reason.name()).count(), 1);
        }
    }

    #[test]
    fn settings_survive_their_word() {
        for only_listed_sources in [false, true] {
            for gue_port in [1, 6080, u16::MAX] {
                let settings = DecapSettings { gue_port, only_listed_sources };
                assert_eq!(DecapSettings::from_word(settings.word()), settings);
            }
        }
    }
}
