//! Addresses and ports as they stand in a packet: big-endian bytes, so that no map key depends on the host.

/// An IPv6 address, or an IPv4 address in its mapped form `::ffff:a.b.c.d` (RFC 4291, 2.5.5.2), as four
/// words in memory order: the bytes of the packet, whatever the host's byte order.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
pub struct Address {
    words: [u32; 4],
}

const MAPPED_PREFIX: u32 = u32::from_ne_bytes([0, 0, 0xff, 0xff]);

impl Address {
    /// The four bytes of an IPv4 address read from a packet as a native word.
    #[inline(always)]
    pub const fn from_ipv4_word(word: u32) -> Self {
        Self { words: [0, 0, MAPPED_PREFIX, word] }
    }

    /// From the four bytes of an IPv4 address, first byte first.
    pub const fn from_ipv4(bytes: [u8; 4]) -> Self {
        Self::from_ipv4_word(u32::from_ne_bytes(bytes))
    }

    /// From the sixteen bytes of an IPv6 address, read as four native words.
    #[inline(always)]
    pub const fn from_words(words: [u32; 4]) -> Self {
        Self { words }
    }

    /// The address as four native words over the packet's bytes.
    #[inline(always)]
    pub const fn words(&self) -> [u32; 4] {
        self.words
    }

    /// The last four bytes as a native word: the whole IPv4 address of a mapped one.
    #[inline(always)]
    pub const fn ipv4_word(&self) -> u32 {
        self.words[3]
    }

    /// The address with all but the first `bits` of its 128 at zero.
    #[inline(always)]
    pub const fn network(&self, bits: u8) -> Self {
        let mut words = self.words;
        let mut index = 0;
        while index < 4 {
            let kept = (bits as u32).saturating_sub(32 * index as u32);
            let mask = if kept >= 32 { u32::MAX } else { !(u32::MAX >> kept) };
            words[index] &= mask.to_be();
            index += 1;
        }
        Self { words }
    }

    /// Whether this is an IPv4 address in its mapped form.
    #[inline(always)]
    pub const fn is_ipv4(&self) -> bool {
        self.words[0] == 0 && self.words[1] == 0 && self.words[2] == MAPPED_PREFIX
    }
}

/// A TCP or UDP port in network byte order.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
pub struct Port(u16);

impl Port {
    /// From a host-order number.
    pub const fn new(number: u16) -> Self {
        Self(number.to_be())
    }

    /// From the native word over the packet's two bytes.
    #[inline(always)]
    pub const fn from_word(word: u16) -> Self {
        Self(word)
    }

    /// The native word over the packet's two bytes.
    #[inline(always)]
    pub const fn word(self) -> u16 {
        self.0
    }

    /// The host-order number.
    pub const fn number(self) -> u16 {
        u16::from_be(self.0)
    }
}

/// An Ethernet address in the low 48 bits of a word, first byte lowest: it copies to a packet as one
/// 32-bit and one 16-bit store on a little-endian host.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Mac(u64);

impl Mac {
    /// From the six bytes in the order of the wire.
    pub const fn new(bytes: [u8; 6]) -> Self {
        let [a, b, c, d, e, f] = bytes;
        Self(u64::from_le_bytes([a, b, c, d, e, f, 0, 0]))
    }

    /// From a word whose low 48 bits are the address; the rest is ignored.
    #[inline(always)]
    pub const fn from_word(word: u64) -> Self {
        Self(word & 0xffff_ffff_ffff)
    }

    /// The address in the low 48 bits.
    #[inline(always)]
    pub const fn word(self) -> u64 {
        self.0
    }

    /// The six bytes in the order of the wire.
    #[inline(always)]
    pub const fn bytes(self) -> [u8; 6] {
        let [a, b, c, d, e, f, _, _] = self.0.to_le_bytes();
        [a, b, c, d, e, f]
    }
}
