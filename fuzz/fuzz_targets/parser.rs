//! Any bytes as a frame: headers are found within it, by both parsers alike, and the path ends in one reason.
#![no_main]

use std::sync::LazyLock;

use lb_common::Features;
use lb_ebpf::{
    packet::Buffer,
    parse::{Parsed, parse},
};
use libfuzzer_sys::fuzz_target;

thread_local! {
    static TABLES: LazyLock<lb_control::datapath::memory::MemoryDatapath> = const { LazyLock::new(fuzz::tables) };
}

fuzz_target!(|frame: &[u8]| {
    let packet = Buffer::new(frame);
    let whole = parse::<_, true>(&packet, Features::ALL, |word| word);
    let (l3, l4) = match &whole {
        Parsed::Transport(transport) => (transport.ip.l3(), transport.ip.l4() + 8),
        Parsed::LaterFragment(ip) => (ip.l3(), ip.l3() + ip.length as usize),
        Parsed::Icmp(ip) => (ip.l3(), ip.l4()),
        _ => (0, 0),
    };
    assert!(l3 <= frame.len() && l4 <= frame.len(), "headers at {l3} and {l4} of {} bytes", frame.len());
    if let (Parsed::Transport(first), Parsed::Transport(second)) =
        (&parse::<_, false>(&packet, Features::ALL, |word| word), &whole)
    {
        assert_eq!(first.tuple, second.tuple);
    }
    TABLES.with(|tables| fuzz::run(tables, frame));
});
