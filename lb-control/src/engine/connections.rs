//! Live connections of backends against the flows that are counted. Pure.
//!
//! Packets count with single instructions beside the flow that they write, so a race that is lost, or a program that was
//! replaced between the two, leaves a count that is off for good. The sweep sees every flow: what it finds is right,
//! unless flows began or ended while it read.

/// What a sweep found of one backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// Its live connections before the flows were read.
    pub before: u64,
    /// And after.
    pub after: u64,
    /// Its flows that are counted.
    pub flows: u64,
}

/// How far a backend's count is off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drift {
    /// It is right, or nothing can be said: flows began or ended while it was looked at.
    None,
    /// It seems off by so much; the next sweep will tell.
    Suspected(i64),
    /// It was twice off by as much: this is to be added.
    Proven(i64),
}

/// Compares; `suspected` is what the sweep before suspected.
pub fn drift(found: Found, suspected: Option<i64>) -> Drift {
    let off = found.flows.wrapping_sub(found.after) as i64;
    match off {
        _ if found.before != found.after => Drift::None,
        0 => Drift::None,
        off if suspected == Some(off) => Drift::Proven(off),
        off => Drift::Suspected(off),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_count_is_corrected_when_it_is_twice_off_by_as_much() {
        let below_zero = u64::MAX - 1;
        for (before, after, flows, suspected, expected) in [
            (5, 5, 5, None, Drift::None),
            (5, 5, 5, Some(2), Drift::None),
            (5, 6, 9, Some(3), Drift::None),
            (5, 5, 7, None, Drift::Suspected(2)),
            (5, 5, 7, Some(1), Drift::Suspected(2)),
            (5, 5, 7, Some(2), Drift::Proven(2)),
            (5, 5, 1, Some(-4), Drift::Proven(-4)),
            (below_zero, below_zero, 0, Some(2), Drift::Proven(2)),
        ] {
            assert_eq!(
                drift(Found { before, after, flows }, suspected),
                expected,
                "{before} {after} {flows}"
            );
        }
    }
}
