//! The stage: every limit of the route must admit the request.
//!
//! Limits are asked in the route's order. One that refuses ends the request; those before it have counted it.
//! A request that lacks what a limit counts by (no consumer, no such claim or header) shares one bucket with all
//! others of its kind: nobody is unlimited by leaving something out.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, header::RETRY_AFTER};

use super::{
    Decision, Limiter,
    gcra::{PerPeriod, Rate},
    table::CAPACITY_DEFAULT,
};
use crate::{
    authenticate::Identity,
    authorise::Permitted,
    clock,
    compile::{Context, routes::Scene},
    config::{Document, Findings, Spanned, document::Behind, rates::RateDocument},
    error::Refusal,
    record::Record,
    route::Routed,
};

const RATE_LIMIT: &str = "ratelimit";
const RATE_LIMIT_POLICY: &str = "ratelimit-policy";

/// The most keys that a limit tells apart: 24 bytes each.
const KEYS_MAX: u32 = 10_000_000;

/// A route's limits.
#[derive(Default)]
pub struct RouteLimits {
    rules: Vec<Rule>,
}

struct Rule {
    name: Box<str>,
    key: Key,
    limiter: Arc<Limiter>,
}

/// What a limit counts by.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Key {
    Consumer,
    Claim(String),
    Address,
    Header(HeaderName),
    Route,
    All,
}

/// Leave to call upstreams; only [`limit`] gives it.
#[derive(Debug)]
pub struct Permit {
    /// What the answer says of the limits.
    pub headers: Vec<(&'static str, HeaderValue)>,
    _proof: Proof,
}

impl Permit {
    /// Leave to send a copy of the request that this one is for.
    pub fn for_copy(&self) -> Self {
        Self { headers: Vec::new(), _proof: Proof }
    }
}

/// A limit that refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exceeded {
    rule: String,
    headers: HeaderMap,
}

/// A request that may call upstreams.
pub struct Admitted {
    /// The request.
    pub routed: Routed,
    /// Who asks.
    pub identity: Identity,
    /// Leave to call upstreams.
    pub permit: Permit,
}

/// Asks every limit of the route.
///
/// # Errors
/// [`Refusal::RateLimited`].
pub fn limit(permitted: Permitted, record: &mut Record) -> Result<Admitted, Refusal> {
    let Permitted { routed, identity, .. } = permitted;
    let rules = &routed.route.limits.rules;
    if rules.is_empty() {
        return Ok(Admitted { routed, identity, permit: Permit { headers: Vec::new(), _proof: Proof } });
    }
    let now_ns = clock::since_origin(record.begun);
    let asker = Asker {
        identity: &identity,
        address: routed.request.peer.address.ip(),
        headers: &routed.request.head.headers,
        route: &routed.route.name,
    };
    let mut said = Said::default();
    for rule in rules {
        let decision = rule.take(&asker, now_ns);
        said.add(rule.limiter.policy_header(), rule.limiter.rate_limit_header(&decision));
        if let Some(retry_after) = decision.retry_after_header() {
            return Err(Refusal::RateLimited(Box::new(Exceeded::new(&rule.name, said, retry_after))));
        }
    }
    Ok(Admitted { routed, identity, permit: Permit { headers: said.headers().collect(), _proof: Proof } })
}

/// What the limits so far say: one list each, as RFC 9651 writes lists.
#[derive(Default)]
struct Said {
    policy: Option<HeaderValue>,
    left: Option<HeaderValue>,
}

impl Said {
    fn add(&mut self, policy: &HeaderValue, left: HeaderValue) {
        self.policy = Some(listed(self.policy.take(), policy.clone()));
        self.left = Some(listed(self.left.take(), left));
    }

    fn headers(self) -> impl Iterator<Item = (&'static str, HeaderValue)> {
        let policy = self.policy.map(|policy| (RATE_LIMIT_POLICY, policy));
        policy.into_iter().chain(self.left.map(|left| (RATE_LIMIT, left)))
    }
}

fn listed(list: Option<HeaderValue>, item: HeaderValue) -> HeaderValue {
    let Some(list) = list else { return item };
    let joined = [list.as_bytes(), b", ", item.as_bytes()].concat();
    HeaderValue::from_maybe_shared(Bytes::from(joined)).unwrap_or(list)
}

/// All limits by name; those of the snapshot before go on counting where rate, burst and size are the same.
pub fn compile(
    document: &Document,
    context: Context<'_>,
    findings: &mut Findings,
) -> BTreeMap<String, Arc<Limiter>> {
    let mut limiters = BTreeMap::new();
    for (name, written) in &document.rates {
        let previous = context.previous.and_then(|previous| previous.limiters.get(name));
        let Some((rate, capacity)) = rate(name, &written.value, document, findings) else { continue };
        if let Some(previous) = previous
            && *previous.rate() == rate
            && previous.capacity() == capacity
        {
            limiters.insert(name.clone(), previous.clone());
            continue;
        }
        match Limiter::new(name, rate, capacity) {
            Ok(limiter) => drop(limiters.insert(name.clone(), Arc::new(limiter))),
            Err(error) => findings.error(written, format!("rates.{name}"), error.to_string()),
        }
    }
    limiters
}

fn rate(
    name: &str,
    written: &RateDocument,
    document: &Document,
    findings: &mut Findings,
) -> Option<(Rate, usize)> {
    let field = |part: &str| format!("rates.{name}.{part}");
    let per = written.rate.value.parse::<PerPeriod>();
    let rate = per.and_then(|per| Rate::new(per, written.burst.value));
    if let Err(error) = &rate {
        findings.error(&written.rate, field("rate"), error.to_string());
    }
    match Key::parse(&written.key.value) {
        Err(rule) => findings.error(&written.key, field("key"), rule),
        Ok(Key::Address) if document.behind.value == Behind::FullNat => {
            let rule = "behind full-nat all clients have the balancer's addresses: they share this limit";
            findings.warning(&written.key, field("key"), rule);
        }
        Ok(_) => {}
    }
    let capacity = match &written.keys_max {
        None => CAPACITY_DEFAULT,
        Some(keys) if (1..=KEYS_MAX).contains(&keys.value) => keys.value as usize,
        Some(keys) => {
            findings.error(keys, field("keys_max"), format!("from 1 to {KEYS_MAX}"));
            return None;
        }
    };
    Some((rate.ok()?, capacity))
}

impl RouteLimits {
    /// Compiles a route's limits.
    pub fn compile(
        written: &[Spanned<String>],
        limiters: &BTreeMap<String, Arc<Limiter>>,
        document: &Document,
        scene: &mut Scene<'_>,
    ) -> Self {
        let mut rules: Vec<Rule> = Vec::new();
        for name in written {
            let Some(rate) = document.rates.get(&name.value) else {
                scene.error(name, "rates", format!("no rate has the name {}", name.value));
                continue;
            };
            if rules.iter().any(|rule| *rule.name == *name.value) {
                scene.error(name, "rates", format!("{} stands here twice: it would count twice", name.value));
            }
            // A rate that is in error was found when it was compiled itself.
            let (Some(limiter), Ok(key)) = (limiters.get(&name.value), Key::parse(&rate.value.key.value))
            else {
                continue;
            };
            rules.push(Rule { name: name.value.as_str().into(), key, limiter: limiter.clone() });
        }
        Self { rules }
    }
}

/// What keys are made of.
struct Asker<'a> {
    identity: &'a Identity,
    address: IpAddr,
    headers: &'a HeaderMap,
    route: &'a str,
}

impl Rule {
    fn take(&self, asker: &Asker<'_>, now_ns: u64) -> Decision {
        let mut key = KeyBytes::default();
        if self.key.write(asker, &mut key) {
            self.limiter.take(key.bytes(), now_ns)
        } else {
            self.limiter.take_without_key(now_ns)
        }
    }
}

impl Key {
    fn parse(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            None if text == "consumer" => Ok(Self::Consumer),
            None if text == "address" => Ok(Self::Address),
            None if text == "route" => Ok(Self::Route),
            None if text == "all" => Ok(Self::All),
            Some(("claim", name)) if !name.is_empty() => Ok(Self::Claim(name.into())),
            Some(("header", name)) => HeaderName::try_from(name)
                .map(Self::Header)
                .map_err(|_| format!("{name} is no header's name")),
            _ => Err("consumer, claim:NAME, address, header:NAME, route or all".into()),
        }
    }

    /// Writes the key; false if the request has none.
    ///
    /// Keys of a limit are all of one kind, so that the kind need not be part of them.
    fn write(&self, asker: &Asker<'_>, key: &mut KeyBytes) -> bool {
        let issuer = || asker.identity.issuer.as_deref().unwrap_or_default().as_bytes();
        match self {
            // Two issuers may give one name to different people. No name of an issuer has a zero byte (YAML).
            Self::Consumer => match &asker.identity.consumer {
                Some(consumer) => key.push(issuer()).push(&[0]).push(consumer.as_bytes()),
                None => return false,
            },
            Self::Claim(name) => match asker.identity.claim(name) {
                Some(value) => key.push(issuer()).push(&[0]).push(value.as_bytes()),
                None => return false,
            },
            Self::Header(name) => {
                let mut values = asker.headers.get_all(name).iter();
                match (values.next(), values.next()) {
                    (Some(value), None) => key.push(value.as_bytes()),
                    // Several values would be as many keys as there are ways to write them.
                    _ => return false,
                }
            }
            Self::Address => match asker.address.to_canonical() {
                IpAddr::V4(address) => key.push(&address.octets()),
                // A household has a /64 at least, and could otherwise have a bucket for each of its addresses.
                IpAddr::V6(address) => key.push(&address.octets()[..8]),
            },
            Self::Route => key.push(asker.route.as_bytes()),
            Self::All => key,
        };
        true
    }
}

/// A key while it is written: on the stack, unless it is long.
struct KeyBytes {
    short: [u8; 96],
    length: usize,
    long: Vec<u8>,
}

impl Default for KeyBytes {
    fn default() -> Self {
        Self { short: [0; 96], length: 0, long: Vec::new() }
    }
}

impl KeyBytes {
    fn push(&mut self, bytes: &[u8]) -> &mut Self {
        let end = self.length + bytes.len();
        if self.long.is_empty() && end <= self.short.len() {
            self.short[self.length..end].copy_from_slice(bytes);
        } else {
            if self.long.is_empty() {
                self.long.extend_from_slice(&self.short[..self.length]);
            }
            self.long.extend_from_slice(bytes);
        }
        self.length = end;
        self
    }

    fn bytes(&self) -> &[u8] {
        if self.long.is_empty() { &self.short[..self.length] } else { &self.long }
    }
}

impl Exceeded {
    fn new(rule: &str, said: Said, retry_after: HeaderValue) -> Self {
        let mut headers = HeaderMap::with_capacity(3);
        for (name, value) in said.headers() {
            headers.insert(name, value);
        }
        headers.insert(RETRY_AFTER, retry_after);
        Self { rule: rule.to_owned(), headers }
    }

    /// The limit's name.
    pub fn rule(&self) -> &str {
        &self.rule
    }

    /// `RateLimit`, `RateLimit-Policy` and `Retry-After` of the answer.
    pub fn headers(&self) -> &HeaderMap {
        &self.headers
    }
}

/// Only this stage makes it.
#[derive(Debug)]
struct Proof;
