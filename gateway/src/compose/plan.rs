//! The graph of a composition and one run through it: which step is ready, what has come of each, and what the whole
//! answers. Pure.
//!
//! Invariant: the answer is a function of what has come of each step, never of the order in which it came. Only when
//! several required steps fail, the one that is heard of first is named: nobody waits for a worse message.

use std::sync::Arc;

use crate::{
    error::{Refusal, StepError},
    json::{self, Collision, Node, Path, Reshape},
};

/// What is to be done, without how.
#[derive(Debug)]
pub struct Plan {
    /// In the order in which answers are merged. Each step comes after others, never in a circle.
    pub steps: Vec<StepPlan>,
    /// When two answers have the same member.
    pub collision: Collision,
    /// The member that says what failed.
    pub note: Box<str>,
}

/// One step.
#[derive(Debug)]
pub struct StepPlan {
    /// Its name.
    pub name: Arc<str>,
    /// Steps that must have ended before, by position.
    pub after: Vec<usize>,
    /// Whether the whole can do without it.
    pub need: Need,
    /// What others read of its answer, as the service gave it.
    pub values: Vec<Path>,
    /// What is then changed in it.
    pub reshape: Reshape,
    /// Where it stands in the whole; without a place its members stand at the top.
    pub at: Option<Path>,
}

/// Whether the whole can do without a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Need {
    /// It cannot.
    Required,
    /// It can.
    Optional,
    /// It takes this for the service's answer.
    Fallback(Node),
}

/// A composed answer.
#[derive(Debug, PartialEq, Eq)]
pub struct Composed {
    /// The whole, with the note if something failed.
    pub document: Node,
    /// What failed, in the order of the plan.
    pub failed: Vec<Failure>,
}

/// A step that failed and was not required.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The step's name.
    pub step: Arc<str>,
    /// Why.
    pub error: StepError,
    /// Whether its fallback stands in the answer.
    pub fell_back: bool,
}

/// One run through a plan.
#[derive(Debug)]
pub struct Run<'p> {
    plan: &'p Plan,
    states: Vec<State>,
}

#[derive(Debug)]
enum State {
    Waiting,
    Started,
    Ended(Ended),
}

/// What has come of a step.
#[derive(Debug, Default)]
struct Ended {
    /// What it adds to the whole.
    part: Option<Node>,
    /// What others read of it, in the order of [`StepPlan::values`].
    values: Vec<Option<Box<str>>>,
    /// Why its service's answer is not there.
    error: Option<StepError>,
}

impl StepPlan {
    /// What an answer adds to the whole.
    ///
    /// # Errors
    /// [`StepError::NotObject`] for an answer that has no place of its own and no members.
    pub fn part(&self, answer: Node) -> Result<Node, StepError> {
        let answer = self.reshape.apply(answer);
        match (&self.at, answer) {
            (Some(at), answer) => at.wrap(answer).map_err(|_| StepError::NotObject),
            (None, answer @ Node::Object(_)) => Ok(answer),
            (None, _) => Err(StepError::NotObject),
        }
    }

    fn take(&self, answer: Node) -> Result<Ended, StepError> {
        let text = |path: &Path| path.get(&answer).and_then(Node::text).map(|text| text.into());
        let values = self.values.iter().map(text).collect();
        Ok(Ended { part: Some(self.part(answer)?), values, error: None })
    }
}

impl<'p> Run<'p> {
    /// Nothing has begun.
    pub fn new(plan: &'p Plan) -> Self {
        Self { plan, states: plan.steps.iter().map(|_| State::Waiting).collect() }
    }

    /// The next step that may begin, which begins thereby.
    pub fn begin_next(&mut self) -> Option<usize> {
        let may_begin = |position: &usize| {
            let after = &self.plan.steps[*position].after;
            matches!(self.states[*position], State::Waiting) && after.iter().all(|step| self.has_ended(*step))
        };
        let next = (0..self.states.len()).find(may_begin)?;
        self.states[next] = State::Started;
        Some(next)
    }

    /// Notes what has come of a step that had begun.
    ///
    /// # Errors
    /// [`Refusal::Step`] when the whole cannot do without it: nothing else matters any more.
    pub fn end(&mut self, position: usize, outcome: Result<Node, StepError>) -> Result<(), Refusal> {
        let step = &self.plan.steps[position];
        let ended = match (outcome.and_then(|answer| step.take(answer)), &step.need) {
            (Ok(ended), _) => ended,
            (Err(error), Need::Required) => return Err(Refusal::Step { step: step.name.clone(), error }),
            (Err(error), Need::Optional) => Ended { error: Some(error), ..Ended::default() },
            (Err(error), Need::Fallback(fallback)) => {
                let ended = step.take(fallback.clone()).unwrap_or_default();
                Ended { error: Some(error), ..ended }
            }
        };
        self.states[position] = State::Ended(ended);
        Ok(())
    }

    /// A value that a step reads of an earlier one.
    ///
    /// # Errors
    /// [`StepError::Dependency`] if that one has no answer, [`StepError::MissingValue`] if its answer lacks the value.
    pub fn value(&self, step: usize, value: usize) -> Result<&str, StepError> {
        match &self.states[step] {
            State::Ended(Ended { part: Some(_), values, .. }) => {
                values.get(value).and_then(Option::as_deref).ok_or(StepError::MissingValue)
            }
            _ => Err(StepError::Dependency),
        }
    }

    /// The whole, once every step has ended.
    ///
    /// # Errors
    /// [`Refusal::Collision`] where two answers meet and the rule refuses that, and where an answer has the note's
    /// member: a client could not tell whose word it is.
    pub fn answer(self) -> Result<Composed, Refusal> {
        let mut document = Node::Object(Vec::new());
        let mut failed = Vec::new();
        for (step, state) in self.plan.steps.iter().zip(self.states) {
            let State::Ended(Ended { part, error, .. }) = state else { return Err(Refusal::Internal) };
            failed.extend(error.map(|error| Failure {
                step: step.name.clone(),
                error,
                fell_back: part.is_some(),
            }));
            if let Some(part) = part {
                document = json::merge(document, part, self.plan.collision)
                    .map_err(|error| Refusal::Collision(error.place))?;
            }
        }
        if document.member(&self.plan.note).is_some() {
            return Err(Refusal::Collision(self.plan.note.to_string()));
        }
        if let (false, Node::Object(members)) = (failed.is_empty(), &mut document) {
            let note = failed.iter().map(Failure::note).collect();
            members.push((json::Key::new(&self.plan.note), Node::Array(note)));
        }
        Ok(Composed { document, failed })
    }

    fn has_ended(&self, position: usize) -> bool {
        matches!(self.states[position], State::Ended(_))
    }
}

impl Failure {
    /// Its entry of the note: `{"step":"rates","reason":"status","status":503}`.
    fn note(&self) -> Node {
        let mut members =
            vec![("step", Node::string(&self.step)), ("reason", Node::string(self.error.reason()))];
        if let StepError::Status(status) = self.error {
            members.push(("status", Node::number(status.into())));
        }
        if self.fell_back {
            members.push(("fallback", Node::boolean(true)));
        }
        Node::object(members)
    }
}

#[cfg(test)]
mod tests;
