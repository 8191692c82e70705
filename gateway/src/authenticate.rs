//! Who asks: API keys and tokens, tried in the route's order.
//!
//! A credential that is absent leads to the next way; one that is there and not true ends the request, even where
//! `anonymous` would follow. What is wrong with it goes to the log: the client learns only that it is wrong.
//!
//! | module | what |
//! |---|---|
//! | [`ways`] | where a route's credentials are looked for, what is asked of callers without |
//! | [`api_key`] | keys by their digests |
//! | [`issuer`] | issuers of tokens: rules and keys |
//! | [`jwt`] | tokens: form, signature, claims |
//! | [`key_set`] | public keys and secrets, and how they are fetched |
//! | [`verdict_cache`] | tokens that were found true a moment ago |

pub mod api_key;
pub mod issuer;
pub mod jwt;
pub mod key_set;
pub mod verdict_cache;
pub mod ways;

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use http::HeaderName;
use thiserror::Error;
use tokio::runtime::Handle;

use crate::{
    clock,
    compile::Context,
    config::{Document, Findings},
    error::Refusal,
    record::Record,
    route::Routed,
};
use api_key::{ApiKeys, KeyError};
use issuer::{Draft, Issuer};
use jwt::{Token, TokenError};
use verdict_cache::VerdictCache;
pub use ways::Ways;

/// API keys and issuers, compiled.
#[derive(Default)]
pub struct Credentials {
    keys: ApiKeys,
    /// Where keys are looked for; none only where the configuration is in error.
    key_header: Option<HeaderName>,
    key_query: Option<String>,
    issuers: BTreeMap<String, Arc<Issuer>>,
    /// Handed on from snapshot to snapshot.
    verdicts: Arc<VerdictCache>,
}

/// What a credential says of its holder.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Grant {
    /// Its name.
    pub consumer: Option<Arc<str>>,
    /// What it may do.
    pub scopes: Vec<Box<str>>,
    /// Claims by which rate limits count, by name.
    pub claims: Vec<(Box<str>, Box<str>)>,
}

/// Who asks.
#[derive(Clone, Debug, Default)]
pub struct Identity {
    /// The name of the key, or the token's subject; none for an anonymous caller.
    pub consumer: Option<Arc<str>>,
    /// Where the name is from: an issuer, as the configuration calls it; none for API keys.
    pub issuer: Option<Arc<str>>,
    /// None for an anonymous caller.
    grant: Option<Arc<Grant>>,
}

/// Why nobody is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum AuthError {
    /// No credential.
    #[error("no credential")]
    Missing,
    /// More than one credential of a kind: which one counts?
    #[error("more than one credential of a kind")]
    Ambiguous,
    /// Nobody has this API key.
    #[error("the API key is not known")]
    UnknownKey,
    /// The API key's time is over.
    #[error("the API key has expired")]
    ExpiredKey,
    /// `Authorization` is not `Bearer` and a token.
    #[error("the authorization is no bearer token")]
    NotBearer,
    /// The token is not taken.
    #[error("{0}")]
    Token(#[from] TokenError),
    /// The issuer's keys have not been fetched yet.
    #[error("the issuer's keys are not there yet")]
    KeySetUnavailable,
}

/// A request whose caller is known, or known to be anonymous.
pub struct Authenticated {
    /// The request.
    pub routed: Routed,
    /// Who asks.
    pub identity: Identity,
    _proof: Proof,
}

/// Finds out who asks. Waits only where a token names a key that may be in a newer key set.
///
/// # Errors
/// [`Refusal::Unauthenticated`].
pub async fn authenticate(routed: Routed, record: &mut Record) -> Result<Authenticated, Refusal> {
    let ways = &routed.route.ways;
    let now = Now { ns: clock::since_origin(record.begun), s: unix_s() };
    ways.hide_credential(&mut record.uri);
    match ways.identify(&routed.request.head, now).await {
        Ok(identity) => {
            record.consumer = identity.consumer.clone();
            Ok(Authenticated { routed, identity, _proof: Proof })
        }
        Err(error) => Err(Refusal::Unauthenticated { error, challenge: ways.challenge(error) }),
    }
}

/// An instant.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// Of the monotonic clock, ns.
    pub ns: u64,
    /// Of Unix time, s.
    pub s: u64,
}

fn unix_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

impl Credentials {
    /// Compiles API keys and issuers.
    pub fn compile(document: &Document, context: Context<'_>, findings: &mut Findings) -> Self {
        let previous = context.previous.map(|previous| &previous.credentials);
        let kept_claims = kept_claims(document);
        let mut issuers = BTreeMap::new();
        for (name, written) in &document.issuers {
            let draft = Draft {
                name,
                written,
                directory: context.directory,
                kept_claims: &kept_claims,
                previous: previous.and_then(|previous| previous.issuers.get(name)),
            };
            issuers.extend(draft.compile(findings).map(|issuer| (name.clone(), issuer)));
        }
        let place = &document.api_key_in;
        let key_header = HeaderName::try_from(&place.header).ok();
        if key_header.as_ref().is_none_or(|name| *name == http::header::AUTHORIZATION) {
            findings.general_error(
                "api_key_in.header",
                "a header's name, and not authorization: that is for tokens",
            );
        }
        if place.query.as_ref().is_some_and(String::is_empty) {
            findings.general_error("api_key_in.query", "a parameter's name");
        }
        Self {
            keys: ApiKeys::compile(&document.api_keys, findings),
            key_header,
            key_query: place.query.clone(),
            issuers,
            verdicts: previous.map(|previous| previous.verdicts.clone()).unwrap_or_default(),
        }
    }

    /// Begins to fetch key sets on the runtime of the background. To be called for each snapshot that is published;
    /// what is fetched already goes on.
    pub fn start(&self, runtime: &Handle) {
        self.issuers.values().filter_map(|issuer| issuer.fetched()).for_each(|set| set.start(runtime));
    }

    /// Issuers whose keys have not been fetched yet: until there is none, the gateway is not ready.
    pub fn waiting_for(&self) -> Vec<&str> {
        let waits = |issuer: &&Arc<Issuer>| issuer.keys().is_none();
        self.issuers.values().filter(waits).map(|issuer| &*issuer.name).collect()
    }

    /// Verdicts on tokens, and their counters.
    pub fn verdicts(&self) -> &VerdictCache {
        &self.verdicts
    }

    /// Fetches of key sets that failed, by issuer.
    pub fn fetch_failures(&self) -> impl Iterator<Item = (&str, u64)> {
        self.issuers.values().filter_map(|issuer| Some((&*issuer.name, issuer.fetched()?.failures())))
    }

    fn check_key(&self, presented: &[u8], now: Now) -> Result<Identity, AuthError> {
        match self.keys.check(presented, now.s) {
            Ok(grant) => Ok(Identity::of(grant, None)),
            Err(KeyError::Unknown) => Err(AuthError::UnknownKey),
            Err(KeyError::Expired) => Err(AuthError::ExpiredKey),
        }
    }

    /// Checks a token of one of these issuers.
    async fn check_token(
        &self,
        text: &str,
        issuers: &[Arc<Issuer>],
        now: Now,
    ) -> Result<Identity, AuthError> {
        if issuers.iter().all(|issuer| text.len() > issuer.rules.token_bytes) {
            return Err(TokenError::Size.into());
        }
        for issuer in issuers {
            let Some(keys) = issuer.keys() else { continue };
            let key = VerdictCache::key(text, issuer.number, keys.generation);
            if let Some(grant) = self.verdicts.get(&key, now.ns, now.s) {
                return Ok(Identity::of(grant, Some(issuer.name.clone())));
            }
        }
        self.verdicts.missed();
        let token = Token::parse(text)?;
        let named = |issuer: &&Arc<Issuer>| token.issuer() == Some(issuer.rules.issuer.as_str());
        let issuer = issuers.iter().find(named).ok_or(TokenError::Issuer)?;
        if text.len() > issuer.rules.token_bytes {
            return Err(TokenError::Size.into());
        }
        let (verified, generation) = issuer.verify(&token, now.s).await?;
        let key = VerdictCache::key(text, issuer.number, generation);
        self.verdicts.insert(key, &verified, now.ns);
        Ok(Identity::of(verified.grant, Some(issuer.name.clone())))
    }
}

/// Claims by which some rate limit counts.
fn kept_claims(document: &Document) -> Vec<String> {
    let keys = document.rates.values().map(|rate| &rate.value.key.value);
    let mut claims: Vec<_> = keys.filter_map(|key| key.strip_prefix("claim:")).map(str::to_owned).collect();
    claims.sort();
    claims.dedup();
    claims
}

impl Identity {
    fn of(grant: Arc<Grant>, issuer: Option<Arc<str>>) -> Self {
        Self { consumer: grant.consumer.clone(), issuer, grant: Some(grant) }
    }

    /// Whether nobody asks in particular.
    pub fn is_anonymous(&self) -> bool {
        self.grant.is_none()
    }

    /// Whether the caller may do this.
    pub fn has_scope(&self, scope: &str) -> bool {
        self.grant.as_ref().is_some_and(|grant| grant.scopes.iter().any(|granted| **granted == *scope))
    }

    /// A claim by which some rate limit counts.
    pub fn claim(&self, name: &str) -> Option<&str> {
        let claims = &self.grant.as_ref()?.claims;
        claims.iter().find(|(known, _)| **known == *name).map(|(_, value)| &**value)
    }
}

impl AuthError {
    /// One word for logs and metrics; stable.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Missing => "credential_missing",
            Self::Ambiguous => "credential_ambiguous",
            Self::UnknownKey => "key_unknown",
            Self::ExpiredKey => "key_expired",
            Self::NotBearer => "not_bearer",
            Self::Token(error) => error.reason(),
            Self::KeySetUnavailable => "key_set_unavailable",
        }
    }
}

/// Only this stage makes it.
#[derive(Debug)]
struct Proof;
