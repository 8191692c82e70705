//! Whether the caller may do this: scopes.

use http::HeaderValue;

use crate::{
    authenticate::{Authenticated, Identity, ways::REALM},
    compile::routes::Scene,
    config::{Spanned, route::ScopesDocument},
    error::Refusal,
    route::Routed,
};

/// What a route asks for: every one of `all`, and one of `any` if there are some.
#[derive(Clone, Debug, Default)]
pub struct Scopes {
    all: Vec<Box<str>>,
    any: Vec<Box<str>>,
    /// `WWW-Authenticate` for those who lack one.
    challenge: Option<HeaderValue>,
}

/// A request that its caller may make.
pub struct Permitted {
    /// The request.
    pub routed: Routed,
    /// Who asks.
    pub identity: Identity,
    _proof: Proof,
}

/// What [`is_scope`] asks for.
pub const SCOPE_RULE: &str = "a scope is a word without spaces, quotes and backslashes";

/// Whether a text is a scope (RFC 6749, section 3.3).
pub fn is_scope(text: &str) -> bool {
    let fits = |byte: u8| matches!(byte, 0x21 | 0x23..=0x5b | 0x5d..=0x7e);
    !text.is_empty() && text.bytes().all(fits)
}

/// Checks the scopes.
///
/// # Errors
/// [`Refusal::Forbidden`].
pub fn authorise(authenticated: Authenticated) -> Result<Permitted, Refusal> {
    let Authenticated { routed, identity, .. } = authenticated;
    let scopes = &routed.route.scopes;
    if scopes.admit(&identity) {
        Ok(Permitted { routed, identity, _proof: Proof })
    } else {
        let plain = HeaderValue::from_static("Bearer error=\"insufficient_scope\"");
        Err(Refusal::Forbidden { challenge: scopes.challenge.clone().unwrap_or(plain) })
    }
}

impl Scopes {
    /// Compiles what a route asks for.
    pub fn compile(written: &ScopesDocument, ways: &Spanned<Vec<String>>, scene: &mut Scene<'_>) -> Self {
        for (name, list) in [("scopes.all", &written.all), ("scopes.any", &written.any)] {
            for scope in list.iter().filter(|scope| !is_scope(&scope.value)) {
                scene.error(scope, name, SCOPE_RULE);
            }
        }
        let first = written.all.iter().chain(&written.any).next();
        if let Some(scope) = first.filter(|_| ways.value.iter().any(|way| way == "anonymous")) {
            scene.error(
                scope,
                "scopes",
                "anonymous callers have no scopes: take anonymous out of authenticate",
            );
        }
        let copy = |list: &[Spanned<String>]| list.iter().map(|scope| scope.value.as_str().into()).collect();
        let mut scopes = Self { all: copy(&written.all), any: copy(&written.any), challenge: None };
        let scheme = if ways.value.iter().any(|way| way.starts_with("jwt:")) { "Bearer" } else { "ApiKey" };
        scopes.challenge = scopes.write_challenge(scheme);
        scopes
    }

    /// Whether the caller has what is asked for.
    pub fn admit(&self, identity: &Identity) -> bool {
        let all = self.all.iter().all(|scope| identity.has_scope(scope));
        all && (self.any.is_empty() || self.any.iter().any(|scope| identity.has_scope(scope)))
    }

    fn write_challenge(&self, scheme: &str) -> Option<HeaderValue> {
        let scopes: Vec<&str> = self.all.iter().chain(&self.any).map(|scope| &**scope).collect();
        let list = scopes.join(" ");
        let text = format!("{scheme} realm=\"{REALM}\", error=\"insufficient_scope\", scope=\"{list}\"");
        HeaderValue::try_from(text).ok()
    }
}

/// Only this stage makes it.
#[derive(Debug)]
struct Proof;
