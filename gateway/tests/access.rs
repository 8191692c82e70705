//! Who is let in, with real clients, services and issuers: challenges, credentials that stay here, rate limits and what
//! they count by, keys of issuers at a URL.

use std::{
    net::{IpAddr, SocketAddr},
    path::Path,
    time::{Duration, Instant},
};

use axum::{
    Router,
    http::{HeaderMap, Uri},
};
use gateway::{
    authenticate::api_key::{digest_of, write_digest},
    compile::{self, Context},
    config,
    run::Running,
};
use issuer::{KeyServer, Signer};
use serde_json::json;
use tokio::{net::TcpListener, time::sleep};

/// Longer than anything here takes; only a defect lets it pass.
const PATIENCE: Duration = Duration::from_secs(20);

#[path = "access/issuer.rs"]
mod issuer;

/// Names and values.
type Headers<'a> = &'a [(&'a str, &'a str)];

/// A gateway in front of a service that answers with what it was sent.
struct Stage {
    running: Running,
    client: reqwest::Client,
}

const KEYS: &str = "api_key_in: { query: key }\napi_keys:\n";

impl Stage {
    /// `routes`: lists of a path and the rest of the route.
    async fn set(settings: &str, routes: &[(&str, &str)]) -> Self {
        let service = echo().await;
        let holder = |name: &str| {
            let digest = write_digest(&digest_of(format!("{name}-key").as_bytes()));
            format!("  - {{ name: {name}, digest: '{digest}', scopes: [read] }}\n")
        };
        let mut text = format!("{KEYS}{}{}{settings}", holder("ann"), holder("bob"));
        text += "listen: ['127.0.0.1:0']\nworkers: 2\naccess_log: off\n";
        text += &format!("upstreams: {{ echo: {{ endpoints: ['{service}'] }} }}\nroutes:\n");
        for (name, rest) in routes {
            text += &format!("  - {{ name: {name}, path: /{name}, upstream: echo, {rest} }}\n");
        }
        let document = config::parse(&text).unwrap_or_else(|finding| panic!("{text}{finding}"));
        let context = Context { directory: Path::new("."), previous: None };
        let (snapshot, _) =
            compile::compile(&document, context).unwrap_or_else(|findings| panic!("{text}{findings}"));
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        Self { running: Running::start(snapshot).await.unwrap(), client }
    }

    async fn ask(&self, target: &str, headers: &[(&str, &str)]) -> reqwest::Response {
        self.ask_by(&self.client, target, headers).await
    }

    async fn ask_by(
        &self,
        client: &reqwest::Client,
        target: &str,
        headers: &[(&str, &str)],
    ) -> reqwest::Response {
        let mut request = client.get(format!("http://{}{target}", self.running.addresses[0]));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.timeout(PATIENCE).send().await.unwrap()
    }

    async fn status(&self, target: &str, headers: &[(&str, &str)]) -> u16 {
        self.ask(target, headers).await.status().as_u16()
    }

    /// The key sets are there.
    async fn ready(&self) {
        eventually("ready", async || self.running.shared.is_ready()).await;
    }

    async fn end(self) {
        tokio::task::spawn_blocking(|| self.running.end()).await.unwrap().unwrap();
    }
}

async fn echo() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let shown = |uri: Uri, headers: HeaderMap| async move { format!("{uri} {headers:?}") };
    tokio::spawn(async move { axum::serve(listener, Router::new().fallback(shown)).await });
    address
}

async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let begun = Instant::now();
    while !holds().await {
        assert!(begun.elapsed() < PATIENCE, "{what}");
        sleep(Duration::from_millis(20)).await;
    }
}

fn header<'a>(response: &'a reqwest::Response, name: &str) -> &'a str {
    response.headers().get(name).map_or("", |value| value.to_str().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn callers_are_told_what_they_lack() {
    let signer = Signer::new("one");
    let keys = KeyServer::start(&[&signer]).await;
    let routes = [
        ("keys", "authenticate: [api-key]"),
        ("tokens", "authenticate: ['jwt:main']"),
        ("both", "authenticate: [api-key, 'jwt:main']"),
        ("open", "authenticate: [api-key, 'jwt:main', anonymous]"),
        ("key-scope", "authenticate: [api-key], scopes: { all: [write] }"),
        ("token-scope", "authenticate: ['jwt:main'], scopes: { all: [write], any: [a, b] }"),
    ];
    let stage = Stage::set(&keys.yaml("1h"), &routes).await;
    stage.ready().await;
    let good = signer.bearer(&json!({"sub": "eve", "scope": "write"}));
    let able = signer.bearer(&json!({"sub": "eve", "scope": "write b"}));
    let huge = signer.bearer(&json!({"sub": "eve", "pad": "x".repeat(7 << 10)}));
    let late = signer.bearer(&json!({"exp": 1}));
    let forged = Signer::new("one").bearer(&json!({}));
    let (key, bearer) = ("ApiKey realm=\"api\", header=\"x-api-key\"", "Bearer realm=\"api\"");
    let (both, invalid) = (format!("{key}, {bearer}"), "Bearer realm=\"api\", error=\"invalid_token\"");
    let both_invalid = format!("{key}, {invalid}");
    let lacks_key = "ApiKey realm=\"api\", error=\"insufficient_scope\", scope=\"write\"";
    let lacks = "Bearer realm=\"api\", error=\"insufficient_scope\", scope=\"write a b\"";
    let auth = "authorization";
    let table: &[(&str, Headers<'_>, u16, &str)] = &[
        ("/keys", &[], 401, key),
        ("/keys", &[("x-api-key", "wrong")], 401, key),
        ("/keys", &[(auth, &good)], 401, key),
        ("/keys", &[("x-api-key", "ann-key")], 200, ""),
        ("/keys?key=ann-key", &[], 200, ""),
        // RFC 6750, section 3.1: no error where there is no token.
        ("/tokens", &[], 401, bearer),
        ("/tokens", &[(auth, "Basic YTpi")], 401, bearer),
        ("/tokens", &[(auth, &forged)], 401, invalid),
        ("/tokens", &[(auth, &late)], 401, invalid),
        ("/tokens", &[(auth, "Bearer nonsense")], 401, invalid),
        // Signed as it should be, and larger than a token may be (8 KiB).
        ("/tokens", &[(auth, &huge)], 401, invalid),
        ("/tokens", &[(auth, &good)], 200, ""),
        ("/both", &[], 401, &both),
        ("/both", &[(auth, &forged)], 401, &both_invalid),
        ("/both", &[(auth, &good)], 200, ""),
        ("/open", &[], 200, ""),
        ("/open", &[("x-api-key", "wrong")], 401, &both),
        ("/open", &[("x-api-key", "wrong"), (auth, &good)], 401, &both),
        ("/open?key=wrong", &[], 401, &both),
        ("/open", &[(auth, &forged)], 401, &both_invalid),
        ("/open", &[(auth, &good), (auth, &good)], 400, ""),
        ("/open", &[("x-api-key", "ann-key"), ("x-api-key", "ann-key")], 400, ""),
        ("/open?key=ann-key", &[("x-api-key", "ann-key")], 400, ""),
        ("/key-scope", &[("x-api-key", "ann-key")], 403, lacks_key),
        ("/token-scope", &[(auth, &good)], 403, lacks),
        ("/token-scope", &[(auth, &able)], 200, ""),
    ];
    for (target, headers, status, challenge) in table {
        let got = stage.ask(target, headers).await;
        assert_eq!(got.status().as_u16(), *status, "{target} {headers:?}");
        if !challenge.is_empty() || *status == 200 {
            assert_eq!(header(&got, "www-authenticate"), *challenge, "{target} {headers:?}");
        }
    }
    stage.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_stay_here_unless_the_route_sends_them_on() {
    let signer = Signer::new("one");
    let keys = KeyServer::start(&[&signer]).await;
    let both = "authenticate: [api-key, 'jwt:main']";
    let forwarding = format!("{both}, forward_credentials: true");
    let routes = [("kept", both), ("sent", &*forwarding), ("open", "authenticate: [anonymous]")];
    let stage = Stage::set(&keys.yaml("1h"), &routes).await;
    stage.ready().await;
    let token = signer.bearer(&json!({"sub": "eve"}));
    for (target, name, value, shown) in [
        ("/kept", "x-api-key", "ann-key", false),
        ("/kept?a=1&key=ann-key&b=2", "x-other", "1", false),
        ("/kept?k%65y=ann%2Dkey", "x-other", "1", false),
        ("/kept", "authorization", &token, false),
        ("/sent", "x-api-key", "ann-key", true),
        ("/sent?a=1&key=ann-key&b=2", "x-other", "1", true),
        ("/sent", "authorization", &token, true),
        // No way in of this route: the service's own affair.
        ("/open", "x-api-key", "ann-key", true),
        ("/open?key=ann-key", "x-other", "1", true),
        ("/open", "authorization", &token, true),
    ] {
        let got = stage.ask(target, &[(name, value)]).await;
        assert_eq!(got.status().as_u16(), 200, "{target} {name}");
        let text = got.text().await.unwrap();
        let there = ["ann-key", "ann%2Dkey", &token].iter().any(|secret| text.contains(secret));
        assert_eq!(there, shown, "{target} {name}: {text}");
        assert!(!target.contains("b=2") || text.contains("a=1") && text.contains("b=2"), "{text}");
    }
    stage.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_say_when_to_come_back() {
    let rates =
        "rates:\n  slow: { rate: 60/m, burst: 2, key: consumer }\n  day: { rate: 9/d, burst: 9, key: all }\n";
    let stage = Stage::set(rates, &[("x", "authenticate: [api-key], rates: [slow, day]")]).await;
    let ann = [("x-api-key", "ann-key")];
    let first = stage.ask("/x", &ann).await;
    assert_eq!(header(&first, "ratelimit-policy"), "\"slow\";q=60;w=60, \"day\";q=9;w=86400");
    assert_eq!(header(&first, "ratelimit"), "\"slow\";r=1;t=1, \"day\";r=8;t=9600");
    assert_eq!(header(&first, "retry-after"), "");
    assert_eq!(stage.status("/x", &ann).await, 200);
    let refused = stage.ask("/x", &ann).await;
    assert_eq!(refused.status().as_u16(), 429);
    assert_eq!(header(&refused, "retry-after"), "1");
    assert_eq!(header(&refused, "ratelimit-policy"), "\"slow\";q=60;w=60");
    assert_eq!(header(&refused, "ratelimit"), "\"slow\";r=0;t=2");
    assert_eq!(header(&refused, "content-type"), "application/problem+json");
    sleep(Duration::from_secs(1)).await;
    assert_eq!(stage.status("/x", &ann).await, 200, "what Retry-After promised");
    stage.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_count_by_what_they_are_told() {
    let signer = Signer::new("one");
    let keys = KeyServer::start(&[&signer]).await;
    let kinds = ["consumer", "claim:tenant", "header:x-client", "route", "address"];
    let rates = kinds.iter().enumerate().fold(String::from("rates:\n"), |text, (index, key)| {
        text + &format!("  r{index}: {{ rate: 1/h, burst: 2, key: '{key}' }}\n")
    });
    let any = |index| format!("authenticate: [api-key, 'jwt:main', anonymous], rates: [r{index}]");
    let rests: Vec<_> = [0, 1, 2, 3, 3, 4].map(any).to_vec();
    let names = ["consumer", "claim", "header", "route-a", "route-b", "address"];
    let routes: Vec<_> = names.iter().zip(&rests).map(|(name, rest)| (*name, &**rest)).collect();
    let stage = Stage::set(&(rates + &keys.yaml("1h")), &routes).await;
    stage.ready().await;
    let token = |claims| signer.bearer(&claims);
    let (ann, of_a) = (token(json!({"sub": "ann"})), token(json!({"sub": "x", "tenant": "a"})));
    let (also_a, of_b) =
        (token(json!({"sub": "y", "tenant": "a"})), token(json!({"sub": "y", "tenant": "b"})));
    let auth = "authorization";
    // Each of these has a budget of two of its own.
    let table: &[(&str, &[Headers<'_>])] = &[
        ("/consumer", &[&[("x-api-key", "ann-key")]]),
        ("/consumer", &[&[("x-api-key", "bob-key")]]),
        // An issuer's ann is another one.
        ("/consumer", &[&[(auth, &ann)]]),
        ("/consumer", &[&[], &[("x-other", "1")]]),
        ("/claim", &[&[(auth, &of_a)], &[(auth, &also_a)]]),
        ("/claim", &[&[(auth, &of_b)]]),
        ("/claim", &[&[(auth, &ann)], &[], &[("x-api-key", "bob-key")]]),
        ("/header", &[&[("x-client", "1")], &[("x-client", "1"), (auth, &ann)]]),
        ("/header", &[&[("x-client", "2")]]),
        ("/header", &[&[], &[("x-client", "1"), ("x-client", "2")]]),
        ("/route-a", &[&[], &[(auth, &ann)]]),
        ("/route-b", &[&[], &[(auth, &ann)]]),
        ("/address", &[&[], &[(auth, &ann)], &[("x-forwarded-for", "9.9.9.9")]]),
    ];
    for (target, askers) in table {
        let mut got = Vec::new();
        for headers in askers.iter().cycle().take(4) {
            got.push(stage.status(target, headers).await);
        }
        assert_eq!(got, [200, 200, 429, 429], "{target} {askers:?}");
    }
    let elsewhere =
        reqwest::Client::builder().no_proxy().local_address(IpAddr::from([127, 0, 0, 2])).build().unwrap();
    assert_eq!(stage.ask_by(&elsewhere, "/address", &[]).await.status().as_u16(), 200);
    stage.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_come_late_stay_while_fetches_fail_and_are_exchanged() {
    let (one, two) = (Signer::new("one"), Signer::new("two"));
    let keys = KeyServer::start(&[&one]).await;
    keys.fail();
    let stage = Stage::set(&keys.yaml("1s"), &[("x", "authenticate: ['jwt:main']")]).await;
    let (by_one, by_two) = (one.bearer(&json!({})), two.bearer(&json!({})));
    let early = stage.ask("/x", &[("authorization", &by_one)]).await;
    assert_eq!((early.status().as_u16(), header(&early, "retry-after")), (503, "1"));
    assert!(!stage.running.shared.is_ready());
    keys.publish(&[&one]);
    stage.ready().await;
    assert_eq!(stage.status("/x", &[("authorization", &by_one)]).await, 200);
    let failures =
        || stage.running.shared.snapshot().credentials.fetch_failures().map(|(_, count)| count).sum::<u64>();
    let before = failures();
    keys.fail();
    eventually("fetches fail", async || failures() > before + 1).await;
    assert_eq!(stage.status("/x", &[("authorization", &by_one)]).await, 200);
    keys.publish(&[&two]);
    eventually("the new key", async || stage.status("/x", &[("authorization", &by_two)]).await == 200).await;
    assert_eq!(stage.status("/x", &[("authorization", &by_one)]).await, 401, "the verdict went with the key");
    stage.end().await;
}

/// 200 tokens at once, each of a key that there is not.
async fn all_are_refused(stage: &Stage, signer: &Signer, round: u32) {
    let asking = (0..200).map(async |index| {
        let token = signer.named(&format!("forged-{round}-{index}"), &json!({}));
        stage.status("/x", &[("authorization", &token)]).await
    });
    let got = futures_util::future::join_all(asking).await;
    assert!(got.iter().all(|status| *status == 401), "{got:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_key_is_looked_for_and_forged_ones_cost_one_fetch() {
    let (one, two) = (Signer::new("one"), Signer::new("two"));
    let keys = KeyServer::start(&[&one]).await;
    let stage = Stage::set(&keys.yaml("1h"), &[("x", "authenticate: ['jwt:main']")]).await;
    stage.ready().await;
    keys.publish(&[&one, &two]);
    let by_two = two.bearer(&json!({}));
    assert_eq!(stage.status("/x", &[("authorization", &by_two)]).await, 401, "the last fetch is fresh");
    eventually("the key is found", async || stage.status("/x", &[("authorization", &by_two)]).await == 200)
        .await;
    assert_eq!(keys.fetches(), 2);
    let round = |number| all_are_refused(&stage, &two, number);
    round(0).await;
    assert_eq!(keys.fetches(), 2, "the last fetch is fresh");
    let mut rounds = 1;
    eventually("a fetch for them", async || {
        round(rounds).await;
        rounds += 1;
        keys.fetches() > 2
    })
    .await;
    round(rounds).await;
    assert_eq!(keys.fetches(), 3, "one for all of them");
    assert_eq!(stage.status("/x", &[("authorization", &by_two)]).await, 200);
    stage.end().await;
}
