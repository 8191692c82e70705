//! TLS towards services: which certificates are believed, which one is shown. Sessions are resumed by all workers
//! alike (RFC 8446, section 2.2).

use std::{net::IpAddr, path::Path, sync::Arc};

use rustls::{
    ClientConfig, DigitallySignedStruct, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
    sign::{CertifiedKey, SingleCertAndKey},
};
use rustls_platform_verifier::Verifier;

use super::TlsError;

/// Whose certificates are believed.
pub enum Trust<'a> {
    /// Those of the authorities in this PEM file.
    Authorities(&'a Path),
    /// Those that the system believes.
    System,
    /// All.
    Everyone,
}

/// What TLS with a service is made of.
#[derive(Clone)]
pub struct ClientTls {
    config: Arc<ClientConfig>,
    name: Option<ServerName<'static>>,
}

impl ClientTls {
    /// TLS that offers `protocol` (ALPN, RFC 7301), asks for a certificate of `name` or of the endpoint's address,
    /// and shows `own`.
    ///
    /// # Errors
    /// [`TlsError`].
    pub fn new(
        trust: Trust<'_>,
        own: Option<CertifiedKey>,
        name: Option<ServerName<'static>>,
        protocol: &[u8],
    ) -> Result<Self, TlsError> {
        let builder =
            ClientConfig::builder_with_provider(super::provider()).with_safe_default_protocol_versions()?;
        let builder = builder.dangerous().with_custom_certificate_verifier(verifier(trust)?);
        let mut config = match own {
            Some(own) => builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(own))),
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = vec![protocol.to_owned()];
        Ok(Self { config: Arc::new(config), name })
    }

    /// What a connection begins with.
    pub fn config(&self) -> Arc<ClientConfig> {
        self.config.clone()
    }

    /// The name that is asked for at an instance with this IP address, if it has one.
    pub fn name(&self, address: Option<IpAddr>) -> Option<ServerName<'static>> {
        self.name.clone().or_else(|| address.map(ServerName::from))
    }
}

fn verifier(trust: Trust<'_>) -> Result<Arc<dyn ServerCertVerifier>, TlsError> {
    Ok(match trust {
        Trust::Authorities(file) => {
            let roots = Arc::new(super::authorities(file)?);
            WebPkiServerVerifier::builder_with_provider(roots, super::provider()).build()?
        }
        Trust::System => Arc::new(Verifier::new(super::provider())?),
        Trust::Everyone => Arc::new(BelievesEveryone),
    })
}

/// Takes any certificate; that the service has its key is verified all the same.
#[derive(Debug)]
struct BelievesEveryone;

impl ServerCertVerifier for BelievesEveryone {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(
            message,
            certificate,
            signature,
            &super::provider().signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(
            message,
            certificate,
            signature,
            &super::provider().signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        super::provider().signature_verification_algorithms.supported_schemes()
    }
}
