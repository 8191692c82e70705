//! API keys and issuers as they are written. Pure.

use std::path::PathBuf;

use serde::Deserialize;
use serde_saphyr::Spanned;

use super::units::{Duration, Size};

/// One API key.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ApiKeyDocument {
    /// Who holds it: the consumer in logs, limits and headers.
    pub name: Spanned<String>,
    /// `sha256:` and 64 hexadecimal digits, as `gateway key new` prints it.
    pub digest: Spanned<String>,
    /// What its holder may do.
    #[serde(default)]
    pub scopes: Vec<Spanned<String>>,
    /// From when on it is no longer taken, as `2027-01-31T00:00:00Z`.
    #[serde(default)]
    pub expires: Option<Spanned<String>>,
}

/// Where API keys are looked for.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ApiKeyInDocument {
    /// A header.
    pub header: String,
    /// A query parameter; by default none, because queries end up in logs.
    pub query: Option<String>,
}

impl Default for ApiKeyInDocument {
    fn default() -> Self {
        Self { header: "x-api-key".into(), query: None }
    }
}

/// Who issues tokens (JWT, RFC 7519), and which of its tokens are taken.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IssuerDocument {
    /// The claim `iss`, exactly.
    pub issuer: Spanned<String>,
    /// The claim `aud` must name one of these.
    pub audience: Spanned<Vec<String>>,
    /// `HS256`, `RS256`, `ES256`, `EdDSA`.
    pub algorithms: Spanned<Vec<String>>,
    /// Where its keys are.
    pub keys: Spanned<KeysDocument>,
    /// How far its clock may be from ours.
    #[serde(default = "leeway")]
    pub leeway: Duration,
    /// The claim that lists scopes: a string of words or an array.
    #[serde(default = "scope_claim")]
    pub scope_claim: String,
    /// The claim that names the consumer.
    #[serde(default = "consumer_claim")]
    pub consumer_claim: String,
    /// The header `typ` that its tokens must have, such as `at+jwt`; not checked by default.
    #[serde(default)]
    pub token_type: Option<String>,
    /// The largest token.
    #[serde(default = "token_bytes")]
    pub token_bytes: Size,
}

/// Where an issuer's keys are: exactly one of these.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct KeysDocument {
    /// A JWKS file (RFC 7517); relative to the configuration.
    pub file: Option<Spanned<PathBuf>>,
    /// A JWKS at a URL, fetched anew every `refresh` and when a token names an unknown key.
    pub url: Option<Spanned<String>>,
    /// A file with the secret of HS256, at least 32 bytes.
    pub secret_file: Option<Spanned<PathBuf>>,
    /// How often a URL is fetched; 5 minutes by default.
    pub refresh: Option<Duration>,
}

fn leeway() -> Duration {
    Duration::s(30)
}

fn scope_claim() -> String {
    "scope".into()
}

fn consumer_claim() -> String {
    "sub".into()
}

fn token_bytes() -> Size {
    Size(8 << 10)
}
