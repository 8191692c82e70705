//! The tables of `table.rs`, whole and in pieces, and properties over random bytes.

use proptest::prelude::*;

use super::table::{GOOD, REFUSED, REFUSED_BODIES};
use super::*;

const LIMITS: HeadLimits = HeadLimits { bytes_max: 512, headers_max: 10 };

/// What becomes of a connection's bytes.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    passed: Vec<u8>,
    refused: Option<(u64, Malformed)>,
    between_requests: bool,
}

/// Feeds pieces as a connection would: what is not good yet is given again. No upgrade is granted, and all answers
/// come before the next request.
fn feed<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Seen {
    let mut screen = Screen::new(LIMITS);
    let (mut passed, mut held, mut refused) = (Vec::new(), Vec::new(), None);
    for piece in pieces {
        held.extend_from_slice(piece);
        let rest = loop {
            let Examined { good, rest } = screen.examine(&held);
            passed.extend(held.drain(..good));
            if screen.awaits_upgrade() {
                screen.stays(false);
            }
            if rest != Rest::Early {
                break rest;
            }
        };
        match rest {
            Rest::Early => unreachable!("it was answered"),
            Rest::None => assert!(held.is_empty(), "bytes were left"),
            Rest::PartOfHead => assert!(screen.expects_head() && !held.is_empty()),
            Rest::Refused(malformed) => {
                refused = Some((screen.request_index(), malformed));
                break;
            }
        }
    }
    Seen { passed, refused, between_requests: screen.expects_head() && held.is_empty() }
}

fn whole(bytes: &[u8]) -> Seen {
    feed([bytes])
}

fn in_pieces_of_one(bytes: &[u8]) -> Seen {
    feed(bytes.chunks(1))
}

fn check_alike(bytes: &[u8]) {
    let expected = whole(bytes);
    let shown = String::from_utf8_lossy(bytes);
    for cut in 0..=bytes.len() {
        assert_eq!(feed([&bytes[..cut], &bytes[cut..]]), expected, "cut at {cut} of {shown:?}");
    }
    assert_eq!(in_pieces_of_one(bytes), expected, "byte by byte: {shown:?}");
}

#[test]
fn malformed_requests_are_refused_for_their_reason() {
    assert!(REFUSED.len() + REFUSED_BODIES.len() >= 80);
    for (bytes, malformed) in REFUSED.iter().chain(REFUSED_BODIES) {
        let seen = whole(bytes);
        assert_eq!(seen.refused, Some((0, *malformed)), "{:?}", String::from_utf8_lossy(bytes));
        check_alike(bytes);
    }
    for (bytes, _) in REFUSED {
        assert_eq!(whole(bytes).passed, b"", "{:?}", String::from_utf8_lossy(bytes));
    }
}

#[test]
fn good_requests_pass_untouched() {
    for bytes in GOOD {
        let seen = whole(bytes);
        let shown = String::from_utf8_lossy(bytes);
        assert_eq!(seen.refused, None, "{shown:?}");
        assert!(seen.passed == *bytes && seen.between_requests, "{shown:?}");
        check_alike(bytes);
    }
}

#[test]
fn a_refusal_comes_in_its_turn() {
    for good in GOOD {
        for (bad, malformed) in REFUSED.iter().step_by(7) {
            // An empty line is skipped only once before a request.
            let bytes = [*good, *good, *bad].concat();
            let seen = whole(&bytes);
            assert_eq!(seen.refused, Some((2, *malformed)), "{:?}", String::from_utf8_lossy(&bytes));
            assert_eq!(seen.passed, [*good, *good].concat());
        }
    }
    let pair = [GOOD[0], REFUSED[0].0].concat();
    check_alike(&pair);
    check_alike(&GOOD.concat());
}

#[test]
fn sizes_are_bounded() {
    let head = |filler: usize| {
        let mut head = b"GET / HTTP/1.1\r\nHost: a\r\nX: ".to_vec();
        head.resize(filler - 4, b'x');
        head.extend(b"\r\n\r\n");
        head
    };
    assert_eq!(whole(&head(LIMITS.bytes_max)).refused, None);
    let too_large = head(LIMITS.bytes_max + 1);
    assert_eq!(whole(&too_large).refused, Some((0, Malformed::HeadTooLarge)));
    check_alike(&too_large);
    let endless = vec![b'a'; LIMITS.bytes_max + 1];
    assert_eq!(whole(&endless).refused, Some((0, Malformed::HeadTooLarge)));
    check_alike(&endless);

    let headers = |count: usize| {
        let mut head = b"GET / HTTP/1.1\r\nHost: a\r\n".to_vec();
        head.extend(b"X: y\r\n".repeat(count - 1));
        head.extend(b"\r\n");
        head
    };
    assert_eq!(whole(&headers(LIMITS.headers_max)).refused, None);
    assert_eq!(whole(&headers(LIMITS.headers_max + 1)).refused, Some((0, Malformed::TooManyHeaders)));
    check_alike(&headers(LIMITS.headers_max + 1));

    let chunked = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    let line = [&chunked[..], b"1;", &vec![b'a'; CHUNK_LINE_BYTES_MAX as usize]].concat();
    assert_eq!(whole(&line).refused, Some((0, Malformed::ChunkLineTooLong)));
    let zeros = [&chunked[..], &vec![b'0'; CHUNK_LINE_BYTES_MAX as usize + 1]].concat();
    assert_eq!(whole(&zeros).refused, Some((0, Malformed::ChunkLineTooLong)));
    let trailers =
        [&chunked[..], b"0\r\n", &b"X: yyy\r\n".repeat(TRAILER_BYTES_MAX as usize / 8 + 1)].concat();
    assert_eq!(whole(&trailers).refused, Some((0, Malformed::TrailersTooLarge)));
}

#[test]
fn names_are_stable_and_distinct() {
    let names: std::collections::HashSet<_> =
        Malformed::ALL.iter().map(|malformed| malformed.name()).collect();
    assert_eq!(names.len(), Malformed::ALL.len());
    for (number, malformed) in Malformed::ALL.iter().enumerate() {
        assert_eq!(*malformed as usize, number);
        assert!(malformed.name().bytes().all(|byte| byte == b'_' || byte.is_ascii_alphanumeric()));
    }
}

/// Bytes that look enough like a request to come far.
fn near_requests() -> impl Strategy<Value = Vec<u8>> {
    let words = prop::sample::select(vec![
        &b"GET / HTTP/1.1\r\n"[..],
        b"Host: a\r\n",
        b"\r\n",
        b"\n",
        b"\r",
        b" ",
        b":",
        b"Content-Length: 3\r\n",
        b"Transfer-Encoding: chunked\r\n",
        b"3\r\nabc\r\n",
        b"0\r\n",
        b"X: y",
        b"\0",
    ]);
    let word =
        prop_oneof![4 => words.prop_map(<[u8]>::to_vec), 1 => prop::collection::vec(any::<u8>(), 0..8)];
    prop::collection::vec(word, 0..24).prop_map(|words| words.concat())
}

proptest! {
    #[test]
    fn pieces_do_not_matter(bytes in near_requests(), mut cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..6)) {
        cuts.sort_by_key(|cut| cut.index(bytes.len() + 1));
        let mut pieces = Vec::new();
        let mut from = 0;
        for cut in cuts {
            let to = cut.index(bytes.len() + 1);
            pieces.push(&bytes[from..to]);
            from = to;
        }
        pieces.push(&bytes[from..]);
        prop_assert_eq!(feed(pieces), whole(&bytes));
    }

    #[test]
    fn no_head_with_a_bare_line_feed_passes(bytes in near_requests()) {
        let seen = whole(&bytes);
        prop_assert!(bytes.starts_with(&seen.passed));
        if let Some(end) = memchr::memmem::find(&seen.passed, b"\r\n\r\n") {
            let head = &seen.passed[..end];
            for feed in memchr::memchr_iter(b'\n', head) {
                prop_assert!(feed > 0 && head[feed - 1] == b'\r');
            }
            for number in memchr::memchr_iter(b'\r', head) {
                prop_assert!(head.get(number + 1) == Some(&b'\n'));
            }
        }
    }
}

#[test]
fn what_follows_a_request_for_an_upgrade_waits_for_its_answer() {
    const ASKS: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n";
    let both = [ASKS, b"GET /other HTTP/1.1\r\nHost: a\r\n\r\n"].concat();
    let mut screen = Screen::new(LIMITS);
    let early = Examined { good: ASKS.len(), rest: Rest::Early };
    assert_eq!(screen.examine(&both), early);
    assert!(screen.awaits_upgrade() && !screen.expects_head());
    assert_eq!(screen.examine(&both[ASKS.len()..]), Examined { good: 0, rest: Rest::Early });
    screen.stays(true);
    assert_eq!((screen.refused(), screen.request_index()), (Some(Place::Head), 1));
    let refused = Rest::Refused(Malformed::EarlyData);
    assert_eq!(screen.examine(&both[ASKS.len()..]), Examined { good: 0, rest: refused });
    // HTTP/1.0 has no upgrades (RFC 9110, 7.8).
    let mut screen = Screen::new(LIMITS);
    let old = b"GET / HTTP/1.0\r\nUpgrade: websocket\r\n\r\nGET / HTTP/1.0\r\n\r\n";
    assert_eq!(screen.examine(old), Examined { good: old.len(), rest: Rest::None });
}
