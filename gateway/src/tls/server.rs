//! TLS of clients' listeners: a certificate by the name that is asked for, sessions that are resumed by tickets,
//! clients' certificates.
//!
//! Made anew with each configuration, so certificates change without a restart. Tickets stay good over a reload, unless
//! it changes which clients are let in: a resumed session is not verified again.

use std::{
    collections::HashMap,
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::{
    RootCertStore, ServerConfig,
    crypto::aws_lc_rs::Ticketer,
    pki_types::CertificateDer,
    server::{
        ClientHello, NoServerSessionStorage, ProducesTickets, ResolvesServerCert, WebPkiClientVerifier,
        danger::ClientCertVerifier,
    },
    sign::CertifiedKey,
    version::{TLS12, TLS13},
};
use x509_parser::{
    extensions::GeneralName,
    prelude::{FromDer as _, X509Certificate},
};

use super::{TlsError, authorities, certified_key, provider};
use crate::config::listen::{ClientDocument, TlsDocument, VersionDocument};

/// ALPN's names of what is spoken (RFC 7301).
pub const ALPN_HTTP2: &[u8] = b"h2";
const ALPN_HTTP11: &[u8] = b"http/1.1";
/// Tickets for a client at once: browsers open several connections.
const TICKETS: usize = 2;

/// TLS of one listener.
pub struct ServerTls {
    /// What handshakes go by.
    pub config: Arc<ServerConfig>,
    /// What it was read from.
    pub files: Vec<PathBuf>,
    /// Which clients are let in.
    trust: Trust,
    tickets: Arc<dyn ProducesTickets>,
}

/// Which clients are let in: those of these authorities, and others if a certificate is optional.
#[derive(PartialEq, Eq)]
struct Trust {
    authorities: Vec<Vec<u8>>,
    client: Option<ClientDocument>,
}

/// A client's certificate that was found good.
#[derive(Debug, PartialEq, Eq)]
pub struct ClientCertificate {
    /// Its subject (RFC 4514), as `CN=app, O=Example`.
    pub subject: String,
    /// Its names: DNS names, URIs and mail addresses.
    pub names: Vec<String>,
}

/// Certificates by name.
#[derive(Debug)]
struct ByName {
    /// By whole names, in lower case.
    exact: HashMap<String, Vec<Arc<CertifiedKey>>>,
    /// By what follows `*.`.
    wildcard: HashMap<String, Vec<Arc<CertifiedKey>>>,
    first: Arc<CertifiedKey>,
}

impl ServerTls {
    /// Reads the files that `document` names, relative to `directory`. Tickets of `previous` stay good where that is
    /// safe.
    ///
    /// # Errors
    /// [`TlsError`].
    pub fn compile(
        document: &TlsDocument,
        directory: &Path,
        http2: bool,
        previous: Option<&Self>,
    ) -> Result<Self, TlsError> {
        let versions: &[_] = match document.min_version {
            VersionDocument::Tls12 => &[&TLS13, &TLS12],
            VersionDocument::Tls13 => &[&TLS13],
        };
        let roots = match &document.client_ca {
            Some(path) => Some(authorities(&directory.join(&path.value))?),
            None => None,
        };
        let client = document
            .client_ca
            .as_ref()
            .map(|_| document.client.as_ref().map_or(ClientDocument::default(), |client| client.value));
        let trust = Trust::of(roots.as_ref(), client);
        let builder = ServerConfig::builder_with_provider(provider()).with_protocol_versions(versions)?;
        let builder = match roots {
            Some(roots) => builder.with_client_cert_verifier(verifier(roots, client)?),
            None => builder.with_no_client_auth(),
        };
        let mut config = builder.with_cert_resolver(Arc::new(ByName::read(document, directory)?));
        config.alpn_protocols = match http2 {
            true => vec![ALPN_HTTP2.to_vec(), ALPN_HTTP11.to_vec()],
            false => vec![ALPN_HTTP11.to_vec()],
        };
        let tickets = match previous.filter(|previous| previous.trust == trust) {
            Some(previous) => previous.tickets.clone(),
            None => Ticketer::new()?,
        };
        config.ticketer = tickets.clone();
        config.send_tls13_tickets = TICKETS;
        // Sessions live in tickets: no store that workers share.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        Ok(Self { config: Arc::new(config), files: files(document, directory), trust, tickets })
    }
}

impl Trust {
    fn of(roots: Option<&RootCertStore>, client: Option<ClientDocument>) -> Self {
        let roots = roots.map_or(&[][..], |roots| &roots.roots);
        let authority = |root: &rustls::pki_types::TrustAnchor<'_>| {
            [root.subject.as_ref(), root.subject_public_key_info.as_ref()].concat()
        };
        Self { authorities: roots.iter().map(authority).collect(), client }
    }
}

fn files(document: &TlsDocument, directory: &Path) -> Vec<PathBuf> {
    let pairs = document.certificates.value.iter();
    let pairs = pairs.flat_map(|pair| [Some(&pair.certificate), Some(&pair.key), pair.ocsp.as_ref()]);
    let authorities = document.client_ca.as_ref().map(|path| &path.value);
    pairs.chain([authorities]).flatten().map(|path| directory.join(path)).collect()
}

fn verifier(
    roots: RootCertStore,
    client: Option<ClientDocument>,
) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
    let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider());
    Ok(match client {
        Some(ClientDocument::Optional) => builder.allow_unauthenticated().build()?,
        Some(ClientDocument::Required) | None => builder.build()?,
    })
}

impl ByName {
    fn read(document: &TlsDocument, directory: &Path) -> Result<Self, TlsError> {
        let mut keys = Vec::new();
        for written in &document.certificates.value {
            let at = |path: &Path| directory.join(path);
            let ocsp = written.ocsp.as_deref().map(at);
            let key = certified_key(&at(&written.certificate), &at(&written.key), ocsp.as_deref())?;
            keys.push(Arc::new(key));
        }
        // The document is checked for it before.
        let first = keys.first().cloned().ok_or_else(|| TlsError::NoCertificate(directory.to_owned()))?;
        let (mut exact, mut wildcard) = (HashMap::<_, Vec<_>>::new(), HashMap::<_, Vec<_>>::new());
        for key in keys {
            for name in key.end_entity_cert().map(dns_names).unwrap_or_default() {
                match name.strip_prefix("*.") {
                    Some(parent) => wildcard.entry(parent.to_owned()).or_default().push(key.clone()),
                    None => exact.entry(name).or_default().push(key.clone()),
                }
            }
        }
        Ok(Self { exact, wildcard, first })
    }

    fn named(&self, name: &str) -> Option<&Vec<Arc<CertifiedKey>>> {
        let name = name.trim_end_matches('.').to_ascii_lowercase();
        let parent = name.split_once('.').map(|(_, parent)| parent);
        self.exact.get(&name).or_else(|| self.wildcard.get(parent?))
    }
}

impl ResolvesServerCert for ByName {
    /// Among those of the name, the first whose kind of key the client knows.
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let named = hello.server_name().and_then(|name| self.named(name));
        let known = |key: &&Arc<CertifiedKey>| key.key.choose_scheme(hello.signature_schemes()).is_some();
        let chosen = named.and_then(|keys| keys.iter().find(known).or(keys.first()));
        Some(chosen.unwrap_or(&self.first).clone())
    }
}

impl ClientCertificate {
    /// What is known of a certificate that was verified; none if it cannot be read.
    pub fn read(certificate: &CertificateDer<'_>) -> Option<Self> {
        let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
        let names = general_names(&parsed).filter_map(|name| match name {
            GeneralName::DNSName(name) | GeneralName::URI(name) | GeneralName::RFC822Name(name) => {
                Some((*name).to_owned())
            }
            _ => None,
        });
        Some(Self { subject: parsed.subject().to_string(), names: names.collect() })
    }
}

impl fmt::Debug for ServerTls {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.debug_struct("ServerTls").finish_non_exhaustive()
    }
}

/// DNS names for which a certificate is made out, in lower case.
fn dns_names(certificate: &CertificateDer<'_>) -> Vec<String> {
    let Ok((_, parsed)) = X509Certificate::from_der(certificate) else { return Vec::new() };
    let names = general_names(&parsed).filter_map(|name| match name {
        GeneralName::DNSName(name) => Some(name.to_ascii_lowercase()),
        _ => None,
    });
    names.collect()
}

fn general_names<'a>(certificate: &'a X509Certificate<'_>) -> impl Iterator<Item = &'a GeneralName<'a>> {
    let extension = certificate.subject_alternative_name().ok().flatten();
    extension.into_iter().flat_map(|extension| &extension.value.general_names)
}

#[cfg(test)]
mod tests;
