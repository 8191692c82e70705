//! Any bytes as a QUIC packet: every scheme reads ids within it, and the path ends in one reason.
#![no_main]

use std::sync::LazyLock;

use lb_common::{IdStart, QuicScheme};
use libfuzzer_sys::fuzz_target;

thread_local! {
    static TABLES: LazyLock<lb_control::datapath::memory::MemoryDatapath> = const { LazyLock::new(fuzz::tables) };
}

fuzz_target!(|payload: &[u8]| {
    if let Some((id, &[len, config, ..])) = payload.split_first_chunk::<9>().map(|(id, rest)| (id, rest))
        && let [first, rest @ ..] = *id
    {
        let start = || IdStart { first, rest: u64::from_be_bytes(rest) };
        let len = 1 + len % 8;
        for (scheme, bits) in
            [(QuicScheme::QuicLb, 8 * u32::from(len)), (QuicScheme::KatranV1, 16), (QuicScheme::KatranV2, 24)]
        {
            let server = scheme.server_id(start(), len, config % 7);
            assert!(server.is_none_or(|server| bits == 64 || server >> bits == 0), "{scheme:?}: {server:?}");
        }
    }
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 9, 8, 0, 0x45, 0];
    frame.extend((28 + payload.len() as u16).to_be_bytes());
    frame.extend([0, 0, 0, 0, 64, 17, 0, 0, 198, 18, 0, 1, 203, 0, 1, 1, 0x9c, 0x40, 0, 80]);
    frame.extend((8 + payload.len() as u16).to_be_bytes());
    frame.extend([0, 0]);
    frame.extend(payload);
    TABLES.with(|tables| fuzz::run(tables, &frame));
});
