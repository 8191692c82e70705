//! What an origin saw of a request, and what the gateway logged of it: lines of JSON in files.

use std::{
    fs::File,
    io::{Read as _, Seek as _, SeekFrom},
    path::PathBuf,
};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

/// A whole request, as an origin understood it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    /// The method.
    pub method: String,
    /// The request target as it came.
    pub target: String,
    /// `Host`.
    pub host: Option<String>,
    /// The body, in hexadecimal digits.
    pub body: String,
}

/// A line of the gateway's access log.
#[derive(Clone, Debug, Deserialize)]
pub struct Logged {
    /// The method.
    pub method: String,
    /// The path that was routed.
    pub path: String,
    /// `Host`, where the client sent one.
    pub host: Option<String>,
    /// The answer's status.
    pub status: u16,
    /// Why the gateway answered by itself.
    pub reason: Option<String>,
    /// The instance that was asked.
    pub upstream: Option<String>,
}

impl Seen {
    /// The target without its query: what the gateway logs.
    pub fn path(&self) -> &str {
        self.target.split('?').next().unwrap_or_default()
    }
}

impl Logged {
    /// Whether an origin answered it with 200, which ours do after they noted it.
    pub fn was_served(&self) -> bool {
        self.upstream.is_some() && self.reason.is_none() && self.status == 200
    }

    /// Whether an origin answered it otherwise; the gateway's own answers have no instance.
    pub fn was_refused_by_origin(&self) -> bool {
        self.upstream.is_some() && self.reason.is_none() && self.status != 200
    }
}

/// Reads a file of lines that another process appends to.
pub struct Lines {
    path: PathBuf,
    read: u64,
    /// The beginning of a line that is not whole yet.
    rest: String,
}

impl Lines {
    /// From the start of the file, which need not be there yet.
    pub fn new(path: PathBuf) -> Self {
        Self { path, read: 0, rest: String::new() }
    }

    /// The lines that were added since the last call.
    pub fn added<T: for<'a> Deserialize<'a>>(&mut self) -> Result<Vec<T>> {
        let Ok(mut file) = File::open(&self.path) else { return Ok(Vec::new()) };
        file.seek(SeekFrom::Start(self.read))?;
        let mut text = String::new();
        self.read += file.read_to_string(&mut text)? as u64;
        self.rest.push_str(&text);
        let end = self.rest.rfind('\n').map_or(0, |at| at + 1);
        let whole: String = self.rest.drain(..end).collect();
        let parse =
            |line| serde_json::from_str(line).with_context(|| format!("{}: {line}", self.path.display()));
        whole.lines().map(parse).collect()
    }
}
