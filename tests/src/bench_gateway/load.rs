//! wrk, and the single requests that prove what a row measures.

use std::{ffi::OsStr, path::Path, process::Command};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::{cpu, row::Row};
use crate::netns::Namespace;

/// Connections that clients hold, each with one request in flight.
pub const CONNECTIONS: u64 = 64;

/// What wrk saw; every request was answered with a good status.
#[derive(Clone, Copy, Debug)]
pub struct Seen {
    /// Answers.
    pub answers: u64,
    /// Answers in a second.
    pub rps: f64,
    /// Microseconds within which half of the answers came.
    pub p50_us: f64,
    /// 99 of a hundred.
    pub p99_us: f64,
    /// 999 of a thousand.
    pub p999_us: f64,
}

/// Asks as fast as answers come, for some seconds. `headers` names a file of header lines that requests carry
/// in turn. Any request without an answer, or with an error status, is an error.
pub fn wrk(
    namespace: &Namespace,
    core: usize,
    folder: &Path,
    row: Row,
    headers: Option<&str>,
    seconds: u32,
) -> Result<Seen> {
    let mut command = namespace.command("wrk");
    cpu::pin(&mut command, core).current_dir(folder);
    command.args(["-t1", "-c", &CONNECTIONS.to_string(), "-d", &format!("{seconds}s"), "--timeout", "5s"]);
    command.args(["-s", "wrk.lua", row.url()]);
    if let Some(headers) = headers {
        command.args(["--", headers]);
    }
    let output = command.output().context("wrk")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let summary = text.lines().find_map(|line| line.strip_prefix("summary "));
    let summary = summary.with_context(|| {
        format!("wrk ended with {}: {text}{}", output.status, String::from_utf8_lossy(&output.stderr))
    })?;
    let summary: Value = serde_json::from_str(summary)?;
    let of = |name: &str| summary[name].as_u64().with_context(|| format!("wrk did not say {name}"));
    for kind in ["connect", "read", "write", "status", "timeout"] {
        let errors = of(kind)?;
        ensure!(errors == 0, "{}: {errors} requests failed ({kind})", row.name());
    }
    let answers = of("requests")?;
    ensure!(answers > 0, "{}: no request was answered", row.name());
    Ok(Seen {
        answers,
        rps: answers as f64 * 1e6 / of("duration_us")? as f64,
        p50_us: of("p50_us")? as f64,
        p99_us: of("p99_us")? as f64,
        p999_us: of("p999_us")? as f64,
    })
}

/// One answer: status, header lines, body.
#[derive(Debug)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// Header lines in small letters.
    pub head: String,
    /// The body, decoded.
    pub body: String,
}

/// Asks once, by curl, with these header lines.
pub fn ask<S: AsRef<OsStr>>(namespace: &Namespace, url: &str, headers: &[S]) -> Result<Answer> {
    let mut command: Command = namespace.command("curl");
    command.args(["--silent", "--show-error", "--include", "--insecure", "--max-time", "5"]);
    for header in headers {
        command.arg("--header").arg(header);
    }
    let output = command.arg(url).output().context("curl")?;
    ensure!(output.status.success(), "{url}: {}", String::from_utf8_lossy(&output.stderr).trim());
    let text = String::from_utf8_lossy(&output.stdout);
    let (head, body) = text.split_once("\r\n\r\n").with_context(|| format!("{url} answered {text:?}"))?;
    let status = head.split_whitespace().nth(1).and_then(|word| word.parse().ok());
    Ok(Answer {
        status: status.with_context(|| format!("{url} answered {head:?}"))?,
        head: head.to_lowercase(),
        body: body.to_string(),
    })
}
