//! One request head, line by line: what of it decides where the body ends and for whom the request is.
//!
//! Pure. A line is examined once, when its line feed has arrived; offsets point into the head's own bytes.

use std::ops::Range;

use memchr::{memchr, memrchr};

use super::{HeadLimits, Malformed};

/// A token's character (RFC 9110, 5.6.2).
const TOKEN: u8 = 1;
/// A byte that may stand in a request target: visible ASCII without `#`, and without `<`, `>`, `` ` `` and `\`, which
/// no URI has and which servers read differently.
pub(super) const TARGET: u8 = 2;
/// A byte of a host name. Narrower than a reg-name: names come in ASCII (punycode), without escapes.
const HOST: u8 = 4;

/// The longest target, in bytes, whatever the head's limit: the `http` crate's URIs end at 65,534.
const TARGET_BYTES_MAX: usize = 65_000;

const CLASSES: [u8; 256] = classes();

const fn classes() -> [u8; 256] {
    let mut classes = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let letter = byte as u8;
        let alphanumeric = letter.is_ascii_alphanumeric();
        if alphanumeric || has(b"!#$%&'*+-.^_`|~", letter) {
            classes[byte] |= TOKEN;
        }
        if letter.is_ascii_graphic() && !has(b"#<>`\\", letter) {
            classes[byte] |= TARGET;
        }
        if alphanumeric || has(b"-._~", letter) {
            classes[byte] |= HOST;
        }
        byte += 1;
    }
    classes
}

const fn has(set: &[u8], letter: u8) -> bool {
    let mut at = 0;
    while at < set.len() {
        if set[at] == letter {
            return true;
        }
        at += 1;
    }
    false
}

/// Whether `byte` may stand in a token.
pub(super) fn is_token(byte: u8) -> bool {
    CLASSES[byte as usize] & TOKEN != 0
}

/// Whether all bytes are of a class.
pub(super) fn all(bytes: &[u8], class: u8) -> bool {
    bytes.iter().all(|&byte| CLASSES[byte as usize] & class != 0)
}

/// Whether `byte` may not stand in a field value (RFC 9110, 5.5).
pub(super) fn is_control(byte: u8) -> bool {
    (byte < b' ' && byte != b'\t') || byte == 0x7f
}

/// How the body's end is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Framing {
    Length(u64),
    Chunked,
}

/// A head that may be passed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Complete {
    /// Bytes from its first to the end of its empty line.
    pub(super) bytes: usize,
    pub(super) framing: Framing,
    /// Another protocol is asked for; HTTP/1.0 has none (RFC 9110, 7.8).
    pub(super) upgrade: bool,
}

/// A head of which some lines may have come.
#[derive(Debug, Default)]
pub(super) struct Head {
    /// Where the next line begins.
    line: usize,
    /// No line feed stands between `line` and here.
    searched: usize,
    /// An empty line before the request line was skipped.
    skipped: bool,
    /// Lines seen; the request line is the first.
    lines: usize,
    http10: bool,
    asterisk: bool,
    upgrade: bool,
    chunked: bool,
    length: Option<u64>,
    host: Option<Range<usize>>,
    authority: Option<Authority>,
}

/// The authority of a target in absolute form.
#[derive(Debug)]
struct Authority {
    at: Range<usize>,
    default_port: &'static [u8],
}

impl Head {
    /// Examines the lines that have come since. `bytes` begin with the head's first byte.
    pub(super) fn advance(
        &mut self,
        bytes: &[u8],
        limits: HeadLimits,
    ) -> Result<Option<Complete>, Malformed> {
        while let Some(found) = memchr(b'\n', &bytes[self.searched..]) {
            let feed = self.searched + found;
            if feed >= limits.bytes_max {
                return Err(Malformed::HeadTooLarge);
            }
            let line = self.line..feed.saturating_sub(1).max(self.line);
            if feed == self.line || bytes[feed - 1] != b'\r' {
                return Err(Malformed::BareLf);
            }
            self.line = feed + 1;
            self.searched = feed + 1;
            if line.is_empty() {
                match (self.lines, self.skipped) {
                    // One empty line before a request is skipped (RFC 9112, 2.2).
                    (0, false) => self.skipped = true,
                    (0, true) => return Err(Malformed::RequestLine),
                    _ => return self.complete(bytes).map(Some),
                }
                continue;
            }
            if self.lines == 0 {
                self.request_line(bytes, line)?;
            } else if self.lines > limits.headers_max {
                return Err(Malformed::TooManyHeaders);
            } else {
                self.header_line(bytes, line)?;
            }
            self.lines += 1;
        }
        self.searched = bytes.len();
        if bytes.len() > limits.bytes_max { Err(Malformed::HeadTooLarge) } else { Ok(None) }
    }

    fn request_line(&mut self, bytes: &[u8], at: Range<usize>) -> Result<(), Malformed> {
        let line = &bytes[at.clone()];
        if line[0] == b' ' || line[0] == b'\t' {
            return Err(Malformed::LeadingWhitespace);
        }
        if memchr(b'\r', line).is_some() {
            return Err(Malformed::BareCr);
        }
        let (Some(first), Some(last)) = (memchr(b' ', line), memrchr(b' ', line)) else {
            return Err(Malformed::RequestLine);
        };
        if last <= first + 1 {
            return Err(Malformed::RequestLine);
        }
        let (method, target, version) = (&line[..first], &line[first + 1..last], &line[last + 1..]);
        match version {
            b"HTTP/1.1" => {}
            b"HTTP/1.0" => self.http10 = true,
            _ if version.starts_with(b"HTTP/") && version.len() > 5 => return Err(Malformed::Version),
            _ => return Err(Malformed::RequestLine),
        }
        if memchr(b' ', target).is_some() {
            return Err(Malformed::RequestLine);
        }
        if !all(method, TOKEN) {
            return Err(Malformed::Method);
        }
        if method == b"CONNECT" {
            return Err(Malformed::Connect);
        }
        self.target(method, target, at.start + first + 1)
    }

    fn target(&mut self, method: &[u8], target: &[u8], start: usize) -> Result<(), Malformed> {
        if target.len() > TARGET_BYTES_MAX {
            return Err(Malformed::HeadTooLarge);
        }
        if !all(target, TARGET) {
            return Err(Malformed::Target);
        }
        if target[0] == b'/' {
            return Ok(());
        }
        if target == b"*" {
            self.asterisk = true;
            return if method == b"OPTIONS" { Ok(()) } else { Err(Malformed::AsteriskForm) };
        }
        let (scheme, default_port): (usize, &'static [u8]) = if starts_with_ignoring_case(target, b"http://")
        {
            (7, b":80")
        } else if starts_with_ignoring_case(target, b"https://") {
            (8, b":443")
        } else {
            return Err(Malformed::Target);
        };
        let rest = &target[scheme..];
        let end = rest.iter().position(|byte| matches!(byte, b'/' | b'?')).unwrap_or(rest.len());
        check_host(&rest[..end])?;
        self.authority = Some(Authority { at: start + scheme..start + scheme + end, default_port });
        Ok(())
    }

    fn header_line(&mut self, bytes: &[u8], at: Range<usize>) -> Result<(), Malformed> {
        let line = &bytes[at.clone()];
        let colon = line.iter().position(|&byte| !is_token(byte)).unwrap_or(line.len());
        if line.get(colon) != Some(&b':') || colon == 0 {
            return Err(self.name_malformed(line, colon));
        }
        let (name, value) = (&line[..colon], &line[colon + 1..]);
        // Without an early way out the compiler turns this into a few vector instructions.
        if value.iter().fold(false, |found, &byte| found | is_control(byte)) {
            return Err(if memchr(b'\r', value).is_some() {
                Malformed::BareCr
            } else {
                Malformed::HeaderValue
            });
        }
        match name.len() {
            4 if name.eq_ignore_ascii_case(b"host") => self.host(bytes, at.start + colon + 1..at.end),
            6 if name.eq_ignore_ascii_case(b"expect") => {
                let known = trimmed(value).eq_ignore_ascii_case(b"100-continue");
                if known { Ok(()) } else { Err(Malformed::Expect) }
            }
            7 if name.eq_ignore_ascii_case(b"upgrade") => {
                self.upgrade = true;
                Ok(())
            }
            14 if name.eq_ignore_ascii_case(b"content-length") => self.content_length(trimmed(value)),
            17 if name.eq_ignore_ascii_case(b"transfer-encoding") => self.transfer_encoding(trimmed(value)),
            _ => Ok(()),
        }
    }

    /// Why a line whose name ends at `end` is no header.
    fn name_malformed(&self, line: &[u8], end: usize) -> Malformed {
        let blank = |byte: u8| byte == b' ' || byte == b'\t';
        if blank(line[0]) {
            return if self.lines == 1 { Malformed::LeadingWhitespace } else { Malformed::ObsFold };
        }
        let behind = line[end..].iter().position(|&byte| !blank(byte)).map(|skip| line[end + skip]);
        match (behind, memchr(b'\r', line)) {
            (_, Some(_)) => Malformed::BareCr,
            (Some(b':'), None) if end > 0 && blank(line[end]) => Malformed::WhitespaceBeforeColon,
            (Some(_) | None, None) => Malformed::HeaderName,
        }
    }

    fn host(&mut self, bytes: &[u8], mut at: Range<usize>) -> Result<(), Malformed> {
        if self.host.is_some() {
            return Err(Malformed::HostRepeated);
        }
        let value = &bytes[at.clone()];
        let host = trimmed(value);
        let lead = value.iter().take_while(|&&byte| byte == b' ' || byte == b'\t').count();
        check_host(host)?;
        at.start += lead;
        at.end = at.start + host.len();
        self.host = Some(at);
        Ok(())
    }

    fn content_length(&mut self, value: &[u8]) -> Result<(), Malformed> {
        if self.length.is_some() {
            return Err(Malformed::ContentLengthRepeated);
        }
        self.length = Some(content_length(value)?);
        Ok(())
    }

    fn transfer_encoding(&mut self, value: &[u8]) -> Result<(), Malformed> {
        if self.http10 {
            return Err(Malformed::TransferEncodingInHttp10);
        }
        if self.chunked {
            return Err(Malformed::TransferEncodingRepeated);
        }
        if !value.eq_ignore_ascii_case(b"chunked") {
            return Err(Malformed::TransferEncodingUnknown);
        }
        self.chunked = true;
        Ok(())
    }

    /// What only the whole head can tell.
    fn complete(&self, bytes: &[u8]) -> Result<Complete, Malformed> {
        let framing = match (self.chunked, self.length) {
            (true, Some(_)) => return Err(Malformed::LengthAndChunked),
            (true, None) => Framing::Chunked,
            (false, length) => Framing::Length(length.unwrap_or(0)),
        };
        if self.upgrade && framing != Framing::Length(0) {
            return Err(Malformed::UpgradeWithBody);
        }
        match (&self.host, &self.authority) {
            (None, _) if !self.http10 => return Err(Malformed::HostMissing),
            (Some(host), Some(authority)) => {
                let without_default = |host| strip_suffix(host, authority.default_port);
                let (host, named) = (&bytes[host.clone()], &bytes[authority.at.clone()]);
                if !without_default(host).eq_ignore_ascii_case(without_default(named)) {
                    return Err(Malformed::AuthorityDiffers);
                }
            }
            (None | Some(_), None) | (None, Some(_)) => {}
        }
        Ok(Complete { bytes: self.line, framing, upgrade: self.upgrade && !self.http10 })
    }
}

/// A decimal number of at most 2^63 - 1 (RFC 9110, 8.6).
pub(super) fn content_length(value: &[u8]) -> Result<u64, Malformed> {
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return Err(Malformed::ContentLengthInvalid);
    }
    let length = value.iter().try_fold(0u64, |sum, &digit| {
        sum.checked_mul(10)?.checked_add(u64::from(digit - b'0')).filter(|&sum| sum <= i64::MAX as u64)
    });
    length.ok_or(Malformed::ContentLengthOverflow)
}

/// `host [":" port]`, the host a name, an IPv4 address or a bracketed IPv6 address.
pub(super) fn check_host(host: &[u8]) -> Result<(), Malformed> {
    let (name_good, port) = match host.strip_prefix(b"[") {
        Some(rest) => {
            let end = memchr(b']', rest).ok_or(Malformed::HostInvalid)?;
            let address = std::str::from_utf8(&rest[..end]).ok();
            (address.is_some_and(|text| text.parse::<std::net::Ipv6Addr>().is_ok()), &rest[end + 1..])
        }
        None => {
            let end = memchr(b':', host).unwrap_or(host.len());
            (end > 0 && all(&host[..end], HOST), &host[end..])
        }
    };
    let port_good = match port.strip_prefix(b":") {
        None => port.is_empty(),
        Some(digits) => {
            let number = std::str::from_utf8(digits).ok().and_then(|text| text.parse::<u16>().ok());
            digits.iter().all(u8::is_ascii_digit) && number.is_some()
        }
    };
    if name_good && port_good { Ok(()) } else { Err(Malformed::HostInvalid) }
}

/// `value` without spaces and tabs around it.
fn trimmed(value: &[u8]) -> &[u8] {
    let blank = |byte: &u8| *byte == b' ' || *byte == b'\t';
    let start = value.iter().position(|byte| !blank(byte)).unwrap_or(value.len());
    let end = value.iter().rposition(|byte| !blank(byte)).map_or(start, |last| last + 1);
    &value[start..end]
}

fn strip_suffix<'a>(bytes: &'a [u8], suffix: &[u8]) -> &'a [u8] {
    bytes.strip_suffix(suffix).unwrap_or(bytes)
}

fn starts_with_ignoring_case(bytes: &[u8], prefix: &[u8]) -> bool {
    bytes.len() >= prefix.len() && bytes[..prefix.len()].eq_ignore_ascii_case(prefix)
}
