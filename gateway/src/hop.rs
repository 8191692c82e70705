//! Headers that belong to one connection and are not sent on (RFC 9110, section 7.6.1). Pure.

use http::{
    HeaderMap, HeaderName,
    header::{
        AUTHORIZATION, CACHE_CONTROL, CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE,
        CONTENT_TYPE, COOKIE, EXPECT, HOST, LOCATION, MAX_FORWARDS, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION,
        RANGE, SET_COOKIE, TE, TRAILER, TRANSFER_ENCODING, UPGRADE, WWW_AUTHENTICATE,
    },
};

/// Those that are known by name, and `Connection` itself.
pub const HOP_BY_HOP: [HeaderName; 9] = [
    CONNECTION,
    TRANSFER_ENCODING,
    UPGRADE,
    TE,
    TRAILER,
    PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
];

/// Whether a header belongs to one connection by its name.
pub fn is_hop_by_hop(name: &HeaderName) -> bool {
    HOP_BY_HOP.contains(name)
}

/// Takes them away, with those that `Connection` lists.
pub fn strip(headers: &mut HeaderMap) {
    for name in listed(headers) {
        headers.remove(name);
    }
    // Looked for among the few that are there: asking for each of the nine costs more.
    let found: Vec<HeaderName> = headers.keys().filter(|name| is_hop_by_hop(name)).cloned().collect();
    for name in found {
        headers.remove(name);
    }
}

/// Fields of a trailer section that would change how a message is framed, routed, authenticated or read (RFC 9110,
/// section 6.5.1).
const FORBIDDEN_IN_TRAILERS: [HeaderName; 14] = [
    AUTHORIZATION,
    CACHE_CONTROL,
    CONTENT_ENCODING,
    CONTENT_LENGTH,
    CONTENT_RANGE,
    CONTENT_TYPE,
    COOKIE,
    EXPECT,
    HOST,
    LOCATION,
    MAX_FORWARDS,
    RANGE,
    SET_COOKIE,
    WWW_AUTHENTICATE,
];

/// A trailer section without what does not belong there.
pub fn trailers(mut trailers: HeaderMap) -> HeaderMap {
    strip(&mut trailers);
    for name in FORBIDDEN_IN_TRAILERS {
        trailers.remove(name);
    }
    trailers
}

/// Whether whoever sent them takes trailers (RFC 9110, section 10.1.4).
pub fn takes_trailers(headers: &HeaderMap) -> bool {
    let mut codings =
        headers.get_all(TE).into_iter().flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    codings.any(|coding| coding.trim_ascii().eq_ignore_ascii_case(b"trailers"))
}

/// The headers that `Connection` lists, `close`, `keep-alive` and `Host` left out; rarely any.
pub fn listed(headers: &HeaderMap) -> Vec<HeaderName> {
    let mut names = Vec::new();
    for value in headers.get_all(CONNECTION) {
        for word in value.as_bytes().split(|byte| *byte == b',').map(<[u8]>::trim_ascii) {
            // `Host` is for every recipient: a client may not take it away (RFC 9110, 7.6.1).
            if [&b"close"[..], b"keep-alive", b"host"].iter().any(|kept| word.eq_ignore_ascii_case(kept)) {
                continue;
            }
            names.extend(HeaderName::from_bytes(word));
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    #[test]
    fn what_connection_lists_goes_with_it() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("connection", "keep-alive, X-Hop, Host"),
            ("host", "a.example"),
            ("x-hop", "1"),
            ("keep-alive", "timeout=5"),
            ("te", "trailers"),
            ("x-end", "2"),
        ] {
            headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        strip(&mut headers);
        assert_eq!(headers.len(), 2);
        assert!(headers.contains_key("x-end") && headers.contains_key("host"));
    }
}
