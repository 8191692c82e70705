//! What is changed on the way to the upstream and back: method, host, path, query, headers, JSON.
//!
//! Headers of one connection stay behind, credentials as well unless the route says otherwise; what names the client
//! is set by us and never taken from the client.
//!
//! | module | what |
//! |---|---|
//! | [`template`] | text with `{parameters}` |
//! | [`headers`] | headers to set, add and remove |
//! | [`rewrite`] | another method, host, path or query |

pub mod headers;
pub mod rewrite;
pub mod template;

use std::borrow::Cow;

use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, Response, Uri,
    header::{
        ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, ETAG, EXPECT, FORWARDED, HOST, TE,
        VIA,
    },
    uri::PathAndQuery,
};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use tokio::time::{Instant, timeout_at};

use crate::{
    admit::Received,
    body::Body,
    config::connect::Protocol,
    error::{Refusal, UpstreamError},
    forwarded, grpc, hop,
    json::{self, Reshape},
    limit::Admitted,
    pipeline::ClientBody,
    record::Record,
    snapshot::{Action, Route},
    trace::{TRACEPARENT, TRACESTATE},
    upstream::{Head, Message, Outgoing},
};
use headers::HeaderChanges;
use rewrite::Rewrite;

/// The request's name in the access log, here and at services.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// RFC 9110, section 7.6.3.
const VIA_US: HeaderValue = HeaderValue::from_static("1.1 portcullis");
const VIA_US_HTTP2: HeaderValue = HeaderValue::from_static("2.0 portcullis");
/// RFC 9110, section 10.1.4: who asks takes them, so do we.
const TRAILERS: HeaderValue = HeaderValue::from_static("trailers");

/// Nesting of JSON that is reshaped.
pub const JSON_DEPTH_MAX: usize = 64;

/// Changes on the way in.
#[derive(Default)]
pub struct RequestTransform {
    /// Method, host, path and query.
    pub rewrite: Option<Box<Rewrite>>,
    /// Headers.
    pub headers: HeaderChanges,
    /// The JSON body.
    pub json: Option<Reshape>,
}

/// Changes on the way back.
#[derive(Default)]
pub struct ResponseTransform {
    /// Headers.
    pub headers: HeaderChanges,
    /// The JSON body.
    pub json: Option<Reshape>,
    /// The largest body that is reshaped.
    pub json_bytes: usize,
}

/// A request as it goes to upstreams.
pub struct Ready {
    /// The request as it came.
    pub admitted: Admitted,
    /// What one service is sent, until it is. For a composition: the headers that every step sends.
    pub message: Message,
    /// When the answer must begin.
    pub deadline: Instant,
}

/// What goes to the upstream.
///
/// # Errors
/// [`Refusal::BodyTooLarge`], [`Refusal::BodyLost`], [`Refusal::BodyNotJson`].
pub async fn request(mut admitted: Admitted, record: &Record) -> Result<Ready, Refusal> {
    let route = admitted.routed.route.clone();
    let timeout = match record.grpc {
        true => grpc::timeout(&admitted.routed.request.head.headers)
            .map_or(route.timeout, |given| given.min(route.timeout)),
        false => route.timeout,
    };
    let deadline = Instant::from_std(record.begun) + timeout;
    let mut head = outgoing_head(&admitted, record)?;
    let client_body = std::mem::take(&mut admitted.routed.request.body);
    let body = match (&route.action, &route.request.json) {
        (Action::Compose(_) | Action::Direct(_), _) => Outgoing::Empty,
        (Action::Proxy(_) | Action::Split(_), None) => streamed(client_body, route.body_bytes)?,
        (Action::Proxy(_) | Action::Split(_), Some(reshape)) => {
            let bytes = Box::pin(reshaped_request(client_body, reshape, &route, deadline)).await?;
            head.headers.insert(CONTENT_LENGTH, HeaderValue::from(bytes.len()));
            Outgoing::full(bytes)
        }
    };
    Ok(Ready { admitted, message: Message { head, body }, deadline })
}

/// What one service is sent but for the body; for a composition, the headers that every step sends.
///
/// # Errors
/// [`Refusal::Path`], if the path that was made can be read in several ways.
pub fn outgoing_head(admitted: &Admitted, record: &Record) -> Result<Head, Refusal> {
    let (request, route) = (&admitted.routed.request, &*admitted.routed.route);
    let mut headers = match admitted.routed.upstream() {
        Some(upstream) => forwarded_headers(&request.head.headers, route, upstream.host.as_ref()),
        None => credentials_sent_on(&request.head.headers, route),
    };
    forwarded::tell(&mut headers, request);
    let http2 = request.head.version == http::Version::HTTP_2;
    headers.append(VIA, if http2 { VIA_US_HTTP2 } else { VIA_US });
    headers.insert(REQUEST_ID, record.request_id());
    if record.grpc {
        grpc::reduce_timeout(&mut headers, record.begun.elapsed());
    }
    if admitted.routed.upstream().is_some_and(|upstream| upstream.connector.protocol == Protocol::Http2)
        && (record.grpc || http2 && hop::takes_trailers(&request.head.headers))
    {
        headers.insert(TE, TRAILERS);
    }
    if let Some(upgrades) = &route.upgrades {
        upgrades.ask(&request.head, &mut headers);
    }
    let values = template::Values { admitted, route };
    let rewrite = route.request.rewrite.as_deref();
    if let Some(host) = rewrite.and_then(|rewrite| rewrite.host.as_ref()) {
        headers.insert(HOST, host.clone());
    }
    route.request.headers.apply(&mut headers, &values);
    let method = rewrite.and_then(|rewrite| rewrite.method.as_ref()).unwrap_or(&request.head.method);
    Ok(Head { method: method.clone(), target: target(request, route, &values)?, headers })
}

/// The client's headers without those that stay behind.
fn forwarded_headers(client: &HeaderMap, route: &Route, host: Option<&HeaderValue>) -> HeaderMap {
    let listed = hop::listed(client);
    let stays = |name: &HeaderName| {
        hop::is_hop_by_hop(name)
            || listed.contains(name)
            || *name == EXPECT
            || *name == FORWARDED
            || (route.response.json.is_some() && *name == ACCEPT_ENCODING)
            || (route.request.json.is_some() && *name == CONTENT_LENGTH)
            || (!route.forward_credentials && route.ways.is_credential(name))
    };
    let mut headers = HeaderMap::with_capacity(client.len() + 6);
    for (name, value) in client {
        if !stays(name) {
            headers.append(name.clone(), value.clone());
        }
    }
    if let Some(host) = host {
        headers.insert(HOST, host.clone());
    }
    headers
}

/// What the steps of a composition are sent of the client's headers: its place in a trace, and its credentials where the
/// route says so.
fn credentials_sent_on(client: &HeaderMap, route: &Route) -> HeaderMap {
    let mut headers = HeaderMap::with_capacity(8);
    if route.forward_credentials {
        let credentials = client.iter().filter(|(name, _)| route.ways.is_credential(name));
        headers.extend(credentials.map(|(name, value)| (name.clone(), value.clone())));
    }
    for name in [TRACEPARENT, TRACESTATE] {
        if let Some(value) = client.get(&name) {
            headers.insert(name, value.clone());
        }
    }
    headers
}

fn target(request: &Received, route: &Route, values: &template::Values<'_>) -> Result<Uri, Refusal> {
    let uri = &request.head.uri;
    let query = route.ways.without_credential(uri.query().unwrap_or_default(), route.forward_credentials);
    let rewrite = route.request.rewrite.as_deref();
    let query = match rewrite.map(|rewrite| &rewrite.query).filter(|changes| !changes.is_empty()) {
        Some(changes) => Cow::Owned(changes.apply(&query, values)),
        None => query,
    };
    let path = rewrite.and_then(|rewrite| rewrite.path.as_ref());
    if path.is_none() && matches!(query, Cow::Borrowed(_)) {
        return Ok(uri.clone());
    }
    let path = match path {
        Some(path) => Cow::Owned(path.apply(uri.path(), values)?),
        None => Cow::Borrowed(uri.path()),
    };
    let target = if query.is_empty() { path.into_owned() } else { format!("{path}?{query}") };
    PathAndQuery::try_from(target).map(Uri::from).map_err(|_| Refusal::Internal)
}

fn streamed(body: ClientBody, limit: u64) -> Result<Outgoing, Refusal> {
    use http_body::Body as _;
    if body.is_end_stream() {
        return Ok(Outgoing::Empty);
    }
    if body.size_hint().lower() > limit {
        return Err(Refusal::BodyTooLarge { limit });
    }
    Ok(Outgoing::client(body, limit))
}

async fn reshaped_request(
    body: ClientBody,
    reshape: &Reshape,
    route: &Route,
    deadline: Instant,
) -> Result<Bytes, Refusal> {
    let limit = usize::try_from(route.body_bytes).unwrap_or(usize::MAX);
    let collected = timeout_at(deadline, Limited::new(body, limit).collect()).await;
    let bytes = match collected {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(error)) if error.is::<LengthLimitError>() => {
            return Err(Refusal::BodyTooLarge { limit: route.body_bytes });
        }
        Ok(Err(_)) | Err(_) => return Err(Refusal::BodyLost),
    };
    if bytes.is_empty() {
        return Ok(bytes);
    }
    let node =
        json::parse(&bytes, JSON_DEPTH_MAX).map_err(|error| Refusal::BodyNotJson(error.to_string()))?;
    Ok(json::write(&reshape.apply(node)))
}

/// What goes back to the client.
///
/// # Errors
/// [`UpstreamError`] where the answer cannot be reshaped.
pub async fn response(
    route: &Route,
    response: &mut Response<Body>,
    deadline: Instant,
) -> Result<(), Refusal> {
    let transform = &route.response;
    if let Some(reshape) = &transform.json
        && is_json(response.headers())
    {
        // On the heap, so that answers that stay as they are do not carry its room.
        let whole = std::mem::replace(response, Response::new(Body::empty()));
        *response = Box::pin(reshaped_response(whole, reshape, transform.json_bytes, deadline)).await?;
    }
    transform.headers.apply(response.headers_mut(), &template::Nothing);
    Ok(())
}

fn is_json(headers: &HeaderMap) -> bool {
    let Some(value) = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()) else { return false };
    let essence = value.split(';').next().unwrap_or_default().trim();
    essence.eq_ignore_ascii_case("application/json")
        || (essence.len() > 5 && essence[essence.len() - 5..].eq_ignore_ascii_case("+json"))
}

async fn reshaped_response(
    response: Response<Body>,
    reshape: &Reshape,
    limit: usize,
    deadline: Instant,
) -> Result<Response<Body>, Refusal> {
    let (mut parts, body) = response.into_parts();
    if parts.headers.contains_key(CONTENT_ENCODING) {
        return Err(UpstreamError::NotJson.into());
    }
    let collected = timeout_at(deadline, Limited::new(body, limit).collect()).await;
    let bytes = match collected {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(error)) if error.is::<LengthLimitError>() => {
            return Err(UpstreamError::TooLarge.into());
        }
        Ok(Err(_)) => return Err(UpstreamError::Broken.into()),
        Err(_) => return Err(UpstreamError::Timeout.into()),
    };
    if bytes.is_empty() {
        return Ok(Response::from_parts(parts, Body::empty()));
    }
    let node = json::parse(&bytes, JSON_DEPTH_MAX).map_err(|_| UpstreamError::NotJson)?;
    let bytes = json::write(&reshape.apply(node));
    // A validator of the service's representation is none of ours.
    parts.headers.remove(ETAG);
    parts.headers.insert(CONTENT_LENGTH, HeaderValue::from(bytes.len()));
    Ok(Response::from_parts(parts, Body::full(bytes)))
}
