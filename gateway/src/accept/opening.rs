//! What comes before the first request: a PROXY header, the TLS handshake, or the first bytes, which say whether HTTP/2 is spoken.
//!
//! One allocation, given back when the connection is open. The watchman ends what takes longer than `timeouts.header`.

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, atomic::Ordering::Relaxed},
};

use http::HeaderValue;
use tokio_rustls::TlsAcceptor;

use super::{
    proxy_protocol::{self, NoHeader},
    stream::{Clear, ClientStream, Socket},
};
use crate::{
    in_flight::InFlightGuard,
    pipeline::Peer,
    shared::Shared,
    snapshot::Listener,
    tls::server::{ALPN_HTTP2, ClientCertificate, ServerTls},
};

/// How an HTTP/2 client begins (RFC 9113, 3.4). Its first line is no request of HTTP/1.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Bytes read at once of what comes first: more than most heads have.
const FIRST_BYTES: usize = 2048;

/// A connection on which requests may begin.
pub struct Opened {
    /// What they come over.
    pub stream: ClientStream,
    /// Who asks.
    pub peer: Arc<Peer>,
    /// HTTP/2 is spoken, HTTP/1.1 otherwise.
    pub http2: bool,
}

macro_rules! handshake_failures {
    ($($(#[$doc:meta])* $variant:ident $name:literal,)*) => {
        /// Why a TLS handshake came to nothing.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum HandshakeFailure {
            $($(#[$doc])* $variant,)*
        }

        impl HandshakeFailure {
            /// Every variant, in the order of its number.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// The stable name in metrics.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }
        }
    };
}

handshake_failures! {
    /// As many were in flight as may be.
    Overloaded "overloaded",
    /// It took too long, or the gateway stopped.
    Timeout "timeout",
    /// The client went away.
    Closed "closed",
    /// No version, algorithm or protocol in common.
    Incompatible "incompatible",
    /// The client showed no certificate and must.
    NoCertificate "no_certificate",
    /// The client's certificate is not good.
    BadCertificate "bad_certificate",
    /// The client refused what it was shown.
    Alert "alert",
    /// It was not TLS as we read it.
    Protocol "protocol",
}

/// A handshake: one of those in flight, counted by its end.
struct Handshake<'a> {
    shared: &'a Shared,
    end: Result<(), HandshakeFailure>,
    _place: InFlightGuard,
}

/// Opens a connection; none if it is over already, which is counted where it is of interest.
pub async fn open(
    socket: Socket,
    address: SocketAddr,
    listener: Arc<Listener>,
    shared: Arc<Shared>,
) -> Option<Opened> {
    // An IPv4 client of an IPv6 socket is the IPv4 client that it is.
    let mut address = SocketAddr::new(address.ip().to_canonical(), address.port());
    let mut ahead = Vec::new();
    if let Some(protocol) = &listener.proxy_protocol
        && protocol.from.iter().any(|net| net.contains(&address.ip()))
    {
        match introduction(&socket, &mut ahead, protocol.required).await {
            Ok(client) => address = client.unwrap_or(address),
            Err(error) => {
                shared.metrics.connections.proxy_header.fetch_add(1, Relaxed);
                tracing::debug!(proxy = %address, %error, "no PROXY header");
                return None;
            }
        }
    }
    match &listener.tls {
        Some(tls) => Box::pin(shake_hands(Clear::new(socket, ahead), address, tls, &shared)).await,
        None if listener.http2 => first_bytes(socket, ahead, address).await.ok().flatten(),
        None => Some(Opened::clear(Clear::new(socket, ahead), address, false)),
    }
}

/// Reads a PROXY header, and says whom it names. What follows it is left in `ahead`.
async fn introduction(
    socket: &Socket,
    ahead: &mut Vec<u8>,
    required: bool,
) -> io::Result<Option<SocketAddr>> {
    loop {
        match proxy_protocol::parse(ahead) {
            Ok(Some(header)) => {
                ahead.drain(..header.bytes);
                let client = header.client;
                return Ok(client.map(|client| SocketAddr::new(client.ip().to_canonical(), client.port())));
            }
            Ok(None) if socket.read_once(ahead, FIRST_BYTES).await? > 0 => {}
            Ok(None) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Err(NoHeader::Missing) if !required => return Ok(None),
            Err(error) => return Err(io::Error::new(io::ErrorKind::InvalidData, error)),
        }
    }
}

/// Reads until it is known what is spoken; none at the end of the stream.
async fn first_bytes(socket: Socket, mut bytes: Vec<u8>, address: SocketAddr) -> io::Result<Option<Opened>> {
    while bytes.len() < PREFACE.len() && PREFACE.starts_with(&bytes) {
        if socket.read_once(&mut bytes, FIRST_BYTES).await? == 0 {
            return Ok(None);
        }
    }
    let http2 = bytes.starts_with(PREFACE);
    Ok(Some(Opened::clear(Clear::new(socket, bytes), address, http2)))
}

async fn shake_hands(
    clear: Clear,
    address: SocketAddr,
    tls: &ServerTls,
    shared: &Arc<Shared>,
) -> Option<Opened> {
    let Some(place) = shared.handshakes.enter() else {
        shared.metrics.handshakes.failed(HandshakeFailure::Overloaded);
        return None;
    };
    let mut handshake = Handshake { shared, end: Err(HandshakeFailure::Timeout), _place: place };
    match TlsAcceptor::from(tls.config.clone()).accept(clear).await {
        Ok(stream) => {
            handshake.end = Ok(());
            let session = stream.get_ref().1;
            let http2 = session.alpn_protocol() == Some(ALPN_HTTP2);
            let shown = session.peer_certificates().and_then(|chain| chain.first());
            let certificate = shown.and_then(ClientCertificate::read).map(Arc::new);
            let peer = peer(address, true, certificate);
            Some(Opened { stream: ClientStream::Tls(Box::new(stream)), peer, http2 })
        }
        Err(error) => {
            let failure = HandshakeFailure::of(&error);
            tracing::debug!(client = %address, reason = failure.name(), %error, "no TLS");
            handshake.end = Err(failure);
            None
        }
    }
}

impl Opened {
    fn clear(clear: Clear, address: SocketAddr, http2: bool) -> Self {
        Self { stream: ClientStream::Clear(clear), peer: peer(address, false, None), http2 }
    }
}

fn peer(address: SocketAddr, https: bool, certificate: Option<Arc<ClientCertificate>>) -> Arc<Peer> {
    let text = address.ip().to_string();
    let forwarded_for = HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static("unknown"));
    Arc::new(Peer { address, forwarded_for, https, certificate, proxied: None })
}

impl Drop for Handshake<'_> {
    fn drop(&mut self) {
        let counted = &self.shared.metrics.handshakes;
        match self.end {
            Ok(()) => drop(counted.completed.fetch_add(1, Relaxed)),
            Err(failure) => counted.failed(failure),
        }
    }
}

impl HandshakeFailure {
    fn of(error: &io::Error) -> Self {
        use rustls::Error;
        let Some(error) = error.get_ref().and_then(|error| error.downcast_ref()) else {
            return Self::Closed;
        };
        match error {
            Error::PeerIncompatible(_) | Error::NoApplicationProtocol => Self::Incompatible,
            Error::NoCertificatesPresented => Self::NoCertificate,
            Error::InvalidCertificate(_) | Error::InvalidCertRevocationList(_) => Self::BadCertificate,
            Error::AlertReceived(_) => Self::Alert,
            _ => Self::Protocol,
        }
    }
}
