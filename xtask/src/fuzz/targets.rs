//! libFuzzer's targets, in the layout of cargo-fuzz but built by cargo alone: the compiler's instrumentation is asked for
//! with flags, and `RUSTC_BOOTSTRAP` lets a stable compiler take those that are not stable yet.

use std::process::Command;
use std::{env, fs};

use anyhow::{Context, Result, bail};

use crate::step::{describe, shown, step};
use crate::workspace;

/// What `cargo fuzz` passes, without a sanitizer: the targets have no unsafe code of their own.
const FLAGS: [&str; 8] = [
    "--cfg=fuzzing",
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "-Cdebug-assertions",
    "-Coverflow-checks",
];

/// Builds a target and runs it over its corpus, which keeps what is found. A crash leaves its input in fuzz/artifacts.
pub fn run(target: &str, minutes: u64) -> Result<()> {
    let folder = workspace::root().join("fuzz");
    if !folder.join(format!("fuzz_targets/{target}.rs")).exists() {
        let mut known = Vec::new();
        for entry in fs::read_dir(folder.join("fuzz_targets"))? {
            known.push(entry?.file_name().to_string_lossy().trim_end_matches(".rs").to_owned());
        }
        known.sort();
        bail!("no target is called {target}: diff, mutants, {}", known.join(", "));
    }
    // A target of its own, so that build scripts and macros are built without the instrumentation.
    let triple = format!("{}-unknown-linux-gnu", env::consts::ARCH);
    let mut build = workspace::cargo();
    build
        .current_dir(&folder)
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_ENCODED_RUSTFLAGS", FLAGS.join("\u{1f}"))
        .args(["build", "--release", "--bin", target, "--target", &triple]);
    step("build", || shown(&mut build))?;
    let artifacts = folder.join("artifacts").join(target);
    // What a run finds goes to the first folder; the named inputs are kept as they are.
    let found = workspace::root().join("target/fuzz-corpus").join(target);
    for path in [&artifacts, &found] {
        fs::create_dir_all(path).with_context(|| path.display().to_string())?;
    }
    let mut fuzz = Command::new(folder.join(format!("target/{triple}/release/{target}")));
    fuzz.current_dir(&folder)
        .arg(format!("-artifact_prefix={}/", artifacts.display()))
        .arg(format!("-max_total_time={}", 60 * minutes))
        .args(["-max_len=4096", "-timeout=10", "-print_final_stats=1"])
        .arg(&found)
        .arg(folder.join("corpus").join(target));
    step(target, || shown(&mut fuzz)).with_context(|| describe(&fuzz))
}
