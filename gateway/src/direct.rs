//! Answers that need no service: a redirection, a fixed answer, and what OPTIONS is told.

use bytes::Bytes;
use http::{
    HeaderMap, HeaderValue, Response,
    header::{ALLOW, HOST, LOCATION},
};

use crate::{
    body::Body,
    error::Refusal,
    limit::Admitted,
    route::host,
    transform::template::{Template, Values},
};

/// An answer that the route itself gives.
pub enum Direct {
    /// Elsewhere.
    Redirect(Redirect),
    /// Always the same.
    Fixed {
        /// 200 to 599.
        status: u16,
        /// Its headers.
        headers: HeaderMap,
        /// Its body.
        body: Bytes,
    },
}

/// Where a redirection leads (RFC 9110, section 15.4).
pub struct Redirect {
    /// 301, 302, 303, 307 or 308.
    pub status: u16,
    /// Where.
    pub target: Target,
}

/// Where a redirection leads.
pub enum Target {
    /// To this text, which is all of it.
    Location(Template),
    /// To the request's own address, with these parts in the place of its own; its query stays.
    Parts {
        /// `http` or `https`; the port of the request's host is left out then.
        scheme: Option<&'static str>,
        /// Host, and port if there is one.
        host: Option<String>,
        /// Path.
        path: Option<Template>,
    },
}

impl Direct {
    /// The answer.
    ///
    /// # Errors
    /// [`Refusal::Internal`], where what was made is no header's value.
    pub fn answer(&self, admitted: &Admitted) -> Result<Response<Body>, Refusal> {
        let (mut response, status) = match self {
            Self::Redirect(redirect) => {
                let mut response = Response::new(Body::empty());
                let location = redirect.target.location(admitted);
                let location = HeaderValue::try_from(location).map_err(|_| Refusal::Internal)?;
                response.headers_mut().insert(LOCATION, location);
                (response, redirect.status)
            }
            Self::Fixed { status, headers, body } => {
                let mut response = Response::new(Body::full(body.clone()));
                response.headers_mut().clone_from(headers);
                (response, *status)
            }
        };
        *response.status_mut() = status.try_into().map_err(|_| Refusal::Internal)?;
        for (name, value) in &admitted.permit.headers {
            response.headers_mut().insert(*name, value.clone());
        }
        Ok(response)
    }
}

impl Target {
    fn location(&self, admitted: &Admitted) -> String {
        let routed = &admitted.routed;
        let values = Values { admitted, route: &routed.route };
        let (scheme, new_host, path) = match self {
            Self::Location(template) => return template.render(&values),
            Self::Parts { scheme, host, path } => (*scheme, host, path),
        };
        let request = &routed.request;
        let uri = &request.head.uri;
        let own_host = match scheme {
            // A port belongs to the scheme that it was asked by.
            Some(_) => host(&request.head),
            None => request.head.headers.get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default(),
        };
        let own_scheme = if request.peer.https { "https" } else { "http" };
        let made = path.as_ref().map(|template| template.render(&values));
        let mut location = format!(
            "{}://{}{}",
            scheme.unwrap_or(own_scheme),
            new_host.as_deref().unwrap_or(own_host),
            made.as_deref().unwrap_or(uri.path())
        );
        if let Some(query) = uri.query() {
            location.extend(["?", query]);
        }
        location
    }
}

/// The answer to OPTIONS where no route takes it (RFC 9110, section 9.3.7).
pub fn options(allow: HeaderValue) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    response.headers_mut().insert(ALLOW, allow);
    response
}
