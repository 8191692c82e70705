//! gRPC over HTTP/2, as far as a proxy takes part in it: whether a request is a call, its deadline, and what a refusal
//! is called there ([gRPC over HTTP/2](https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md)). Pure.

use std::{borrow::Cow, time::Duration};

use http::{HeaderMap, HeaderName, HeaderValue, Version, header::CONTENT_TYPE};
use percent_encoding::{AsciiSet, CONTROLS, percent_encode};

use crate::{
    authenticate::AuthError,
    error::{Refusal, StepError, UpstreamError},
};

/// Of every call and every answer to one.
pub const GRPC: HeaderValue = HeaderValue::from_static("application/grpc");
/// Among the trailers; in the head of an answer that has nothing else.
pub const STATUS: HeaderName = HeaderName::from_static("grpc-status");
/// Text beside a status that is not OK, percent-encoded.
pub const MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
const TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

/// A timeout has at most eight digits.
const TIMEOUT_MAX: u128 = 99_999_999;
/// Units of a timeout with their nanoseconds, the finest first.
const UNITS: [(u8, u128); 6] = [
    (b'n', 1),
    (b'u', 1_000),
    (b'm', 1_000_000),
    (b'S', 1_000_000_000),
    (b'M', 60_000_000_000),
    (b'H', 3_600_000_000_000),
];

/// Why a call failed; those of [gRPC's codes](https://grpc.io/docs/guides/status-codes/) that a gateway has a use for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// The request is not as it must be.
    InvalidArgument = 3,
    /// Not done in time.
    DeadlineExceeded = 4,
    /// The caller is known and may not.
    PermissionDenied = 7,
    /// A limit of the caller's is reached.
    ResourceExhausted = 8,
    /// Nobody serves this method.
    Unimplemented = 12,
    /// Something is broken.
    Internal = 13,
    /// Not now; clients may try again.
    Unavailable = 14,
    /// Who is calling is not known.
    Unauthenticated = 16,
}

/// Whether a request is a call.
pub fn is_call(version: Version, headers: &HeaderMap) -> bool {
    version == Version::HTTP_2
        && headers.get(CONTENT_TYPE).is_some_and(|value| {
            // `application/grpc-web` is another protocol.
            let rest = value.as_bytes().strip_prefix(GRPC.as_bytes());
            rest.is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';')))
        })
}

/// How long the caller waits; nothing if it does not say, or not in the protocol's form.
pub fn timeout(headers: &HeaderMap) -> Option<Duration> {
    let (unit, digits) = headers.get(TIMEOUT)?.as_bytes().split_last()?;
    let (_, unit_ns) = UNITS.iter().find(|(name, _)| name == unit)?;
    if digits.is_empty() || digits.len() > 8 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let count = digits.iter().fold(0, |count, digit| count * 10 + u128::from(digit - b'0'));
    // Eight digits of hours are 3.6 × 10^20 ns.
    let nanoseconds = count * unit_ns;
    Some(Duration::new(
        u64::try_from(nanoseconds / 1_000_000_000).ok()?,
        u32::try_from(nanoseconds % 1_000_000_000).ok()?,
    ))
}

/// Tells the service how much is left of the time that the caller gave, `spent` ago; never nothing, which would be no
/// timeout in the protocol's form.
pub fn reduce_timeout(headers: &mut HeaderMap, spent: Duration) {
    let Some(left) = timeout(headers).map(|timeout| timeout.saturating_sub(spent)) else { return };
    let nanoseconds = left.as_nanos().max(1);
    let value = UNITS.iter().find_map(|(unit, unit_ns)| {
        let count = nanoseconds / unit_ns;
        (count <= TIMEOUT_MAX).then(|| format!("{count}{}", char::from(*unit)))
    });
    if let Some(value) = value.and_then(|value| HeaderValue::try_from(value).ok()) {
        headers.insert(TIMEOUT, value);
    }
}

/// What a refusal is called. Exhaustive: a new refusal gets its status here or does not compile.
pub fn status(refusal: &Refusal) -> Status {
    match refusal {
        Refusal::Path(_) | Refusal::BodyNotJson(_) => Status::InvalidArgument,
        Refusal::BodyLost => Status::DeadlineExceeded,
        Refusal::Forbidden { .. } => Status::PermissionDenied,
        Refusal::RateLimited(_) | Refusal::BodyTooLarge { .. } => Status::ResourceExhausted,
        Refusal::NoRoute | Refusal::MethodNotAllowed { .. } => Status::Unimplemented,
        Refusal::Overloaded
        | Refusal::RouteOverloaded
        | Refusal::TunnelsFull
        | Refusal::Unauthenticated { error: AuthError::KeySetUnavailable, .. } => Status::Unavailable,
        Refusal::Unauthenticated { .. } => Status::Unauthenticated,
        Refusal::Upstream(error) | Refusal::Step { error: StepError::Upstream(error), .. } => {
            upstream(*error)
        }
        Refusal::Malformed(_)
        | Refusal::Handshake(_)
        | Refusal::Step { .. }
        | Refusal::Collision(_)
        | Refusal::Internal => Status::Internal,
    }
}

fn upstream(error: UpstreamError) -> Status {
    match error {
        UpstreamError::Timeout | UpstreamError::TryTimeout | UpstreamError::FirstByteTimeout => {
            Status::DeadlineExceeded
        }
        UpstreamError::NoEndpoint
        | UpstreamError::Full
        | UpstreamError::CircuitOpen
        | UpstreamError::Connect
        | UpstreamError::ConnectTimeout
        | UpstreamError::Tls
        | UpstreamError::Broken => Status::Unavailable,
        UpstreamError::Protocol | UpstreamError::TooLarge | UpstreamError::NotJson => Status::Internal,
    }
}

impl From<Status> for HeaderValue {
    fn from(status: Status) -> Self {
        Self::from(status as u16)
    }
}

/// A text as `grpc-message` carries it: printable ASCII, everything else and `%` percent-encoded.
pub fn message(text: &str) -> Option<HeaderValue> {
    const ENCODED: &AsciiSet = &CONTROLS.add(b'%');
    let encoded: Cow<'_, str> = percent_encode(text.as_bytes(), ENCODED).into();
    HeaderValue::from_str(&encoded).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: HeaderName, value: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(name, HeaderValue::from_static(value))])
    }

    #[test]
    fn calls_are_told_by_version_and_content_type() {
        for (content_type, is) in [
            ("application/grpc", true),
            ("application/grpc+proto", true),
            ("application/grpc;charset=x", true),
            ("application/grpc-web", false),
            ("application/grpcx", false),
            ("application/json", false),
        ] {
            let headers = headers(CONTENT_TYPE, content_type);
            assert_eq!(is_call(Version::HTTP_2, &headers), is, "{content_type}");
            assert!(!is_call(Version::HTTP_11, &headers));
        }
    }

    #[test]
    fn timeouts_are_read_and_reduced() {
        let second = Duration::from_secs(1);
        for (written, spent, left) in [
            ("1S", Duration::from_millis(250), "750000u"),
            ("100m", Duration::from_millis(30), "70000000n"),
            ("99999999H", second, "99999998H"),
            ("2M", second, "119000m"),
            ("1S", second, "1n"),
            ("1m", second, "1n"),
        ] {
            let mut headers = headers(TIMEOUT, written);
            reduce_timeout(&mut headers, spent);
            assert_eq!(headers[TIMEOUT], left, "{written}");
        }
        for written in ["", "S", "1", "1s", "-1S", "123456789S", "1.5S", "1 S"] {
            let mut headers = headers(TIMEOUT, written);
            assert_eq!(timeout(&headers), None, "{written}");
            reduce_timeout(&mut headers, second);
            assert_eq!(headers[TIMEOUT], written);
        }
    }

    #[test]
    fn messages_are_printable() {
        assert_eq!(message("100 % \n é").unwrap(), "100 %25 %0A %C3%A9");
    }
}
