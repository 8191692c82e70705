//! Refuses malformed HTTP/1.1 before the parser sees it.
//!
//! hyper's parser accepts bare line feeds, drops `Content-Length` beside `Transfer-Encoding` and merges equal
//! duplicates. A request that two servers can read differently is how one client's bytes become another's request, so
//! everything ambiguous is refused here: hyper only ever sees whole heads that have one meaning (RFC 9112).
//!
//! Pure. [`Screen`] is a state machine over the client's bytes; [`io::ScreenedIo`] puts it in front of a socket.

mod body;
mod head;
pub mod http2;
pub mod io;

use body::Chunks;
use head::{Complete, Framing, Head};

/// The longest chunk-size line with its extensions, in bytes: nobody is known to use extensions.
pub const CHUNK_LINE_BYTES_MAX: u32 = 256;
/// The longest trailer section, in bytes.
pub const TRAILER_BYTES_MAX: u32 = 4096;

/// How large a head may be. hyper's own limits (100 headers, 65,534 bytes of target) must lie above.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeadLimits {
    /// Bytes of the request line and all header lines, line ends included.
    pub bytes_max: usize,
    /// Header lines.
    pub headers_max: usize,
}

impl Default for HeadLimits {
    fn default() -> Self {
        Self { bytes_max: 32 << 10, headers_max: 100 }
    }
}

macro_rules! malformed {
    ($($(#[$doc:meta])* $variant:ident $name:literal $text:literal,)*) => {
        /// Why a client's bytes are no request that may be served.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
        #[repr(u8)]
        pub enum Malformed {
            $($(#[$doc])* #[error($text)] $variant,)*
        }

        impl Malformed {
            /// Every variant, in the order of its number.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// The stable name in logs, metrics and problem documents.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }
        }
    };
}

malformed! {
    /// Not exactly `METHOD SP target SP version`.
    RequestLine "request_line" "the request line is not METHOD, one space, target, one space, version",
    /// The method is no token (RFC 9110, 5.6.2).
    Method "method" "the method is not a token",
    /// A byte that has no place in a request target, or a target of no known form.
    Target "target" "the request target has a byte or a form that is not allowed",
    /// `*` with another method than OPTIONS.
    AsteriskForm "asterisk_form" "the target * is for OPTIONS only",
    /// CONNECT, which only forward proxies serve.
    Connect "connect" "CONNECT is not served",
    /// A version that is neither HTTP/1.0 nor HTTP/1.1.
    Version "version" "the version is neither HTTP/1.0 nor HTTP/1.1",
    /// A line feed without its carriage return.
    BareLf "bare_lf" "a line ends in LF without CR",
    /// A carriage return without its line feed.
    BareCr "bare_cr" "a CR stands without LF",
    /// A request line or the first header line begins with whitespace.
    LeadingWhitespace "leading_whitespace" "the request line or the first header line begins with whitespace",
    /// A header continued on the next line (obs-fold).
    ObsFold "obs_fold" "a header is folded over several lines",
    /// Whitespace between a header's name and its colon.
    WhitespaceBeforeColon "whitespace_before_colon" "whitespace stands between a header name and its colon",
    /// A header name that is empty, has no colon after it, or is no token.
    HeaderName "header_name" "a header name is empty or not a token, or no colon follows it",
    /// NUL or another control character in a header value.
    HeaderValue "header_value" "a header value has a control character",
    /// More bytes than [`HeadLimits::bytes_max`].
    HeadTooLarge "head_too_large" "the request head is too large",
    /// More headers than [`HeadLimits::headers_max`].
    TooManyHeaders "too_many_headers" "the request has too many headers",
    /// A head that did not arrive in time; said by the connection's owner, who has a clock.
    HeadTooSlow "head_too_slow" "the request head did not arrive in time",
    /// Both lengths of a body.
    LengthAndChunked "length_and_chunked" "Content-Length stands beside Transfer-Encoding",
    /// More than one `Content-Length`, equal or not.
    ContentLengthRepeated "content_length_repeated" "Content-Length is repeated",
    /// A `Content-Length` that is not only digits: signed, a list, empty.
    ContentLengthInvalid "content_length_invalid" "Content-Length is not a decimal number",
    /// A `Content-Length` above 2^63 - 1.
    ContentLengthOverflow "content_length_overflow" "Content-Length is too large a number",
    /// More than one `Transfer-Encoding`.
    TransferEncodingRepeated "transfer_encoding_repeated" "Transfer-Encoding is repeated",
    /// A `Transfer-Encoding` other than `chunked` alone.
    TransferEncodingUnknown "transfer_encoding_unknown" "Transfer-Encoding is not exactly chunked",
    /// `Transfer-Encoding` in HTTP/1.0, which has none.
    TransferEncodingInHttp10 "transfer_encoding_in_http10" "HTTP/1.0 has no Transfer-Encoding",
    /// No `Host` in HTTP/1.1.
    HostMissing "host_missing" "Host is missing",
    /// More than one `Host`.
    HostRepeated "host_repeated" "Host is repeated",
    /// A `Host`, or an authority in the target, that is no host with an optional port.
    HostInvalid "host_invalid" "the host is not a name or address with an optional port",
    /// The target's authority and `Host` differ (RFC 9112, 3.2.2).
    AuthorityDiffers "authority_differs" "the target names another host than Host",
    /// `Upgrade` in a request with a body.
    UpgradeWithBody "upgrade_with_body" "Upgrade stands in a request with a body",
    /// Bytes behind a request for another protocol, whose answer stayed with this one: whether they were meant as
    /// HTTP nobody can tell. Said by the connection's owner, who knows the answer.
    EarlyData "early_data" "bytes follow a request for an upgrade that was not granted",
    /// `Expect` other than `100-continue`.
    Expect "expect" "Expect is not 100-continue",
    /// A chunk size that is no hexadecimal number below 2^63, or is not followed by `;` or CRLF.
    ChunkSize "chunk_size" "a chunk size is not a hexadecimal number with CRLF",
    /// A control character in a chunk extension.
    ChunkExtension "chunk_extension" "a chunk extension has a control character",
    /// A chunk-size line longer than [`CHUNK_LINE_BYTES_MAX`].
    ChunkLineTooLong "chunk_line_too_long" "a chunk-size line is too long",
    /// A chunk's data that CRLF does not follow.
    ChunkEnd "chunk_end" "CRLF does not follow a chunk's data",
    /// A trailer line that would be refused as a header line.
    Trailer "trailer" "a trailer line is malformed",
    /// A trailer that would change the request's framing or target (RFC 9110, 6.5.1).
    TrailerForbidden "trailer_forbidden" "a field stands in the trailers that must not",
    /// A trailer section longer than [`TRAILER_BYTES_MAX`].
    TrailersTooLarge "trailers_too_large" "the trailers are too large",
}

/// What [`Screen::examine`] made of some bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Examined {
    /// So many bytes from the start are good and may be passed on, now or later.
    pub good: usize,
    /// What is with the bytes after these.
    pub rest: Rest,
}

/// What follows the good bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rest {
    /// Nothing.
    None,
    /// The beginning of a head. It must be kept, and stand at the start of the bytes examined next.
    PartOfHead,
    /// Bytes behind a request for another protocol. They must be kept until [`Screen::stays`] or the switch.
    Early,
    /// No request. Nothing more of this connection may be passed on.
    Refused(Malformed),
}

/// Follows the framing of one client's requests on one connection.
#[derive(Debug)]
pub struct Screen {
    state: State,
    heads: u64,
    limits: HeadLimits,
}

#[derive(Debug)]
enum State {
    Head(Head),
    Length(u64),
    Chunks(Chunks),
    /// Behind a request for another protocol, until it is answered.
    Upgrade,
    Refused(Malformed, Place),
}

/// Where a violation was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// In a head: the request has not begun for anybody.
    Head,
    /// In a body: its head has been passed on.
    Body,
}

impl Screen {
    /// A screen before the first byte of a connection.
    pub fn new(limits: HeadLimits) -> Self {
        Self { state: State::Head(Head::default()), heads: 0, limits }
    }

    /// Examines bytes that follow those called good so far.
    ///
    /// The part of a head that was not good yet must be given again, with what came after it; it is not searched again.
    pub fn examine(&mut self, bytes: &[u8]) -> Examined {
        let mut good = 0;
        while good < bytes.len() {
            let ahead = &bytes[good..];
            let step = match &mut self.state {
                State::Head(head) => match head.advance(ahead, self.limits) {
                    Ok(Some(complete)) => {
                        self.heads += 1;
                        self.state = State::after_head(complete);
                        Ok(complete.bytes)
                    }
                    Ok(None) => return Examined { good, rest: Rest::PartOfHead },
                    Err(malformed) => Err((0, malformed, Place::Head)),
                },
                State::Length(left) => {
                    let taken = ahead.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                    *left -= taken as u64;
                    if *left == 0 {
                        self.state = State::Head(Head::default());
                    }
                    Ok(taken)
                }
                State::Chunks(chunks) => {
                    let taken = chunks.advance(ahead);
                    if chunks.finished() {
                        self.state = State::Head(Head::default());
                    }
                    taken.map_err(|(taken, malformed)| (taken, malformed, Place::Body))
                }
                State::Upgrade => return Examined { good, rest: Rest::Early },
                State::Refused(malformed, place) => Err((0, *malformed, *place)),
            };
            match step {
                Ok(taken) => good += taken,
                Err((taken, malformed, place)) => {
                    self.state = State::Refused(malformed, place);
                    return Examined { good: good + taken, rest: Rest::Refused(malformed) };
                }
            }
        }
        Examined { good, rest: Rest::None }
    }

    /// Where the violation was found; `None` if there is none.
    pub fn refused(&self) -> Option<Place> {
        match self.state {
            State::Refused(_, place) => Some(place),
            State::Head(_) | State::Length(_) | State::Chunks(_) | State::Upgrade => None,
        }
    }

    /// The number, from 0, of the request that the last good byte belongs to or the refused byte would begin.
    pub fn request_index(&self) -> u64 {
        match self.state {
            State::Head(_) | State::Refused(_, Place::Head) => self.heads,
            State::Length(_) | State::Chunks(_) | State::Upgrade | State::Refused(_, Place::Body) => {
                self.heads - 1
            }
        }
    }

    /// Whether the next byte begins or continues a head.
    pub fn expects_head(&self) -> bool {
        matches!(self.state, State::Head(_))
    }

    /// Whether another protocol was asked for and the answer is not known yet.
    pub fn awaits_upgrade(&self) -> bool {
        matches!(self.state, State::Upgrade)
    }

    /// The answer stays with HTTP/1.1. Bytes that came `early`, before it, are refused.
    pub fn stays(&mut self, early: bool) {
        self.state = match early {
            true => State::Refused(Malformed::EarlyData, Place::Head),
            false => State::Head(Head::default()),
        };
    }
}

impl State {
    fn after_head(complete: Complete) -> Self {
        match complete.framing {
            _ if complete.upgrade => Self::Upgrade,
            Framing::Length(0) => Self::Head(Head::default()),
            Framing::Length(bytes) => Self::Length(bytes),
            Framing::Chunked => Self::Chunks(Chunks::default()),
        }
    }
}

#[cfg(test)]
mod table;
#[cfg(test)]
mod tests;
