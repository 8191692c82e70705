//! Issuers of tokens: their rules and their keys, from the configuration.
//!
//! An issuer whose configuration did not change is handed on from snapshot to snapshot with its keys and its number,
//! so that a reload fetches nothing and forgets no verdict.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use super::{
    AuthError,
    jwt::{Algorithm, Rules, Token, Verified},
    key_set::{
        JWKS_BYTES_MAX, KeySet, KeySetError,
        fetched::{Fetched, Versioned},
    },
};
use crate::config::{
    Findings, Spanned,
    credentials::{IssuerDocument, KeysDocument},
};

/// How often a URL is fetched unless the issuer says otherwise.
const REFRESH: Duration = Duration::from_secs(300);

/// A token of 64 KiB fits no header that is taken.
const TOKEN_BYTES_MAX: u64 = 64 << 10;

/// A clock that is further off is wrong.
const LEEWAY_MAX: Duration = Duration::from_secs(600);

/// An issuer.
pub struct Issuer {
    /// The name that routes use.
    pub name: Arc<str>,
    /// What is asked of its tokens.
    pub rules: Rules,
    /// Differs from that of every other issuer and of every other configuration of this one.
    pub number: u64,
    keys: Keys,
}

/// Where the keys come from.
pub enum Keys {
    /// From a file, read with the configuration.
    Read(Arc<Versioned>),
    /// From a URL.
    Fetched {
        /// Where from, how often.
        source: (String, Duration),
        /// What has come.
        set: Arc<Fetched>,
    },
}

/// One issuer while it is compiled.
pub struct Draft<'a> {
    /// The name that routes use.
    pub name: &'a str,
    /// As it is written.
    pub written: &'a Spanned<IssuerDocument>,
    /// Where relative paths begin.
    pub directory: &'a Path,
    /// Claims by which rate limits count.
    pub kept_claims: &'a [String],
    /// The issuer of this name before.
    pub previous: Option<&'a Arc<Issuer>>,
}

impl Draft<'_> {
    /// The issuer, or nothing but findings.
    pub fn compile(&self, findings: &mut Findings) -> Option<Arc<Issuer>> {
        let rules = self.rules(findings)?;
        let keys = self.keys(&rules.algorithms, findings)?;
        if let Some(previous) = self.previous
            && previous.rules == rules
            && previous.keys.same(&keys)
        {
            return Some(previous.clone());
        }
        static ISSUERS: AtomicU64 = AtomicU64::new(0);
        Some(Arc::new(Issuer { name: self.name.into(), rules, number: ISSUERS.fetch_add(1, Relaxed), keys }))
    }

    fn field(&self, name: &str) -> String {
        format!("issuers.{}.{name}", self.name)
    }

    fn rules(&self, findings: &mut Findings) -> Option<Rules> {
        let written = &self.written.value;
        let before = findings.0.len();
        if written.issuer.value.is_empty() {
            findings.error(&written.issuer, self.field("issuer"), "the claim iss of its tokens");
        }
        if written.audience.value.is_empty() || written.audience.value.iter().any(String::is_empty) {
            findings.error(&written.audience, self.field("audience"), "name at least one audience: this API");
        }
        let mut algorithms = Vec::new();
        for name in &written.algorithms.value {
            match name.parse::<Algorithm>() {
                Ok(algorithm) => algorithms.push(algorithm),
                Err(error) => {
                    findings.error(&written.algorithms, self.field("algorithms"), error.to_string())
                }
            }
        }
        if written.algorithms.value.is_empty() {
            findings.error(&written.algorithms, self.field("algorithms"), "name at least one algorithm");
        }
        if written.leeway.0 > LEEWAY_MAX {
            findings.error(self.written, self.field("leeway"), "at most 10m");
        }
        if !(1..=TOKEN_BYTES_MAX).contains(&written.token_bytes.0) {
            findings.error(self.written, self.field("token_bytes"), "from 1 to 64KiB");
        }
        (findings.0.len() == before).then(|| Rules {
            issuer: written.issuer.value.clone(),
            audience: written.audience.value.clone(),
            algorithms,
            leeway_s: written.leeway.0.as_secs(),
            token_type: written.token_type.clone(),
            scope_claim: written.scope_claim.clone(),
            consumer_claim: written.consumer_claim.clone(),
            kept_claims: self.kept_claims.to_vec(),
            token_bytes: usize::try_from(written.token_bytes.0).unwrap_or(usize::MAX),
        })
    }

    fn keys(&self, algorithms: &[Algorithm], findings: &mut Findings) -> Option<Keys> {
        let written = &self.written.value.keys;
        let secret = algorithms.contains(&Algorithm::Hs256);
        if secret && algorithms.len() > 1 {
            let rule = "HS256 goes with no other algorithm: a secret is not a public key";
            findings.error(&self.written.value.algorithms, self.field("algorithms"), rule);
            return None;
        }
        let KeysDocument { file, url, secret_file, refresh } = &written.value;
        match (file, url, secret_file) {
            (None, None, Some(path)) if secret => {
                self.read(path, "secret_file", KeySet::from_secret, findings)
            }
            (Some(path), None, None) if !secret => {
                self.read(path, "file", |text| KeySet::from_jwks(text, algorithms), findings)
            }
            (None, Some(url), None) if !secret => {
                self.fetched(url, refresh.map_or(REFRESH, |refresh| refresh.0), algorithms, findings)
            }
            _ => {
                let rule = "either file or url (a JWKS), or for HS256 secret_file";
                findings.error(written, self.field("keys"), rule);
                None
            }
        }
    }

    fn read(
        &self,
        path: &Spanned<PathBuf>,
        name: &str,
        parse: impl Fn(&[u8]) -> Result<KeySet, KeySetError>,
        findings: &mut Findings,
    ) -> Option<Keys> {
        let place = self.directory.join(&path.value);
        let small = fs::metadata(&place).is_ok_and(|data| data.len() <= JWKS_BYTES_MAX as u64);
        let parsed = match fs::read(&place) {
            Ok(text) if small => parse(&text).map_err(|error| error.to_string()),
            Ok(_) => Err(KeySetError::Size.to_string()),
            Err(error) => Err(error.to_string()),
        };
        match parsed {
            Ok(keys) => Some(Keys::Read(Arc::new(Versioned { keys, generation: 1 }))),
            Err(error) => {
                let rule = format!("{}: {error}", place.display());
                findings.error(path, self.field(&format!("keys.{name}")), rule);
                None
            }
        }
    }

    fn fetched(
        &self,
        url: &Spanned<String>,
        refresh: Duration,
        algorithms: &[Algorithm],
        findings: &mut Findings,
    ) -> Option<Keys> {
        let field = self.field("keys.url");
        let parsed = reqwest::Url::parse(&url.value).ok().filter(|parsed| parsed.has_host());
        let Some(parsed) = parsed.filter(|parsed| ["http", "https"].contains(&parsed.scheme())) else {
            findings.error(url, field, "an http or https URL");
            return None;
        };
        if refresh < Duration::from_secs(1) {
            findings.error(url, self.field("keys.refresh"), "at least 1s");
            return None;
        }
        let host = parsed.host_str().unwrap_or_default().trim_matches(['[', ']']);
        let here = host == "localhost"
            || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback());
        if parsed.scheme() == "http" && !here {
            findings.warning(url, field, "keys that come by http can be exchanged on their way; use https");
        }
        let source = (url.value.clone(), refresh);
        let set = match self.previous.map(|previous| (&previous.rules, &previous.keys)) {
            Some((rules, Keys::Fetched { source: before, set }))
                if *before == source && rules.algorithms == algorithms =>
            {
                set.clone()
            }
            _ => Fetched::new(url.value.clone(), refresh, algorithms.to_vec()),
        };
        Some(Keys::Fetched { source, set })
    }
}

impl Issuer {
    /// The present keys; none before the first fetch.
    pub fn keys(&self) -> Option<Arc<Versioned>> {
        match &self.keys {
            Keys::Read(keys) => Some(keys.clone()),
            Keys::Fetched { set, .. } => set.current(),
        }
    }

    /// The set that is fetched, if it is one.
    pub fn fetched(&self) -> Option<&Arc<Fetched>> {
        match &self.keys {
            Keys::Read(_) => None,
            Keys::Fetched { set, .. } => Some(set),
        }
    }

    /// Checks a token that names this issuer. Comes back with the generation of the keys that were used.
    ///
    /// # Errors
    /// [`AuthError::KeySetUnavailable`], [`AuthError::Token`].
    pub async fn verify(&self, token: &Token<'_>, now_s: u64) -> Result<(Verified, u64), AuthError> {
        use super::jwt::TokenError::UnknownKey;

        let keys = self.keys().ok_or(AuthError::KeySetUnavailable)?;
        let verified = token.verify(&self.rules, &keys.keys, now_s);
        let (Err(UnknownKey), Some(set), Some(id)) = (&verified, self.fetched(), token.key_id()) else {
            return Ok((verified?, keys.generation));
        };
        // Also where no fetch may begin: one that has just ended may have brought the key.
        let newer = set.refetched(id).await.filter(|newer| newer.generation != keys.generation);
        let keys = newer.ok_or(AuthError::Token(UnknownKey))?;
        Ok((token.verify(&self.rules, &keys.keys, now_s)?, keys.generation))
    }
}

impl Keys {
    fn same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Read(one), Self::Read(other)) => one.keys.same(&other.keys),
            (Self::Fetched { set: one, .. }, Self::Fetched { set: other, .. }) => Arc::ptr_eq(one, other),
            _ => false,
        }
    }
}
