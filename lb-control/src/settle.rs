//! How slots move and come to rest. Pure.
//!
//! `settled` → (owner changes) → `moving` → (idle timeout without a refusal) → `pinned` → (no remembered flow
//! belongs elsewhere) → `settled`.

use lb_common::{BackendId, Flow, FlowState, Slot, SlotState};

/// Seconds by which the controller outwaits the program: both clocks count whole seconds of the same clock.
const CLOCK_MARGIN_SECONDS: u32 = 1;

/// The slots after their owners changed to `owners`, which has at least as many, both powers of two:
/// slot `s` of a table that grew nests in slot `s >> k` of the old one.
///
/// `previous` is the last owner before moving began, so it stays while a slot moves again; when it serves no
/// more, `current` takes its place. A slot whose owner died has no flow that a change could break: it comes
/// to rest at once.
pub fn change_owners(
    old: &[Slot],
    owners: &[BackendId],
    serves: impl Fn(BackendId) -> bool,
    now_seconds: u32,
) -> Vec<Slot> {
    let growth = (owners.len() / old.len()).trailing_zeros();
    owners
        .iter()
        .enumerate()
        .map(|(index, &owner)| change_owner(old[index >> growth], owner, &serves, now_seconds))
        .collect()
}

fn change_owner(slot: Slot, owner: BackendId, serves: impl Fn(BackendId) -> bool, now_seconds: u32) -> Slot {
    let current = slot.current();
    let previous = if serves(slot.previous()) { slot.previous() } else { current };
    if owner == current {
        return Slot::new(current, previous, slot.state(), slot.moved_at());
    }
    let (previous, state) = match slot.state() {
        SlotState::Moving => (previous, SlotState::Moving),
        resting if !serves(current) => (owner, resting),
        SlotState::Settled | SlotState::Pinned => (current, SlotState::Moving),
    };
    let previous = if serves(previous) { previous } else { owner };
    Slot::new(owner, previous, state, now_seconds)
}

/// The slots of a service that tracked every flow and now does so on change only.
///
/// Its flows are remembered wherever they are, and the few that the full table refused are where the slots say: so a
/// settled slot becomes pinned, and what is remembered elsewhere is found before the slot is asked.
///
/// The other way round slots stay as they are: who knows every flow sends one that it does not know where the slot
/// says, as before, and remembers it.
pub fn pin(slots: &[Slot]) -> Vec<Slot> {
    let pinned = |slot: &Slot| match slot.state() {
        SlotState::Settled => Slot::new(slot.current(), slot.current(), SlotState::Pinned, slot.moved_at()),
        SlotState::Moving | SlotState::Pinned => *slot,
    };
    slots.iter().map(pinned).collect()
}

/// What a sweep does with one remembered flow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fate {
    /// It stays, and its slot may settle in spite of it.
    Keep,
    /// It stays and keeps its pinned slot from settling.
    KeepPinned,
    /// It is forgotten.
    Delete,
}

/// Decides over a remembered flow of `slot`.
///
/// In a moving slot nothing is deleted unless the table is filling up: between a sweep's look and its
/// deletion a SYN may reopen the tuple, and in a moving slot its next packet would be sent to `previous`.
///
/// Nothing that lives is ever pushed out by what comes. A half-open flow ends after
/// [`lb_common::limits::OPENING_SECONDS`], so in a table of which three quarters are full those of a flood of SYNs go
/// minutes before established ones would; and none of them keeps a pinned slot from settling for longer.
pub fn fate(
    slot: Slot,
    flow: Flow,
    serves: bool,
    idle_max_seconds: u32,
    now_seconds: u32,
    filling_up: bool,
) -> Fate {
    let ended = !serves || is_idle(flow, idle_max_seconds, now_seconds);
    match slot.state() {
        SlotState::Settled => Fate::Delete,
        SlotState::Moving if ended && filling_up => Fate::Delete,
        SlotState::Moving => Fate::Keep,
        SlotState::Pinned if ended || flow.backend() == slot.current() => Fate::Delete,
        SlotState::Pinned => Fate::KeepPinned,
    }
}

/// Decides over a flow of a service that tracks every flow: whatever its slot does, it stays while it lives.
///
/// A SYN may reopen the tuple between the sweep's look and its deletion; then it is put back, see
/// [`crate::datapath::Change::DeleteFlows`].
pub fn tracked_fate(flow: Flow, serves: bool, idle_max_seconds: u32, now_seconds: u32) -> Fate {
    if serves && !is_idle(flow, idle_max_seconds, now_seconds) { Fate::Keep } else { Fate::Delete }
}

/// Decides over the backend that a client's network keeps to. It is remembered of a service without affinity, for 0
/// seconds, no more.
pub fn affinity_fate(entry: Flow, serves: bool, affinity_seconds: u32, now_seconds: u32) -> Fate {
    let over = entry.idle_seconds(now_seconds) > affinity_seconds.saturating_add(CLOCK_MARGIN_SECONDS);
    if serves && !over && affinity_seconds != 0 { Fate::Keep } else { Fate::Delete }
}

/// Whether a flow goes on, as far as is known: it neither ended, nor ends, nor is it idle for too long.
pub fn is_live(flow: Flow, idle_max_seconds: u32, now_seconds: u32) -> bool {
    !flow.state().is_over() && !is_idle(flow, idle_max_seconds, now_seconds)
}

fn is_idle(flow: Flow, idle_max_seconds: u32, now_seconds: u32) -> bool {
    flow.idle_seconds(now_seconds) > flow.state().timeout_seconds(idle_max_seconds) + CLOCK_MARGIN_SECONDS
}

/// Whether a translated flow is over, by what was seen of its directions; the second may be missing.
///
/// It is half open until the client has answered: the backend answers whoever asks, a forged address too. So what a
/// flood of SYNs left is forgotten after [`lb_common::limits::OPENING_SECONDS`], long before a flow that goes on.
pub fn translation_is_over(
    first: Flow,
    second: Option<Flow>,
    idle_max_seconds: u32,
    now_seconds: u32,
) -> bool {
    let other = second.unwrap_or(first);
    let state = translation_state(first, second);
    let idle = first.idle_seconds(now_seconds).min(other.idle_seconds(now_seconds));
    idle > state.timeout_seconds(idle_max_seconds) + CLOCK_MARGIN_SECONDS
}

/// The state of a translated flow, by what was seen of its directions.
pub fn translation_state(first: Flow, second: Option<Flow>) -> FlowState {
    match (first.state(), second.unwrap_or(first).state()) {
        (FlowState::Reset, _) | (_, FlowState::Reset) => FlowState::Reset,
        (FlowState::Opening, _) => FlowState::Opening,
        (FlowState::Closing, FlowState::Closing) => FlowState::Closing,
        (FlowState::Established | FlowState::Closing, _) => FlowState::Established,
    }
}

/// The slot after a sweep that found its flows; `refused_seconds_ago` since the service's last refusal.
pub fn rest(
    slot: Slot,
    kept_pinned: bool,
    idle_max_seconds: u32,
    now_seconds: u32,
    refused_seconds_ago: u32,
) -> Slot {
    let quiet = slot.seconds_since_move(now_seconds).min(refused_seconds_ago);
    match slot.state() {
        SlotState::Moving if quiet > idle_max_seconds + CLOCK_MARGIN_SECONDS => {
            Slot::new(slot.current(), slot.previous(), SlotState::Pinned, slot.moved_at())
        }
        SlotState::Pinned if !kept_pinned => Slot::settled(slot.current()),
        SlotState::Settled | SlotState::Moving | SlotState::Pinned => slot,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: BackendId = BackendId(1);
    const B: BackendId = BackendId(2);
    const C: BackendId = BackendId(3);
    use SlotState::{Moving, Pinned, Settled};

    fn slot(current: BackendId, previous: BackendId, state: SlotState) -> Slot {
        Slot::new(current, previous, state, 50)
    }

    #[test]
    fn owners_change_by_the_rules() {
        let cases = [
            // (before, owner, dead) → after
            (slot(A, A, Settled), A, None, Slot::new(A, A, Settled, 50)),
            (slot(A, A, Settled), B, None, Slot::new(B, A, Moving, 99)),
            (slot(B, A, Moving), C, None, Slot::new(C, A, Moving, 99)),
            (slot(B, A, Moving), A, None, Slot::new(A, A, Moving, 99)),
            (slot(B, A, Pinned), C, None, Slot::new(C, B, Moving, 99)),
            // previous dies
            (slot(B, A, Moving), B, Some(A), Slot::new(B, B, Moving, 50)),
            (slot(B, A, Moving), C, Some(A), Slot::new(C, B, Moving, 99)),
            (slot(B, A, Pinned), B, Some(A), Slot::new(B, B, Pinned, 50)),
            // current dies
            (slot(A, A, Settled), B, Some(A), Slot::new(B, B, Settled, 99)),
            (slot(B, A, Pinned), C, Some(B), Slot::new(C, C, Pinned, 99)),
            (slot(B, A, Moving), C, Some(B), Slot::new(C, A, Moving, 99)),
            (
                slot(BackendId::NONE, BackendId::NONE, Settled),
                A,
                Some(BackendId::NONE),
                Slot::new(A, A, Settled, 99),
            ),
        ];
        for (before, owner, dead, after) in cases {
            let serves = |id| Some(id) != dead && id != BackendId::NONE;
            assert_eq!(change_owners(&[before], &[owner], serves, 99), [after], "{before:?} to {owner:?}");
        }
    }

    #[test]
    fn a_grown_table_nests() {
        let old = [slot(A, A, Settled), slot(B, B, Settled)];
        let new = change_owners(&old, &[A, C, B, A], |_| true, 99);
        assert_eq!(new.iter().map(|slot| slot.previous()).collect::<Vec<_>>(), [A, A, B, B]);
        assert_eq!(
            new.iter().map(|slot| slot.state()).collect::<Vec<_>>(),
            [Settled, Moving, Settled, Moving]
        );
    }

    #[test]
    fn rest_waits_for_the_idle_timeout_and_for_refusals() {
        let moving = Slot::new(B, A, Moving, 100);
        assert_eq!(rest(moving, false, 10, 111, 999).state(), Moving);
        assert_eq!(rest(moving, false, 10, 112, 999).state(), Pinned);
        assert_eq!(rest(moving, false, 10, 112, 11).state(), Moving);
        let pinned = Slot::new(B, A, Pinned, 100);
        assert_eq!(rest(pinned, true, 10, 500, 999), pinned);
        assert_eq!(rest(pinned, false, 10, 500, 999), Slot::settled(B));
    }

    #[test]
    fn flows_are_forgotten_when_they_no_longer_matter() {
        let flow = |backend, seen| Flow::new(backend, 7, seen, FlowState::Established);
        let cases = [
            (Moving, flow(A, 100), true, 100, false, Fate::Keep),
            (Moving, flow(A, 10), true, 100, false, Fate::Keep),
            (Moving, flow(A, 10), true, 100, true, Fate::Delete),
            (Moving, flow(A, 100), false, 100, true, Fate::Delete),
            (Pinned, flow(A, 100), true, 100, false, Fate::KeepPinned),
            (Pinned, flow(A, 100), false, 100, false, Fate::Delete),
            (Pinned, flow(B, 100), true, 100, false, Fate::Delete),
            (Pinned, flow(A, 80), true, 92, false, Fate::Delete),
            (Settled, flow(B, 100), true, 100, false, Fate::Delete),
        ];
        for (state, flow, serves, now, filling_up, expected) in cases {
            assert_eq!(
                fate(Slot::new(B, A, state, 0), flow, serves, 10, now, filling_up),
                expected,
                "{state:?} {flow:?}"
            );
        }
    }

    #[test]
    fn tracked_flows_stay_while_they_live() {
        let flow = |state, seen| Flow::new(A, 7, seen, state);
        use FlowState::{Closing, Established, Opening, Reset};
        for (state, seen, serves, fate) in [
            (Established, 89, true, Fate::Keep),
            (Established, 88, true, Fate::Delete),
            (Established, 100, false, Fate::Delete),
            (Opening, 89, true, Fate::Keep),
            (Closing, 89, true, Fate::Keep),
            (Reset, 88, true, Fate::Delete),
        ] {
            assert_eq!(tracked_fate(flow(state, seen), serves, 10, 100), fate, "{state:?} {seen}");
        }
        for (seen, affinity, serves, fate) in [
            (39, 60, true, Fate::Keep),
            (38, 60, true, Fate::Delete),
            (100, 60, false, Fate::Delete),
            (100, 0, true, Fate::Delete),
        ] {
            assert_eq!(
                affinity_fate(flow(Established, seen), serves, affinity, 100),
                fate,
                "{seen} {affinity}"
            );
        }
    }

    /// Where the packet path sends a packet in mid-flow, by the tracking and what is remembered.
    fn goes_to(tracks_every_flow: bool, slot: Slot, remembered: Option<BackendId>) -> BackendId {
        match (remembered, slot.state()) {
            (Some(_), Settled) if !tracks_every_flow => slot.current(),
            (Some(backend), _) => backend,
            (None, Moving) => slot.previous(),
            (None, Settled | Pinned) => slot.current(),
        }
    }

    /// Every slot, every owner after the change, every flow that could be there: none moves when the tracking changes,
    /// nor when the sweep has passed over it afterwards.
    #[test]
    fn no_flow_moves_when_the_tracking_changes() {
        let slots = [
            slot(A, A, Settled),
            slot(B, A, Moving),
            slot(A, A, Moving),
            slot(B, A, Pinned),
            slot(A, A, Pinned),
        ];
        let mut checked = 0;
        for (before, owner, every_before) in slots
            .iter()
            .flat_map(|slot| [A, B, C].map(|owner| (*slot, owner, [true, false])))
            .flat_map(|(slot, owner, both)| both.map(|every| (slot, owner, every)))
        {
            let old = if every_before { pin(&[before]) } else { vec![before] };
            let after = change_owners(&old, &[owner], |_| true, 99)[0];
            for remembered in [None, Some(A), Some(B), Some(C)] {
                // On change, nothing is remembered in a settled slot, and in a pinned one only what lives elsewhere.
                if !every_before && before.state() == Settled && remembered.is_some() {
                    continue;
                }
                let place = goes_to(every_before, before, remembered);
                assert_eq!(goes_to(!every_before, after, remembered), place, "{before:?} to {after:?}");
                checked += 1;
                let Some(backend) = remembered else { continue };
                let flow = Flow::new(backend, 7, 100, FlowState::Established);
                let fate = match every_before {
                    true => fate(after, flow, true, 10, 100, true),
                    false => tracked_fate(flow, true, 10, 100),
                };
                let left = (fate != Fate::Delete).then_some(backend);
                assert_eq!(goes_to(!every_before, after, left), place, "swept: {before:?} to {after:?}");
                if fate == Fate::KeepPinned {
                    assert_eq!(rest(after, true, 10, 500, 999), after, "it waits for the flow");
                }
            }
        }
        assert_eq!(checked, 5 * 3 * 4 * 2 - 3 * 3);
    }
}
