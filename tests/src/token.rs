//! An issuer of tokens (JWT, ES256): a fresh key, its public half as a JWKS, and tokens.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Result, anyhow};
use aws_lc_rs::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair},
};
use jsonwebtoken::{
    Algorithm, EncodingKey, Header,
    jwk::{Jwk, JwkSet},
};
use serde_json::json;

/// The name of the one key.
const KEY_ID: &str = "demo-1";

/// Whoever holds the private key.
pub struct Issuer {
    key: EncodingKey,
    issuer: &'static str,
    audience: &'static str,
}

impl Issuer {
    /// One with a key of its own, for these claims `iss` and `aud`.
    pub fn new(issuer: &'static str, audience: &'static str) -> Result<Self> {
        let document = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new())
            .map_err(|_| anyhow!("no key could be made"))?;
        Ok(Self { key: EncodingKey::from_ec_der(document.as_ref()), issuer, audience })
    }

    /// The public key, JWKS (RFC 7517).
    pub fn jwks(&self) -> Result<String> {
        let mut key = Jwk::from_encoding_key(&self.key, Algorithm::ES256)?;
        key.common.key_id = Some(KEY_ID.into());
        Ok(serde_json::to_string(&JwkSet { keys: vec![key] })?)
    }

    /// A token for this subject and these scopes, good for so long.
    pub fn token(&self, subject: &str, scope: &str, lifetime: Duration) -> Result<String> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
        let claims = json!({
            "iss": self.issuer, "aud": self.audience, "sub": subject, "scope": scope,
            "iat": now.as_secs(), "exp": (now + lifetime).as_secs(),
        });
        let header = Header { kid: Some(KEY_ID.into()), ..Header::new(Algorithm::ES256) };
        Ok(jsonwebtoken::encode(&header, &claims, &self.key)?)
    }
}
