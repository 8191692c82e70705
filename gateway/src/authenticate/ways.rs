//! A route's ways in: where credentials are looked for, which are kept from services, and what is asked of callers
//! that have none (`WWW-Authenticate`, RFC 9110, section 11.6.1, and RFC 6750).

use std::{borrow::Cow, sync::Arc};

use http::{
    HeaderMap, HeaderName, HeaderValue, Uri, header::AUTHORIZATION, request::Parts, uri::PathAndQuery,
};

use super::{AuthError, Credentials, Identity, Now, issuer::Issuer};
use crate::{compile::routes::Scene, config::Spanned};

/// The name of what is protected, in challenges.
pub const REALM: &str = "api";

/// A route's ways in.
#[derive(Default)]
pub struct Ways {
    /// In the order in which they are tried.
    ways: Vec<Way>,
    /// The issuers among them.
    issuers: Vec<Arc<Issuer>>,
    /// Where an API key is looked for; nowhere if that is no way in.
    key_header: Option<HeaderName>,
    key_query: Option<String>,
    credentials: Arc<Credentials>,
    challenges: Option<Challenges>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    ApiKey,
    /// By any of the issuers.
    Token,
    Anonymous,
}

struct Challenges {
    missing: HeaderValue,
    invalid_token: HeaderValue,
}

impl Ways {
    /// Compiles a route's ways in.
    pub fn compile(
        written: &Spanned<Vec<String>>,
        credentials: &Arc<Credentials>,
        scene: &mut Scene<'_>,
    ) -> Self {
        let mut compiled = Self { credentials: credentials.clone(), ..Self::default() };
        let list = &written.value;
        if list.is_empty() {
            scene.error(written, "authenticate", "api-key, jwt:ISSUER, or anonymous if everybody may come");
        }
        for (index, name) in list.iter().enumerate() {
            if list[..index].contains(name) {
                scene.error(written, "authenticate", format!("{name} stands here twice"));
            }
            if name == "anonymous" && index + 1 < list.len() {
                scene.error(written, "authenticate", "anonymous comes last: nothing after it is ever tried");
            }
            match compiled.way(name) {
                Ok(way) if compiled.ways.contains(&way) => {}
                Ok(way) => compiled.ways.push(way),
                Err(rule) => scene.error(written, "authenticate", rule),
            }
        }
        compiled.challenges = compiled.write_challenges();
        compiled
    }

    fn way(&mut self, name: &str) -> Result<Way, String> {
        if name == "anonymous" {
            return Ok(Way::Anonymous);
        }
        if name == "api-key" {
            self.key_header.clone_from(&self.credentials.key_header);
            self.key_query.clone_from(&self.credentials.key_query);
            let there = !self.credentials.keys.is_empty();
            return if there { Ok(Way::ApiKey) } else { Err("api_keys has none".into()) };
        }
        let Some(issuer) = name.strip_prefix("jwt:") else {
            return Err(format!("{name} is no way in: write api-key, jwt:ISSUER or anonymous"));
        };
        let Some(issuer) = self.credentials.issuers.get(issuer) else {
            return Err(format!("no issuer has the name {issuer}"));
        };
        if self.issuers.iter().any(|other| other.rules.issuer == issuer.rules.issuer) {
            return Err(format!("two issuers of the route have the claim iss {}", issuer.rules.issuer));
        }
        self.issuers.push(issuer.clone());
        Ok(Way::Token)
    }

    /// Whether a header carries a credential of these ways, which is not sent on.
    pub fn is_credential(&self, name: &HeaderName) -> bool {
        self.key_header.as_ref() == Some(name) || (!self.issuers.is_empty() && *name == AUTHORIZATION)
    }

    /// A query without the parameter that carries a credential of these ways; the query itself where it stays.
    pub fn without_credential<'q>(&self, query: &'q str, forward: bool) -> Cow<'q, str> {
        match &self.key_query {
            Some(name) if !forward && parameters(query, name).next().is_some() => {
                let kept = |part: &&str| !is_named(part, name);
                query.split('&').filter(kept).collect::<Vec<_>>().join("&").into()
            }
            _ => query.into(),
        }
    }

    /// Takes an API key out of what will be logged.
    pub fn hide_credential(&self, uri: &mut Uri) {
        let Some(Cow::Owned(query)) = uri.query().map(|query| self.without_credential(query, false)) else {
            return;
        };
        let target = if query.is_empty() { uri.path().to_owned() } else { format!("{}?{query}", uri.path()) };
        if let Ok(target) = PathAndQuery::try_from(target) {
            *uri = target.into();
        }
    }

    /// Who asks, by the first way for which there is a credential.
    ///
    /// # Errors
    /// [`AuthError`].
    pub async fn identify(&self, head: &Parts, now: Now) -> Result<Identity, AuthError> {
        // Both are looked for before either is tried: what is ambiguous stays so in whatever order.
        let key = self.presented_key(head)?;
        let token = if self.issuers.is_empty() { None } else { only(&head.headers, &AUTHORIZATION)? };
        for way in &self.ways {
            match way {
                Way::ApiKey => {
                    if let Some(key) = &key {
                        return self.credentials.check_key(key, now);
                    }
                }
                Way::Token => {
                    if let Some(value) = token {
                        let text = bearer(value)?;
                        return Box::pin(self.credentials.check_token(text, &self.issuers, now)).await;
                    }
                }
                Way::Anonymous => return Ok(Identity::default()),
            }
        }
        Err(AuthError::Missing)
    }

    fn presented_key<'h>(&self, head: &'h Parts) -> Result<Option<Cow<'h, [u8]>>, AuthError> {
        let Some(name) = &self.key_header else { return Ok(None) };
        let header = only(&head.headers, name)?.map(|value| Cow::Borrowed(value.as_bytes()));
        let Some(name) = &self.key_query else { return Ok(header) };
        let mut found = header.into_iter().chain(parameters(head.uri.query().unwrap_or_default(), name));
        match (found.next(), found.next()) {
            (found, None) => Ok(found),
            (_, Some(_)) => Err(AuthError::Ambiguous),
        }
    }

    /// `WWW-Authenticate` for a caller that is not known.
    pub fn challenge(&self, error: AuthError) -> HeaderValue {
        let challenges = self.challenges.as_ref();
        let value = challenges.map(|challenges| match error {
            AuthError::Token(_) => &challenges.invalid_token,
            // RFC 6750, section 3.1: another scheme is as good as none, and no error of a token.
            AuthError::NotBearer
            | AuthError::Missing
            | AuthError::Ambiguous
            | AuthError::UnknownKey
            | AuthError::ExpiredKey
            | AuthError::KeySetUnavailable => &challenges.missing,
        });
        value.cloned().unwrap_or(HeaderValue::from_static("Bearer realm=\"api\""))
    }

    fn write_challenges(&self) -> Option<Challenges> {
        let list = |parameters: &str| {
            let mut challenges = Vec::new();
            for way in &self.ways {
                match (way, &self.key_header) {
                    (Way::ApiKey, Some(header)) => {
                        challenges.push(format!("ApiKey realm=\"{REALM}\", header=\"{header}\""));
                    }
                    (Way::Token, _) => challenges.push(format!("Bearer realm=\"{REALM}\"{parameters}")),
                    _ => {}
                }
            }
            HeaderValue::try_from(challenges.join(", ")).ok()
        };
        Some(Challenges { missing: list("")?, invalid_token: list(", error=\"invalid_token\"")? })
    }
}

/// The only value of a header, if there is one.
fn only<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Result<Option<&'h HeaderValue>, AuthError> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (value, None) => Ok(value),
        (_, Some(_)) => Err(AuthError::Ambiguous),
    }
}

/// The token of `Bearer TOKEN` (RFC 6750, section 2.1).
fn bearer(value: &HeaderValue) -> Result<&str, AuthError> {
    let text = value.to_str().map_err(|_| AuthError::NotBearer)?;
    let (scheme, token) = text.split_once(' ').ok_or(AuthError::NotBearer)?;
    let token = token.trim_matches(' ');
    let fits = scheme.eq_ignore_ascii_case("bearer") && !token.is_empty();
    if fits { Ok(token) } else { Err(AuthError::NotBearer) }
}

/// The values of the parameters of this name.
fn parameters<'q>(query: &'q str, name: &str) -> impl Iterator<Item = Cow<'q, [u8]>> {
    let named = move |part: &&str| is_named(part, name);
    query.split('&').filter(named).map(|part| decoded(part.split_once('=').map_or("", |(_, value)| value)))
}

/// Whether a part of a query, between two `&`, has this name.
pub fn is_named(part: &str, name: &str) -> bool {
    *decoded(part.split_once('=').map_or(part, |(name, _)| name)) == *name.as_bytes()
}

/// Percent-decoding; what is no encoding stays as it is.
fn decoded(text: &str) -> Cow<'_, [u8]> {
    if !text.contains('%') {
        return text.as_bytes().into();
    }
    let (bytes, mut out, mut at) = (text.as_bytes(), Vec::with_capacity(text.len()), 0);
    while let Some(byte) = bytes.get(at) {
        let digit = |offset: usize| bytes.get(at + offset).and_then(|digit| char::from(*digit).to_digit(16));
        match (byte, digit(1), digit(2)) {
            (b'%', Some(high), Some(low)) => {
                out.push((high * 16 + low) as u8);
                at += 3;
            }
            _ => {
                out.push(*byte);
                at += 1;
            }
        }
    }
    out.into()
}
