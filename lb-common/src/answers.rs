//! How many ICMP errors were sent in a second (RFC 4443, 2.4 f: a node must limit them).

/// An error that the balancer owes. Each kind has a limit of its own: who makes the times of packets end would else
/// silence the discovery of the path's MTU for all.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Owed {
    /// The packet is too big for the way.
    TooBig,
    /// Its time to live ended.
    TimeExceeded,
}

/// One CPU's count.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Answers {
    /// The second of the monotonic clock that is counted.
    pub second: u32,
    /// Errors of [`Owed::TooBig`] in it, those that were refused too.
    pub too_big: u32,
    /// Likewise, of [`Owed::TimeExceeded`].
    pub time_exceeded: u32,
    /// Zero.
    pub reserved: u32,
}

impl Answers {
    /// Counts an error in second `now`; whether it is one of the `limit` that may be sent.
    #[inline(always)]
    pub const fn count(&mut self, owed: Owed, now: u32, limit: u32) -> bool {
        if self.second != now {
            *self = Self { second: now, too_big: 0, time_exceeded: 0, reserved: 0 };
        }
        let count = match owed {
            Owed::TooBig => &mut self.too_big,
            Owed::TimeExceeded => &mut self.time_exceeded,
        };
        *count = count.wrapping_add(1);
        *count <= limit
    }
}

const _: () = assert!(size_of::<Answers>() == 16);
