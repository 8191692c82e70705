//! Tokens signed by keys made here: what is taken, and why all else is refused.

use aws_lc_rs::{
    hmac,
    rand::SystemRandom,
    rsa::KeySize,
    signature::{
        ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair, RSA_PKCS1_SHA256, RsaKeyPair,
    },
};
use serde_json::json;

use super::*;

const NOW_S: u64 = 1_000_000;
const LEEWAY_S: u64 = 30;
const SECRET: &[u8] = b"a secret of more than 32 bytes, for tests";

struct Signers {
    rsa: RsaKeyPair,
    ec: EcdsaKeyPair,
    ed: Ed25519KeyPair,
}

impl Signers {
    fn new() -> Self {
        Self {
            rsa: RsaKeyPair::generate(KeySize::Rsa2048).unwrap(),
            ec: EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap(),
            ed: Ed25519KeyPair::generate().unwrap(),
        }
    }

    fn public(&self) -> KeySet {
        // PKCS #1 DER of 2048 bits: the modulus is the 256 bytes after two headers of 4 and a zero.
        let modulus = &self.rsa.public_key().as_ref()[9..265];
        let point = self.ec.public_key().as_ref();
        let jwks = json!({"keys": [
            {"kty": "RSA", "kid": "rsa", "n": encode(modulus), "e": "AQAB"},
            {"kty": "EC", "kid": "ec", "crv": "P-256", "x": encode(&point[1..33]), "y": encode(&point[33..])},
            {"kty": "OKP", "kid": "ed", "crv": "Ed25519", "x": encode(self.ed.public_key().as_ref())},
        ]});
        let all = [Algorithm::Rs256, Algorithm::Es256, Algorithm::EdDsa];
        KeySet::from_jwks(jwks.to_string().as_bytes(), &all).unwrap()
    }

    fn sign(&self, algorithm: Algorithm, message: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        match algorithm {
            Algorithm::Hs256 => hmac_of(SECRET, message),
            Algorithm::Rs256 => {
                let mut signature = vec![0; self.rsa.public_modulus_len()];
                self.rsa.sign(&RSA_PKCS1_SHA256, &random, message, &mut signature).unwrap();
                signature
            }
            Algorithm::Es256 => self.ec.sign(&random, message).unwrap().as_ref().to_vec(),
            Algorithm::EdDsa => self.ed.sign(message).as_ref().to_vec(),
        }
    }

    fn token(&self, algorithm: Algorithm, header: &Value, claims: &Value) -> String {
        let message = message(header, claims);
        let signature = self.sign(algorithm, message.as_bytes());
        format!("{message}.{}", encode(&signature))
    }
}

fn encode(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

fn message(header: &Value, claims: &Value) -> String {
    format!("{}.{}", encode(header.to_string().as_bytes()), encode(claims.to_string().as_bytes()))
}

fn hmac_of(secret: &[u8], message: &[u8]) -> Vec<u8> {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), message).as_ref().to_vec()
}

fn rules(algorithms: &[Algorithm]) -> Rules {
    Rules {
        issuer: "https://issuer".into(),
        audience: vec!["api".into()],
        algorithms: algorithms.to_vec(),
        leeway_s: LEEWAY_S,
        token_type: None,
        scope_claim: "scope".into(),
        consumer_claim: "sub".into(),
        kept_claims: Vec::new(),
        token_bytes: 8192,
    }
}

/// True claims, with one exchanged, or taken out by `null`.
fn claims(name: &str, value: Value) -> Value {
    let mut claims = json!({"iss": "https://issuer", "aud": "api", "sub": "ann", "scope": "read write", "exp": NOW_S + 60});
    claims[name] = value;
    claims.as_object_mut().unwrap().retain(|_, value| !value.is_null());
    claims
}

fn check(text: &str, rules: &Rules, keys: &KeySet) -> Result<Verified, TokenError> {
    Token::parse(text)?.verify(rules, keys, NOW_S)
}

#[test]
fn true_tokens_of_each_algorithm_are_taken() {
    let signers = Signers::new();
    for (algorithm, kid) in [
        (Algorithm::Hs256, "any"),
        (Algorithm::Rs256, "rsa"),
        (Algorithm::Es256, "ec"),
        (Algorithm::EdDsa, "ed"),
    ] {
        let secret = algorithm == Algorithm::Hs256;
        let keys = if secret { KeySet::from_secret(SECRET).unwrap() } else { signers.public() };
        let header = json!({"alg": algorithm.name(), "kid": kid});
        let token = signers.token(algorithm, &header, &claims("aud", json!(["other", "api"])));
        let verified = check(&token, &rules(&[algorithm]), &keys).expect(kid);
        assert_eq!(verified.expires_s, NOW_S + 60);
        assert_eq!(verified.grant.consumer.as_deref(), Some("ann"));
        assert_eq!(verified.grant.scopes, ["read".into(), "write".into()]);
    }
}

#[test]
fn claims_decide_at_their_bounds() {
    let (signers, rules) = (Signers::new(), rules(&[Algorithm::EdDsa]));
    let keys = signers.public();
    let header = json!({"alg": "EdDSA", "kid": "ed"});
    for (name, value, refusal) in [
        ("aud", json!("others"), Some(TokenError::Audience)),
        ("aud", Value::Null, Some(TokenError::ClaimMissing("aud"))),
        ("iss", json!("https://issuer/"), Some(TokenError::Issuer)),
        ("exp", json!(NOW_S - LEEWAY_S + 1), None),
        ("exp", json!(NOW_S - LEEWAY_S), Some(TokenError::Expired)),
        ("exp", Value::Null, Some(TokenError::ClaimMissing("exp"))),
        ("exp", json!("soon"), Some(TokenError::ClaimForm("exp"))),
        ("nbf", json!(NOW_S + LEEWAY_S), None),
        ("nbf", json!(NOW_S + LEEWAY_S + 1), Some(TokenError::NotYet)),
    ] {
        let token = signers.token(Algorithm::EdDsa, &header, &claims(name, value.clone()));
        assert_eq!(check(&token, &rules, &keys).err(), refusal, "{name}: {value}");
    }
}

#[test]
fn forged_and_broken_tokens_are_refused() {
    let (signers, good) = (Signers::new(), claims("jti", json!("1")));
    let keys = signers.public();
    let all = rules(&[Algorithm::Hs256, Algorithm::Rs256, Algorithm::Es256, Algorithm::EdDsa]);
    let signed = |header: Value| signers.token(Algorithm::Rs256, &header, &good);
    let token = signed(json!({"alg": "RS256", "kid": "rsa"}));
    assert!(check(&token, &all, &keys).is_ok());
    let (message_part, signature) = token.rsplit_once('.').unwrap();
    let (header_part, claims_part) = message_part.split_once('.').unwrap();
    let forged = message(&json!({"alg": "HS256", "kid": "rsa"}), &good);
    let confused =
        format!("{forged}.{}", encode(&hmac_of(signers.rsa.public_key().as_ref(), forged.as_bytes())));
    let other = message(&json!({"alg": "RS256", "kid": "rsa"}), &claims("sub", json!("root")));
    for (name, text, refusal) in [
        ("alg none", format!("{}.", message(&json!({"alg": "none"}), &good)), TokenError::Algorithm),
        ("public key as secret", confused, TokenError::KeyAlgorithm),
        ("unknown kid", signed(json!({"alg": "RS256", "kid": "x"})), TokenError::UnknownKey),
        ("key of another alg", signed(json!({"alg": "RS256", "kid": "ec"})), TokenError::KeyAlgorithm),
        ("another alg", signed(json!({"alg": "ES256", "kid": "ec"})), TokenError::Signature),
        ("crit", signed(json!({"alg": "RS256", "kid": "rsa", "crit": ["b64"]})), TokenError::Critical),
        ("crit null", signed(json!({"alg": "RS256", "kid": "rsa", "crit": null})), TokenError::Critical),
        ("no signature", format!("{message_part}."), TokenError::Signature),
        ("tampered", format!("{other}.{signature}"), TokenError::Signature),
        ("2 parts", message_part.into(), TokenError::Form),
        ("4 parts", format!("{token}.{signature}"), TokenError::Form),
        ("header's base64", format!("!{header_part}.{claims_part}.{signature}"), TokenError::Form),
        ("claims' base64", format!("{header_part}.{claims_part}=.{signature}"), TokenError::Form),
        ("signature's base64", format!("{message_part}.!{signature}"), TokenError::Signature),
    ] {
        assert_eq!(check(&text, &all, &keys).err(), Some(refusal), "{name}");
    }
}
