//! What a load's failures mean: which of them a story may have. Pure: time is in what is judged.

use std::time::Instant;

use crate::load::Tally;

/// Every request was answered, and no connection met another gateway than before.
pub fn nothing_fails(tally: &Tally) -> Option<String> {
    match (tally.failed(), tally.resteered) {
        (0, 0) => None,
        (failed, resteered) => Some(format!("{failed} requests failed, {resteered} connections moved")),
    }
}

/// A gateway died, and its death was known at `known`: requests may have failed that were in flight on it, or
/// were begun before that moment.
pub fn only_gateway_fails(tally: &Tally, gateway: &str, known: Instant) -> Option<String> {
    let others = tally.failures.iter().filter(|failure| {
        let met = failure.server.as_deref();
        met.is_some_and(|met| met != gateway)
    });
    let late = tally.failures.iter().filter(|failure| failure.begun > known);
    match (others.count(), late.count(), tally.resteered) {
        (0, 0, 0) => None,
        (others, late, moved) => Some(format!(
            "{others} failed on other gateways, {late} began after detection, {moved} connections moved"
        )),
    }
}

/// An instance of a service died, and its death was known at `known`: no request that began later failed, and
/// no client's connection broke.
pub fn only_until(tally: &Tally, known: Instant) -> Option<String> {
    use crate::http::FailureKind::{Status, Timeout};
    let late = tally.failures.iter().filter(|failure| failure.begun > known).count();
    let broken = tally.failures.iter().filter(|failure| !matches!(failure.kind, Status | Timeout)).count();
    match (late, broken, tally.resteered) {
        (0, 0, 0) => None,
        (late, broken, moved) => Some(format!(
            "{late} requests failed that began after detection, {broken} clients' connections broke, {moved} moved"
        )),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::http::{Failure, FailureKind};

    #[test]
    fn failures_are_judged_by_whom_and_when() {
        let known = Instant::now();
        let failed = |server: Option<&str>, kind, late| Tally {
            failures: vec![Failure {
                begun: if late { known + Duration::from_millis(1) } else { known },
                server: server.map(str::to_string),
                kind,
                detail: String::new(),
            }],
            ..Tally::default()
        };
        let gateway = |tally: &Tally| only_gateway_fails(tally, "gateway2", known).is_none();
        for (server, late, kept) in [
            (Some("gateway2"), false, true),
            (None, false, true),
            (Some("gateway1"), false, false),
            (Some("gateway2"), true, false),
            (None, true, false),
        ] {
            let tally = failed(server, FailureKind::Broken, late);
            assert_eq!(gateway(&tally), kept, "{server:?} {late}");
            assert!(nothing_fails(&tally).is_some());
        }
        for (kind, late, kept) in [
            (FailureKind::Status, false, true),
            (FailureKind::Status, true, false),
            (FailureKind::Broken, false, false),
            (FailureKind::Content, false, false),
        ] {
            assert_eq!(only_until(&failed(None, kind, late), known).is_none(), kept, "{kind:?} {late}");
        }
        let moved = Tally { resteered: 1, ..Tally::default() };
        assert!(!gateway(&moved) && nothing_fails(&moved).is_some() && only_until(&moved, known).is_some());
        assert_eq!(nothing_fails(&Tally::default()), None);
    }
}
