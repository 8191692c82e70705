//! What hyper calls: an axum router with the health path, and the pipeline for everything else.

use std::{
    cell::Cell,
    convert::Infallible,
    net::SocketAddr,
    panic::AssertUnwindSafe,
    sync::{Arc, atomic::Ordering::Relaxed},
};

use axum::{
    Router,
    extract::{Request, State},
    response::Response,
    routing::{any, future::RouteFuture},
};
use futures_util::FutureExt as _;
use http::{HeaderValue, StatusCode, Uri, header};
use hyper::body::Incoming;
use tower::Service as _;

use crate::{
    error::Refusal,
    pipeline::{self, Peer},
    record::Record,
    respond,
    screen::{Malformed, io::RefusalCell},
    shared::{Phase, Shared},
};

/// The router of one worker.
#[derive(Clone)]
pub struct Gateway(Router);

impl Gateway {
    /// Everything that clients' listeners serve.
    pub fn new(shared: Arc<Shared>, health_path: &str) -> Self {
        Self(Router::new().route(health_path, any(health)).fallback(serve).with_state(shared))
    }
}

/// What a request brings from its connection.
#[derive(Clone)]
struct Met {
    peer: Arc<Peer>,
    malformed: Option<Malformed>,
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
    type Response = Response;
    type Error = Infallible;
    type Future = RouteFuture<Infallible>;

    fn call(&self, mut request: http::Request<Incoming>) -> Self::Future {
        let index = self.next.get();
        self.next.set(index + 1);
        let malformed = self.cell.take(index);
        if malformed.is_some() {
            // What stands for a refused request must not meet the health path.
            *request.uri_mut() = Uri::from_static("*");
        }
        request.extensions_mut().insert(Met { peer: self.peer.clone(), malformed });
        self.gateway.0.clone().call(request)
    }
}

async fn serve(State(shared): State<Arc<Shared>>, mut request: Request) -> Response {
    let Some(Met { peer, malformed }) = request.extensions_mut().remove() else {
        // Only a connection calls the router, and it never comes without.
        return status(StatusCode::INTERNAL_SERVER_ERROR);
    };
    // On the heap at once: it is large, and axum moves a handler's future several times.
    let handled = Box::pin(pipeline::handle(&shared, &peer, malformed, request));
    let handled = AssertUnwindSafe(handled).catch_unwind().await;
    let response = handled.unwrap_or_else(|_| {
        shared.metrics.connections.panics.fetch_add(1, Relaxed);
        let record = Record::begin(&peer, &http::Request::new(()));
        respond::respond(&shared, record, Err(Refusal::Internal))
    });
    let mut response = response.map(axum::body::Body::new);
    // The version is this hop's own, whatever the service speaks (RFC 9110, 2.5).
    *response.version_mut() = http::Version::HTTP_11;
    response
}

/// Whether to send traffic here; balancers ask it.
async fn health(State(shared): State<Arc<Shared>>) -> Response {
    let ready = shared.is_ready();
    let mut response = status(if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE });
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if shared.phase() >= Phase::Closing {
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

fn status(status: StatusCode) -> Response {
    let mut response = Response::new(axum::body::Body::empty());
    *response.status_mut() = status;
    response
}
