//! Copies of a route's requests for another service, whose answers are thrown away.
//!
//! A copy is gathered while the request's body passes, and sent once all of it has. Whatever becomes of it, the request
//! and its answer are as they were without it: what there is no room for is counted and forgotten.

use std::{
    fmt,
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::BytesMut;
use http::header::HOST;
use tokio::time::Instant;

use crate::{
    in_flight::{InFlight, InFlightGuard},
    limit::Permit,
    transform::Ready,
    upstream::{Caller, Head, Message, Outgoing, Upstream},
};

/// Where copies of a route's requests go.
pub struct Mirror {
    /// The service.
    pub upstream: Arc<Upstream>,
    /// How many of a hundred requests are copied.
    pub percent: f64,
    /// The largest body that is copied.
    pub body_bytes: usize,
    /// Copies that are gathered, sent or answered at the same time.
    pub in_flight: Arc<InFlight>,
    /// What became of copies; handed on by reloads.
    pub counts: Arc<Counts>,
}

/// How many copies came to each [`Outcome`].
#[derive(Debug, Default)]
pub struct Counts([AtomicU64; Outcome::ALL.len()]);

/// What became of a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The service answered.
    Answered,
    /// It did not.
    Failed,
    /// Too many were in flight.
    NoRoom,
    /// The body was too large.
    TooLarge,
    /// The request's body did not pass whole.
    Incomplete,
}

/// A copy of one request on its way. Its outcome is counted when it is dropped.
pub struct Copy {
    mirror: Arc<Mirror>,
    head: Head,
    body: BytesMut,
    permit: Permit,
    client: IpAddr,
    timeout: Duration,
    outcome: Outcome,
    _place: InFlightGuard,
}

impl Mirror {
    /// Copies a request that is about to be sent, or not, as chance has it.
    pub fn copy(self: &Arc<Self>, ready: &mut Ready) {
        if fastrand::f64() * 100.0 >= self.percent {
            return;
        }
        let Some(place) = self.in_flight.enter() else { return self.counts.count(Outcome::NoRoom) };
        let Ready { admitted, message, .. } = ready;
        let mut head = message.head.clone();
        if let Some(host) = &self.upstream.host {
            head.headers.insert(HOST, host.clone());
        }
        message.body.copy_to(Box::new(Copy {
            mirror: self.clone(),
            head,
            body: BytesMut::new(),
            permit: admitted.permit.for_copy(),
            client: admitted.routed.request.peer.address.ip(),
            timeout: admitted.routed.route.timeout,
            outcome: Outcome::Incomplete,
            _place: place,
        }));
    }
}

impl Copy {
    /// With more of the body; nothing, if that is too much.
    pub fn with(mut self: Box<Self>, data: &[u8]) -> Option<Box<Self>> {
        if self.body.len() + data.len() > self.mirror.body_bytes {
            self.outcome = Outcome::TooLarge;
            return None;
        }
        self.body.extend_from_slice(data);
        Some(self)
    }

    /// Sends it, on a task of its own.
    pub fn send(mut self: Box<Self>) {
        tokio::spawn(async move {
            let (head, body) = (std::mem::take(&mut self.head), std::mem::take(&mut self.body));
            let mut message = Message { head, body: Outgoing::full(body.freeze()) };
            let deadline = Instant::now() + self.timeout;
            let upstream = self.mirror.upstream.clone();
            let caller = Caller { permit: &self.permit, client: self.client, retry: None, deadline };
            match upstream.call(caller, &mut message, &|| None).await {
                Ok(answer) => {
                    self.outcome = Outcome::Answered;
                    answer.response.into_body().discard().await;
                }
                Err(_) => self.outcome = Outcome::Failed,
            }
        });
    }
}

impl Drop for Copy {
    fn drop(&mut self) {
        self.mirror.counts.count(self.outcome);
    }
}

impl fmt::Debug for Copy {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.debug_struct("Copy").field("outcome", &self.outcome).finish_non_exhaustive()
    }
}

impl Outcome {
    const ALL: [Self; 5] = [Self::Answered, Self::Failed, Self::NoRoom, Self::TooLarge, Self::Incomplete];

    /// Its word in metrics.
    pub fn word(self) -> &'static str {
        match self {
            Self::Answered => "answered",
            Self::Failed => "failed",
            Self::NoRoom => "in_flight",
            Self::TooLarge => "too_large",
            Self::Incomplete => "incomplete",
        }
    }
}

impl Counts {
    fn count(&self, outcome: Outcome) {
        self.0[outcome as usize].fetch_add(1, Relaxed);
    }

    /// Copies, by what became of them.
    pub fn all(&self) -> impl Iterator<Item = (Outcome, u64)> {
        Outcome::ALL.into_iter().map(|outcome| (outcome, self.0[outcome as usize].load(Relaxed)))
    }
}
