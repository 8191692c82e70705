//! An issuer's keys. Pure; [`fetched`] gets them from a URL.
//!
//! Each key has one algorithm, by its type and curve: RSA is RS256, P-256 is ES256, Ed25519 is EdDSA, a secret is
//! HS256. A JWKS (RFC 7517) gives public keys only: secrets in one are left out, so that a public key can never be
//! taken for a secret, nor a secret be fetched over the network.

pub mod demand;
pub mod fetched;

use aws_lc_rs::digest::{SHA256, digest};
use jsonwebtoken::{
    DecodingKey, crypto,
    jwk::{AlgorithmParameters, EllipticCurve, Jwk, JwkSet, KeyAlgorithm, KeyOperations, PublicKeyUse},
};
use thiserror::Error;

use super::jwt::{Algorithm, TokenError};

/// The largest JWKS, bytes.
pub const JWKS_BYTES_MAX: usize = 256 << 10;

/// The most keys of a set that are kept.
pub const KEYS_MAX: usize = 128;

/// The shortest secret of HS256, bytes (RFC 7518, section 3.2).
pub const SECRET_BYTES_MIN: usize = 32;

/// Keys by which tokens are checked.
#[derive(Clone)]
pub struct KeySet {
    keys: Vec<Key>,
    /// SHA-256 of what the set was read from.
    digest: [u8; 32],
}

#[derive(Clone)]
struct Key {
    id: Option<String>,
    algorithm: Algorithm,
    decoding: DecodingKey,
}

/// Why there are no keys.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum KeySetError {
    /// It is too large.
    #[error("the key set is larger than {JWKS_BYTES_MAX} bytes")]
    Size,
    /// It is no JWKS.
    #[error("this is no JWKS (RFC 7517): {0}")]
    Form(String),
    /// No key in it can check a token of the issuer.
    #[error("the key set has no signature key for {0}")]
    Empty(String),
    /// More keys than anyone needs.
    #[error("the key set has more than {KEYS_MAX} keys")]
    Count,
    /// A secret that can be guessed.
    #[error("the secret is shorter than {SECRET_BYTES_MIN} bytes")]
    Secret,
}

impl KeySet {
    /// The keys of a JWKS that are for signatures by one of `algorithms`; others are left out.
    ///
    /// # Errors
    /// [`KeySetError`].
    pub fn from_jwks(text: &[u8], algorithms: &[Algorithm]) -> Result<Self, KeySetError> {
        if text.len() > JWKS_BYTES_MAX {
            return Err(KeySetError::Size);
        }
        let set: JwkSet =
            serde_json::from_slice(text).map_err(|error| KeySetError::Form(error.to_string()))?;
        if set.keys.len() > KEYS_MAX {
            return Err(KeySetError::Count);
        }
        let fits = |key: &Key| algorithms.contains(&key.algorithm);
        let keys: Vec<Key> = set.keys.iter().filter_map(Key::from_jwk).filter(fits).collect();
        if keys.is_empty() {
            let names: Vec<&str> = algorithms.iter().map(|algorithm| algorithm.name()).collect();
            return Err(KeySetError::Empty(names.join(", ")));
        }
        Ok(Self { keys, digest: sha256(text) })
    }

    /// The one secret of HS256. A line end at its end, as editors leave one, is no part of it.
    ///
    /// # Errors
    /// [`KeySetError::Secret`].
    pub fn from_secret(bytes: &[u8]) -> Result<Self, KeySetError> {
        let secret = bytes.strip_suffix(b"\n").map_or(bytes, |line| line.strip_suffix(b"\r").unwrap_or(line));
        if secret.len() < SECRET_BYTES_MIN {
            return Err(KeySetError::Secret);
        }
        let key = Key { id: None, algorithm: Algorithm::Hs256, decoding: DecodingKey::from_secret(secret) };
        Ok(Self { keys: vec![key], digest: sha256(secret) })
    }

    /// Whether two sets were read from the same bytes.
    pub fn same(&self, other: &Self) -> bool {
        self.digest == other.digest
    }

    /// Whether a key has this name.
    pub fn names(&self, id: &str) -> bool {
        self.keys.iter().any(|key| key.id.as_deref() == Some(id))
    }

    /// Checks a signature (base64url) by the key that `id` names; without `id`, by the only key of the algorithm.
    ///
    /// # Errors
    /// [`TokenError::UnknownKey`], [`TokenError::KeyAlgorithm`], [`TokenError::Signature`].
    pub fn verify(
        &self,
        algorithm: Algorithm,
        id: Option<&str>,
        message: &[u8],
        signature: &str,
    ) -> Result<(), TokenError> {
        let key = self.find(algorithm, id)?;
        match crypto::verify(signature, message, &key.decoding, library(algorithm)) {
            Ok(true) => Ok(()),
            Ok(false) | Err(_) => Err(TokenError::Signature),
        }
    }

    fn find(&self, algorithm: Algorithm, id: Option<&str>) -> Result<&Key, TokenError> {
        let mut fitting = self.keys.iter().filter(|key| key.algorithm == algorithm);
        let Some(id) = id else {
            let only = fitting.next().ok_or(TokenError::UnknownKey)?;
            return if fitting.next().is_none() { Ok(only) } else { Err(TokenError::UnknownKey) };
        };
        // A secret of the configuration has no name: what its tokens call it does not matter.
        if let Some(key) = fitting.find(|key| key.is_secret() || key.id.as_deref() == Some(id)) {
            return Ok(key);
        }
        let elsewhere = self.keys.iter().any(|key| key.id.as_deref() == Some(id));
        Err(if elsewhere { TokenError::KeyAlgorithm } else { TokenError::UnknownKey })
    }
}

/// Keys are not secret but long, and secrets are secret.
impl std::fmt::Debug for KeySet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KeySet").field("keys", &self.keys.len()).finish_non_exhaustive()
    }
}

impl Key {
    /// A public key for signatures; nothing for any other.
    fn from_jwk(jwk: &Jwk) -> Option<Self> {
        let common = &jwk.common;
        let algorithm = match &jwk.algorithm {
            AlgorithmParameters::RSA(_) => Algorithm::Rs256,
            AlgorithmParameters::EllipticCurve(key) if key.curve == EllipticCurve::P256 => Algorithm::Es256,
            AlgorithmParameters::OctetKeyPair(key) if key.curve == EllipticCurve::Ed25519 => Algorithm::EdDsa,
            AlgorithmParameters::EllipticCurve(_)
            | AlgorithmParameters::OctetKeyPair(_)
            | AlgorithmParameters::OctetKey(_)
            | AlgorithmParameters::Other(_)
            | _ => return None,
        };
        let signs = common.public_key_use.as_ref().is_none_or(|usage| *usage == PublicKeyUse::Signature);
        let verifies = common
            .key_operations
            .as_ref()
            .is_none_or(|operations| operations.contains(&KeyOperations::Verify));
        let agrees = common.key_algorithm.is_none_or(|named| named == KeyAlgorithm::from(library(algorithm)));
        if !(signs && verifies && agrees) {
            return None;
        }
        let decoding = DecodingKey::from_jwk(jwk).ok()?;
        Some(Self { id: common.key_id.clone(), algorithm, decoding })
    }

    fn is_secret(&self) -> bool {
        self.algorithm == Algorithm::Hs256
    }
}

fn library(algorithm: Algorithm) -> jsonwebtoken::Algorithm {
    match algorithm {
        Algorithm::Hs256 => jsonwebtoken::Algorithm::HS256,
        Algorithm::Rs256 => jsonwebtoken::Algorithm::RS256,
        Algorithm::Es256 => jsonwebtoken::Algorithm::ES256,
        Algorithm::EdDsa => jsonwebtoken::Algorithm::EdDSA,
    }
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut out = [0; 32];
    out.copy_from_slice(digest(&SHA256, bytes).as_ref());
    out
}
