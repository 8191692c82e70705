//! How services are reached: protocol and TLS.

use std::{path::PathBuf, sync::Arc};

use http::HeaderValue;
use rustls::pki_types::ServerName;
use serde_saphyr::Spanned;

use super::Context;
use crate::{
    config::{
        Findings,
        connect::{Address, Protocol, UpstreamTlsDocument},
        upstream::{EndpointDocument, UpstreamDocument},
    },
    tls::{self, client::ClientTls, client::Trust},
    upstream::connect::Connector,
};

/// The way to a service's instances. `previous` stays where nothing of it changed, and with it its connections.
pub fn compile(
    field: &str,
    written: &UpstreamDocument,
    host: Option<&HeaderValue>,
    context: Context<'_>,
    previous: Option<&Arc<Connector>>,
    findings: &mut Findings,
) -> Arc<Connector> {
    let made_of = MadeOf::of(written, host, context);
    if let Some(previous) = previous.filter(|previous| previous.made_of == made_of.0) {
        return previous.clone();
    }
    let tls = written.tls.as_ref().and_then(|tls| {
        let scene = Scene { field, context, protocol: written.protocol, host };
        scene.tls(&tls.value, &written.endpoints, findings)
    });
    Arc::new(Connector::new(written.protocol, tls, made_of.0))
}

/// `pool.streams_max` and `pool.connections_max`, where they are written and have a meaning.
pub fn multiplexing(
    field: &str,
    written: &UpstreamDocument,
    findings: &mut Findings,
) -> (Option<usize>, Option<usize>) {
    let mut number = |name: &str, number: &Option<Spanned<u16>>| {
        let number = number.as_ref()?;
        if written.protocol != Protocol::Http2 || number.value == 0 {
            findings.error(
                number,
                format!("{field}.pool.{name}"),
                "at least 1, and with protocol http2 alone",
            );
        }
        Some(usize::from(number.value))
    };
    let numbers = (
        number("streams_max", &written.pool.streams_max),
        number("connections_max", &written.pool.connections_max),
    );
    if let Some(ping) = &written.pool.ping
        && (written.protocol != Protocol::Http2 || ping.value.0.is_zero())
    {
        findings.error(ping, format!("{field}.pool.ping"), "longer than 0s, and with protocol http2 alone");
    }
    numbers
}

/// All that a connector is made of, files' contents included, as a digest: keys are not kept twice.
struct MadeOf([u8; 32]);

impl MadeOf {
    fn of(written: &UpstreamDocument, host: Option<&HeaderValue>, context: Context<'_>) -> Self {
        use aws_lc_rs::digest::{Context as Digest, SHA256};
        let mut digest = Digest::new(&SHA256);
        let mut add = |part: &[u8]| {
            digest.update(&(part.len() as u64).to_be_bytes());
            digest.update(part);
        };
        add(format!("{:?}", written.protocol).as_bytes());
        if let Some(tls) = &written.tls {
            let tls = &tls.value;
            add(&[u8::from(tls.verify.value)]);
            add(host.map_or(&[], HeaderValue::as_bytes));
            add(tls.server_name.as_ref().map_or(&[], |name| name.value.as_bytes()));
            for file in [&tls.ca, &tls.certificate, &tls.key] {
                let bytes =
                    file.as_ref().and_then(|file| std::fs::read(context.directory.join(&file.value)).ok());
                add(&[u8::from(bytes.is_some())]);
                add(bytes.as_deref().unwrap_or_default());
            }
        }
        let mut bytes = [0; 32];
        bytes.copy_from_slice(digest.finish().as_ref());
        Self(bytes)
    }
}

struct Scene<'a> {
    field: &'a str,
    context: Context<'a>,
    protocol: Protocol,
    host: Option<&'a HeaderValue>,
}

impl Scene<'_> {
    fn tls(
        &self,
        written: &UpstreamTlsDocument,
        endpoints: &Spanned<Vec<EndpointDocument>>,
        findings: &mut Findings,
    ) -> Option<ClientTls> {
        let field = format!("{}.tls", self.field);
        let path = |file: &Spanned<PathBuf>| self.context.directory.join(&file.value);
        let ca = written.ca.as_ref().map(path);
        let trust = match (&ca, written.verify.value) {
            (Some(_), false) => {
                findings.error(
                    &written.verify,
                    format!("{field}.verify"),
                    "ca says whom to believe: leave one out",
                );
                return None;
            }
            (None, false) => {
                let rule = "no certificate is verified: anyone on the way may read and answer";
                findings.warning(&written.verify, format!("{field}.verify"), rule);
                Trust::Everyone
            }
            (Some(ca), true) => Trust::Authorities(ca),
            (None, true) => Trust::System,
        };
        let own = match (&written.certificate, &written.key) {
            (None, None) => None,
            (Some(certificate), Some(key)) => {
                match tls::certified_key(&path(certificate), &path(key), None) {
                    Ok(own) => Some(own),
                    Err(error) => {
                        findings.error(certificate, format!("{field}.certificate"), error.to_string());
                        return None;
                    }
                }
            }
            (Some(one), None) | (None, Some(one)) => {
                findings.error(one, field, "certificate and key go together");
                return None;
            }
        };
        let name = self.name(written, &field, endpoints, findings)?;
        let alpn: &[u8] = match self.protocol {
            Protocol::Http1 => b"http/1.1",
            Protocol::Http2 => b"h2",
        };
        match ClientTls::new(trust, own, name, alpn) {
            Ok(tls) => Some(tls),
            Err(error) => {
                let rule = error.to_string();
                match &written.ca {
                    Some(ca) => findings.error(ca, format!("{field}.ca"), rule),
                    None => findings.error(endpoints, field, rule),
                }
                None
            }
        }
    }

    /// The name that certificates must have; `None` within for the endpoint's own address.
    fn name(
        &self,
        written: &UpstreamTlsDocument,
        field: &str,
        endpoints: &Spanned<Vec<EndpointDocument>>,
        findings: &mut Findings,
    ) -> Option<Option<ServerName<'static>>> {
        if let Some(name) = &written.server_name {
            let parsed = ServerName::try_from(name.value.clone()).ok();
            if parsed.is_none() {
                findings.error(name, format!("{field}.server_name"), "a DNS name or an IP address");
            }
            return parsed.map(Some);
        }
        let host = self.host.and_then(|host| host.to_str().ok()).and_then(|host| {
            let authority: http::uri::Authority = host.parse().ok()?;
            ServerName::try_from(authority.host().trim_matches(['[', ']']).to_owned()).ok()
        });
        let nameless = endpoints.value.iter().any(|endpoint| matches!(endpoint.address, Address::Unix(_)));
        if host.is_none() && nameless && written.verify.value {
            let rule = "a Unix socket has no name of its own: name one that the certificate must have";
            findings.error(endpoints, format!("{field}.server_name"), rule);
            return None;
        }
        Some(host)
    }
}
