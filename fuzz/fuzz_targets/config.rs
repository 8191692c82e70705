//! Any text as the daemon's configuration: it is refused with the line, or taken.
#![no_main]

use lb_control::config::File;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Err(invalid) = File::parse(text) {
        let said = invalid.in_file("file.toml".as_ref());
        assert!(said.lines().all(|line| !line.is_empty()) && !said.is_empty());
    }
});
