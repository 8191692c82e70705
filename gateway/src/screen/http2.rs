//! The same strictness for HTTP/2: h2 keeps the framing and the order of pseudo-headers, this keeps the meaning
//! (RFC 9113, 8.2 and 8.3), and gives requests the form that those of HTTP/1.1 have. Pure.

use http::{
    HeaderValue, Method, Request, Uri,
    header::{CONTENT_LENGTH, COOKIE, EXPECT, HOST},
    uri::PathAndQuery,
};

use super::{
    Malformed,
    head::{TARGET, all, check_host, content_length},
};

/// Checks a request's head; afterwards its target is a path and `Host` names its authority.
///
/// # Errors
/// Why it is no request that may be served.
pub fn check<B>(request: &mut Request<B>, headers_max: usize) -> Result<(), Malformed> {
    if request.method() == Method::CONNECT {
        return Err(Malformed::Connect);
    }
    let headers = request.headers();
    if headers.len() > headers_max {
        return Err(Malformed::TooManyHeaders);
    }
    let blank = |byte: Option<&u8>| matches!(byte, Some(b' ' | b'\t'));
    if headers.values().any(|value| blank(value.as_bytes().first()) || blank(value.as_bytes().last())) {
        return Err(Malformed::HeaderValue);
    }
    if headers.get(EXPECT).is_some_and(|value| !value.as_bytes().eq_ignore_ascii_case(b"100-continue")) {
        return Err(Malformed::Expect);
    }
    let mut lengths = headers.get_all(CONTENT_LENGTH).iter();
    if let Some(length) = lengths.next() {
        content_length(length.as_bytes())?;
        if lengths.next().is_some() {
            return Err(Malformed::ContentLengthRepeated);
        }
    }
    let host = host(request)?;
    let target = target(request)?;
    *request.uri_mut() = target;
    request.headers_mut().insert(HOST, host);
    join_cookies(request);
    Ok(())
}

/// `:authority`, which `Host` must equal where both are there.
fn host<B>(request: &Request<B>) -> Result<HeaderValue, Malformed> {
    let mut hosts = request.headers().get_all(HOST).iter();
    let written = hosts.next();
    if hosts.next().is_some() {
        return Err(Malformed::HostRepeated);
    }
    let authority = request.uri().authority().map(|authority| authority.as_str());
    match (authority, written) {
        (None, None) => Err(Malformed::HostMissing),
        (None, Some(host)) => check_host(host.as_bytes()).map(|()| host.clone()),
        (Some(authority), Some(host)) if !host.as_bytes().eq_ignore_ascii_case(authority.as_bytes()) => {
            Err(Malformed::AuthorityDiffers)
        }
        (Some(authority), _) => {
            check_host(authority.as_bytes())?;
            HeaderValue::from_str(authority).map_err(|_| Malformed::HostInvalid)
        }
    }
}

fn target<B>(request: &Request<B>) -> Result<Uri, Malformed> {
    let uri = request.uri();
    if !matches!(uri.scheme_str(), None | Some("http" | "https")) {
        return Err(Malformed::Target);
    }
    let target = uri.path_and_query().map_or("/", PathAndQuery::as_str);
    match target {
        "*" if request.method() != Method::OPTIONS => Err(Malformed::AsteriskForm),
        _ if target != "*" && !target.starts_with('/') => Err(Malformed::Target),
        _ if !all(target.as_bytes(), TARGET) => Err(Malformed::Target),
        _ => Ok(Uri::from(uri.path_and_query().cloned().unwrap_or(PathAndQuery::from_static("/")))),
    }
}

/// Clients may split `Cookie`; HTTP/1.1 has one (RFC 9113, 8.2.3).
fn join_cookies<B>(request: &mut Request<B>) {
    let headers = request.headers_mut();
    let crumbs: Vec<_> = headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if crumbs.len() > 1 {
        let whole = HeaderValue::from_bytes(&crumbs.join(&b"; "[..]));
        // Parts that were values make a value.
        whole.map(|whole| headers.insert(COOKIE, whole)).ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(method: &str, uri: &str, headers: &[(&str, &str)]) -> Request<()> {
        let request = Request::builder().method(method).uri(uri);
        headers.iter().fold(request, |request, (name, value)| request.header(*name, *value)).body(()).unwrap()
    }

    #[test]
    fn what_has_two_meanings_is_refused() {
        let a = "https://a.example/x";
        let long: Vec<_> = (0..11).map(|_| ("x-y", "z")).collect();
        for (method, uri, headers, malformed) in [
            ("CONNECT", "a.example:443", &[][..], Malformed::Connect),
            ("GET", a, &[("host", "b.example")], Malformed::AuthorityDiffers),
            ("GET", a, &[("host", "a.example:443")], Malformed::AuthorityDiffers),
            ("GET", a, &[("host", "a.example"), ("host", "a.example")], Malformed::HostRepeated),
            ("GET", "/x", &[], Malformed::HostMissing),
            ("GET", "/x", &[("host", "a b")], Malformed::HostInvalid),
            ("GET", "https://user@a.example/", &[], Malformed::HostInvalid),
            ("GET", "ftp://a.example/", &[], Malformed::Target),
            ("GET", "https://a.example/a\\..\\b", &[], Malformed::Target),
            ("GET", "*", &[("host", "a.example")], Malformed::AsteriskForm),
            ("POST", a, &[("content-length", "+1")], Malformed::ContentLengthInvalid),
            (
                "POST",
                a,
                &[("content-length", "1"), ("content-length", "1")],
                Malformed::ContentLengthRepeated,
            ),
            ("POST", a, &[("content-length", "9223372036854775808")], Malformed::ContentLengthOverflow),
            ("POST", a, &[("expect", "200-ok")], Malformed::Expect),
            ("GET", a, &[("x", " a")], Malformed::HeaderValue),
            ("GET", a, &[("x", "a\t")], Malformed::HeaderValue),
            ("GET", a, &long[..], Malformed::TooManyHeaders),
        ] {
            let mut request = request(method, uri, headers);
            assert_eq!(check(&mut request, 10), Err(malformed), "{method} {uri} {headers:?}");
        }
    }

    #[test]
    fn what_is_good_gets_the_form_of_http1() {
        for (method, uri, headers, target, host) in [
            ("GET", "https://a.example/x?y", &[][..], "/x?y", "a.example"),
            ("GET", "https://a.example:8443", &[], "/", "a.example:8443"),
            ("GET", "http://A.example/", &[("host", "a.EXAMPLE")], "/", "A.example"),
            ("GET", "/x", &[("host", "a.example")], "/x", "a.example"),
            ("OPTIONS", "*", &[("host", "a.example")], "*", "a.example"),
        ] {
            let mut request = request(method, uri, headers);
            assert_eq!(check(&mut request, 10), Ok(()), "{method} {uri}");
            assert_eq!(
                (request.uri().to_string().as_str(), &request.headers()[HOST]),
                (target, &HeaderValue::from_static(host))
            );
        }
        let crumbs = [("cookie", "a=1"), ("cookie", "b=2")];
        let mut request = request("GET", "https://a.example/", &crumbs);
        assert_eq!(check(&mut request, 10), Ok(()));
        let cookies: Vec<_> = request.headers().get_all(COOKIE).iter().collect();
        assert_eq!(cookies, ["a=1; b=2"]);
    }
}
