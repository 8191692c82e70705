//! One client connection: requests one after the other, and which server answered them.

use std::{
    fmt,
    net::SocketAddr,
    time::{Duration, Instant},
};

use http_body_util::{BodyExt as _, Full};
use hyper::{
    Request, Response, StatusCode,
    body::{Bytes, Incoming},
    client::conn::http1::{SendRequest, handshake},
    header,
};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, time::timeout};

/// The header in which `shop_server` says its name.
pub const SERVER_HEADER: &str = "x-server";

/// An open connection.
pub struct Connection {
    sender: SendRequest<Full<Bytes>>,
    local: SocketAddr,
    limit: Duration,
}

/// What came back.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The name of the server.
    pub server: String,
    /// The body.
    pub body: Bytes,
    /// The server closes the connection after this answer.
    pub closes: bool,
}

/// A request without a good answer.
#[derive(Clone, Debug)]
pub struct Failure {
    /// When it began, its connection included.
    pub begun: Instant,
    /// The server that the connection had met before, if any.
    pub server: Option<String>,
    /// How far it got.
    pub kind: FailureKind,
    /// The system's words.
    pub detail: String,
}

/// How far a failed request got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureKind {
    /// No connection.
    Connect,
    /// The connection broke before it was used again: nothing was sent, and the request may go elsewhere.
    Unsent,
    /// The connection broke with the request in flight.
    Broken,
    /// No answer in time.
    Timeout,
    /// An answer with an error status.
    Status,
}

impl Connection {
    /// Opens one; `limit` is for this and for each request.
    pub async fn open(target: SocketAddr, limit: Duration) -> Result<Self, Failure> {
        let begun = Instant::now();
        let fail = |kind, detail: String| Failure { begun, server: None, kind, detail };
        let stream = match timeout(limit, TcpStream::connect(target)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return Err(fail(FailureKind::Connect, error.to_string())),
            Err(_) => return Err(fail(FailureKind::Timeout, "no connection in time".into())),
        };
        let connect = |error: std::io::Error| fail(FailureKind::Connect, error.to_string());
        stream.set_nodelay(true).map_err(connect)?;
        let local = stream.local_addr().map_err(connect)?;
        let (sender, connection) = handshake(TokioIo::new(stream))
            .await
            .map_err(|error| fail(FailureKind::Connect, error.to_string()))?;
        tokio::spawn(connection);
        Ok(Self { sender, local, limit })
    }

    /// The client's end.
    pub fn local(&self) -> SocketAddr {
        self.local
    }

    /// GET.
    pub async fn get(&mut self, path: &str) -> Result<Answer, Failure> {
        self.send(Request::get(path), Bytes::new()).await
    }

    /// POST with a body.
    pub async fn post(&mut self, path: &str, body: Bytes) -> Result<Answer, Failure> {
        self.send(Request::post(path), body).await
    }

    async fn send(&mut self, request: hyper::http::request::Builder, body: Bytes) -> Result<Answer, Failure> {
        let begun = Instant::now();
        let fail = |kind, detail: String| Failure { begun, server: None, kind, detail };
        let request = request.header(header::HOST, "shop").body(Full::new(body)).expect("a fixed path");
        let sender = &mut self.sender;
        let exchange = async {
            if let Err(error) = sender.ready().await {
                return Err(fail(FailureKind::Unsent, chain(&error)));
            }
            let response = sender.send_request(request).await.map_err(|error| {
                let kind = if error.is_canceled() { FailureKind::Unsent } else { FailureKind::Broken };
                fail(kind, chain(&error))
            })?;
            read(response).await.map_err(|(kind, detail)| fail(kind, detail))
        };
        match timeout(self.limit, exchange).await {
            Ok(result) => result,
            Err(_) => Err(fail(FailureKind::Timeout, format!("no answer within {:?}", self.limit))),
        }
    }
}

/// One GET on a connection of its own.
pub async fn get(target: SocketAddr, path: &str, limit: Duration) -> Result<Answer, Failure> {
    Connection::open(target, limit).await?.get(path).await
}

async fn read(response: Response<Incoming>) -> Result<Answer, (FailureKind, String)> {
    let (parts, body) = response.into_parts();
    let text = |name: &str| parts.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let (server, closes) =
        (text(SERVER_HEADER).to_string(), text("connection").eq_ignore_ascii_case("close"));
    let body = body.collect().await.map_err(|error| (FailureKind::Broken, chain(&error)))?.to_bytes();
    match parts.status {
        StatusCode::OK => Ok(Answer { server, body, closes }),
        status => Err((FailureKind::Status, format!("{status} from {server}"))),
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text += &format!(": {error}");
        source = error.source();
    }
    text
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{:?}", self.kind)?;
        if let Some(server) = &self.server {
            write!(f, " on {server}")?;
        }
        write!(f, ": {}", self.detail)
    }
}

impl std::error::Error for Failure {}
