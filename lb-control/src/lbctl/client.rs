//! One request, one answer, over the Unix socket or TCP.

use std::{fmt, time::Duration};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{Method, Request, Uri, client::conn::http1, header};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, UnixStream},
};

use super::cli::Connection;
use crate::api::Tokens;

/// The controller waits ten seconds for an installation at most.
const TIMEOUT: Duration = Duration::from_secs(30);

/// What is sent.
#[derive(Debug, PartialEq)]
pub struct Call {
    pub method: Method,
    pub path: String,
    pub body: Option<Value>,
    pub if_match: Option<u64>,
}

impl Call {
    pub fn get(path: impl Into<String>) -> Self {
        Self { method: Method::GET, path: path.into(), body: None, if_match: None }
    }
}

/// Why there is no result.
#[derive(Debug)]
pub enum Failure {
    /// The controller answered with a problem document.
    Refused(Value),
    /// No controller was reached.
    Unreachable { target: String, reason: String },
    /// The command line, a file or this machine.
    Local(String),
}

impl Failure {
    /// 1: the controller refused. 2: it was not asked.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Refused(_) => 1,
            Self::Unreachable { .. } | Self::Local(_) => 2,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(problem) => {
                let text = |key: &str| problem[key].as_str().unwrap_or_default();
                let errors = problem["errors"].as_array().map_or(&[][..], Vec::as_slice);
                writeln!(f, "error: {} ({})", text("title"), problem["status"])?;
                if errors.is_empty() {
                    writeln!(f, "  {}", text("detail"))?;
                }
                for error in errors {
                    let [field, rule] = ["field", "rule"].map(|key| error[key].as_str().unwrap_or_default());
                    writeln!(f, "  {}", format!("{field} {rule}").trim_start())?;
                }
                Ok(())
            }
            Self::Unreachable { target, reason } => {
                writeln!(f, "error: no controller answers on {target}: {reason}")
            }
            Self::Local(reason) => writeln!(f, "error: {reason}"),
        }
    }
}

/// A way to the controller.
pub enum Client {
    Unix(std::path::PathBuf),
    Tcp { authority: String, bearer: String },
}

impl Client {
    pub fn new(connection: &Connection) -> Result<Self, Failure> {
        let (Some(url), Some(file)) = (&connection.url, &connection.token_file) else {
            return Ok(Self::Unix(connection.socket.clone()));
        };
        let bad_url = || Failure::Local(format!("--url {url}: write it like http://10.0.0.9:9180"));
        let uri: Uri = url.parse().map_err(|_| bad_url())?;
        let plain = uri.scheme_str() == Some("http") && ["", "/"].contains(&uri.path());
        let authority = uri.authority().filter(|_| plain).ok_or_else(bad_url)?;
        let host = if authority.port().is_some() { authority.to_string() } else { format!("{authority}:80") };
        let tokens = Tokens::read(file)
            .map_err(|error| Failure::Local(format!("token file {}: {error}", file.display())))?;
        Ok(Self::Tcp { authority: host, bearer: format!("Bearer {}", tokens.first()) })
    }

    /// Sends; an answer that is no success becomes a [`Failure::Refused`].
    pub async fn send(&self, call: &Call) -> Result<Value, Failure> {
        match tokio::time::timeout(TIMEOUT, self.exchange(call)).await {
            Ok(answer) => answer,
            Err(_) => Err(self.unreachable(format!("no answer within {} s", TIMEOUT.as_secs()))),
        }
    }

    async fn exchange(&self, call: &Call) -> Result<Value, Failure> {
        let failed = |error: std::io::Error| self.unreachable(explain(&error));
        match self {
            Self::Unix(path) => self.talk(UnixStream::connect(path).await.map_err(failed)?, call).await,
            Self::Tcp { authority, .. } => {
                self.talk(TcpStream::connect(authority).await.map_err(failed)?, call).await
            }
        }
    }

    async fn talk(
        &self,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        call: &Call,
    ) -> Result<Value, Failure> {
        let failed = |error: hyper::Error| self.unreachable(error.to_string());
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(failed)?;
        let connection = tokio::spawn(connection);
        let response = sender.send_request(self.request(call)?).await.map_err(failed)?;
        let status = response.status();
        let bytes = response.into_body().collect().await.map_err(failed)?.to_bytes();
        connection.abort();
        let answer: Value = serde_json::from_slice(&bytes)
            .map_err(|_| self.unreachable(format!("what answers is no controller (status {status})")))?;
        if status.is_success() { Ok(answer) } else { Err(Failure::Refused(answer)) }
    }

    fn request(&self, call: &Call) -> Result<Request<Full<Bytes>>, Failure> {
        let (host, bearer) = match self {
            Self::Unix(_) => ("localhost", None),
            Self::Tcp { authority, bearer } => (authority.as_str(), Some(bearer)),
        };
        let mut request = Request::builder()
            .method(call.method.clone())
            .uri(&call.path)
            .header(header::HOST, host)
            .header(header::CONTENT_TYPE, "application/json");
        if let Some(bearer) = bearer {
            request = request.header(header::AUTHORIZATION, bearer);
        }
        if let Some(generation) = call.if_match {
            request = request.header(header::IF_MATCH, format!("\"{generation}\""));
        }
        let body = call.body.as_ref().map(ToString::to_string).unwrap_or_default();
        request.body(Full::new(body.into())).map_err(|error| Failure::Local(error.to_string()))
    }

    fn unreachable(&self, reason: String) -> Failure {
        let target = match self {
            Self::Unix(path) => path.display().to_string(),
            Self::Tcp { authority, .. } => format!("http://{authority}"),
        };
        Failure::Unreachable { target, reason }
    }
}

fn explain(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::NotFound => "there is no such socket; is lb-control running?".into(),
        std::io::ErrorKind::PermissionDenied => "only root may open it; use sudo".into(),
        std::io::ErrorKind::ConnectionRefused => "nobody listens; is lb-control running?".into(),
        _ => error.to_string(),
    }
}
