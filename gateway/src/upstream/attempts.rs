//! The call of a service: one try after the other, until one brings an answer or no further one makes sense.

use std::{pin::pin, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, Response, StatusCode};
use http_body::Body as _;
use http_body_util::BodyExt as _;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::{
    Again, Answer, AnswerBody, AnswerStream, CallFailed, Caller, Endpoint, Message, Outgoing, Upstream,
    breaker::Passage,
    endpoint::InFlightOn,
    outgoing::Fate,
    pool::{self, Connection, NotAnswered},
    retry::{self, Cause, Retry},
};
use crate::{clock::now_ns, error::UpstreamError, in_flight::InFlightGuard};

/// The instances that a request was tried on.
#[derive(Default)]
pub(super) struct Tried {
    last: Option<Arc<Endpoint>>,
    earlier: Vec<u64>,
}

/// A try that brought no answer.
struct Failure {
    error: UpstreamError,
    cause: Option<Cause>,
}

/// What is kept of a request so that it can be sent once more.
struct Kept {
    /// Whether it may be, once it was sent.
    repeatable: bool,
    body: Option<Bytes>,
}

impl Tried {
    pub(super) fn add(&mut self, endpoint: &Arc<Endpoint>) {
        if let Some(last) = self.last.replace(endpoint.clone()) {
            self.earlier.push(last.id);
        }
    }

    /// Whether it was tried on this one.
    pub(super) fn contains(&self, endpoint: &Endpoint) -> bool {
        self.last.as_ref().is_some_and(|last| last.id == endpoint.id) || self.earlier.contains(&endpoint.id)
    }
}

impl Upstream {
    /// Sends a request to one instance and waits for the head of its answer.
    ///
    /// A request that was surely not sent goes to another instance. One that may have been sent is sent again only as
    /// the rule of repeating says, and if it is idempotent and its body is at hand; without a rule only where it met a
    /// kept connection that broke without a byte of an answer (RFC 9110, section 9.2.2; RFC 9112, section 9.3.1).
    ///
    /// # Errors
    /// [`CallFailed`]; the deadline is [`UpstreamError::Timeout`].
    pub async fn call(
        self: &Arc<Self>,
        caller: Caller<'_>,
        message: &mut Message,
        again: Again<'_>,
    ) -> Result<Answer, CallFailed> {
        let mut passage = match &self.breaker {
            Some(breaker) => {
                Some(breaker.enter(now_ns()).map_err(|error| CallFailed { error, endpoint: None })?)
            }
            None => None,
        };
        let mut tried = Tried::default();
        let fate = message.body.fate();
        let attempts = self.attempts(&caller, message, again, fate.as_deref(), &mut tried);
        let mut outcome = match timeout_at(caller.deadline, attempts).await {
            Ok(outcome) => outcome,
            Err(_) => {
                if let Some(endpoint) = tried.last.as_ref().filter(|_| was_sent(fate.as_deref())) {
                    endpoint.failed(&self.ejection, &self.endpoints);
                }
                Err(CallFailed { error: UpstreamError::Timeout, endpoint: tried.last })
            }
        };
        if let Some(passage) = &mut passage {
            passage.judge(&mut outcome, fate.as_deref());
        }
        outcome
    }

    async fn attempts(
        self: &Arc<Self>,
        caller: &Caller<'_>,
        message: &mut Message,
        again: Again<'_>,
        fate: Option<&Fate>,
        tried: &mut Tried,
    ) -> Result<Answer, CallFailed> {
        let retry = caller.retry.unwrap_or(&self.retry);
        let kept = match Kept::without_reading(message, retry) {
            Some(kept) => kept,
            None => Box::pin(Kept::by_reading(message)).await?,
        };
        if let Some(budget) = &self.budget {
            budget.request(now_ns());
        }
        let key = self.balance.key(caller, &message.head);
        let mut tries = 0;
        // The place of a request that is repeated, until its answer begins.
        let mut place = None;
        let mut last = UpstreamError::NoEndpoint;
        loop {
            let Some(endpoint) = self.balance.pick(tried, key) else {
                return Err(CallFailed { error: last, endpoint: tried.last.clone() });
            };
            tried.add(&endpoint);
            tries += 1;
            let outcome = match retry.per_try_timeout.filter(|_| kept.repeatable) {
                None => self.attempt(&endpoint, message, tries == 1, kept.repeatable, fate, again).await,
                Some(time) => {
                    Box::pin(self.bounded_attempt(&endpoint, message, tries == 1, time, again)).await
                }
            };
            let cause = match &outcome {
                Ok(answer) if retry.on_status(answer.response.status()) => Some(Cause::Status),
                Ok(_) => return outcome.map_err(|failure| failed(failure.error, &endpoint)),
                Err(failure) => failure.cause,
            };
            let Some(cause) = cause.filter(|cause| {
                let untouched = *cause == Cause::Connect;
                tries < retry.tries && (untouched || kept.repeatable) && retry.on_failure(*cause)
            }) else {
                return outcome.map_err(|failure| failed(failure.error, &endpoint));
            };
            let rest = match cause.costs() {
                true => retry.backoff.rest(tries, fastrand::f64()),
                false => Duration::ZERO,
            };
            let in_time = Instant::now() + rest < caller.deadline;
            if !in_time || (cause.costs() && !self.affords_another(&mut place)) {
                return outcome.map_err(|failure| failed(failure.error, &endpoint));
            }
            last = outcome.as_ref().err().map_or(last, |failure| failure.error);
            if cause != Cause::Connect {
                let Some(head) = again() else { return Err(failed(last, &endpoint)) };
                *message = Message { head, body: kept.body.clone().map_or(Outgoing::Empty, Outgoing::full) };
                Box::pin(rest_after(outcome.ok(), rest)).await;
            }
            self.counters.retried(cause);
        }
    }

    fn affords_another(&self, place: &mut Option<InFlightGuard>) -> bool {
        if let Some(breaker) = self.breaker.as_ref().filter(|_| place.is_none()) {
            match breaker.retry() {
                Some(entered) => *place = entered,
                None => {
                    self.counters.crowded_out();
                    return false;
                }
            }
        }
        let affords = self.budget.as_ref().is_none_or(|budget| budget.withdraw(now_ns()));
        if !affords {
            self.counters.unaffordable();
        }
        affords
    }

    /// One try of a request that may be repeated; an instance that does not answer in `time` is to blame.
    async fn bounded_attempt(
        self: &Arc<Self>,
        endpoint: &Arc<Endpoint>,
        message: &mut Message,
        first: bool,
        time: Duration,
        again: Again<'_>,
    ) -> Result<Answer, Failure> {
        match timeout(time, self.attempt(endpoint, message, first, true, None, again)).await {
            Ok(outcome) => outcome,
            Err(_) => {
                endpoint.failed(&self.ejection, &self.endpoints);
                Err(Failure::of(UpstreamError::TryTimeout))
            }
        }
    }

    /// One try: a connection, the request, the head of its answer. Of a request that was surely not sent, `message` is
    /// whole again afterwards.
    async fn attempt(
        self: &Arc<Self>,
        endpoint: &Arc<Endpoint>,
        message: &mut Message,
        first: bool,
        repeatable: bool,
        fate: Option<&Fate>,
        again: Again<'_>,
    ) -> Result<Answer, Failure> {
        // A request that meets a kept connection may find it closed by the other end; a new one is surely open.
        let kept = if first { pool::take(self, endpoint) } else { None };
        let mut connection = match kept {
            Some(connection) => connection,
            None => match pool::open(self, endpoint).await {
                Ok(connection) => connection,
                Err(error) => {
                    endpoint.failed(&self.ejection, &self.endpoints);
                    return Err(Failure::of(error));
                }
            },
        };
        connection.ready().await;
        let mut in_flight = endpoint.begin();
        if self.balance.is_timed() {
            in_flight.timed(now_ns());
        }
        let answer = connection.send(message.take());
        let response = match self.first_byte_timeout {
            None => answer.await,
            Some(time) => match Box::pin(first_byte(answer, time, fate)).await {
                Some(response) => response,
                None => {
                    endpoint.failed(&self.ejection, &self.endpoints);
                    return Err(Failure::of(UpstreamError::FirstByteTimeout));
                }
            },
        };
        match response {
            Ok(response) => {
                in_flight.answered();
                Ok(self.answered(endpoint.clone(), response, connection, in_flight))
            }
            Err(NotAnswered::Unsent(request)) => {
                *message = Message::from(*request);
                Err(Failure::of(UpstreamError::Connect))
            }
            Err(NotAnswered::Refused(body)) => {
                // As good as never sent.
                let cause = again().map(|head| {
                    *message = Message { head, body };
                    Cause::Connect
                });
                Err(Failure { error: UpstreamError::Broken, cause })
            }
            Err(NotAnswered::Lost(UpstreamError::Broken)) if connection.is_used() && repeatable => {
                Err(Failure { error: UpstreamError::Broken, cause: Some(Cause::Stale) })
            }
            Err(NotAnswered::Lost(error)) => {
                if was_sent(fate) {
                    endpoint.failed(&self.ejection, &self.endpoints);
                }
                Err(Failure::of(error))
            }
        }
    }

    fn answered(
        self: &Arc<Self>,
        endpoint: Arc<Endpoint>,
        response: Response<AnswerStream>,
        connection: Connection,
        in_flight: InFlightOn,
    ) -> Answer {
        endpoint.answered(response.status(), &self.ejection, &self.endpoints);
        let (mut parts, body) = response.into_parts();
        // Whoever asked for another protocol judges by these headers, and has the connection.
        let switches = parts.status == StatusCode::SWITCHING_PROTOCOLS;
        let keeps = !switches && !says_close(&parts.headers);
        if !switches {
            crate::hop::strip(&mut parts.headers);
        }
        let body = AnswerBody::new(body, connection, keeps, self.clone(), in_flight);
        Answer { response: Response::from_parts(parts, body), endpoint }
    }
}

impl Passage<'_> {
    /// Takes note of a call's outcome; what a client is to blame for, or surely was not sent for want of an instance,
    /// says nothing of the service.
    fn judge(&mut self, outcome: &mut Result<Answer, CallFailed>, fate: Option<&Fate>) {
        match outcome {
            Ok(answer) => {
                self.ended(!answer.response.status().is_server_error(), now_ns());
                answer.response.body_mut().holds(self.place.take());
            }
            Err(failed) if failed.error != UpstreamError::NoEndpoint && was_sent(fate) => {
                self.ended(false, now_ns());
            }
            Err(_) => {}
        }
    }
}

impl Failure {
    fn of(error: UpstreamError) -> Self {
        Self { error, cause: retry::cause_of(error) }
    }
}

impl Kept {
    /// What can be kept of a request as it is; nothing, if its body must be read for it.
    fn without_reading(message: &Message, retry: &Retry) -> Option<Self> {
        let harmless = || retry::is_repeatable(&message.head.method, &message.head.headers);
        match &message.body {
            Outgoing::Empty => Some(Self { repeatable: harmless(), body: None }),
            Outgoing::Full(bytes) if retry.repeats_sent() => {
                Some(Self { repeatable: harmless(), body: bytes.clone() })
            }
            Outgoing::Client(_) if retry.repeats_sent() && harmless() => {
                let bytes = message.body.size_hint().exact();
                match bytes.is_some_and(|bytes| bytes <= retry.body_bytes) {
                    true => None,
                    false => Some(Self { repeatable: false, body: None }),
                }
            }
            Outgoing::Full(_) | Outgoing::Client(_) => Some(Self { repeatable: false, body: None }),
        }
    }

    /// Reads a small body of a client into `message`.
    async fn by_reading(message: &mut Message) -> Result<Self, CallFailed> {
        // Why it did not arrive stands in its fate.
        let read = std::mem::take(&mut message.body).collect().await;
        let bytes = read.map_err(|_| CallFailed { error: UpstreamError::Broken, endpoint: None })?.to_bytes();
        message.body = Outgoing::full(bytes.clone());
        Ok(Self { repeatable: true, body: Some(bytes) })
    }
}

fn failed(error: UpstreamError, endpoint: &Arc<Endpoint>) -> CallFailed {
    CallFailed { error, endpoint: Some(endpoint.clone()) }
}

/// Rests, and reads the rest of a small answer meanwhile, for its connection's sake.
async fn rest_after(answer: Option<Answer>, rest: Duration) {
    let unused = async {
        if let Some(answer) = answer {
            answer.response.into_body().discard().await;
        }
    };
    tokio::join!(sleep(rest), unused);
}

/// An answer's head; nothing if it does not come in `time`. The time does not run while the client still sends.
async fn first_byte<T>(answer: impl Future<Output = T>, time: Duration, fate: Option<&Fate>) -> Option<T> {
    let mut answer = pin!(answer);
    loop {
        let sent = was_sent(fate);
        match timeout(time, &mut answer).await {
            Ok(answer) => return Some(answer),
            Err(_) if sent => return None,
            Err(_) => {}
        }
    }
}

/// Whether a client did its part. An instance is not to blame for a body that never came, or clients could have
/// every instance left out.
fn was_sent(fate: Option<&Fate>) -> bool {
    fate.is_none_or(Fate::is_complete)
}

fn says_close(headers: &HeaderMap) -> bool {
    headers.get_all(http::header::CONNECTION).iter().any(|value| {
        value
            .as_bytes()
            .split(|byte| *byte == b',')
            .any(|word| word.trim_ascii().eq_ignore_ascii_case(b"close"))
    })
}
