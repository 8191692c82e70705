//! The one place that turns the outcome of a request into an answer: a refusal becomes a status and an RFC 9457
//! problem document, or a gRPC status where a call is refused. It says what the client can act upon, and nothing of the inside.

use std::sync::Arc;

use http::{
    HeaderMap, HeaderValue, Response, StatusCode,
    header::{
        ALLOW, CACHE_CONTROL, CONNECTION, CONTENT_TYPE, RETRY_AFTER, SEC_WEBSOCKET_VERSION, UPGRADE,
        WWW_AUTHENTICATE,
    },
};

use crate::{
    authenticate::AuthError,
    body::Body,
    error::{HandshakeError, Refusal, StepError, UpstreamError},
    grpc,
    record::Record,
    shared::{Phase, Shared},
    transform::REQUEST_ID,
};

/// The answer, whose body closes the record.
pub fn respond(
    shared: &Arc<Shared>,
    mut record: Box<Record>,
    outcome: Result<Response<Body>, Refusal>,
) -> Response<Body> {
    let mut response = outcome.unwrap_or_else(|refusal| {
        record.reason = Some(refusal.reason());
        record.detail = Some(match &refusal {
            Refusal::Unauthenticated { error, .. } => error.reason().to_owned(),
            refusal => refusal.to_string(),
        });
        match record.grpc {
            true => trailers_only(&refusal, &record),
            false => problem(&refusal, &record),
        }
    });
    // A tunnel has a `Connection` of its own, and lives until the stop cuts it.
    if shared.phase() >= Phase::Closing && response.status() != StatusCode::SWITCHING_PROTOCOLS {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    record.status = response.status();
    let closing = record.closing(shared.clone());
    response.map(|body| body.closing(closing))
}

/// Status and title. Exhaustive: a new refusal gets its status here or does not compile.
fn status(refusal: &Refusal) -> (StatusCode, &'static str) {
    match refusal {
        Refusal::Malformed(_) => (StatusCode::BAD_REQUEST, "The request is malformed"),
        Refusal::Path(_) => (StatusCode::BAD_REQUEST, "The path is ambiguous"),
        Refusal::Overloaded | Refusal::RouteOverloaded => {
            (StatusCode::SERVICE_UNAVAILABLE, "Too many requests are in flight")
        }
        Refusal::NoRoute => (StatusCode::NOT_FOUND, "Nothing is served here"),
        Refusal::MethodNotAllowed { .. } => (StatusCode::METHOD_NOT_ALLOWED, "The method is not allowed"),
        Refusal::BodyTooLarge { .. } => (StatusCode::PAYLOAD_TOO_LARGE, "The body is too large"),
        Refusal::BodyLost => (StatusCode::REQUEST_TIMEOUT, "The body did not arrive"),
        Refusal::BodyNotJson(_) => (StatusCode::BAD_REQUEST, "The body is not JSON"),
        Refusal::Unauthenticated { error: AuthError::Ambiguous, .. } => {
            (StatusCode::BAD_REQUEST, "More than one credential of a kind")
        }
        Refusal::Unauthenticated { error: AuthError::KeySetUnavailable, .. } => {
            (StatusCode::SERVICE_UNAVAILABLE, "Tokens cannot be checked at the moment")
        }
        Refusal::Unauthenticated { .. } => (StatusCode::UNAUTHORIZED, "Who is calling is not known"),
        Refusal::Forbidden { .. } => (StatusCode::FORBIDDEN, "The caller may not do this"),
        Refusal::RateLimited(_) => (StatusCode::TOO_MANY_REQUESTS, "Too many requests"),
        Refusal::Handshake(HandshakeError::Version) => {
            (StatusCode::UPGRADE_REQUIRED, "The protocol has another version")
        }
        Refusal::Handshake(_) => (StatusCode::BAD_REQUEST, "The handshake is malformed"),
        Refusal::TunnelsFull => (StatusCode::SERVICE_UNAVAILABLE, "Too many tunnels are open"),
        Refusal::Upstream(error) | Refusal::Step { error: StepError::Upstream(error), .. } => {
            upstream(*error)
        }
        Refusal::Step { .. } | Refusal::Collision(_) => {
            (StatusCode::BAD_GATEWAY, "A service did not answer as it should")
        }
        Refusal::Internal => (StatusCode::INTERNAL_SERVER_ERROR, "The gateway failed"),
    }
}

fn upstream(error: UpstreamError) -> (StatusCode, &'static str) {
    match error {
        UpstreamError::NoEndpoint | UpstreamError::Full | UpstreamError::CircuitOpen => {
            (StatusCode::SERVICE_UNAVAILABLE, "The service is not available")
        }
        UpstreamError::Timeout | UpstreamError::TryTimeout | UpstreamError::FirstByteTimeout => {
            (StatusCode::GATEWAY_TIMEOUT, "The service did not answer in time")
        }
        UpstreamError::Connect
        | UpstreamError::ConnectTimeout
        | UpstreamError::Tls
        | UpstreamError::Broken
        | UpstreamError::Protocol
        | UpstreamError::TooLarge
        | UpstreamError::NotJson => (StatusCode::BAD_GATEWAY, "The service did not answer as it should"),
    }
}

/// What else the client is told: details of its own doing, never of ours.
fn detail(refusal: &Refusal) -> Option<String> {
    match refusal {
        Refusal::Malformed(_)
        | Refusal::Path(_)
        | Refusal::BodyTooLarge { .. }
        | Refusal::BodyNotJson(_)
        | Refusal::RateLimited(_)
        | Refusal::Handshake(_)
        | Refusal::Step { .. } => Some(refusal.to_string()),
        _ => None,
    }
}

fn problem(refusal: &Refusal, record: &Record) -> Response<Body> {
    let (status, title) = status(refusal);
    let id = record.request_id();
    let mut document = serde_json::json!({
        "type": format!("urn:portcullis:problem:{}", refusal.reason().replace('_', "-")),
        "title": title,
        "status": status.as_u16(),
        "request_id": id.to_str().unwrap_or_default(),
    });
    if let Some(detail) = detail(refusal) {
        document["detail"] = detail.into();
    }
    let mut response = Response::new(Body::full(document.to_string()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(REQUEST_ID, id);
    advise(refusal, headers);
    response
}

/// An answer to a call that is its trailers: HTTP's status is 200 whatever became of it.
fn trailers_only(refusal: &Refusal, record: &Record) -> Response<Body> {
    let (_, title) = status(refusal);
    let text = detail(refusal).map_or(title.to_owned(), |detail| format!("{title}: {detail}"));
    let mut response = Response::new(Body::empty());
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, grpc::GRPC);
    headers.insert(grpc::STATUS, grpc::status(refusal).into());
    headers.extend(grpc::message(&text).map(|text| (grpc::MESSAGE, text)));
    headers.insert(REQUEST_ID, record.request_id());
    advise(refusal, headers);
    response
}

/// What a client does next.
fn advise(refusal: &Refusal, headers: &mut HeaderMap) {
    match refusal {
        Refusal::MethodNotAllowed { allow } => drop(headers.insert(ALLOW, allow.clone())),
        Refusal::Unauthenticated { error: AuthError::KeySetUnavailable, .. } => {
            headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
        }
        Refusal::Unauthenticated { challenge, .. } | Refusal::Forbidden { challenge } => {
            headers.insert(WWW_AUTHENTICATE, challenge.clone());
        }
        Refusal::RateLimited(exceeded) => headers.extend(exceeded.headers().clone()),
        Refusal::Overloaded | Refusal::RouteOverloaded | Refusal::TunnelsFull => {
            headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
        }
        // RFC 6455, section 4.4; RFC 9110, section 15.5.22.
        Refusal::Handshake(HandshakeError::Version) => {
            headers.insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
            headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
            headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        }
        // What follows on the connection may be anything.
        Refusal::Malformed(_) | Refusal::BodyLost => {
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        _ => {}
    }
}
