//! Pure. Tokens: JWT (RFC 7519) as JWS in compact form (RFC 7515), checked by the rules of RFC 8725.
//!
//! Nothing that a token says decides how it is checked. Which algorithms are taken stands in the configuration; a
//! key has exactly one algorithm, and only keys of the token's algorithm are tried, so that no key is ever used for
//! another one. `jwk`, `jku`, `x5u` and `x5c` in a token's header are not read at all. The claim `iss` is read before
//! the signature is checked, but only to choose whose keys and rules apply.

use std::{str::FromStr, sync::Arc};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, Deserializer, de::IgnoredAny};
use serde_json::{Map, Value};
use thiserror::Error;

use super::{Grant, key_set::KeySet};

/// What is asked of an issuer's tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rules {
    /// `iss`, exactly.
    pub issuer: String,
    /// `aud` names at least one of these, exactly.
    pub audience: Vec<String>,
    /// What tokens may be signed with.
    pub algorithms: Vec<Algorithm>,
    /// How far the issuer's clock may be from ours, s.
    pub leeway_s: u64,
    /// The header `typ`, if it is checked: `at+jwt`, without regard to case and a leading `application/`.
    pub token_type: Option<String>,
    /// The claim that lists scopes: a string of words, or an array of words.
    pub scope_claim: String,
    /// The claim that names the consumer: a string.
    pub consumer_claim: String,
    /// Claims that rate limits count by.
    pub kept_claims: Vec<String>,
    /// The largest token, bytes.
    pub token_bytes: usize,
}

/// A signature algorithm of RFC 7518, section 3.1, or RFC 8037.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    /// HMAC with SHA-256.
    Hs256,
    /// RSASSA-PKCS1-v1_5 with SHA-256.
    Rs256,
    /// ECDSA with P-256 and SHA-256.
    Es256,
    /// Ed25519.
    EdDsa,
}

/// Why a token is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum TokenError {
    /// It is too large.
    #[error("the token is too large")]
    Size,
    /// It is not three parts of base64url, or its header or claims are not JSON objects.
    #[error("the token is not in the form of a JWT")]
    Form,
    /// `alg` is none that the issuer may use: `none`, for one.
    #[error("the token's algorithm is not taken")]
    Algorithm,
    /// `crit` asks for understanding that we do not have.
    #[error("the token has critical extensions")]
    Critical,
    /// `typ` is another.
    #[error("the token is of another type")]
    Type,
    /// `iss` is none of the route's issuers.
    #[error("the token is of another issuer")]
    Issuer,
    /// `kid` names no key, or there is none and several keys would do.
    #[error("the token names no key that is known")]
    UnknownKey,
    /// The key that `kid` names has another algorithm.
    #[error("the token's key is for another algorithm")]
    KeyAlgorithm,
    /// The signature is false.
    #[error("the token's signature is false")]
    Signature,
    /// A claim that must be there is not.
    #[error("the token lacks the claim {0}")]
    ClaimMissing(&'static str),
    /// A claim is not of its type.
    #[error("the token's claim {0} is not as it should be")]
    ClaimForm(&'static str),
    /// `aud` is for others.
    #[error("the token is for another audience")]
    Audience,
    /// `exp` has passed.
    #[error("the token has expired")]
    Expired,
    /// `nbf` or `iat` lies in the future.
    #[error("the token is not valid yet")]
    NotYet,
}

/// A token that was taken apart; nothing in it is proven.
pub struct Token<'t> {
    header: Header,
    claims: Map<String, Value>,
    /// What is signed.
    message: &'t str,
    /// base64url.
    signature: &'t str,
}

/// A token that was found true.
#[derive(Clone, Debug)]
pub struct Verified {
    /// What it says of its holder.
    pub grant: Arc<Grant>,
    /// `exp`, seconds of Unix time.
    pub expires_s: u64,
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    #[serde(default)]
    kid: Option<String>,
    #[serde(default)]
    typ: Option<String>,
    #[serde(default, deserialize_with = "present")]
    crit: bool,
}

/// Beyond this a date is a mistake, and a float would not be exact: 2^53 s.
const DATE_MAX_S: u64 = 1 << 53;

impl<'t> Token<'t> {
    /// Takes a token apart.
    ///
    /// # Errors
    /// [`TokenError::Form`].
    pub fn parse(text: &'t str) -> Result<Self, TokenError> {
        let (message, signature) = text.rsplit_once('.').ok_or(TokenError::Form)?;
        let (header, claims) = message.split_once('.').ok_or(TokenError::Form)?;
        let header = serde_json::from_slice(&decode(header)?).map_err(|_| TokenError::Form)?;
        let claims = serde_json::from_slice(&decode(claims)?).map_err(|_| TokenError::Form)?;
        Ok(Self { header, claims, message, signature })
    }

    /// The claim `iss`, unproven.
    pub fn issuer(&self) -> Option<&str> {
        self.claims.get("iss").and_then(Value::as_str)
    }

    /// The header's `kid`, unproven.
    pub fn key_id(&self) -> Option<&str> {
        self.header.kid.as_deref()
    }

    /// Checks everything, at `now_s` of Unix time.
    ///
    /// # Errors
    /// The first [`TokenError`] that is found.
    pub fn verify(&self, rules: &Rules, keys: &KeySet, now_s: u64) -> Result<Verified, TokenError> {
        let algorithm = self.check_header(rules)?;
        keys.verify(algorithm, self.key_id(), self.message.as_bytes(), self.signature)?;
        let expires_s = self.check_claims(rules, now_s)?;
        Ok(Verified { grant: Arc::new(self.grant(rules)?), expires_s })
    }

    fn check_header(&self, rules: &Rules) -> Result<Algorithm, TokenError> {
        if self.header.crit {
            return Err(TokenError::Critical);
        }
        let algorithm = self.header.alg.parse().map_err(|UnknownAlgorithm| TokenError::Algorithm)?;
        if !rules.algorithms.contains(&algorithm) {
            return Err(TokenError::Algorithm);
        }
        match &rules.token_type {
            Some(expected) if !self.header.typ.as_deref().is_some_and(|typ| same_type(typ, expected)) => {
                Err(TokenError::Type)
            }
            _ => Ok(algorithm),
        }
    }

    fn check_claims(&self, rules: &Rules, now_s: u64) -> Result<u64, TokenError> {
        if self.issuer() != Some(rules.issuer.as_str()) {
            return Err(TokenError::Issuer);
        }
        if !self.audience()?.iter().any(|audience| rules.audience.iter().any(|expected| expected == audience))
        {
            return Err(TokenError::Audience);
        }
        let expires_s = self.date("exp")?.ok_or(TokenError::ClaimMissing("exp"))?;
        if now_s >= expires_s + rules.leeway_s {
            return Err(TokenError::Expired);
        }
        for claim in ["nbf", "iat"] {
            if self.date(claim)?.is_some_and(|date_s| date_s > now_s + rules.leeway_s) {
                return Err(TokenError::NotYet);
            }
        }
        Ok(expires_s)
    }

    fn audience(&self) -> Result<Vec<&str>, TokenError> {
        match self.claims.get("aud") {
            None => Err(TokenError::ClaimMissing("aud")),
            Some(Value::String(one)) => Ok(vec![one]),
            Some(Value::Array(several)) => words(several).ok_or(TokenError::ClaimForm("aud")),
            Some(_) => Err(TokenError::ClaimForm("aud")),
        }
    }

    /// A `NumericDate`: seconds, perhaps with a fraction, which is cut off.
    fn date(&self, claim: &'static str) -> Result<Option<u64>, TokenError> {
        let Some(value) = self.claims.get(claim) else { return Ok(None) };
        let fits = |seconds: f64| (0.0..DATE_MAX_S as f64).contains(&seconds);
        value
            .as_u64()
            .or_else(|| value.as_f64().filter(|seconds| fits(*seconds)).map(|seconds| seconds as u64))
            .filter(|seconds| *seconds < DATE_MAX_S)
            .map(Some)
            .ok_or(TokenError::ClaimForm(claim))
    }

    fn grant(&self, rules: &Rules) -> Result<Grant, TokenError> {
        let consumer = match self.claims.get(&rules.consumer_claim) {
            None => None,
            Some(Value::String(name)) => Some(name.as_str().into()),
            Some(_) => return Err(TokenError::ClaimForm("that names the consumer")),
        };
        let scopes = match self.claims.get(&rules.scope_claim) {
            None => Vec::new(),
            Some(Value::String(list)) => list.split_ascii_whitespace().collect(),
            Some(Value::Array(list)) => words(list).ok_or(TokenError::ClaimForm("that lists scopes"))?,
            Some(_) => return Err(TokenError::ClaimForm("that lists scopes")),
        };
        let kept = |name: &String| Some((name.as_str().into(), scalar(self.claims.get(name)?)?));
        Ok(Grant {
            consumer,
            scopes: scopes.into_iter().map(Into::into).collect(),
            claims: rules.kept_claims.iter().filter_map(kept).collect(),
        })
    }
}

impl Algorithm {
    /// The name in `alg`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Hs256 => "HS256",
            Self::Rs256 => "RS256",
            Self::Es256 => "ES256",
            Self::EdDsa => "EdDSA",
        }
    }
}

/// An algorithm by another name than ours, such as `none`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the algorithms are HS256, RS256, ES256 and EdDSA")]
pub struct UnknownAlgorithm;

impl FromStr for Algorithm {
    type Err = UnknownAlgorithm;

    fn from_str(name: &str) -> Result<Self, UnknownAlgorithm> {
        let known = [Self::Hs256, Self::Rs256, Self::Es256, Self::EdDsa];
        known.into_iter().find(|algorithm| algorithm.name() == name).ok_or(UnknownAlgorithm)
    }
}

impl TokenError {
    /// One word for logs and metrics; stable.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Size => "token_size",
            Self::Form => "token_form",
            Self::Algorithm => "token_algorithm",
            Self::Critical => "token_critical",
            Self::Type => "token_type",
            Self::Issuer => "token_issuer",
            Self::UnknownKey => "token_key_unknown",
            Self::KeyAlgorithm => "token_key_algorithm",
            Self::Signature => "token_signature",
            Self::ClaimMissing(_) => "token_claim_missing",
            Self::ClaimForm(_) => "token_claim_form",
            Self::Audience => "token_audience",
            Self::Expired => "token_expired",
            Self::NotYet => "token_not_yet",
        }
    }
}

fn decode(part: &str) -> Result<Vec<u8>, TokenError> {
    URL_SAFE_NO_PAD.decode(part).map_err(|_| TokenError::Form)
}

/// Whether a member is there, whatever its value.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    IgnoredAny::deserialize(deserializer).map(|_| true)
}

fn same_type(given: &str, expected: &str) -> bool {
    let short = |name: &str| {
        let name = name.to_ascii_lowercase();
        name.strip_prefix("application/").map(str::to_owned).unwrap_or(name)
    };
    short(given) == short(expected)
}

fn words(list: &[Value]) -> Option<Vec<&str>> {
    list.iter().map(Value::as_str).collect()
}

/// A claim by which requests are counted: text, a number or a truth value.
fn scalar(value: &Value) -> Option<Box<str>> {
    match value {
        Value::String(text) => Some(text.as_str().into()),
        Value::Number(_) | Value::Bool(_) => Some(value.to_string().into()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

#[cfg(test)]
mod tests;
