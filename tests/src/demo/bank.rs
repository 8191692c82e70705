//! The bank: what the app asks for, what it must get to the byte, and what is refused.

use std::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use anyhow::{Result, ensure};

use crate::{
    demo::stage::Stage,
    http::{Answer, Ask},
    load::Script,
    token::Issuer,
};

/// As the example files have them.
const ISSUER: &str = "https://login.bank.example";
const AUDIENCE: &str = "bank-app";
const SCOPE: &str = "accounts:read";
/// Longer than any story.
const TOKEN_LIFETIME: Duration = Duration::from_secs(24 * 3600);
/// The first account; each customer of the load has the next one.
const FIRST_ACCOUNT: usize = 4711;
/// Calls at once by one customer: twice the burst of the example files.
const HASTY_CALLS: usize = 80;

/// Customers with a token each, and how whole their answers were.
pub struct Bank {
    issuer: Issuer,
    tokens: Vec<String>,
    /// Whether a partial answer is good enough at the moment.
    partial_allowed: AtomicBool,
    whole: AtomicU64,
    partial: AtomicU64,
}

impl Bank {
    /// An issuer of its own and so many customers.
    pub fn new(customers: usize) -> Result<Self> {
        let issuer = Issuer::new(ISSUER, AUDIENCE)?;
        let token = |index| issuer.token(&format!("customer-{index}"), SCOPE, TOKEN_LIFETIME);
        let tokens = (0..customers).map(token).collect::<Result<_>>()?;
        let (whole, partial) = (AtomicU64::new(0), AtomicU64::new(0));
        Ok(Self { issuer, tokens, partial_allowed: AtomicBool::new(false), whole, partial })
    }

    /// The file that the gateways read: its name beside their configuration, and its content.
    pub fn keys(&self) -> Result<(&'static str, String)> {
        Ok(("jwks.json", self.issuer.jwks()?))
    }

    /// A token that is good everywhere, for people.
    pub fn token(&self, subject: &str) -> Result<String> {
        self.issuer.token(subject, SCOPE, TOKEN_LIFETIME)
    }

    /// From now on answers without the rates are good, or not.
    pub fn allow_partial(&self, allowed: bool) {
        self.partial_allowed.store(allowed, Relaxed);
    }

    /// Whole and partial answers so far.
    pub fn answers(&self) -> (u64, u64) {
        (self.whole.load(Relaxed), self.partial.load(Relaxed))
    }
}

impl Script for Bank {
    fn ask(&self, worker: usize) -> Ask {
        let token = &self.tokens[worker % self.tokens.len()];
        Ask::get(path(FIRST_ACCOUNT + worker)).with("authorization", format!("Bearer {token}"))
    }

    fn judge(&self, worker: usize, _: &Ask, answer: &Answer) -> Result<(), String> {
        let account = FIRST_ACCOUNT + worker;
        let body = String::from_utf8_lossy(&answer.body);
        if body == whole_answer(account) {
            self.whole.fetch_add(1, Relaxed);
            return Ok(());
        }
        if self.partial_allowed.load(Relaxed) && is_partial(account, &body) {
            self.partial.fetch_add(1, Relaxed);
            return Ok(());
        }
        Err(format!("not the answer of account {account}: {body}"))
    }
}

/// Path of an account's overview.
pub fn path(account: usize) -> String {
    format!("/v1/accounts/{account}/overview")
}

/// What the app wants, made of three services' answers: to the byte, amounts that no double holds included.
fn whole_answer(account: usize) -> String {
    let beginning = without_rates(account);
    format!(
        "{beginning},\"exchange\":{{\"base\":\"EUR\",\"quotes\":\
         {{\"CHF\":0.9300,\"JPY\":163.270000000000000001,\"USD\":1.08170}}}}}}"
    )
}

fn without_rates(account: usize) -> String {
    format!(
        "{{\"account\":{{\"id\":\"{account}\",\"owner\":\"Ada Muster\",\"balance\":1234567890123456.78,\
         \"currency\":\"EUR\"}},\"transactions\":[{{\"id\":\"{account}-3\",\"amount\":-0.10,\
         \"text\":\"Coffee\"}},{{\"id\":\"{account}-2\",\"amount\":-1234567890123456.79,\"text\":\"House\"}},\
         {{\"id\":\"{account}-1\",\"amount\":2469135780246913.57,\"text\":\"Lottery\"}}]"
    )
}

/// The rates are missing, everything else is there to the byte, and the answer says what is missing.
fn is_partial(account: usize, body: &str) -> bool {
    let note = body.strip_prefix(&without_rates(account)).and_then(|rest| rest.strip_prefix(','));
    note.is_some_and(|note| note.starts_with("\"_partial\":") && note.contains("\"rates\""))
}

/// Who is refused, and what an accepted caller gets; with curl, on connections of its own.
pub fn prove(stage: &Stage, bank: &Bank, mut say: impl FnMut(&str)) -> Result<()> {
    let bearer = |token: &str| format!("authorization: Bearer {token}");
    let account = FIRST_ACCOUNT + 1_000;
    let asked = |headers: &[&str]| stage.curl(&path(account), headers);

    let reply = asked(&[])?;
    ensure!(reply.status == 401, "without a token: {reply:?}");
    ensure!(reply.header("www-authenticate").is_some(), "401 names no way in: {reply:?}");
    let other = Issuer::new(ISSUER, AUDIENCE)?.token("mallory", SCOPE, TOKEN_LIFETIME)?;
    let reply = asked(&[&bearer(&other)])?;
    ensure!(reply.status == 401, "a token of another key: {reply:?}");
    say("  curl without a token, or with one that another key signed: 401");

    let poor = bank.issuer.token("teller", "rates:read", TOKEN_LIFETIME)?;
    let reply = asked(&[&bearer(&poor)])?;
    ensure!(reply.status == 403, "without the scope: {reply:?}");
    say("  curl with a token for another scope: 403");

    let reply = asked(&[&bearer(&bank.token("curl")?)])?;
    ensure!(reply.status == 200 && reply.body == whole_answer(account), "not the whole answer: {reply:?}");
    say(&format!("  curl with a token: {}", reply.body));

    let hasty = bearer(&bank.token("hasty")?);
    let query = format!("{}?call=[1-{HASTY_CALLS}]", path(account));
    let replies = stage.curl_all(&query, &[&hasty])?;
    let (good, refused): (Vec<_>, Vec<_>) = replies.iter().partition(|reply| reply.status == 200);
    ensure!(replies.len() == HASTY_CALLS && !good.is_empty() && !refused.is_empty(), "{replies:?}");
    for reply in &refused {
        let pause = reply.header("retry-after").and_then(|value| value.parse::<u32>().ok());
        ensure!(reply.status == 429 && pause.is_some(), "too fast: {reply:?}");
    }
    say(&format!(
        "  one customer calls {HASTY_CALLS} times at once: {} × 200, {} × 429 with Retry-After",
        good.len(),
        refused.len()
    ));
    Ok(())
}
