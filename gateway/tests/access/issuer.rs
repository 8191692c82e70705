//! An issuer of tokens: a key that signs, and a server of the public keys.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{SystemTime, UNIX_EPOCH},
};

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use axum::{Router, http::StatusCode};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Value, json};
use tokio::net::TcpListener;

/// Who signs tokens.
pub struct Signer {
    kid: &'static str,
    pair: Ed25519KeyPair,
}

impl Signer {
    pub fn new(kid: &'static str) -> Self {
        Self { kid, pair: Ed25519KeyPair::generate().unwrap() }
    }

    fn jwk(&self) -> Value {
        json!({"kty": "OKP", "crv": "Ed25519", "kid": self.kid, "x": encode(self.pair.public_key().as_ref())})
    }

    /// `Bearer` and a token with these claims beside the necessary ones.
    pub fn bearer(&self, claims: &Value) -> String {
        self.named(self.kid, claims)
    }

    pub fn named(&self, kid: &str, claims: &Value) -> String {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        let mut all = json!({"iss": "https://issuer", "aud": "api", "exp": now + 3600});
        all.as_object_mut().unwrap().extend(claims.as_object().unwrap().clone());
        let header = json!({"alg": "EdDSA", "kid": kid});
        let message = format!("{}.{}", encode(header.to_string()), encode(all.to_string()));
        let signature = self.pair.sign(message.as_bytes());
        format!("Bearer {message}.{}", encode(signature.as_ref()))
    }
}

fn encode(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// An issuer's keys at a URL.
#[derive(Clone)]
pub struct KeyServer {
    address: SocketAddr,
    answer: Arc<Mutex<(StatusCode, String)>>,
    fetches: Arc<AtomicU64>,
}

impl KeyServer {
    pub async fn start(signers: &[&Signer]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server =
            Self { address: listener.local_addr().unwrap(), answer: Arc::default(), fetches: Arc::default() };
        server.publish(signers);
        let (answer, fetches) = (server.answer.clone(), server.fetches.clone());
        let serve = move || {
            fetches.fetch_add(1, Relaxed);
            let answer = answer.lock().unwrap().clone();
            std::future::ready(answer)
        };
        tokio::spawn(async { axum::serve(listener, Router::new().fallback(serve)).await });
        server
    }

    pub fn publish(&self, signers: &[&Signer]) {
        let keys: Vec<_> = signers.iter().map(|signer| signer.jwk()).collect();
        *self.answer.lock().unwrap() = (StatusCode::OK, json!({"keys": keys}).to_string());
    }

    pub fn fail(&self) {
        self.answer.lock().unwrap().0 = StatusCode::INTERNAL_SERVER_ERROR;
    }

    pub fn fetches(&self) -> u64 {
        self.fetches.load(Relaxed)
    }

    pub fn yaml(&self, refresh: &str) -> String {
        format!(
            "issuers:\n  main: {{ issuer: 'https://issuer', audience: [api], algorithms: [EdDSA], \
             keys: {{ url: 'http://{}/keys', refresh: {refresh} }} }}\n",
            self.address
        )
    }
}
