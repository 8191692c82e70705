//! `gateway key`: makes API keys, and the digests by which the configuration knows them.

use std::io::{self, Read, Write};

use anyhow::{Context as _, Result, anyhow, ensure};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};

use crate::authenticate::api_key::{KEY_BYTES_MAX, digest_of, write_digest};

/// What to do.
#[derive(Debug, clap::Subcommand)]
pub enum KeyCommand {
    /// Prints a fresh random key, for its holder, and the line for the configuration
    New,
    /// Reads a key from standard input and prints the line for the configuration
    Digest,
}

/// How our keys begin, so that scanners for leaked secrets can know them.
const PREFIX: &str = "pk_";

/// Random bytes of a key.
const RANDOM_BYTES: usize = 32;

/// The shortest key that is digested, bytes: a plain digest of a shorter one could be searched through.
const KEY_BYTES_MIN: usize = 22;

/// Runs the command.
///
/// # Errors
/// No randomness, no input, or a key that is too short or too long.
pub fn run(command: &KeyCommand, input: impl Read, mut output: impl Write) -> Result<()> {
    match command {
        KeyCommand::New => {
            let key = fresh()?;
            writeln!(output, "key:    {key}")?;
            writeln!(output, "digest: {}", write_digest(&digest_of(key.as_bytes())))?;
        }
        KeyCommand::Digest => {
            let key = read(input)?;
            writeln!(output, "digest: {}", write_digest(&digest_of(key.as_bytes())))?;
        }
    }
    Ok(())
}

fn fresh() -> Result<String> {
    let mut random = [0; RANDOM_BYTES];
    aws_lc_rs::rand::fill(&mut random).map_err(|_| anyhow!("the system gives no random bytes"))?;
    Ok(format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(random)))
}

fn read(input: impl Read) -> Result<String> {
    let mut text = String::new();
    // One byte more than fits, with a line end, shows that it does not.
    let limit = KEY_BYTES_MAX as u64 + 3;
    input.take(limit).read_to_string(&mut text).map_err(io::Error::other).context("standard input")?;
    let key = text.trim_end_matches(['\r', '\n']);
    ensure!(key.len() <= KEY_BYTES_MAX, "a key has at most {KEY_BYTES_MAX} bytes");
    ensure!(
        key.len() >= KEY_BYTES_MIN,
        "a key of less than {KEY_BYTES_MIN} characters could be found from its digest; `gateway key new` makes a good one"
    );
    ensure!(key.bytes().all(|byte| byte.is_ascii_graphic()), "a key is visible ASCII without spaces");
    Ok(key.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn output(command: &KeyCommand, input: &str) -> Result<String> {
        let mut output = Vec::new();
        run(command, input.as_bytes(), &mut output)?;
        Ok(String::from_utf8(output)?)
    }

    #[test]
    fn a_new_key_and_its_digest_belong_together() {
        let first = output(&KeyCommand::New, "").unwrap();
        let key = first.lines().next().unwrap().strip_prefix("key:    ").unwrap();
        assert_eq!(key.len(), PREFIX.len() + 43);
        let digest = output(&KeyCommand::Digest, &format!("{key}\n")).unwrap();
        assert_eq!(first.lines().nth(1).unwrap(), digest.trim_end());
        assert_ne!(first, output(&KeyCommand::New, "").unwrap());
    }

    #[test]
    fn bad_keys_are_refused() {
        let long = "k".repeat(KEY_BYTES_MAX + 1);
        for input in ["", "short", "a key with spaces in its middle", long.as_str()] {
            assert!(output(&KeyCommand::Digest, input).is_err(), "{input}");
        }
        assert!(output(&KeyCommand::Digest, &"k".repeat(KEY_BYTES_MAX)).is_ok());
    }
}
