//! One step's call: its request is sent, its answer read up to its cap and parsed, all before its deadline.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{
    HeaderName, HeaderValue, Method, Uri,
    header::{CONTENT_ENCODING, HOST},
};
use http_body::Body as _;
use http_body_util::{BodyExt as _, Limited};
use tokio::time::{Instant, timeout_at};

use super::text::{Text, Values};
use crate::{
    error::{StepError, UpstreamError},
    json::{self, Node},
    upstream::{AnswerBody, Caller, Endpoint, Head, Message, Outgoing, Upstream, answer::BrokeOff},
};

/// How a step's service is called.
pub struct Call {
    /// The service.
    pub upstream: Arc<Upstream>,
    /// The method; nothing is sent as a body.
    pub method: Method,
    /// Path and query.
    pub target: Text<Uri>,
    /// Headers beside those that every step sends, or instead of them.
    pub headers: Vec<(HeaderName, Text<HeaderValue>)>,
    /// At most so long.
    pub timeout: Option<Duration>,
    /// The largest answer.
    pub bytes_max: usize,
    /// The deepest nesting of an answer.
    pub depth_max: usize,
}

/// What has come of a call.
pub struct Called {
    /// The answer, or why there is none.
    pub outcome: Result<Node, StepError>,
    /// The instance that answered or was tried last.
    pub endpoint: Option<Arc<Endpoint>>,
}

impl Call {
    /// The request for these values. `common` has the headers that every step sends, `client_host` the `Host` of the
    /// client's request, sent to services that have no name of their own.
    ///
    /// # Errors
    /// [`StepError::MissingValue`], [`StepError::Dependency`].
    pub fn head(
        &self,
        values: &impl Values,
        common: &http::HeaderMap,
        client_host: Option<&HeaderValue>,
    ) -> Result<Head, StepError> {
        let mut headers = common.clone();
        if let Some(host) = self.upstream.host.as_ref().or(client_host) {
            headers.insert(HOST, host.clone());
        }
        for (name, text) in &self.headers {
            headers.insert(name.clone(), text.header(values)?);
        }
        Ok(Head { method: self.method.clone(), target: self.target.target(values)?, headers })
    }

    /// Sends it and reads the answer.
    pub async fn send(&self, mut caller: Caller<'_>, head: Head) -> Called {
        if let Some(timeout) = self.timeout {
            caller.deadline = caller.deadline.min(Instant::now() + timeout);
        }
        let spare = head.clone();
        let again = || Some(spare.clone());
        let mut message = Message { head, body: Outgoing::Empty };
        match self.upstream.call(caller, &mut message, &again).await {
            Err(failed) => Called { outcome: Err(failed.error.into()), endpoint: failed.endpoint },
            Ok(answer) => {
                let outcome = self.read(answer.response, caller.deadline).await;
                Called { outcome, endpoint: Some(answer.endpoint) }
            }
        }
    }

    async fn read(&self, response: http::Response<AnswerBody>, deadline: Instant) -> Result<Node, StepError> {
        let (parts, body) = response.into_parts();
        if !parts.status.is_success() {
            let _ = timeout_at(deadline, body.discard()).await;
            return Err(StepError::Status(parts.status.as_u16()));
        }
        if parts.headers.contains_key(CONTENT_ENCODING) {
            return Err(UpstreamError::NotJson.into());
        }
        let read = timeout_at(deadline, read_up_to(body, self.bytes_max)).await;
        let bytes = read.unwrap_or(Err(UpstreamError::Timeout))?;
        Ok(json::parse(&bytes, self.depth_max).map_err(|_| UpstreamError::NotJson)?)
    }
}

async fn read_up_to(body: AnswerBody, bytes_max: usize) -> Result<Bytes, UpstreamError> {
    if body.size_hint().lower() > bytes_max as u64 {
        return Err(UpstreamError::TooLarge);
    }
    match Limited::new(body, bytes_max).collect().await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) => Err(match error.downcast_ref::<BrokeOff>() {
            Some(BrokeOff::Stalled) => UpstreamError::Timeout,
            Some(BrokeOff::Connection) => UpstreamError::Broken,
            None => UpstreamError::TooLarge,
        }),
    }
}
