//! What hyper calls: the pipeline, and for the health path the gateway's own answer. A router in front of the pipeline
//! would cost a twentieth of a request.

use std::{
    cell::Cell,
    convert::Infallible,
    future::Future,
    panic::AssertUnwindSafe,
    pin::Pin,
    sync::{Arc, atomic::Ordering::Relaxed},
};

use futures_util::FutureExt as _;
use http::{HeaderValue, Response, StatusCode, Uri, Version, header};
use hyper::body::Incoming;

use crate::{
    body::{Body, ClientBody},
    error::Refusal,
    pipeline::{self, Peer},
    record::Record,
    respond,
    screen::{Malformed, io::RefusalCell},
    shared::{Phase, Shared},
    upgrade,
};

/// What the connections of one worker serve.
#[derive(Clone)]
pub struct Gateway {
    health_path: Arc<str>,
    shared: Arc<Shared>,
}

impl Gateway {
    /// Everything that clients' listeners serve.
    pub fn new(shared: Arc<Shared>, health_path: &str) -> Self {
        Self { health_path: health_path.into(), shared }
    }

    /// What all workers share.
    pub(super) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// The answer to a request for the health path.
    pub(super) fn health<B>(&self, request: &http::Request<B>) -> Option<Response<Body>> {
        (request.uri().path() == &*self.health_path).then(|| health(&self.shared))
    }
}

/// One connection's service: knows who asks, and counts, so that a refusal of the screen meets its request.
pub struct ConnectionService {
    gateway: Gateway,
    peer: Arc<Peer>,
    cell: RefusalCell,
    next: Cell<u64>,
}

impl ConnectionService {
    /// For a connection of `peer`.
    pub fn new(gateway: Gateway, peer: Arc<Peer>, cell: RefusalCell) -> Self {
        Self { gateway, peer, cell, next: Cell::new(0) }
    }
}

impl hyper::service::Service<http::Request<Incoming>> for ConnectionService {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn call(&self, mut request: http::Request<Incoming>) -> Self::Future {
        let index = self.next.get();
        self.next.set(index + 1);
        let malformed = self.cell.take(index);
        if malformed.is_some() {
            // What stands for a refused request must not meet the health path.
            *request.uri_mut() = Uri::from_static("*");
        } else if let Some(health) = self.gateway.health(&request) {
            let answer = std::future::ready(Ok(health));
            return match self.cell.asks_upgrade(index) {
                false => Box::pin(answer),
                true => Box::pin(staying(answer, self.cell.clone(), index)),
            };
        }
        let (shared, peer) = (self.gateway.shared.clone(), self.peer.clone());
        match self.cell.asks_upgrade(index) {
            false => Box::pin(serve(shared, peer, malformed, request, Version::HTTP_11)),
            true => Box::pin(serve_upgrade(shared, peer, self.cell.clone(), index, request)),
        }
    }
}

/// The pipeline's answer. Its version is this hop's own, whatever the service speaks (RFC 9110, 2.5).
pub(super) async fn serve(
    shared: Arc<Shared>,
    peer: Arc<Peer>,
    malformed: Option<Malformed>,
    request: http::Request<Incoming>,
    version: Version,
) -> Result<Response<Body>, Infallible> {
    let request = request.map(ClientBody::Incoming);
    let handled = pipeline::handle(&shared, &peer, malformed, request);
    let handled = AssertUnwindSafe(handled).catch_unwind().await;
    let mut response = handled.unwrap_or_else(|_| {
        shared.metrics.connections.panics.fetch_add(1, Relaxed);
        let record = Record::begin(&peer, &http::Request::new(()));
        respond::respond(&shared, record, Err(Refusal::Internal))
    });
    *response.version_mut() = version;
    if version == Version::HTTP_2 {
        response.body_mut().pass_trailers();
    }
    Ok(response)
}

/// Serves a request for another protocol, which is no HTTP/1.1 any more once it is granted.
async fn serve_upgrade(
    shared: Arc<Shared>,
    peer: Arc<Peer>,
    cell: RefusalCell,
    index: u64,
    mut request: http::Request<Incoming>,
) -> Result<Response<Body>, Infallible> {
    let client = hyper::upgrade::on(&mut request);
    let mut response = serve(shared, peer, None, request, Version::HTTP_11).await?;
    let switched = upgrade::take(&mut response);
    cell.answered(index, switched.is_some()).await;
    if let Some((switched, closing)) = switched {
        tokio::spawn(upgrade::tunnel(client, switched, closing));
    }
    Ok(response)
}

/// Answers a request for another protocol without it.
async fn staying(
    answer: impl Future<Output = Result<Response<Body>, Infallible>>,
    cell: RefusalCell,
    index: u64,
) -> Result<Response<Body>, Infallible> {
    cell.answered(index, false).await;
    answer.await
}

/// Whether to send traffic here; balancers ask it.
fn health(shared: &Shared) -> Response<Body> {
    let ready = shared.is_ready();
    let mut response = Response::new(Body::empty());
    *response.status_mut() = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if shared.phase() >= Phase::Closing {
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}
