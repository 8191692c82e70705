//! Rules of the architecture that no compiler keeps, as tests over the sources (ARCHITECTURE.md, Invariants).

use std::fs;
use std::path::{Path, PathBuf};

use crate::workspace;

/// Rust sources below `folder`, by their path from the workspace's root.
fn sources(folder: &str) -> Vec<(String, String)> {
    fn walk(path: &Path, found: &mut Vec<PathBuf>) {
        for entry in
            fs::read_dir(path).unwrap_or_else(|error| panic!("{}: {error}", path.display())).flatten()
        {
            let path = entry.path();
            if path.is_dir() {
                walk(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    let root = workspace::root();
    let mut found = Vec::new();
    walk(&root.join(folder), &mut found);
    assert!(!found.is_empty(), "no sources in {folder}");
    let relative = |path: &Path| path.strip_prefix(&root).expect("below the root").display().to_string();
    found.iter().map(|path| (relative(path), fs::read_to_string(path).expect("a readable source"))).collect()
}

fn manifest(package: &str) -> String {
    fs::read_to_string(workspace::root().join(package).join("Cargo.toml")).expect("a readable manifest")
}

/// Whether a line of code, not of comment, contains `word`.
fn says(source: &str, word: &str) -> bool {
    source.lines().any(|line| line.split("//").next().is_some_and(|code| code.contains(word)))
}

#[test]
fn only_the_kernel_datapath_talks_to_aya() {
    let allowed = ["lb-control/src/datapath/bpf.rs", "lb-control/src/datapath/bpf/"];
    for (path, source) in sources("lb-control/src") {
        let excepted = path == "lb-control/src/main.rs" && !says(&source, "use aya");
        if allowed.iter().any(|prefix| path.starts_with(prefix)) || excepted {
            continue;
        }
        assert!(!says(&source, "aya::") && !says(&source, "aya_"), "{path} talks to aya");
    }
}

#[test]
fn the_packet_path_is_pure() {
    for (path, source) in sources("lb-ebpf/src") {
        if path.starts_with("lb-ebpf/src/xdp/") || path.starts_with("lb-ebpf/src/bench/") {
            continue;
        }
        for word in ["aya", "unsafe {", "std::", ".unwrap()", "panic!"] {
            let code = source.split("#[cfg(test)]").next().unwrap_or_default();
            assert!(!says(code, word), "{path} says {word:?}");
        }
    }
}

#[test]
fn pure_files_ask_nobody_for_the_time() {
    let mut pure = 0;
    for (path, source) in sources("lb-control/src") {
        let head: Vec<&str> = source.lines().take_while(|line| line.starts_with("//!")).collect();
        if !head.iter().any(|line| line.contains("Pure") || line.contains("pure.")) {
            continue;
        }
        pure += 1;
        for word in
            ["SystemTime::now", "Instant::now", "clock_gettime", "tokio::", "std::fs", "std::net::Tcp"]
        {
            let code = source.split("#[cfg(test)]").next().unwrap_or_default();
            assert!(!says(code, word), "{path} calls itself pure and says {word:?}");
        }
    }
    assert!(pure >= 5, "only {pure} files call themselves pure");
}

#[test]
fn gateway_and_controller_do_not_know_each_other() {
    assert!(!manifest("gateway").contains("lb-control"));
    assert!(!manifest("lb-control").contains("gateway"));
    assert!(!manifest("lb-common").contains("[dependencies]\nlb-"));
}

#[test]
fn a_reason_becomes_an_action_in_one_place() {
    for (path, source) in sources("lb-ebpf/src") {
        if path != "lb-ebpf/src/xdp/main.rs" && !path.starts_with("lb-ebpf/src/bench/") {
            assert!(!says(&source, "xdp_action"), "{path} decides over an action");
        }
    }
}

#[test]
fn every_file_says_what_it_is_for_and_stays_readable() {
    for folder in ["lb-common", "lb-ebpf", "lb-control", "gateway", "xtask", "tests"] {
        for (path, source) in sources(folder) {
            assert!(source.starts_with("//!"), "{path} does not open with //!");
            let lines = source.lines().count();
            assert!(lines <= 700, "{path} has {lines} lines: split it along the design's nouns");
        }
    }
}
