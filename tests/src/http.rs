//! One client connection: requests one after the other, and which server answered them.

use std::{
    fmt,
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use http_body_util::{BodyExt as _, Full};
use hyper::{
    Method, Request, Response,
    body::{Bytes, Incoming},
    client::conn::http1::{SendRequest, handshake},
    header,
};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, time::timeout};

use crate::netns::Namespace;

/// The header in which a server says its name.
pub const SERVER_HEADER: &str = "x-server";
/// The header in which a gateway says its own: what a client's connection leads to, whoever answers behind it.
pub const GATEWAY_HEADER: &str = "x-gateway";

/// So much of an error's body is kept, to be shown.
const SHOWN_BYTES_MAX: usize = 200;

/// So many bytes down and as many up, over one connection from a namespace to a `shop_server`, each one compared.
pub fn transfer_bytes(
    client: &Namespace,
    target: SocketAddr,
    bytes: usize,
    limit: Duration,
) -> anyhow::Result<()> {
    client
        .enter(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async {
                let mut connection = Connection::open(target, limit).await?;
                let down = connection.get(&format!("/bytes/{bytes}")).await?.body;
                anyhow::ensure!(down.len() == bytes, "{} bytes arrived", down.len());
                let wrong = down.iter().enumerate().find(|(index, byte)| **byte != (index % 251) as u8);
                anyhow::ensure!(wrong.is_none(), "the first wrong byte: {wrong:?}");
                let sum: u64 = down.iter().map(|byte| u64::from(*byte)).sum();
                let up = connection.post("/sum", down).await?.body;
                anyhow::ensure!(up == format!("{bytes} {sum}\n"), "the server saw {up:?}");
                Ok(())
            })
        })?
        .context("a large transfer")
}

/// An open connection.
pub struct Connection {
    sender: SendRequest<Full<Bytes>>,
    local: SocketAddr,
    limit: Duration,
}

/// What is asked for.
#[derive(Clone, Debug)]
pub struct Ask {
    /// GET, POST.
    pub method: Method,
    /// Path and query.
    pub path: String,
    /// Headers beside `Host`.
    pub headers: Vec<(&'static str, String)>,
    /// The body.
    pub body: Bytes,
}

impl Ask {
    /// GET without further headers.
    pub fn get(path: impl Into<String>) -> Self {
        Self { method: Method::GET, path: path.into(), headers: Vec::new(), body: Bytes::new() }
    }

    /// The same with one more header.
    pub fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }
}

/// What came back.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The name of the server or, where there is one, of the gateway before it.
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
    /// A good status, and not what was asked for.
    Content,
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
        self.ask(&Ask::get(path)).await
    }

    /// POST with a body.
    pub async fn post(&mut self, path: &str, body: Bytes) -> Result<Answer, Failure> {
        self.ask(&Ask { method: Method::POST, body, ..Ask::get(path) }).await
    }

    /// Any request.
    pub async fn ask(&mut self, ask: &Ask) -> Result<Answer, Failure> {
        let begun = Instant::now();
        let fail = |kind, detail: String| Failure { begun, server: None, kind, detail };
        let mut request = Request::builder().method(&ask.method).uri(&ask.path).header(header::HOST, "shop");
        for (name, value) in &ask.headers {
            request = request.header(*name, value);
        }
        let request = request.body(Full::new(ask.body.clone())).expect("a valid path and valid headers");
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

/// One GET to a port of the namespace's own host.
pub fn get_at_home(namespace: &Namespace, port: u16, path: &str, limit: Duration) -> anyhow::Result<Answer> {
    let target = SocketAddr::from(([127, 0, 0, 1], port));
    namespace.enter(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        Ok(runtime.block_on(get(target, path, limit))?)
    })?
}

async fn read(response: Response<Incoming>) -> Result<Answer, (FailureKind, String)> {
    let (parts, body) = response.into_parts();
    let text = |name: &str| parts.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let server = [GATEWAY_HEADER, SERVER_HEADER].map(text).into_iter().find(|name| !name.is_empty());
    let server = server.unwrap_or_default().to_string();
    let closes = text("connection").eq_ignore_ascii_case("close");
    let body = body.collect().await.map_err(|error| (FailureKind::Broken, chain(&error)))?.to_bytes();
    if parts.status.is_success() {
        return Ok(Answer { server, body, closes });
    }
    let beginning = String::from_utf8_lossy(&body[..body.len().min(SHOWN_BYTES_MAX)]).into_owned();
    Err((FailureKind::Status, format!("{} from {server}: {beginning}", parts.status)))
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
