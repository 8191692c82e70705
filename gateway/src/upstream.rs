//! A service and its instances: which one a request goes to, and the call itself.
//!
//! | module | what |
//! |---|---|
//! | [`endpoint`] | one instance: in flight, health, ejection |
//! | [`balance`] | which instance is next |
//! | [`pool`] | connections that are kept, by each worker its own |
//! | [`answer`] | the answer's body; puts its connection back when it is over |
//! | [`outgoing`] | the body that is sent |
//! | [`health`] | asking instances whether they are well |
//!
//! Invariant: whoever calls holds a [`Permit`], which only the limits give out.

pub mod answer;
pub mod balance;
pub mod endpoint;
pub mod health;
pub mod outgoing;
pub mod pool;

use std::{sync::Arc, time::Duration};

use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri};
use hyper::{body::Incoming, client::conn::TrySendError};
use tokio::time::{Instant, timeout_at};

pub use answer::AnswerBody;
pub use endpoint::Endpoint;
use endpoint::InFlightOn;
use outgoing::Fate;
pub use outgoing::Outgoing;

use crate::{error::UpstreamError, limit::Permit};
use balance::Balance;
use pool::Connection;

/// Instances that a request is tried on, as long as it was not sent.
const TRIES_MAX: usize = 3;

/// A service.
pub struct Upstream {
    /// Its name.
    pub name: Arc<str>,
    /// Its instances.
    pub endpoints: Vec<Arc<Endpoint>>,
    /// Which is next.
    pub balance: Balance,
    /// `Host` that is sent instead of the client's.
    pub host: Option<HeaderValue>,
    /// How its connections are kept.
    pub pool: PoolSettings,
    /// When an instance is left out.
    pub ejection: Ejection,
    /// How instances are asked, if they are.
    pub health: Option<HealthSettings>,
    /// Until a connection stands.
    pub connect_timeout: Duration,
    /// Without a byte of a body.
    pub stall: Duration,
}

/// How connections are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolSettings {
    /// Idle ones to one instance, by one worker.
    pub idle_max: usize,
    /// Without a request.
    pub idle_timeout: Duration,
    /// Age after which none serves again.
    pub max_age: Duration,
}

/// When an instance is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ejection {
    /// After so many failures in a row; 0: never.
    pub failures: u32,
    /// For so long at first.
    pub duration: Duration,
}

/// How instances are asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthSettings {
    /// Path and query.
    pub path: String,
    /// From one question to the next.
    pub interval: Duration,
    /// Until the answer's headers.
    pub timeout: Duration,
    /// Good answers in a row until it is well.
    pub rise: u32,
    /// Bad ones until it is not.
    pub fall: u32,
}

/// A request as it is sent, without its body.
#[derive(Clone, Debug, Default)]
pub struct Head {
    /// The method.
    pub method: Method,
    /// Path and query.
    pub target: Uri,
    /// All headers but those of one connection; `Host` included.
    pub headers: HeaderMap,
}

/// A request as it is sent.
#[derive(Debug, Default)]
pub struct Message {
    /// Its line and headers.
    pub head: Head,
    /// Its body.
    pub body: Outgoing,
}

/// Makes the head once more, for a request that is repeated; rarely, so that no spare one is made each time.
pub type Again<'a> = &'a (dyn Fn() -> Option<Head> + Send + Sync);

/// An answer, and who gave it.
pub struct Answer {
    /// Status, headers without those of one connection, body.
    pub response: Response<AnswerBody>,
    /// The instance.
    pub endpoint: Arc<Endpoint>,
}

/// A call that failed, and where, if it got so far.
pub struct CallFailed {
    /// Why.
    pub error: UpstreamError,
    /// The instance that was tried last.
    pub endpoint: Option<Arc<Endpoint>>,
}

impl Message {
    /// The request, which is not here any more then.
    fn take(&mut self) -> Request<Outgoing> {
        let Self { head, body } = std::mem::take(self);
        let mut request = Request::new(body);
        *request.method_mut() = head.method;
        *request.uri_mut() = head.target;
        *request.headers_mut() = head.headers;
        request
    }
}

impl Upstream {
    /// Sends a request to one instance and waits for the head of its answer.
    ///
    /// A request that was surely not sent goes to another instance. One that may have been sent is sent again only
    /// if it is idempotent, has no body, and met a kept connection that broke without a byte of an answer (RFC 9110,
    /// section 9.2.2; RFC 9112, section 9.3.1).
    ///
    /// # Errors
    /// [`CallFailed`]; the deadline is [`UpstreamError::Timeout`].
    pub async fn call(
        self: &Arc<Self>,
        _permit: &Permit,
        message: &mut Message,
        again: Again<'_>,
        deadline: Instant,
    ) -> Result<Answer, CallFailed> {
        let mut tried = None;
        let fate = message.body.fate();
        match timeout_at(deadline, self.attempts(message, again, fate.as_deref(), &mut tried)).await {
            Ok(result) => result,
            Err(_) => {
                if let Some(endpoint) = tried.as_ref().filter(|_| was_sent(fate.as_deref())) {
                    endpoint.failed(&self.ejection);
                }
                Err(CallFailed { error: UpstreamError::Timeout, endpoint: tried })
            }
        }
    }

    async fn attempts(
        self: &Arc<Self>,
        message: &mut Message,
        again: Again<'_>,
        fate: Option<&Fate>,
        tried: &mut Option<Arc<Endpoint>>,
    ) -> Result<Answer, CallFailed> {
        let repeatable = message.body.is_empty() && message.head.method.is_idempotent();
        let mut last = UpstreamError::NoEndpoint;
        for attempt in 0..TRIES_MAX {
            let Some(endpoint) = self.balance.pick(&self.endpoints, tried.as_ref().filter(|_| attempt > 0))
            else {
                break;
            };
            *tried = Some(endpoint.clone());
            // A request that meets a kept connection may find it closed by the other end; a new one is surely open.
            let kept = if attempt == 0 { pool::take(&endpoint) } else { None };
            let mut connection = match kept {
                Some(connection) => connection,
                None => match pool::open(self, &endpoint).await {
                    Ok(connection) => connection,
                    Err(error) => {
                        endpoint.failed(&self.ejection);
                        last = error;
                        continue;
                    }
                },
            };
            connection.ready().await;
            let in_flight = endpoint.begin();
            let error = match connection.send(message.take()).await {
                Ok(response) => return Ok(self.answered(endpoint, response, connection, in_flight)),
                Err(error) => error,
            };
            match lost(error, message) {
                None => last = UpstreamError::Connect,
                Some(UpstreamError::Broken) if repeatable && connection.is_used() => {
                    last = UpstreamError::Broken;
                    let Some(head) = again() else { break };
                    message.head = head;
                }
                Some(error) => {
                    if was_sent(fate) {
                        endpoint.failed(&self.ejection);
                    }
                    return Err(CallFailed { error, endpoint: Some(endpoint) });
                }
            }
        }
        Err(CallFailed { error: last, endpoint: tried.clone() })
    }

    fn answered(
        self: &Arc<Self>,
        endpoint: Arc<Endpoint>,
        response: Response<Incoming>,
        connection: Connection,
        in_flight: InFlightOn,
    ) -> Answer {
        endpoint.answered(response.status(), &self.ejection);
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

/// Why a request that may have reached the service got no answer; nothing, if it surely did not, and is in `message`
/// again.
fn lost(mut error: TrySendError<Request<Outgoing>>, message: &mut Message) -> Option<UpstreamError> {
    let Some(request) = error.take_message() else { return Some(classify(error.error())) };
    let (parts, body) = request.into_parts();
    let head = Head { method: parts.method, target: parts.uri, headers: parts.headers };
    *message = Message { head, body };
    None
}

/// Whether a client did its part. An instance is not to blame for a body that never came, or clients could have
/// every instance left out.
fn was_sent(fate: Option<&Fate>) -> bool {
    fate.is_none_or(Fate::is_complete)
}

fn classify(error: &hyper::Error) -> UpstreamError {
    match error.is_parse() || error.is_parse_status() {
        true => UpstreamError::Protocol,
        false => UpstreamError::Broken,
    }
}

fn says_close(headers: &HeaderMap) -> bool {
    headers.get_all(http::header::CONNECTION).iter().any(|value| {
        value
            .as_bytes()
            .split(|byte| *byte == b',')
            .any(|word| word.trim_ascii().eq_ignore_ascii_case(b"close"))
    })
}
