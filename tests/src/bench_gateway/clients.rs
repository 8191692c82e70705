//! Keys, tokens and the certificate: what clients send or ask, and what the configurations know of it. Made afresh for
//! each run.

use std::{
    fmt::Write as _,
    fs,
    path::Path,
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, Result, anyhow};
use aws_lc_rs::{
    digest,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair},
};
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode, jwk::Jwk};
use serde_json::json;

use super::row::Work;
use crate::certificate;

/// The large answer.
const LARGE_BYTES: usize = 64 << 10;
/// How many clients there are, each with a key and a token.
const CLIENTS: u32 = 64;
/// Header lines with API keys, in the bench's folder.
const KEY_LINES: &str = "keys.headers";
/// Header lines with tokens, in the bench's folder.
const TOKEN_LINES: &str = "tokens.headers";
/// The name of the signing key.
const KEY_ID: &str = "bench-1";
/// How long tokens are good for, seconds: longer than any run.
const TOKEN_SECONDS: u64 = 24 * 3_600;

/// The file with the header lines that this work's requests carry, if they carry any.
pub const fn header_lines(work: Work) -> Option<&'static str> {
    match work {
        Work::Plain | Work::Large | Work::Tls | Work::Composition => None,
        Work::KeyLimit => Some(KEY_LINES),
        Work::KeyLimitJwt => Some(TOKEN_LINES),
    }
}

/// Writes what wrk sends and what the proxies know into the folder that holds `examples/bench`.
pub fn write(folder: &Path) -> Result<()> {
    let (mut nginx, mut haproxy, mut lines, mut digests) = Default::default();
    for number in 0..CLIENTS {
        let key = format!("bench-key-{number}");
        text(&mut nginx, format_args!("{key} client-{number};\n"));
        text(&mut haproxy, format_args!("{key} client-{number}\n"));
        text(&mut lines, format_args!("X-Api-Key: {key}\n"));
        // The first one stands in the file already.
        if number > 0 {
            text(
                &mut digests,
                format_args!("  - name: client-{number}\n    digest: sha256:{}\n", sha256(&key)),
            );
        }
    }
    put(folder, "nginx-keys.map", &nginx)?;
    put(folder, "haproxy-keys.map", &haproxy)?;
    put(folder, KEY_LINES, &lines)?;
    let ours = fs::read_to_string(folder.join("gateway.yaml")).context("gateway.yaml")?;
    put(folder, "gateway.yaml", &(ours + &digests))?;
    write_tokens(folder)?;
    write_certificate(folder)?;
    put(folder, "large", &"0123456789abcdef".repeat(LARGE_BYTES / 16))
}

/// HAProxy wants the key in the file of the certificate.
fn write_certificate(folder: &Path) -> Result<()> {
    certificate::self_signed(folder, "bench.example")?;
    let both = ["certificate.pem", "key.pem"].map(|file| fs::read_to_string(folder.join(file)));
    let [certificate, key] = both;
    put(folder, "bench.pem", &(certificate? + &key?))
}

fn write_tokens(folder: &Path) -> Result<()> {
    let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING)
        .map_err(|_| anyhow!("no key for signing could be made"))?;
    let pkcs8 = pair.to_pkcs8v1().map_err(|_| anyhow!("the signing key has no PKCS#8"))?;
    let key = EncodingKey::from_ec_der(pkcs8.as_ref());
    let mut public = Jwk::from_encoding_key(&key, Algorithm::ES256)?;
    public.common.key_id = Some(KEY_ID.into());
    put(folder, "jwks.json", &json!({ "keys": [public] }).to_string())?;

    let header = Header { kid: Some(KEY_ID.into()), ..Header::new(Algorithm::ES256) };
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    let mut lines = String::new();
    for number in 0..CLIENTS {
        let claims = json!({
            "iss": "https://issuer.example",
            "aud": "bench",
            "sub": format!("client-{number}"),
            "scope": "items:read",
            "iat": now,
            "exp": now + TOKEN_SECONDS,
        });
        text(&mut lines, format_args!("Authorization: Bearer {}\n", encode(&header, &claims, &key)?));
    }
    put(folder, TOKEN_LINES, &lines)
}

/// The first of a file's header lines.
pub fn first_line(folder: &Path, file: &str) -> Result<String> {
    let lines = fs::read_to_string(folder.join(file)).with_context(|| file.to_string())?;
    Ok(lines.lines().next().context("no header lines")?.to_string())
}

fn sha256(key: &str) -> String {
    let mut hex = String::new();
    for byte in digest::digest(&digest::SHA256, key.as_bytes()).as_ref() {
        text(&mut hex, format_args!("{byte:02x}"));
    }
    hex
}

fn text(into: &mut String, what: std::fmt::Arguments) {
    into.write_fmt(what).expect("a string takes everything");
}

fn put(folder: &Path, name: &str, text: &str) -> Result<()> {
    fs::write(folder.join(name), text).with_context(|| name.to_string())
}
