//! Bearer tokens of those who come over TCP. Tokens are compared in constant time and never logged.

use std::{fs, io, os::unix::fs::PermissionsExt, path::Path, sync::Arc};

use axum::{
    extract::{Request, State},
    http::header,
    middleware::Next,
    response::{IntoResponse, Response},
};
use subtle::{Choice, ConstantTimeEq};

use super::{ApiError, HEALTHZ};

/// Below this a token can be guessed.
const TOKEN_BYTES_MIN: usize = 16;

/// Tokens that open the API.
pub struct Tokens(Vec<String>);

/// What is wrong with a token file.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum TokenFileError {
    #[error("cannot be read: {0}")]
    Unreadable(#[from] io::Error),
    #[error("has mode {0:04o}: others may read the tokens; chmod 600 it")]
    Mode(u32),
    #[error("line {0} has less than {TOKEN_BYTES_MIN} characters: it could be guessed")]
    Short(usize),
    #[error("line {0} has spaces or characters that a header cannot carry")]
    NotGraphic(usize),
    #[error("has no token")]
    Empty,
}

impl Tokens {
    /// One token a line; empty lines and lines that begin with # are skipped.
    pub fn read(path: &Path) -> Result<Self, TokenFileError> {
        let mode = fs::metadata(path)?.permissions().mode() & 0o7777;
        if mode & 0o077 != 0 {
            return Err(TokenFileError::Mode(mode));
        }
        Self::parse(&fs::read_to_string(path)?)
    }

    fn parse(text: &str) -> Result<Self, TokenFileError> {
        let mut tokens = Vec::new();
        for (index, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            if line.len() < TOKEN_BYTES_MIN {
                return Err(TokenFileError::Short(index + 1));
            }
            if !line.bytes().all(|byte| byte.is_ascii_graphic()) {
                return Err(TokenFileError::NotGraphic(index + 1));
            }
            tokens.push(line.to_owned());
        }
        if tokens.is_empty() { Err(TokenFileError::Empty) } else { Ok(Self(tokens)) }
    }

    /// The first token: what a client sends.
    pub fn first(&self) -> &str {
        self.0.first().map_or("", String::as_str)
    }

    /// Whether `given` is one of the tokens. Takes the same time whichever it is and however far it
    /// agrees; only its length shows.
    fn admit(&self, given: &[u8]) -> bool {
        let equal = |token: &String| token.as_bytes().ct_eq(given);
        self.0.iter().fold(Choice::from(0), |any, token| any | equal(token)).into()
    }
}

impl std::fmt::Debug for Tokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tokens({} secret)", self.0.len())
    }
}

/// Lets a request pass that brings a token, or only asks whether the process lives.
pub(super) async fn require_token(
    State(tokens): State<Arc<Tokens>>,
    request: Request,
    next: Next,
) -> Response {
    let header = request.headers().get(header::AUTHORIZATION).map(|value| value.as_bytes());
    let token = header.and_then(|header| header.split_at_checked("Bearer ".len()));
    let admitted =
        token.is_some_and(|(scheme, token)| scheme.eq_ignore_ascii_case(b"Bearer ") && tokens.admit(token));
    if admitted || request.uri().path() == HEALTHZ {
        next.run(request).await
    } else {
        ApiError::Unauthorized.into_response()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::OpenOptionsExt;

    use super::*;

    #[test]
    fn a_token_file_is_private_and_its_tokens_are_long() {
        let directory = tempfile::tempdir().unwrap();
        let read = |name: &str, mode: u32, text: &str| {
            let path = directory.path().join(name);
            let file = fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&path).unwrap();
            io::Write::write_all(&mut &file, text.as_bytes()).unwrap();
            Tokens::read(&path).map_err(|error| error.to_string())
        };
        let tokens = read("good", 0o600, "# admin\n\n0123456789abcdef\n").unwrap();
        assert!(tokens.admit(b"0123456789abcdef"));
        for wrong in ["", "0123456789abcdeF", "0123456789abcdef0", "# admin"] {
            assert!(!tokens.admit(wrong.as_bytes()), "{wrong}");
        }
        assert!(!format!("{tokens:?}").contains("0123"));
        for (name, mode, text, expected) in [
            ("open", 0o640, "0123456789abcdef", "mode 0640"),
            ("short", 0o600, "\nsecret", "line 2 has less than 16"),
            ("spaces", 0o600, "0123456789 abcdef", "line 1 has spaces"),
            ("empty", 0o600, "# none", "no token"),
        ] {
            let error = read(name, mode, text).unwrap_err();
            assert!(error.contains(expected), "{name}: {error}");
            assert!(!error.contains("secret"));
        }
    }
}
