//! How many ICMP errors were sent in a second (RFC 4443, 2.4 f: a node must limit them).

/// One CPU's count.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Answers {
    /// The second of the monotonic clock that `sent` counts.
    pub second: u32,
    /// Errors sent in it.
    pub sent: u32,
}
