//! Whether a request is taken at all: room for one more in flight, and a path that can be read in one way only.

use http::{
    Request, Uri,
    request::Parts,
    uri::{PathAndQuery, Scheme},
};

use crate::{
    error::Refusal,
    forwarded::Family,
    in_flight::InFlightGuard,
    path,
    pipeline::{ClientBody, Peer},
    record::Record,
    snapshot::Snapshot,
};

/// A request that was taken. It stays where it is, on the heap, while the stages hand it on: it is large, and what a
/// stage holds is copied with its future.
pub struct Received {
    /// Its line and headers; the path in its one form.
    pub head: Parts,
    /// Its body.
    pub body: ClientBody,
    /// Who asks.
    pub peer: Peer,
    /// How services are told of it.
    pub family: Family,
    /// Its place among those in flight.
    pub in_flight: InFlightGuard,
}

/// Takes a request or not. The record then has the path that is routed and sent on.
///
/// # Errors
/// [`Refusal::Overloaded`], [`Refusal::Path`].
pub fn admit(
    snapshot: &Snapshot,
    peer: &Peer,
    record: &mut Record,
    request: Request<ClientBody>,
) -> Result<Box<Received>, Refusal> {
    let in_flight = snapshot.in_flight.enter().ok_or(Refusal::Overloaded)?;
    let (mut head, body) = request.into_parts();
    if canonicalise(&mut head.uri)? {
        record.uri = head.uri.clone();
    }
    let family = snapshot.settings.forwarding.family;
    Ok(Box::new(Received { head, body, peer: peer.clone(), family, in_flight }))
}

/// Says whether it was written otherwise.
fn canonicalise(uri: &mut Uri) -> Result<bool, Refusal> {
    let canonical = match path::canonical(uri.path()).map_err(Refusal::Path)? {
        std::borrow::Cow::Borrowed(_) if uri.scheme().is_none() => return Ok(false),
        canonical => canonical.into_owned(),
    };
    // The absolute form names what Host names (the screen saw to it): the path suffices.
    let target = match uri.query() {
        Some(query) => format!("{canonical}?{query}"),
        None => canonical,
    };
    let target = PathAndQuery::try_from(target).map_err(|_| Refusal::Internal)?;
    debug_assert!(uri.scheme().is_none_or(|scheme| *scheme == Scheme::HTTP || *scheme == Scheme::HTTPS));
    *uri = Uri::from(target);
    Ok(true)
}
