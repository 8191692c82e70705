//! Drains, and how they end. Pure.
//!
//! A drain is over when it is known that the backend has no live flow, or when its time is up; the last count before says
//! how many flows that cut. What is known depends on what is remembered: a service that tracks every flow knows all of
//! them, one that does so on change those that were seen since its slots moved, until the slots are pinned.

use lb_common::BackendState;

/// A drain: ordered, or by the removal of the backend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DrainReport {
    /// Flows that are open or opening, as of the last sweep, or as of the last one before the end.
    pub live_flows: u32,
    /// Whether these are all. Otherwise they are those that were seen since the drain began.
    pub exact: bool,
    /// In so many seconds they will be all, if the flow table refuses none until then; 0 where they are.
    pub exact_after_seconds: u32,
    /// How it ended; `None` while it goes on.
    pub ended: Option<DrainEnd>,
}

/// How a drain ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DrainEnd {
    /// No flow was left.
    Empty,
    /// So many flows were left, of those that were known.
    Cut(u32),
}

/// What is seen of a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sight {
    /// What is sent to it.
    pub state: BackendState,
    /// Whether it stands in the order.
    pub wanted: bool,
    /// Whether its flows were counted since it is in this state.
    pub counted: bool,
    /// Flows that are open or opening.
    pub live_flows: u32,
    /// In so many seconds that will be all of them; 0 where it is.
    pub exact_after_seconds: u32,
}

/// The drain of a backend after it was seen; `None` where it has none.
///
/// A backend that failed is not drained; one that failed while it was, or that was taken out of the order, is. A drain
/// that begins anew is another one.
pub fn after(known: Option<DrainReport>, seen: Sight) -> Option<DrainReport> {
    let exact = seen.exact_after_seconds == 0;
    let now = DrainReport {
        live_flows: seen.live_flows,
        exact,
        exact_after_seconds: seen.exact_after_seconds,
        ended: None,
    };
    let end = |report: DrainReport| {
        let empty = report.exact && report.live_flows == 0;
        let ended = if empty { DrainEnd::Empty } else { DrainEnd::Cut(report.live_flows) };
        DrainReport { exact_after_seconds: 0, ended: Some(ended), ..report }
    };
    match (known, seen.state) {
        (_, BackendState::Up) => None,
        (_, BackendState::Draining) if seen.counted && exact && seen.live_flows == 0 => Some(end(now)),
        (_, BackendState::Draining) => Some(now),
        (Some(known), _) if known.ended.is_some() => Some(known),
        (Some(known), _) => Some(end(known)),
        (None, BackendState::Cut) => Some(end(now)),
        (None, BackendState::Down) => (!seen.wanted).then(|| end(now)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use BackendState::{Cut, Down, Draining, Up};

    fn report(live_flows: u32, exact_after_seconds: u32, ended: Option<DrainEnd>) -> Option<DrainReport> {
        let exact = exact_after_seconds == 0;
        Some(DrainReport { live_flows, exact, exact_after_seconds, ended })
    }

    #[test]
    fn drains_end_empty_or_cut() {
        let empty = Some(DrainEnd::Empty);
        let cut = |flows| Some(DrainEnd::Cut(flows));
        let inexact = |live_flows| {
            Some(DrainReport { live_flows, exact: false, exact_after_seconds: 0, ended: cut(live_flows) })
        };
        for (name, known, (state, wanted, live, wait), expected) in [
            ("it serves", None, (Up, true, 9, 0), None),
            ("it begins", None, (Draining, true, 9, 30), report(9, 30, None)),
            ("nothing seen, not known", report(9, 30, None), (Draining, true, 0, 12), report(0, 12, None)),
            ("all are known", report(0, 1, None), (Draining, true, 2, 0), report(2, 0, None)),
            ("none is left", report(2, 0, None), (Draining, true, 0, 0), report(0, 0, empty)),
            ("a stray flow comes", report(0, 0, empty), (Draining, true, 1, 0), report(1, 0, None)),
            ("it stays ended", report(0, 0, empty), (Down, true, 0, 0), report(0, 0, empty)),
            ("its time is up", report(3, 0, None), (Down, true, 7, 0), report(3, 0, cut(3))),
            ("with resets", report(3, 0, None), (Cut, true, 3, 0), report(3, 0, cut(3))),
            ("before all are known", report(3, 8, None), (Down, true, 3, 5), inexact(3)),
            ("none seen before all are known", report(0, 8, None), (Down, true, 0, 5), inexact(0)),
            ("none was left", report(0, 0, None), (Down, true, 0, 0), report(0, 0, empty)),
            ("it fails", None, (Down, true, 5, 0), None),
            ("it is removed", None, (Down, false, 5, 0), report(5, 0, cut(5))),
            ("it is removed, half known", None, (Down, false, 5, 60), inexact(5)),
            ("without a drain it is cut", None, (Cut, true, 5, 0), report(5, 0, cut(5))),
            ("it was cut", report(3, 0, cut(3)), (Down, false, 0, 0), report(3, 0, cut(3))),
            ("it comes back", report(3, 0, cut(3)), (Up, true, 3, 0), None),
            ("it drains again", report(3, 0, cut(3)), (Draining, true, 1, 0), report(1, 0, None)),
        ] {
            let seen = Sight { state, wanted, counted: true, live_flows: live, exact_after_seconds: wait };
            assert_eq!(after(known, seen), expected, "{name}");
        }
        let stale =
            Sight { state: Draining, wanted: true, counted: false, live_flows: 0, exact_after_seconds: 0 };
        assert_eq!(after(None, stale), report(0, 0, None), "flows may have come since the last count");
    }
}
