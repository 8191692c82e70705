//! Another protocol on a client's connection (RFC 9110, section 7.8), first of all WebSocket (RFC 6455).
//!
//! The request goes through the stages like any other; only the route's `upgrades` let its `Upgrade` through. A service
//! that answers 101 must name the protocol that was asked for, and for WebSocket prove that it read the key; then bytes
//! go both ways untouched until both ends are closed, nothing moves for `timeouts.tunnel`, or a stop cuts it. Any other
//! status is an answer like any other.
//!
//! Invariant: an open tunnel has a place among `limits.tunnels`, and its record is closed when it ends.

pub mod pump;

use std::{sync::Arc, time::Duration};

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, Version,
    header::{
        CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY,
        SEC_WEBSOCKET_VERSION, UPGRADE,
    },
    request::Parts,
};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use pump::End;

use crate::{
    body::Body,
    error::{HandshakeError, Refusal, UpstreamError},
    hop,
    in_flight::{InFlight, InFlightGuard},
    record::Closing,
    upstream::AnswerBody,
};

/// What a WebSocket's key is hashed with (RFC 6455, section 1.3).
const WEBSOCKET_GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
/// Bytes of a WebSocket's key (RFC 6455, section 4.1).
const KEY_BYTES: usize = 16;

/// What a route lets through.
#[derive(Clone)]
pub struct Upgrades {
    /// Names of protocols, in lower case.
    pub protocols: Vec<HeaderValue>,
    /// All open tunnels of the gateway.
    pub tunnels: Arc<InFlight>,
    /// Without a byte in either direction.
    pub idle: Duration,
}

/// A protocol that a request asks for and may have.
pub struct Asked {
    protocol: HeaderValue,
    /// What a WebSocket's service answers (RFC 6455, section 4.2.2).
    accept: Option<HeaderValue>,
    place: InFlightGuard,
    idle: Duration,
}

/// A service's side of a tunnel.
pub struct Switched {
    upstream: OnUpgrade,
    place: InFlightGuard,
    idle: Duration,
    /// Keeps the request in flight on its instance.
    answer: AnswerBody,
}

impl Upgrades {
    /// Which of the protocols `request` asks for, if one.
    pub fn wanted(&self, request: &Parts) -> Option<&HeaderValue> {
        let headers = &request.headers;
        if request.version != Version::HTTP_11 || !hop::listed(headers).contains(&UPGRADE) {
            return None;
        }
        let offered =
            headers.get_all(UPGRADE).iter().flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
        let known = |offered: &[u8]| {
            let same =
                |protocol: &&HeaderValue| protocol.as_bytes().eq_ignore_ascii_case(offered.trim_ascii());
            self.protocols.iter().find(same)
        };
        offered.into_iter().find_map(known)
    }

    /// Sets what asks the service for another protocol, if `request` does.
    pub fn ask(&self, request: &Parts, outgoing: &mut HeaderMap) {
        if let Some(protocol) = self.wanted(request) {
            outgoing.insert(CONNECTION, HeaderValue::from_static("upgrade"));
            outgoing.insert(UPGRADE, protocol.clone());
        }
    }

    /// Takes a place for the protocol that `request` asks for, if it does.
    ///
    /// # Errors
    /// [`Refusal::Handshake`], [`Refusal::TunnelsFull`].
    pub fn asked(&self, request: &Parts) -> Result<Option<Box<Asked>>, Refusal> {
        let Some(protocol) = self.wanted(request) else { return Ok(None) };
        let accept = match protocol == "websocket" {
            true => Some(expected_accept(request).map_err(Refusal::Handshake)?),
            false => None,
        };
        let place = self.tunnels.enter().ok_or(Refusal::TunnelsFull)?;
        Ok(Some(Box::new(Asked { protocol: protocol.clone(), accept, place, idle: self.idle })))
    }
}

/// What a service has to answer to the key of a WebSocket's first request.
fn expected_accept(request: &Parts) -> Result<HeaderValue, HandshakeError> {
    let headers = &request.headers;
    if request.method != Method::GET {
        return Err(HandshakeError::Method);
    }
    if only(headers, SEC_WEBSOCKET_VERSION).is_none_or(|version| version != "13") {
        return Err(HandshakeError::Version);
    }
    let key = only(headers, SEC_WEBSOCKET_KEY).ok_or(HandshakeError::Key)?.as_bytes();
    if STANDARD.decode(key).is_ok_and(|bytes| bytes.len() == KEY_BYTES) {
        let hash = digest(&SHA1_FOR_LEGACY_USE_ONLY, &[key, WEBSOCKET_GUID].concat());
        return HeaderValue::try_from(STANDARD.encode(hash)).map_err(|_| HandshakeError::Key);
    }
    Err(HandshakeError::Key)
}

/// The value of a header that stands there once.
fn only(headers: &HeaderMap, name: HeaderName) -> Option<&HeaderValue> {
    let mut values = headers.get_all(name).iter();
    values.next().filter(|_| values.next().is_none())
}

/// What the client is told of a service's 101.
///
/// # Errors
/// [`UpstreamError::Protocol`] where nothing, or something else, was asked for.
pub fn switched(
    asked: Option<Box<Asked>>,
    mut response: Response<AnswerBody>,
) -> Result<Response<Body>, UpstreamError> {
    let asked =
        *asked.filter(|asked| asked.is_granted_by(response.headers())).ok_or(UpstreamError::Protocol)?;
    let upstream = hyper::upgrade::on(&mut response);
    let (mut parts, answer) = response.into_parts();
    hop::strip(&mut parts.headers);
    // It has no body (RFC 9110, section 8.6).
    parts.headers.remove(CONTENT_LENGTH);
    parts.headers.remove(CONTENT_TYPE);
    parts.headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    parts.headers.insert(UPGRADE, asked.protocol);
    let switched = Switched { upstream, place: asked.place, idle: asked.idle, answer };
    Ok(Response::from_parts(parts, Body::switched(Box::new(switched))))
}

impl Asked {
    fn is_granted_by(&self, headers: &HeaderMap) -> bool {
        let named = |value: &HeaderValue| value.as_bytes().eq_ignore_ascii_case(self.protocol.as_bytes());
        hop::listed(headers).contains(&UPGRADE)
            && only(headers, UPGRADE).is_some_and(named)
            && self.accept.as_ref().is_none_or(|accept| only(headers, SEC_WEBSOCKET_ACCEPT) == Some(accept))
    }
}

/// Takes the tunnel out of an answer that grants one, with the record that its end closes.
pub fn take(response: &mut Response<Body>) -> Option<(Box<Switched>, Option<Closing>)> {
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        return None;
    }
    response.body_mut().take_switched()
}

/// Carries bytes between `client` and a service until the tunnel ends.
pub async fn tunnel(client: OnUpgrade, switched: Box<Switched>, mut closing: Option<Closing>) {
    let Switched { upstream, place, idle, answer } = *switched;
    if let Some(closing) = &mut closing {
        // What is dropped before it ends is cut.
        closing.ended(Some("tunnel_cut"));
    }
    let Ok((client, upstream)) = tokio::try_join!(client, upstream) else { return };
    let (moved, end) = pump::both_ways(TokioIo::new(client), TokioIo::new(upstream), idle).await;
    if let Some(closing) = &mut closing {
        closing.carried(moved);
        closing.ended(match end {
            End::Closed => None,
            End::Broken => Some("tunnel_broke_off"),
            End::Idle => Some("tunnel_idle"),
        });
    }
    drop((place, answer));
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn upgrades(limit: u32) -> Upgrades {
        let protocols = ["websocket", "tcp"].map(HeaderValue::from_static).to_vec();
        Upgrades { protocols, tunnels: Arc::new(InFlight::new(limit)), idle: Duration::from_secs(1) }
    }

    fn request(headers: &[(&'static str, &'static str)]) -> Parts {
        let mut request = Request::get("/").body(()).unwrap();
        for (name, value) in headers {
            request.headers_mut().append(*name, HeaderValue::from_static(value));
        }
        request.into_parts().0
    }

    const ASKS: [(&str, &str); 4] = [
        ("connection", "keep-alive, Upgrade"),
        ("upgrade", "WebSocket"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ];

    #[test]
    fn what_is_asked_for() {
        let wanted = |headers: &[_]| upgrades(1).wanted(&request(headers)).cloned();
        assert_eq!(wanted(&ASKS).unwrap(), "websocket");
        assert_eq!(wanted(&[("connection", "upgrade"), ("upgrade", "h2c, TCP")]).unwrap(), "tcp");
        assert_eq!(wanted(&[("upgrade", "websocket")]), None, "Connection does not list it");
        assert_eq!(wanted(&[("connection", "upgrade"), ("upgrade", "h2c")]), None);
        let mut old = request(&ASKS);
        old.version = Version::HTTP_10;
        assert_eq!(upgrades(1).wanted(&old), None);
    }

    #[test]
    fn the_key_of_the_standard_has_the_answer_of_the_standard() {
        // RFC 6455, section 1.3.
        assert_eq!(expected_accept(&request(&ASKS)).unwrap(), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[test]
    fn broken_handshakes_are_refused() {
        let without = |name: &str, instead: Option<(&'static str, &'static str)>| {
            let kept = ASKS.into_iter().filter(|(known, _)| *known != name).chain(instead);
            expected_accept(&request(&kept.collect::<Vec<_>>())).unwrap_err()
        };
        assert_eq!(without("sec-websocket-key", None), HandshakeError::Key);
        assert_eq!(
            without("sec-websocket-key", Some(("sec-websocket-key", "c2hvcnQ="))),
            HandshakeError::Key
        );
        assert_eq!(without("", Some(("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="))), HandshakeError::Key);
        let version = "sec-websocket-version";
        assert_eq!(without(version, Some((version, "8"))), HandshakeError::Version);
        let mut posted = request(&ASKS);
        posted.method = Method::POST;
        assert_eq!(expected_accept(&posted).unwrap_err(), HandshakeError::Method);
    }

    #[test]
    fn only_what_was_asked_for_is_granted() {
        let asked = upgrades(1).asked(&request(&ASKS)).unwrap().unwrap();
        let good = [
            ("connection", "Upgrade"),
            ("upgrade", "WebSocket"),
            ("sec-websocket-accept", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="),
        ];
        assert!(asked.is_granted_by(&request(&good).headers));
        for (name, value) in [
            ("connection", "close"),
            ("upgrade", "tcp"),
            ("sec-websocket-accept", "S3pPLMBiTxaQ9kYGzzhZRbK+xOo="),
        ] {
            let changed = good.map(|kept| if kept.0 == name { (name, value) } else { kept });
            assert!(!asked.is_granted_by(&request(&changed).headers), "{name}: {value}");
        }
        assert!(!asked.is_granted_by(&request(&good[..2]).headers));
    }

    #[test]
    fn tunnels_are_bounded() {
        let upgrades = upgrades(1);
        let held = upgrades.asked(&request(&ASKS)).unwrap();
        assert_eq!(upgrades.asked(&request(&ASKS)).err(), Some(Refusal::TunnelsFull));
        drop(held);
        assert!(upgrades.asked(&request(&ASKS)).unwrap().is_some());
    }
}
