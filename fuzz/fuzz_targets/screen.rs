//! Any bytes as one client's connection: the screen says the same of them whole and in pieces, and no line that it lets
//! through ends without CRLF.
#![no_main]

use gateway::screen::{Examined, HeadLimits, Malformed, Rest, Screen};
use libfuzzer_sys::fuzz_target;

/// What passes of a connection, and how it ends.
fn feed<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> (Vec<u8>, Option<(u64, Malformed)>) {
    let mut screen = Screen::new(HeadLimits { bytes_max: 512, headers_max: 10 });
    let (mut passed, mut held) = (Vec::new(), Vec::new());
    for piece in pieces {
        held.extend_from_slice(piece);
        let Examined { good, rest } = screen.examine(&held);
        assert!(good <= held.len(), "more is good than there is");
        passed.extend(held.drain(..good));
        match rest {
            Rest::None => assert!(held.is_empty(), "bytes were left"),
            Rest::PartOfHead => assert!(screen.expects_head() && !held.is_empty()),
            Rest::Early => break,
            Rest::Refused(malformed) => return (passed, Some((screen.request_index(), malformed))),
        }
    }
    (passed, None)
}

fuzz_target!(|bytes: &[u8]| {
    let whole = feed([bytes]);
    assert!(bytes.starts_with(&whole.0));
    assert_eq!(feed(bytes.chunks(1)), whole, "byte by byte");
    assert_eq!(feed(bytes.chunks(7)), whole, "in pieces of seven");
    if let Some(end) = whole.0.windows(4).position(|four| four == b"\r\n\r\n") {
        let head = &whole.0[..end];
        for at in (0..head.len()).filter(|at| head[*at] == b'\n') {
            assert!(at > 0 && head[at - 1] == b'\r', "a bare line feed passed");
        }
    }
});
