//! A strict JSON parser that cuts leaves out of its source (RFC 8259). Pure.
//!
//! Strict means: UTF-8, nothing before or after the value but white space, numbers by the grammar, no unescaped control
//! characters, and the two rules of I-JSON (RFC 7493) without which two readers may see different documents: no member
//! name twice in one object, no surrogate without its other half.
//!
//! Recursion is capped by `depth_max`, never more than [`DEPTH_LIMIT`]. A tree takes up to about fifty times the bytes
//! of a hostile source (`[[1],[1],…`): cap the bytes first.

use bytes::Bytes;

use super::{Key, Node, text};

/// The deepest nesting that any caller may allow: frames of parsing, writing and dropping stay below 100 KiB.
pub const DEPTH_LIMIT: usize = 128;

/// Objects up to this size are searched name by name for duplicates, larger ones are sorted.
const SEARCHED_MEMBERS_MAX: usize = 16;

/// Why bytes are not a document.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{problem} at byte {offset}")]
pub struct ParseError {
    /// Bytes from the beginning of the source to the problem.
    pub offset: usize,
    /// What is wrong there.
    pub problem: Problem,
}

/// What can be wrong with a document.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// Not UTF-8.
    #[error("bytes that are not UTF-8")]
    Utf8,
    /// The source ends within a value.
    #[error("the document ends too early")]
    End,
    /// Something other than what the grammar asks for.
    #[error("expected {0}")]
    Expected(&'static str),
    /// A control character inside a string.
    #[error("a control character that is not escaped")]
    ControlCharacter,
    /// An escape that JSON does not know.
    #[error("an unknown escape")]
    Escape,
    /// Half of a surrogate pair.
    #[error("half a surrogate pair")]
    Surrogate,
    /// A number that does not follow the grammar.
    #[error("a malformed number")]
    Number,
    /// A second value after the first.
    #[error("data after the document")]
    TrailingData,
    /// Containers nested deeper than allowed.
    #[error("nesting deeper than allowed")]
    Depth,
    /// A second member of one name.
    #[error("a member name that stands twice in its object")]
    DuplicateKey,
}

/// Parses one document. `depth_max` counts nested containers: 0 allows a leaf only, 1 `[]` and `{"a":1}`; more than
/// [`DEPTH_LIMIT`] means that limit.
pub fn parse(source: &Bytes, depth_max: usize) -> Result<Node, ParseError> {
    if let Err(error) = std::str::from_utf8(source) {
        return Err(ParseError { offset: error.valid_up_to(), problem: Problem::Utf8 });
    }
    let mut parser = Parser { source, bytes: source, at: 0 };
    parser.skip_white_space();
    let node = parser.value(depth_max.min(DEPTH_LIMIT))?;
    parser.skip_white_space();
    match parser.peek() {
        None => Ok(node),
        Some(_) => Err(parser.error(Problem::TrailingData)),
    }
}

struct Parser<'s> {
    source: &'s Bytes,
    bytes: &'s [u8],
    at: usize,
}

/// Where a string token ended, and whether it has escapes.
struct Token {
    written: Bytes,
    escaped: bool,
}

impl Parser<'_> {
    /// The value that begins here.
    fn value(&mut self, depth_left: usize) -> Result<Node, ParseError> {
        match self.peek() {
            Some(b'"') => Ok(Node::Leaf(self.string()?.written)),
            Some(b'{') => self.object(depth_left),
            Some(b'[') => self.array(depth_left),
            Some(b'-' | b'0'..=b'9') => self.number(),
            Some(b't') => self.literal("true"),
            Some(b'f') => self.literal("false"),
            Some(b'n') => self.literal("null"),
            Some(_) => Err(self.error(Problem::Expected("a value"))),
            None => Err(self.error(Problem::End)),
        }
    }

    fn object(&mut self, depth_left: usize) -> Result<Node, ParseError> {
        let depth_left = self.enter(depth_left)?;
        let mut members = Vec::new();
        if self.take(b'}') {
            return Ok(Node::Object(members));
        }
        loop {
            let offset = self.at;
            let key = self.key()?;
            if members.len() < SEARCHED_MEMBERS_MAX && members.iter().any(|(earlier, _)| *earlier == key) {
                return Err(ParseError { offset, problem: Problem::DuplicateKey });
            }
            self.skip_white_space();
            self.expect(b':', "`:`")?;
            members.push((key, self.value(depth_left)?));
            if self.ends(b'}', "`,` or `}`")? {
                self.refuse_duplicates(&members)?;
                return Ok(Node::Object(members));
            }
        }
    }

    fn array(&mut self, depth_left: usize) -> Result<Node, ParseError> {
        let depth_left = self.enter(depth_left)?;
        let mut elements = Vec::new();
        if self.take(b']') {
            return Ok(Node::Array(elements));
        }
        loop {
            elements.push(self.value(depth_left)?);
            if self.ends(b']', "`,` or `]`")? {
                return Ok(Node::Array(elements));
            }
        }
    }

    /// Passes the bracket that opens a container, and white space after it.
    fn enter(&mut self, depth_left: usize) -> Result<usize, ParseError> {
        let depth_left = depth_left.checked_sub(1).ok_or(self.error(Problem::Depth))?;
        self.at += 1;
        self.skip_white_space();
        Ok(depth_left)
    }

    /// After an element: true past `closing`, false past a comma and the white space after it.
    fn ends(&mut self, closing: u8, wanted: &'static str) -> Result<bool, ParseError> {
        self.skip_white_space();
        if self.take(closing) {
            return Ok(true);
        }
        self.expect(b',', wanted)?;
        Ok(false)
    }

    fn key(&mut self) -> Result<Key, ParseError> {
        match self.peek() {
            Some(b'"') => {
                let Token { written, escaped } = self.string()?;
                Ok(if escaped { Key::from_written(written) } else { Key::from_plain(written) })
            }
            Some(_) => Err(self.error(Problem::Expected("a member name"))),
            None => Err(self.error(Problem::End)),
        }
    }

    /// What the search while reading could not see: duplicates in an object of many members.
    fn refuse_duplicates(&self, members: &[(Key, Node)]) -> Result<(), ParseError> {
        if members.len() <= SEARCHED_MEMBERS_MAX {
            return Ok(());
        }
        let mut keys: Vec<&Key> = members.iter().map(|(key, _)| key).collect();
        keys.sort_by_key(|key| key.name());
        // A stable sort: of two equal names the later in the document comes second.
        match keys.windows(2).find(|pair| pair[0] == pair[1]) {
            None => Ok(()),
            Some(pair) => {
                let offset = pair[1].written().as_ptr() as usize - self.bytes.as_ptr() as usize;
                Err(ParseError { offset, problem: Problem::DuplicateKey })
            }
        }
    }

    /// The string token that begins at this quote.
    fn string(&mut self) -> Result<Token, ParseError> {
        let start = self.at;
        let mut escaped = false;
        self.at += 1;
        loop {
            self.at = plain_until(self.bytes, self.at);
            match self.peek() {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(Token { written: self.source.slice(start..self.at), escaped });
                }
                Some(b'\\') => {
                    escaped = true;
                    self.escape()?;
                }
                Some(_) => return Err(self.error(Problem::ControlCharacter)),
                None => return Err(self.error(Problem::End)),
            }
        }
    }

    /// Passes an escape; errors point at its backslash.
    fn escape(&mut self) -> Result<(), ParseError> {
        let after_u = self.at + 2;
        match self.bytes.get(self.at + 1) {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => self.at += 2,
            Some(b'u') => match text::unicode(&self.bytes[after_u..]) {
                Some((_, length)) => self.at = after_u + length,
                None if text::unit(&self.bytes[after_u..]).is_some() => {
                    return Err(self.error(Problem::Surrogate));
                }
                None => return Err(self.error(Problem::Escape)),
            },
            Some(_) => return Err(self.error(Problem::Escape)),
            None => return Err(ParseError { offset: self.bytes.len(), problem: Problem::End }),
        }
        Ok(())
    }

    fn number(&mut self) -> Result<Node, ParseError> {
        let start = self.at;
        self.take(b'-');
        if !self.take(b'0') {
            self.digits()?;
        }
        if self.take(b'.') {
            self.digits()?;
        }
        if self.take(b'e') || self.take(b'E') {
            let _signed = self.take(b'+') || self.take(b'-');
            self.digits()?;
        }
        Ok(Node::Leaf(self.source.slice(start..self.at)))
    }

    /// Passes one digit or more.
    fn digits(&mut self) -> Result<(), ParseError> {
        let start = self.at;
        while self.peek().is_some_and(|byte| byte.is_ascii_digit()) {
            self.at += 1;
        }
        if self.at > start { Ok(()) } else { Err(self.error(Problem::Number)) }
    }

    fn literal(&mut self, literal: &'static str) -> Result<Node, ParseError> {
        if !self.bytes[self.at..].starts_with(literal.as_bytes()) {
            return Err(self.error(Problem::Expected("a value")));
        }
        self.at += literal.len();
        Ok(Node::Leaf(Bytes::from_static(literal.as_bytes())))
    }

    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn take(&mut self, byte: u8) -> bool {
        let taken = self.peek() == Some(byte);
        self.at += usize::from(taken);
        taken
    }

    /// Passes `byte` and white space after it.
    fn expect(&mut self, byte: u8, wanted: &'static str) -> Result<(), ParseError> {
        if !self.take(byte) {
            let problem = if self.peek().is_some() { Problem::Expected(wanted) } else { Problem::End };
            return Err(self.error(problem));
        }
        self.skip_white_space();
        Ok(())
    }

    fn skip_white_space(&mut self) {
        while let Some(b' ' | b'\n' | b'\r' | b'\t') = self.peek() {
            self.at += 1;
        }
    }

    fn error(&self, problem: Problem) -> ParseError {
        ParseError { offset: self.at, problem }
    }
}

/// The first place from `at` on where a string does not go on plainly: a quote, a backslash, a control character or the
/// end. Eight bytes at a time, all three in one pass: most strings are too short for a call of memchr to pay.
fn plain_until(bytes: &[u8], mut at: usize) -> usize {
    while let Some(chunk) = bytes[at..].first_chunk::<8>() {
        let found = special_bytes(u64::from_le_bytes(*chunk));
        if found != 0 {
            return at + found.trailing_zeros() as usize / 8;
        }
        at += 8;
    }
    while bytes.get(at).is_some_and(|byte| !matches!(byte, b'"' | b'\\' | 0..0x20)) {
        at += 1;
    }
    at
}

/// The high bit of the first byte of `word` that is a quote, a backslash or below 0x20; 0 if there is none. A borrow may
/// mark bytes after the first, never before it.
fn special_bytes(word: u64) -> u64 {
    const ONES: u64 = u64::from_le_bytes([1; 8]);
    const HIGHS: u64 = ONES << 7;
    let below = |word: u64, bound: u64| word.wrapping_sub(ONES * bound) & !word & HIGHS;
    let equal = |byte: u8| below(word ^ (ONES * u64::from(byte)), 1);
    below(word, 0x20) | equal(b'"') | equal(b'\\')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(source: &'static [u8]) -> (usize, Problem) {
        let error = parse(&Bytes::from_static(source), 4).expect_err("must be refused");
        (error.offset, error.problem)
    }

    #[test]
    fn malformed_documents_are_refused_where_they_go_wrong() {
        let cases: &[(&[u8], usize, Problem)] = &[
            (b"", 0, Problem::End),
            (b"  ", 2, Problem::End),
            (b"\xef\xbb\xbf{}", 0, Problem::Expected("a value")),
            (b"\"\xff\"", 1, Problem::Utf8),
            (b"\"\xed\xa0\x80\"", 1, Problem::Utf8),
            (b"nul", 0, Problem::Expected("a value")),
            (b"NaN", 0, Problem::Expected("a value")),
            (b"{} {}", 3, Problem::TrailingData),
            (b"nullx", 4, Problem::TrailingData),
            (b"[1,]", 3, Problem::Expected("a value")),
            (b"[1 2]", 3, Problem::Expected("`,` or `]`")),
            (b"[1", 2, Problem::End),
            (b"{\"a\"}", 4, Problem::Expected("`:`")),
            (b"{\"a\":1,}", 7, Problem::Expected("a member name")),
            (b"{a:1}", 1, Problem::Expected("a member name")),
            (b"{", 1, Problem::End),
            (b"'a'", 0, Problem::Expected("a value")),
            (b"\"a", 2, Problem::End),
            (b"\"a\\", 3, Problem::End),
            (b"\"a\nb\"", 2, Problem::ControlCharacter),
            (b"\"123456789\x00\"", 10, Problem::ControlCharacter),
            (b"\"\\x\"", 1, Problem::Escape),
            (b"\"\\u12g4\"", 1, Problem::Escape),
            (b"\"\\u+123\"", 1, Problem::Escape),
            (b"\"\\u12", 1, Problem::Escape),
            (b"\"\\ud800\"", 1, Problem::Surrogate),
            (b"\"\\ud800\\u0041\"", 1, Problem::Surrogate),
            (b"\"\\udc00\\ud800\"", 1, Problem::Surrogate),
            (b"01", 1, Problem::TrailingData),
            (b"-", 1, Problem::Number),
            (b"+1", 0, Problem::Expected("a value")),
            (b".5", 0, Problem::Expected("a value")),
            (b"1.", 2, Problem::Number),
            (b"1.e5", 2, Problem::Number),
            (b"1e", 2, Problem::Number),
            (b"1e+", 3, Problem::Number),
            (b"-a", 1, Problem::Number),
            (b"[[[[[]]]]]", 4, Problem::Depth),
            (b"{\"a\":{\"a\":[{\"a\":{}}]}}", 16, Problem::Depth),
            (b"{\"a\":1,\"b\":2,\"a\":3}", 13, Problem::DuplicateKey),
            (b"{\"\\u0061\":1,\"a\":3}", 12, Problem::DuplicateKey),
        ];
        for (source, offset, expected) in cases {
            assert_eq!(problem(source), (*offset, *expected), "{}", String::from_utf8_lossy(source));
        }
    }

    #[test]
    fn duplicates_in_a_large_object_are_found_too() {
        for (many, twice) in [(17, 0), (40, 3), (40, 38), (1000, 500)] {
            let mut source = String::from("{");
            for member in 0..many {
                source.push_str(&format!("\"member {member}\":{member},"));
            }
            let offset = source.len();
            // Its first letter is escaped: only what the name means is equal.
            source.push_str(&format!("\"\\u006dember {twice}\":0}}"));
            let error = parse(&source.into(), 1).expect_err("a duplicate");
            assert_eq!(error, ParseError { offset, problem: Problem::DuplicateKey });
        }
    }

    #[test]
    fn a_hostile_depth_is_refused_without_using_the_stack() {
        for open in ["[", "{\"a\":", "[{\"a\":"] {
            let source = Bytes::from(open.repeat(1_000_000));
            assert_eq!(parse(&source, usize::MAX).expect_err("too deep").problem, Problem::Depth);
        }
        let deepest = "[".repeat(DEPTH_LIMIT) + &"]".repeat(DEPTH_LIMIT);
        assert!(parse(&deepest.into(), DEPTH_LIMIT).is_ok());
    }

    #[test]
    fn the_end_of_plain_text_is_found_at_every_place() {
        for length in 0..40 {
            for special in 0..=255_u8 {
                let mut bytes = vec![b'a'; 40];
                bytes[length] = special;
                let stops = matches!(special, b'"' | b'\\' | 0..0x20);
                assert_eq!(plain_until(&bytes, 0), if stops { length } else { 40 }, "{special} at {length}");
            }
        }
    }
}
