//! Where clients are served, as it is written: an address alone, or one with what is spoken there. Pure.

use std::{fmt, net::SocketAddr, path::PathBuf};

use ipnet::IpNet;
use serde::{
    Deserialize, Deserializer,
    de::{self, MapAccess, value::MapAccessDeserializer},
};
use serde_saphyr::Spanned;

use super::units::Size;

/// An address of this host: `0.0.0.0:8080`, `[::]:8080`, or `unix:` and a socket's path.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ListenAddress {
    /// TCP.
    Tcp(SocketAddr),
    /// A stream socket in the file system.
    Unix(PathBuf),
}

/// One listener.
#[derive(Clone, Debug)]
pub struct ListenDocument {
    /// Where. Changes with a restart only.
    pub address: ListenAddress,
    /// What else is written, if anything is.
    pub settings: ListenSettings,
}

/// What is spoken at an address.
#[derive(Clone, Debug)]
pub struct ListenSettings {
    /// Permissions of a Unix socket's file, in octal, such as `"0660"`. Changes with a restart only.
    pub mode: Option<Spanned<String>>,
    /// TLS; without it, what is spoken is clear.
    pub tls: Option<Spanned<TlsDocument>>,
    /// HTTP/2 as well: by ALPN where there is TLS, by its preface where there is none.
    pub http2: bool,
    /// Connections begin with a PROXY header that names the client.
    pub proxy_protocol: Option<Spanned<ProxyProtocolDocument>>,
}

/// Whose connections begin with a PROXY header, version 1 or 2.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProxyProtocolDocument {
    /// Those of these networks; all others are served as they come.
    pub from: Vec<IpNet>,
    /// All of theirs must; otherwise they may.
    #[serde(default = "yes")]
    pub required: bool,
}

/// TLS at a listener.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlsDocument {
    /// Chosen by the name that the client asks for; the first one for all other names.
    pub certificates: Spanned<Vec<CertificateDocument>>,
    /// PEM with the authorities whose clients are let in. Without it no client is asked for a certificate.
    #[serde(default)]
    pub client_ca: Option<Spanned<PathBuf>>,
    /// Whether a client without a certificate is let in.
    #[serde(default)]
    pub client: Option<Spanned<ClientDocument>>,
    /// The oldest version that is spoken; the newest is 1.3.
    #[serde(default)]
    pub min_version: VersionDocument,
}

/// A certificate and its key. Paths begin where the configuration stands.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CertificateDocument {
    /// PEM: the certificate, then those that lead to its authority.
    pub certificate: PathBuf,
    /// PEM: PKCS#8, SEC1 or PKCS#1, without a password.
    pub key: PathBuf,
    /// DER: the authority's word that it is not revoked, handed to clients that ask.
    #[serde(default)]
    pub ocsp: Option<PathBuf>,
}

/// Whether a client must have a certificate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ClientDocument {
    /// It must.
    #[default]
    Required,
    /// It may; one that it shows must be good.
    Optional,
}

/// A version of TLS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub enum VersionDocument {
    /// RFC 5246.
    #[default]
    #[serde(rename = "1.2")]
    Tls12,
    /// RFC 8446.
    #[serde(rename = "1.3")]
    Tls13,
}

/// Bounds of clients' HTTP/2 connections.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Http2Document {
    /// Requests of one connection at the same time.
    pub streams: u32,
    /// Bytes of one request's body that may be on their way.
    pub stream_window: Size,
    /// Bytes of all bodies of one connection that may be on their way.
    pub connection_window: Size,
    /// Bytes of one answer that wait for its client.
    pub send_buffer: Size,
    /// Requests that a client may take back unanswered, over those that were answered, before its connection is cut.
    pub resets: u32,
}

impl Default for Http2Document {
    fn default() -> Self {
        Self {
            streams: 128,
            stream_window: Size(256 << 10),
            connection_window: Size(1 << 20),
            send_buffer: Size(64 << 10),
            resets: 100,
        }
    }
}

impl Default for ListenSettings {
    fn default() -> Self {
        Self { mode: None, tls: None, http2: true, proxy_protocol: None }
    }
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl std::str::FromStr for ListenAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix:") {
            return match path.starts_with('/') {
                true => Ok(Self::Unix(path.into())),
                false => Err(format!("{text:?}: a Unix socket's path begins with /")),
            };
        }
        let address = text.parse().map(Self::Tcp);
        address.map_err(|_| {
            format!("{text:?} is no address; write 0.0.0.0:8080, [::]:8080 or unix:/run/it.sock")
        })
    }
}

impl<'de> Deserialize<'de> for ListenAddress {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

impl<'de> Deserialize<'de> for ListenDocument {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> de::Visitor<'de> for Visitor {
            type Value = ListenDocument;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("an address such as 0.0.0.0:8080, or a mapping with address")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<ListenDocument, E> {
                let address = text.parse().map_err(E::custom)?;
                Ok(ListenDocument { address, settings: ListenSettings::default() })
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<ListenDocument, A::Error> {
                Written::deserialize(MapAccessDeserializer::new(map)).map(ListenDocument::from)
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

/// The mapping's fields.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    address: ListenAddress,
    #[serde(default)]
    mode: Option<Spanned<String>>,
    #[serde(default)]
    tls: Option<Spanned<TlsDocument>>,
    #[serde(default = "yes")]
    http2: bool,
    #[serde(default)]
    proxy_protocol: Option<Spanned<ProxyProtocolDocument>>,
}

impl From<Written> for ListenDocument {
    fn from(written: Written) -> Self {
        let Written { address, mode, tls, http2, proxy_protocol } = written;
        Self { address, settings: ListenSettings { mode, tls, http2, proxy_protocol } }
    }
}

fn yes() -> bool {
    true
}
