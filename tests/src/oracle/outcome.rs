//! What may become of a packet, and the comparison with what did. Pure.

use lb_common::{Flow, FlowKey, Owed, Reason, Translation};

use super::edit::Edited;
use super::memory::{FragmentKey, Way};
use super::tunnel::is_steady;
use super::world::{Entropy, World};

/// What a lane did with a packet.
#[derive(Clone, Debug)]
pub struct Seen {
    /// The reason, where the lane tells it for each packet.
    pub reason: Option<Reason>,
    /// What the kernel was told to do.
    pub action: Action,
    /// The frame afterwards.
    pub bytes: Vec<u8>,
}

/// What the kernel is told to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Nothing.
    Drop,
    /// Leave it to the stack.
    Pass,
    /// Send it out of the interface that it came in by.
    Back,
    /// Send it out of another; the number, where the lane tells it.
    Out(Option<u32>),
}

/// What is allowed.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Why.
    pub reason: Reason,
    /// Where it leaves.
    pub action: Action,
    /// How it leaves; `None`: as it came.
    pub edited: Option<Edited>,
    /// What is wrong with it already.
    pub problem: Option<String>,
    /// Whether the lane's routes had a say.
    pub routed: bool,
    /// Whether the kernel may decide otherwise: it goes where no rule says what its routes answer.
    pub open: bool,
    /// What changes.
    pub effects: Effects,
}

/// What a packet leaves behind.
#[derive(Clone, Debug, Default)]
pub struct Effects {
    /// Counted for a service and a backend.
    pub tally: Option<Tally>,
    /// The flow table under this tuple.
    pub flow: Option<(FlowKey, Flow)>,
    /// Outer fields of a flow.
    pub entropy: Option<(FlowKey, Entropy)>,
    /// Where fragments go.
    pub fragment: Option<(FragmentKey, Way)>,
    /// Directions of translated flows; none: removed.
    pub translations: Vec<(FlowKey, Option<Translation>)>,
    /// Whether a lane was free in what it translates to.
    pub opened: bool,
    /// An ICMP error was sent, or would have been.
    pub answered: Option<Owed>,
}

/// Counters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tally {
    /// Service number.
    pub service: u32,
    /// Backend id.
    pub backend: u32,
    /// Bytes of IP.
    pub bytes: u64,
    /// See [`lb_common::Counters`].
    pub new_flow: bool,
    /// See [`lb_common::Counters`].
    pub refused: bool,
}

impl Outcome {
    /// A packet that stays as it came.
    pub fn stays(reason: Reason) -> Self {
        Self {
            reason,
            action: action_of(reason),
            edited: None,
            problem: None,
            routed: false,
            open: false,
            effects: Effects::default(),
        }
    }

    /// Whether it is on its way to a backend, and counted.
    pub fn is_forwarded(&self) -> bool {
        matches!(self.reason, Reason::Forwarded | Reason::ResolvingNextHop | Reason::LeftToFragment)
    }

    /// The flow table's change.
    pub fn with_flow(mut self, flow: Option<(FlowKey, Flow)>) -> Self {
        self.effects.flow = self.effects.flow.or(flow);
        self
    }

    /// Compares; what is wrong, in words.
    pub fn compare(&self, frame: &[u8], seen: &Seen) -> Result<(), String> {
        if seen.reason.is_some_and(|reason| reason != self.reason) {
            return Err(format!("reason {:?}, expected {:?}", seen.reason, self.reason));
        }
        let same = match (seen.action, self.action) {
            (Action::Out(None), Action::Out(_)) => true,
            (one, other) => one == other,
        };
        if !same {
            return Err(format!("action {:?}, expected {:?} ({:?})", seen.action, self.action, self.reason));
        }
        if let Some(problem) = &self.problem {
            return Err(problem.clone());
        }
        match &self.edited {
            Some(edited) => edited.compare(&seen.bytes),
            None => Edited::new(frame).compare(&seen.bytes),
        }
        .map_err(|wrong| format!("{wrong} [{:?}]", self.reason))
    }

    /// Takes what changes into the world.
    pub fn leave(&self, world: &mut World) -> Result<(), String> {
        let effects = &self.effects;
        if let Some((key, flow)) = effects.flow {
            world.flows.insert(key, flow);
        }
        if let Some((key, way)) = effects.fragment {
            world.fragments.insert(key, way);
        }
        for &(key, translation) in &effects.translations {
            match translation {
                Some(translation) => world.translations.insert(key, translation),
                None => world.translations.remove(&key),
            };
        }
        if let Some(owed) = effects.answered {
            let (sent, now) = (world.sent(owed) + 1, world.now);
            world.answers.insert(owed as u8, (now, sent));
        }
        match effects.entropy {
            Some((key, entropy)) if !is_steady(world, key, entropy) => Err(format!(
                "outer fields of a flow changed: {entropy:?}, before {:?}",
                world.entropy.get(&(key, entropy.source.is_ipv4()))
            )),
            _ => Ok(()),
        }
    }
}

/// What a reason is for a packet that the program does not send.
pub fn action_of(reason: Reason) -> Action {
    match reason {
        Reason::NotIp
        | Reason::NotOurs
        | Reason::LocalReply
        | Reason::ResolvingNextHop
        | Reason::LeftToFragment
        | Reason::ReplyLeft
        | Reason::FragmentPassed => Action::Pass,
        _ => Action::Drop,
    }
}
