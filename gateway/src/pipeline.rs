//! The life of a request, stage by stage. Each stage takes what the stage before produced, so that none can be left
//! out: an upstream asks for a [`Permit`](crate::limit::Permit), which only [`limit`] gives.
//!
//! ```text
//! accept → admit → route → authenticate → authorise → limit → transform → proxy | compose → transform back → respond
//! ```

use std::sync::Arc;

use http::{Method, Request, Response};

use crate::{
    admit::admit,
    authenticate::authenticate,
    authorise::authorise,
    body::Body,
    compose, direct,
    error::Refusal,
    forwarded::{self, Proxied},
    limit::limit,
    proxy,
    record::Record,
    respond,
    route::route,
    screen::Malformed,
    shared::Shared,
    snapshot::Action,
    snapshot::Snapshot,
    tls::server::ClientCertificate,
    transform,
};

pub use crate::body::ClientBody;

/// Who asks.
#[derive(Clone, Debug)]
pub struct Peer {
    /// The client's.
    pub address: std::net::SocketAddr,
    /// The same for `X-Forwarded-For`, made once a connection.
    pub forwarded_for: http::HeaderValue,
    /// It came over TLS.
    pub https: bool,
    /// The certificate by which it is known, if it showed one.
    pub certificate: Option<Arc<ClientCertificate>>,
    /// The trusted proxy that named the client, if one did; the address is the client's then.
    pub proxied: Option<Arc<Proxied>>,
}

/// Serves one request.
pub async fn handle(
    shared: &Arc<Shared>,
    peer: &Peer,
    malformed: Option<Malformed>,
    mut request: Request<ClientBody>,
) -> Response<Body> {
    let snapshot = shared.snapshot();
    let behind = forwarded::through(&snapshot.settings.forwarding, peer, request.headers());
    let peer = behind.as_deref().unwrap_or(peer);
    let mut record = Record::begin(peer, &request);
    if let Some(tracer) = &snapshot.tracer {
        record.trace = Some(tracer.begin(request.headers_mut()));
    }
    let outcome = match malformed {
        Some(malformed) => Err(Refusal::Malformed(malformed)),
        None => serve(&snapshot, peer, &mut record, request).await,
    };
    respond::respond(shared, record, outcome)
}

async fn serve(
    snapshot: &Snapshot,
    peer: &Peer,
    record: &mut Record,
    request: Request<ClientBody>,
) -> Result<Response<Body>, Refusal> {
    let received = admit(snapshot, peer, record, request)?;
    let routed = match route(snapshot, received, record) {
        Err(Refusal::MethodNotAllowed { allow }) if record.method == Method::OPTIONS => {
            return Ok(direct::options(allow));
        }
        routed => routed?,
    };
    let authenticated = authenticate(routed, record).await?;
    let permitted = authorise(authenticated)?;
    let admitted = limit(permitted, record)?;
    if let Action::Direct(direct) = &admitted.routed.route.action {
        let mut response = direct.answer(&admitted)?;
        let changes = &admitted.routed.route.response.headers;
        changes.apply(response.headers_mut(), &transform::template::Nothing);
        return Ok(response);
    }
    let mut ready = transform::request(admitted, record).await?;
    let route = ready.admitted.routed.route.clone();
    if let Some(mirror) = &route.mirror {
        mirror.copy(&mut ready);
    }
    let chosen = match &route.action {
        Action::Split(_) => ready.admitted.routed.upstream().cloned(),
        Action::Proxy(_) | Action::Compose(_) | Action::Direct(_) => None,
    };
    let mut response = match (&route.action, &chosen) {
        (Action::Proxy(upstream), _) | (Action::Split(_), Some(upstream)) => {
            proxy::proxy(upstream, &mut ready, record).await
        }
        (Action::Compose(composition), _) => Box::pin(compose::compose(composition, &ready, record)).await,
        // Weights have a sum above 0, and the route's own answer was given before.
        (Action::Split(_), None) | (Action::Direct(_), _) => Err(Refusal::Internal),
    }?;
    transform::response(&route, &mut response, ready.deadline).await?;
    Ok(response)
}
