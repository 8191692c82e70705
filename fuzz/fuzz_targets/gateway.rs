//! Any text as the gateway's configuration: it is refused with a place, or read.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Err(finding) = gateway::config::parse(text) {
        assert!(!finding.rule.is_empty(), "a refusal without a rule");
    }
});
