//! The way to an instance: a socket, and TLS on it where the service asks for it.

use std::{
    io,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

use rustls::pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, UnixStream},
};
use tokio_rustls::TlsConnector;

use super::Endpoint;
use crate::{
    config::connect::{Address, Protocol},
    error::UpstreamError,
    small_writes::SmallWrites,
    tls::client::ClientTls,
};

/// How the instances of a service are reached. Connections of one connector serve no other: a reload that changes
/// what one is made of begins with new connections.
pub struct Connector {
    /// Its number in this process, never given again.
    pub id: u64,
    /// What is spoken.
    pub protocol: Protocol,
    /// A digest of all that it is made of.
    pub made_of: [u8; 32],
    tls: Option<ClientTls>,
}

/// A stream of bytes to an instance, of whichever kind.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

impl Connector {
    /// One that was not there before.
    pub fn new(protocol: Protocol, tls: Option<ClientTls>, made_of: [u8; 32]) -> Self {
        static IDS: AtomicU64 = AtomicU64::new(0);
        Self { id: IDS.fetch_add(1, Relaxed), protocol, made_of, tls }
    }

    /// Whether clear HTTP/1.1 over TCP is all that there is: the common case, kept free of the others' costs.
    pub fn is_plain(&self, endpoint: &Endpoint) -> bool {
        self.protocol == Protocol::Http1 && self.tls.is_none() && matches!(endpoint.address, Address::Tcp(_))
    }

    /// `http` or `https`, as requests over HTTP/2 say it.
    pub fn scheme(&self) -> http::uri::Scheme {
        if self.tls.is_some() { http::uri::Scheme::HTTPS } else { http::uri::Scheme::HTTP }
    }

    /// A stream to an instance.
    ///
    /// # Errors
    /// [`UpstreamError::Connect`], [`UpstreamError::Tls`].
    pub async fn connect(&self, endpoint: &Endpoint) -> Result<Box<dyn Stream>, UpstreamError> {
        let (stream, ip): (Box<dyn Stream>, _) = match &endpoint.address {
            Address::Tcp(address) => (Box::new(tcp(*address).await?), Some(address.ip())),
            Address::Unix(path) => {
                (Box::new(UnixStream::connect(path).await.map_err(|_| UpstreamError::Connect)?), None)
            }
        };
        let Some(tls) = &self.tls else { return Ok(stream) };
        // Only where nothing is verified is there no name, and then any will do.
        let name = tls.name(ip).unwrap_or(ServerName::from(std::net::IpAddr::from([0; 4])));
        let stream = TlsConnector::from(tls.config()).connect(name, stream).await.map_err(|error| {
            tracing::debug!(endpoint = %endpoint.address, %error, "no TLS with the service");
            if is_of_tls(&error) { UpstreamError::Tls } else { UpstreamError::Connect }
        })?;
        if self.protocol == Protocol::Http2 && stream.get_ref().1.alpn_protocol() != Some(b"h2") {
            return Err(UpstreamError::Protocol);
        }
        Ok(Box::new(stream))
    }
}

fn is_of_tls(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|error| error.is::<rustls::Error>())
}

/// A TCP connection whose small writes go out as one buffer and at once.
///
/// # Errors
/// [`UpstreamError::Connect`].
pub async fn tcp(address: std::net::SocketAddr) -> Result<SmallWrites<TcpStream>, UpstreamError> {
    let stream = TcpStream::connect(address).await.map_err(|_| UpstreamError::Connect)?;
    let _ = stream.set_nodelay(true);
    Ok(SmallWrites(stream))
}
