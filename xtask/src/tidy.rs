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
    let allowed = [
        "lb-control/src/datapath/bpf.rs",
        "lb-control/src/datapath/bpf/",
        "lb-control/src/datapath/decap.rs",
        "lb-control/src/datapath/socket.rs",
    ];
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
        let shells = ["lb-ebpf/src/xdp/", "lb-ebpf/src/bench/", "lb-ebpf/src/decap/", "lb-ebpf/src/socket/"];
        if shells.iter().any(|shell| path.starts_with(shell)) {
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
    for (path, source) in sources("lb-control/src").into_iter().chain(sources("gateway/src")) {
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
    assert!(pure >= 30, "only {pure} files call themselves pure");
}

/// A refusal becomes a status in `respond.rs`. Others may name a status for what is no refusal: what a service
/// answered, a switch to another protocol, what operators and balancers are told, a record before it has one.
#[test]
fn a_refusal_becomes_a_status_in_one_place() {
    let allowed = [
        "respond.rs",
        "upstream/endpoint.rs",
        "upstream/attempts.rs",
        "proxy.rs",
        "upgrade.rs",
        "accept/service.rs",
        "admin.rs",
        "admin/control.rs",
        "record.rs",
        "metrics.rs",
    ];
    for (path, source) in sources("gateway/src") {
        let fetches = path.ends_with("/authenticate/key_set/fetched.rs");
        if fetches || allowed.iter().any(|file| path == format!("gateway/src/{file}")) {
            continue;
        }
        let code = source.split("#[cfg(test)]").next().unwrap_or_default();
        assert!(!says(code, "StatusCode::"), "{path} decides over a status");
    }
}

#[test]
fn every_word_of_a_problem_is_described_and_counted() {
    let read = |path: &str| fs::read_to_string(workspace::root().join(path)).expect("a readable file");
    let (errors, manual, metrics) =
        (read("gateway/src/error.rs"), read("docs/gateway.md"), read("gateway/src/metrics.rs"));
    let mut words = 0;
    for line in errors.lines() {
        let Some((_, word)) = line.split_once("=> \"") else { continue };
        let word = word.trim_end_matches(['"', ',']);
        words += 1;
        assert!(manual.contains(&format!("`{word}`")), "docs/gateway.md does not describe {word}");
        // Words that only notes have are not counted.
        let of_note = ["status", "missing_value", "dependency"].contains(&word);
        assert!(of_note || metrics.contains(&format!("\"{word}\"")), "metrics.rs does not count {word}");
    }
    assert!(words >= 25, "only {words} words found: are they written otherwise now?");
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
        let programs = ["lb-ebpf/src/xdp/main.rs", "lb-ebpf/src/decap/main.rs"];
        if !programs.contains(&path.as_str()) && !path.starts_with("lb-ebpf/src/bench/") {
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
