//! How the instances of a service are reached, as it is written: address, protocol, TLS. Pure.

use std::{fmt, net::SocketAddr, path::PathBuf, str::FromStr};

use serde::{Deserialize, Deserializer, de};
use serde_saphyr::Spanned;

/// Where an instance listens: `10.0.0.1:8080`, `[fd00::1]:8080` or `unix:/run/service.sock`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Address {
    /// TCP.
    Tcp(SocketAddr),
    /// A Unix socket at an absolute path.
    Unix(PathBuf),
}

/// What is spoken with a service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Protocol {
    /// HTTP/1.1 (RFC 9112), a connection for each request in flight.
    #[default]
    Http1,
    /// HTTP/2 (RFC 9113), many requests on a connection: with prior knowledge, over TLS by ALPN.
    Http2,
}

/// TLS with a service.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct UpstreamTlsDocument {
    /// The name that its certificate must have, and that is sent (SNI); by default that of `host`, else the
    /// endpoint's IP address.
    pub server_name: Option<Spanned<String>>,
    /// A PEM file of the authorities that are trusted; by default those of the system.
    pub ca: Option<Spanned<PathBuf>>,
    /// A PEM file of the certificate that is shown, with its chain; with `key`.
    pub certificate: Option<Spanned<PathBuf>>,
    /// The PEM file of its key.
    pub key: Option<Spanned<PathBuf>>,
    /// Whether the certificate is verified. Without it anyone on the way may read and answer.
    pub verify: Spanned<bool>,
}

impl Default for UpstreamTlsDocument {
    fn default() -> Self {
        let nowhere = serde_saphyr::Location::UNKNOWN;
        let verify = Spanned::new(true, nowhere, nowhere);
        Self { server_name: None, ca: None, certificate: None, key: None, verify }
    }
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.strip_prefix("unix:") {
            // Shown in lines of JSON and in labels as it is.
            Some(path)
                if path.starts_with('/')
                    && !path.contains(|c: char| c.is_control() || "\"\\".contains(c)) =>
            {
                Ok(Self::Unix(path.into()))
            }
            Some(_) => {
                Err(format!("{text}: the socket's path begins with / and has no quotes or backslashes"))
            }
            None => text.parse().map(Self::Tcp).map_err(|_| {
                format!("{text} is no address; write 10.0.0.1:8080, [fd00::1]:8080 or unix:/run/service.sock")
            }),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl From<SocketAddr> for Address {
    fn from(address: SocketAddr) -> Self {
        Self::Tcp(address)
    }
}

impl<'de> Deserialize<'de> for Address {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_as_they_are_shown() {
        for text in ["127.0.0.1:80", "[::1]:8080", "unix:/run/a.sock"] {
            assert_eq!(text.parse::<Address>().map(|address| address.to_string()), Ok(text.to_owned()));
        }
        for text in ["unix:run/a.sock", "unix:/a\"b", "127.0.0.1", "a.example:80", ""] {
            assert!(text.parse::<Address>().is_err(), "{text}");
        }
    }
}
