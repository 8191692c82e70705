//! curl in a namespace: a client that is not ours, and what it was answered.

use anyhow::{Context as _, Result, ensure};

use crate::netns::Namespace;

/// One answer.
#[derive(Debug, PartialEq, Eq)]
pub struct Reply {
    /// HTTP status.
    pub status: u16,
    headers: Vec<(String, String)>,
    /// The body; empty where only headers were asked for.
    pub body: String,
}

impl Reply {
    /// The first header of this name, given in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str())
    }
}

/// GET with these header lines, on a connection of its own.
pub fn get(namespace: &Namespace, url: &str, headers: &[&str]) -> Result<Reply> {
    let text = run(namespace, &["-i"], url, headers)?;
    parse(&text)
}

/// GET of every URL of a pattern such as `http://host/?n=[1-80]`, one after the other on one connection;
/// without bodies.
pub fn get_all(namespace: &Namespace, pattern: &str, headers: &[&str]) -> Result<Vec<Reply>> {
    let text = run(namespace, &["-o", "/dev/null", "-D", "-"], pattern, headers)?;
    text.split_inclusive("\r\n\r\n").map(parse).collect()
}

fn run(namespace: &Namespace, options: &[&str], url: &str, headers: &[&str]) -> Result<String> {
    let mut command = namespace.command("curl");
    command.args(["-sS", "-m", "30"]).args(options);
    for header in headers {
        command.args(["-H", header]);
    }
    let output = command.arg(url).output().context("curl")?;
    let error = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "curl {url}: {}: {}", output.status, error.trim());
    Ok(String::from_utf8(output.stdout)?)
}

fn parse(text: &str) -> Result<Reply> {
    let (head, body) = text.split_once("\r\n\r\n").context("no end of headers")?;
    let mut lines = head.split("\r\n");
    let status = lines.next().and_then(|line| line.split(' ').nth(1)).context("no status")?.parse()?;
    let headers = lines.filter_map(|line| line.split_once(':'));
    let headers =
        headers.map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_string())).collect();
    Ok(Reply { status, headers, body: body.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_taken_apart() {
        let reply = parse("HTTP/1.1 429 Too Many\r\nRetry-After: 2\r\nX: a:b\r\n\r\n{\"a\":1}").unwrap();
        assert_eq!((reply.status, reply.body.as_str()), (429, "{\"a\":1}"));
        assert_eq!((reply.header("retry-after"), reply.header("x")), (Some("2"), Some("a:b")));
        assert_eq!(reply.header("server"), None);
        assert!(parse("HTTP/1.1 200 OK\r\n").is_err());
    }
}
