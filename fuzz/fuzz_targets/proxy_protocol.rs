//! Any bytes as a PROXY header: it is refused, or its end does not depend on what follows.
#![no_main]

use gateway::accept::proxy_protocol::parse;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(Some(header)) = parse(bytes) else { return };
    assert!(header.bytes <= bytes.len(), "longer than what there is");
    assert_eq!(parse(&bytes[..header.bytes]), Ok(Some(header)));
    for end in 0..header.bytes {
        assert_eq!(parse(&bytes[..end]), Ok(None), "whole after {end} bytes");
    }
});
