//! QUIC connection ids: the scheme of a service and the server ids of its backends, as clients write them.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, de::Visitor};

use super::{Errors, SchemeName};
use crate::model::{Protocol, Quic};

/// How QUIC connection ids name their backend, as clients write it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QuicSpec {
    /// The layout of connection ids.
    pub scheme: SchemeName,
    /// `quic-lb` only: 0 to 6; 0 by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_id: Option<u8>,
    /// `quic-lb` only: 1 to 8 bytes; required.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server_id_length: Option<u8>,
}

/// A server id as clients write it: its bytes in hexadecimal, or a number.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
#[allow(missing_docs)]
pub enum ServerIdSpec {
    Bytes(String),
    Number(u64),
}

impl<'de> Deserialize<'de> for ServerIdSpec {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ServerIdVisitor)
    }
}

struct ServerIdVisitor;

impl Visitor<'_> for ServerIdVisitor {
    type Value = ServerIdSpec;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("hexadecimal digits like \"0a1b\", or a number")
    }

    fn visit_str<E>(self, text: &str) -> Result<ServerIdSpec, E> {
        Ok(ServerIdSpec::Bytes(text.to_owned()))
    }

    fn visit_u64<E>(self, number: u64) -> Result<ServerIdSpec, E> {
        Ok(ServerIdSpec::Number(number))
    }

    /// TOML's integers have a sign.
    fn visit_i64<E: serde::de::Error>(self, number: i64) -> Result<ServerIdSpec, E> {
        let unexpected = |_| E::invalid_value(serde::de::Unexpected::Signed(number), &self);
        u64::try_from(number).map(ServerIdSpec::Number).map_err(unexpected)
    }
}

impl Quic {
    /// What clients would have written.
    pub(super) fn spec(&self) -> QuicSpec {
        let bare = |scheme| QuicSpec { scheme, config_id: None, server_id_length: None };
        match *self {
            Self::QuicLb { config_id, server_id_length } => QuicSpec {
                scheme: SchemeName::QuicLb,
                config_id: Some(config_id),
                server_id_length: Some(server_id_length),
            },
            Self::KatranV1 => bare(SchemeName::KatranV1),
            Self::KatranV2 => bare(SchemeName::KatranV2),
        }
    }

    /// Bytes of a server id.
    fn length(&self) -> u8 {
        match self {
            Self::QuicLb { server_id_length, .. } => *server_id_length,
            Self::KatranV1 => 2,
            Self::KatranV2 => 3,
        }
    }

    /// A server id as clients would have written it.
    pub(super) fn server_id(&self, id: u64) -> ServerIdSpec {
        match self {
            Self::QuicLb { .. } => {
                ServerIdSpec::Bytes(format!("{id:0digits$x}", digits = usize::from(self.length()) * 2))
            }
            Self::KatranV1 | Self::KatranV2 => ServerIdSpec::Number(id),
        }
    }

    /// A server id that clients wrote, or the rule that it breaks.
    fn parse(&self, spec: &ServerIdSpec) -> Result<u64, String> {
        let digits = usize::from(self.length()) * 2;
        let is_katran = !matches!(self, Self::QuicLb { .. });
        let most = u64::MAX >> (64 - 8 * u32::from(self.length()));
        match spec {
            ServerIdSpec::Number(number) if is_katran && *number <= most => Ok(*number),
            ServerIdSpec::Bytes(text)
                if text.len() == digits && text.bytes().all(|byte| byte.is_ascii_hexdigit()) =>
            {
                u64::from_str_radix(text, 16).map_err(|error| error.to_string())
            }
            _ if is_katran => Err(format!("must be 0 to {most}, or {digits} hexadecimal digits in quotes")),
            _ => Err(format!("must be {digits} hexadecimal digits in quotes: {} bytes", self.length())),
        }
    }
}

impl Errors {
    pub(super) fn quic(&mut self, spec: &QuicSpec, protocol: Protocol) -> Quic {
        if protocol != Protocol::Udp {
            self.add("quic", "is for udp");
        }
        if spec.scheme != SchemeName::QuicLb {
            let given = [
                ("quic.config_id", spec.config_id.is_some()),
                ("quic.server_id_length", spec.server_id_length.is_some()),
            ];
            for (field, _) in given.into_iter().filter(|(_, given)| *given) {
                self.add(field, "is for scheme quic-lb");
            }
        }
        match spec.scheme {
            SchemeName::KatranV1 => Quic::KatranV1,
            SchemeName::KatranV2 => Quic::KatranV2,
            SchemeName::QuicLb => {
                let config_id = spec.config_id.unwrap_or(0);
                self.range("quic.config_id", config_id.into(), 0..=6);
                match spec.server_id_length {
                    Some(length) => self.range("quic.server_id_length", length.into(), 1..=8),
                    None => self.add("quic.server_id_length", "is required for scheme quic-lb"),
                }
                Quic::QuicLb { config_id, server_id_length: spec.server_id_length.unwrap_or(1).clamp(1, 8) }
            }
        }
    }

    /// Checks the server id of a backend.
    pub(super) fn server_id(
        &mut self,
        field: &str,
        spec: Option<&ServerIdSpec>,
        quic: Option<Quic>,
    ) -> Option<u64> {
        let found = match (spec?, quic) {
            (_, None) => Err("is for a service with quic".to_owned()),
            (spec, Some(quic)) => quic.parse(spec),
        };
        found.map_err(|rule| self.add(field, rule)).ok()
    }
}
