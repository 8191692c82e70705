//! TLS (rustls on aws-lc-rs): certificates and keys from PEM files, and what is made of them.
//!
//! | module | what |
//! |---|---|
//! | [`client`] | how services prove who they are, and what is shown to them |
//! | [`server`] | what clients' listeners show and ask for |

pub mod client;
pub mod server;

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{Arc, LazyLock},
};

use rustls::{
    RootCertStore,
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{
        CertificateDer, PrivateKeyDer,
        pem::{self, PemObject as _},
    },
    sign::CertifiedKey,
};
use thiserror::Error;

/// What a configuration's TLS is refused for. Names files, never what a key file holds.
#[derive(Debug, Error)]
pub enum TlsError {
    /// It cannot be read, or is not PEM.
    #[error("{}: {error}", path.display())]
    Pem {
        /// The file.
        path: PathBuf,
        /// Why.
        error: pem::Error,
    },
    /// It cannot be read.
    #[error("{}: {error}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// It has no certificate.
    #[error("{}: no certificate", .0.display())]
    NoCertificate(PathBuf),
    /// What stands in it is not usable, or the key is another certificate's.
    #[error("{}: {error}", path.display())]
    Unusable {
        /// The file.
        path: PathBuf,
        /// Why.
        error: rustls::Error,
    },
    /// The authorities make no verifier.
    #[error("{0}")]
    Verifier(#[from] rustls::server::VerifierBuilderError),
    /// The whole makes no configuration.
    #[error("{0}")]
    Configuration(#[from] rustls::Error),
}

/// The one set of algorithms.
pub fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: LazyLock<Arc<CryptoProvider>> =
        LazyLock::new(|| Arc::new(aws_lc_rs::default_provider()));
    PROVIDER.clone()
}

/// A PEM file's certificates, in their order; at least one.
///
/// # Errors
/// [`TlsError::Pem`], [`TlsError::NoCertificate`].
pub fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let refused = |error| TlsError::Pem { path: path.to_owned(), error };
    let found = CertificateDer::pem_file_iter(path).map_err(refused)?;
    let found = found.collect::<Result<Vec<_>, _>>().map_err(refused)?;
    if found.is_empty() { Err(TlsError::NoCertificate(path.to_owned())) } else { Ok(found) }
}

/// A PEM file's certificates as authorities.
///
/// # Errors
/// Those of [`certificates`], and [`TlsError::Unusable`].
pub fn authorities(path: &Path) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        roots.add(certificate).map_err(|error| TlsError::Unusable { path: path.to_owned(), error })?;
    }
    Ok(roots)
}

/// A certificate with its key, which must be its own, and with the authority's word on it, if there is one.
///
/// # Errors
/// [`TlsError`].
pub fn certified_key(certificate: &Path, key: &Path, ocsp: Option<&Path>) -> Result<CertifiedKey, TlsError> {
    let chain = certificates(certificate)?;
    let private =
        PrivateKeyDer::from_pem_file(key).map_err(|error| TlsError::Pem { path: key.to_owned(), error })?;
    let mut certified = CertifiedKey::from_der(chain, private, &provider())
        .map_err(|error| TlsError::Unusable { path: key.to_owned(), error })?;
    if let Some(path) = ocsp {
        let word = fs::read(path).map_err(|error| TlsError::Unreadable { path: path.to_owned(), error })?;
        certified.ocsp = Some(word);
    }
    Ok(certified)
}
