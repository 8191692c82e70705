//! What hyper calls: the pipeline, and for the health path the gateway's own answer. A router in front of the pipeline
//! would cost a twentieth of a request.

use std::{
    cell::Cell,
    convert::Infallible,
    future::Future,
    net::SocketAddr,
    panic::AssertUnwindSafe,
    pin::Pin,
    sync::{Arc, atomic::Ordering::Relaxed},
};

use futures_util::FutureExt as _;
use http::{HeaderValue, Response, StatusCode, Uri, header};
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
}

/// One connection's service: knows who asks, and counts, so that a refusal of the screen meets its request.
pub struct ConnectionService {
    gateway: Gateway,
    peer: Arc<Peer>,
    cell: RefusalCell,
    next: Cell<u64>,
}

impl ConnectionService {
    /// For a connection from `address`.
    pub fn new(gateway: Gateway, address: SocketAddr, cell: RefusalCell) -> Self {
        // An IPv4 client of an IPv6 socket is the IPv4 client that it is.
        let address = SocketAddr::new(address.ip().to_canonical(), address.port());
        let text = address.ip().to_string();
        let forwarded_for = HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static("unknown"));
        let peer = Arc::new(Peer { address, forwarded_for });
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
        } else if request.uri().path() == &*self.gateway.health_path {
            let answer = std::future::ready(Ok(health(&self.gateway.shared)));
            return match self.cell.asks_upgrade(index) {
                false => Box::pin(answer),
                true => Box::pin(staying(answer, self.cell.clone(), index)),
            };
        }
        let (shared, peer) = (self.gateway.shared.clone(), self.peer.clone());
        match self.cell.asks_upgrade(index) {
            false => Box::pin(serve(shared, peer, malformed, request)),
            true => Box::pin(serve_upgrade(shared, peer, self.cell.clone(), index, request)),
        }
    }
}

async fn serve(
    shared: Arc<Shared>,
    peer: Arc<Peer>,
    malformed: Option<Malformed>,
    request: http::Request<Incoming>,
) -> Result<Response<Body>, Infallible> {
    let request = request.map(ClientBody::Incoming);
    let handled = pipeline::handle(&shared, &peer, malformed, request);
    let handled = AssertUnwindSafe(handled).catch_unwind().await;
    let mut response = handled.unwrap_or_else(|_| {
        shared.metrics.connections.panics.fetch_add(1, Relaxed);
        let record = Record::begin(&peer, &http::Request::new(()));
        respond::respond(&shared, record, Err(Refusal::Internal))
    });
    // The version is this hop's own, whatever the service speaks (RFC 9110, 2.5).
    *response.version_mut() = http::Version::HTTP_11;
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
    let mut response = serve(shared, peer, None, request).await?;
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
