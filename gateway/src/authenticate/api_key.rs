//! Pure. API keys: known by their SHA-256 digests, so that who reads the configuration can use none of them.
//!
//! A plain digest suffices because `gateway key new` makes keys of 256 random bits: nothing shorter can be guessed
//! from it. Keys are looked up by the digest of what was presented and then compared in constant time.

use std::{collections::HashMap, sync::Arc, time::UNIX_EPOCH};

use aws_lc_rs::digest::{SHA256, digest};
use subtle::ConstantTimeEq as _;

use super::Grant;
use crate::{
    authorise::{SCOPE_RULE, is_scope},
    config::{Findings, Spanned, credentials::ApiKeyDocument},
};

/// How a digest begins in the configuration.
pub const DIGEST_PREFIX: &str = "sha256:";

/// The longest key that is looked up, bytes.
pub const KEY_BYTES_MAX: usize = 256;

/// SHA-256 of a key.
pub type Digest = [u8; 32];

/// All keys.
#[derive(Default)]
pub struct ApiKeys(HashMap<Digest, Holder>);

struct Holder {
    digest: Digest,
    grant: Arc<Grant>,
    /// Seconds of Unix time.
    expires_s: Option<u64>,
}

/// Why a key is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyError {
    /// Nobody has it.
    Unknown,
    /// Its time is over.
    Expired,
}

impl ApiKeys {
    /// The keys as they are written.
    pub fn compile(written: &[Spanned<ApiKeyDocument>], findings: &mut Findings) -> Self {
        let mut keys = HashMap::new();
        for (index, written) in written.iter().enumerate() {
            let field = |name: &str| format!("api_keys[{index}].{name}");
            let key = &written.value;
            if key.name.value.is_empty() {
                findings.error(&key.name, field("name"), "say who holds the key");
            }
            let Some(digest) = parse_digest(&key.digest.value) else {
                let rule = "sha256: and 64 hexadecimal digits, as `gateway key new` prints them";
                findings.error(&key.digest, field("digest"), rule);
                continue;
            };
            for scope in key.scopes.iter().filter(|scope| !is_scope(&scope.value)) {
                findings.error(scope, field("scopes"), SCOPE_RULE);
            }
            let expires_s = key.expires.as_ref().and_then(|expires| {
                let parsed = humantime::parse_rfc3339(&expires.value).ok();
                let since = parsed.and_then(|time| time.duration_since(UNIX_EPOCH).ok());
                if since.is_none() {
                    findings.error(expires, field("expires"), "a time in UTC, such as 2027-01-31T00:00:00Z");
                }
                since.map(|since| since.as_secs())
            });
            let grant = Arc::new(Grant {
                consumer: Some(key.name.value.as_str().into()),
                scopes: key.scopes.iter().map(|scope| scope.value.as_str().into()).collect(),
                claims: Vec::new(),
            });
            if keys.insert(digest, Holder { digest, grant, expires_s }).is_some() {
                findings.error(&key.digest, field("digest"), "another key has this digest");
            }
        }
        Self(keys)
    }

    /// What a presented key grants at `now_s` of Unix time.
    ///
    /// # Errors
    /// [`KeyError`].
    pub fn check(&self, presented: &[u8], now_s: u64) -> Result<Arc<Grant>, KeyError> {
        if presented.is_empty() || presented.len() > KEY_BYTES_MAX {
            return Err(KeyError::Unknown);
        }
        let digest = digest_of(presented);
        let holder = self.0.get(&digest).ok_or(KeyError::Unknown)?;
        if !bool::from(holder.digest.ct_eq(&digest)) {
            return Err(KeyError::Unknown);
        }
        match holder.expires_s {
            Some(expires_s) if now_s >= expires_s => Err(KeyError::Expired),
            _ => Ok(holder.grant.clone()),
        }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// A key's digest.
pub fn digest_of(key: &[u8]) -> Digest {
    let mut out = [0; 32];
    out.copy_from_slice(digest(&SHA256, key).as_ref());
    out
}

/// A digest as the configuration has it: `sha256:` and hexadecimal digits.
pub fn write_digest(digest: &Digest) -> String {
    digest.iter().fold(DIGEST_PREFIX.to_owned(), |text, byte| format!("{text}{byte:02x}"))
}

fn parse_digest(text: &str) -> Option<Digest> {
    let digits = text.strip_prefix(DIGEST_PREFIX)?.as_bytes();
    if digits.len() != 64 {
        return None;
    }
    let mut digest = [0; 32];
    for (byte, pair) in digest.iter_mut().zip(digits.chunks_exact(2)) {
        let digit = |digit: u8| char::from(digit).to_digit(16);
        *byte = u8::try_from(digit(pair[0])? * 16 + digit(pair[1])?).ok()?;
    }
    Some(digest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compile(yaml: &str) -> (ApiKeys, Findings) {
        let written: Vec<Spanned<ApiKeyDocument>> = serde_saphyr::from_str(yaml).unwrap();
        let mut findings = Findings::default();
        (ApiKeys::compile(&written, &mut findings), findings)
    }

    #[test]
    fn keys_are_known_by_their_digests_until_they_expire() {
        let digest = write_digest(&digest_of(b"ann-key"));
        let (keys, findings) = compile(&format!(
            "- {{name: ann, digest: '{digest}', scopes: [read], expires: '1970-01-01T01:00:00Z'}}"
        ));
        assert!(findings.usable(), "{findings}");
        for (presented, now_s, expected) in [
            ("ann-key", 3_599, Ok("ann")),
            ("ann-key", 3_600, Err(KeyError::Expired)),
            ("ann-kez", 0, Err(KeyError::Unknown)),
            ("", 0, Err(KeyError::Unknown)),
            (&digest, 0, Err(KeyError::Unknown)),
            (&"x".repeat(KEY_BYTES_MAX + 1), 0, Err(KeyError::Unknown)),
        ] {
            let found = keys.check(presented.as_bytes(), now_s);
            let consumer =
                found.as_ref().map(|grant| grant.consumer.as_deref().unwrap()).map_err(|error| *error);
            assert_eq!(consumer, expected, "{presented}");
        }
    }

    #[test]
    fn what_is_no_key_is_found_with_its_place() {
        let digest = write_digest(&[7; 32]);
        for (yaml, part) in [
            ("- {name: a, digest: 'sha256:12'}".to_owned(), "64 hexadecimal digits"),
            (format!("- {{name: a, digest: '{}'}}", digest.replace("07", "0g")), "64 hexadecimal digits"),
            (format!("- {{name: '', digest: '{digest}'}}"), "who holds"),
            (format!("- {{name: a, digest: '{digest}', expires: tomorrow}}"), "2027-01-31"),
            (format!("- {{name: a, digest: '{digest}', scopes: ['a b']}}"), "scope"),
            (format!("- {{name: a, digest: '{digest}'}}\n- {{name: b, digest: '{digest}'}}"), "another key"),
        ] {
            let (_, findings) = compile(&yaml);
            assert!(!findings.usable() && findings.to_string().contains(part), "{yaml}: {findings}");
            assert!(findings.0[0].line > 0);
        }
    }
}
