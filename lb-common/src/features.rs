//! What the program was loaded for. The word stands in the object's read-only data, so that the verifier removes
//! the code of what is off: a service pays for nothing that no service uses.

use core::ops::BitOr;

macro_rules! features {
    ($($name:ident = $bit:literal, $text:literal, $doc:literal;)*) => {
        impl Features {
            $(#[doc = $doc] pub const $name: Self = Self(1 << $bit);)*
            /// Every feature with its name.
            pub const ALL_NAMED: &'static [(Self, &'static str)] = &[$((Self::$name, $text),)*];
            /// All of them.
            pub const ALL: Self = Self($(1 << $bit |)* 0);
        }
    };
}

/// A set of features.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Features(u32);

features! {
    IPV6 = 0, "ipv6", "IPv6 services and backends.";
    TUNNEL = 1, "tunnel", "The modes `dsr-ipip` and `dsr-gue`.";
    FULL_NAT = 2, "full-nat", "The mode `full-nat`.";
    WIDE = 3, "wide", "Services of several ports, or of a prefix of addresses.";
    QUIC = 4, "quic", "Routing by QUIC connection id.";
    TRACKED = 6, "tracked", "Services that track every flow.";
    SOURCE = 7, "source", "Hashing by the client's network.";
    RESET = 8, "reset", "Ending the connections of a drain that is over by resets.";
    MSS = 5, "mss", "Clamping the TCP maximum segment size.";
}

impl Features {
    /// None.
    pub const NONE: Self = Self(0);

    /// Whether all of `other` are among these.
    #[inline(always)]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// From the word in the program's data.
    #[inline(always)]
    pub const fn from_word(word: u32) -> Self {
        Self(word)
    }

    /// The word in the program's data.
    pub const fn word(self) -> u32 {
        self.0
    }
}

impl BitOr for Features {
    type Output = Self;
    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}
