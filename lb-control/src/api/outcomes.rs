//! Counts answers by their outcome, for the metrics: every refusal is counted under its kind.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use axum::{
    extract::{Request, State},
    middleware::Next,
    response::Response,
};

/// The kind of problem that a response carries.
#[derive(Clone, Copy)]
pub struct Kind(pub &'static str);

/// Answers by outcome: `ok`, or a kind of problem; a closed list, so the map is small.
#[derive(Default)]
pub struct Outcomes(Mutex<BTreeMap<&'static str, u64>>);

impl Outcomes {
    /// What was counted so far.
    pub fn counts(&self) -> BTreeMap<&'static str, u64> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn count(&self, outcome: &'static str) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(outcome).or_default() += 1;
    }
}

/// Counts one answer.
pub async fn count(State(outcomes): State<Arc<Outcomes>>, request: Request, next: Next) -> Response {
    let response = next.run(request).await;
    outcomes.count(response.extensions().get().map_or("ok", |Kind(kind)| kind));
    response
}
