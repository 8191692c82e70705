//! Any bytes as an ICMP message of either family, to a virtual address, a client or the pool.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;

thread_local! {
    static TABLES: LazyLock<lb_control::datapath::memory::MemoryDatapath> = const { LazyLock::new(fuzz::tables) };
}

const LINK: [u8; 12] = [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 9];

fuzz_target!(|bytes: &[u8]| {
    let [how, number, message @ ..] = bytes else { return };
    let kind = if how & 2 == 0 { 1 } else { 2 };
    let mut frame = LINK.to_vec();
    if how & 1 == 0 {
        frame.extend([8, 0, 0x45, 0]);
        frame.extend((20 + message.len() as u16).to_be_bytes());
        frame.extend([0, 0, 0, 0, 64, 1, 0, 0, 198, 18, 0, 1, 203, 0, kind, number % 8]);
    } else {
        frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
        frame.extend((message.len() as u16).to_be_bytes());
        frame.extend([58, 255]);
        let end = |kind, number| [0x20, 1, 0x0d, 0xb8, 0, kind, 0, 0, 0, 0, 0, 0, 0, 0, 0, number];
        frame.extend(end(9, 1));
        frame.extend(end(kind, number % 8));
    }
    frame.extend(message);
    TABLES.with(|tables| fuzz::run(tables, &frame));
});
