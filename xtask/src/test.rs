//! All tests, as CI runs them: each step with its time, and the count at the end.

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};

use crate::bench;
use crate::conformance;
use crate::host;
use crate::setup::{self, Needs};
use crate::step::{describe, shown, step};
use crate::toolchain;
use crate::verify;
use crate::vm::{self, VmJob};
use crate::workspace;

/// The whole namespace suite under emulation.
const VM_TIMEOUT: Duration = Duration::from_secs(40 * 60);

/// Its short part.
const VM_SHORT_TIMEOUT: Duration = Duration::from_secs(6 * 60);

/// The tests that every run repeats inside the virtual machine: a real card's driver, and names beginning so.
const VM_SHORT: [&str; 2] = ["virtio_", "smoke_"];

/// Run every test, after setting up what they need
///
/// In this order: formatting, clippy with warnings denied, the host tests, the packet path's budget, a short
/// round of the bench, the suites in network namespaces, and a short part of them inside a virtual machine
/// with a stock Debian kernel. The last line counts the tests. Needs root and BPF; `--vm` does not.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  \
    cargo xtask test                 everything; CI runs this\n  \
    cargo xtask test drain           only tests whose name contains `drain`\n  \
    cargo xtask test --host          formatting, clippy and host tests: no root, no BPF\n  \
    cargo xtask test --vm            the namespace suites inside the virtual machine: no root")]
pub struct Args {
    /// Only tests whose name contains this; leaves out formatting, clippy, budget, bench and virtual machine
    filter: Option<String>,
    /// Run the namespace suites, all of them, inside the virtual machine and nothing else
    #[arg(long)]
    vm: bool,
    /// Only what needs neither root nor BPF
    #[arg(long, conflicts_with = "vm")]
    host: bool,
}

pub fn run(args: &Args) -> Result<()> {
    let started = Instant::now();
    let mut report = Report::default();
    let filter = args.filter.as_deref();
    if args.vm {
        setup::ensure(Needs { network: true, machine: true, ..Needs::default() })?;
        report.step("namespace suites in the virtual machine", |report| {
            in_machine(report, filter.as_slice(), VM_TIMEOUT)
        });
    } else {
        if !args.host {
            host::runs_bpf().map_err(|why| {
                anyhow!(
                    "{why}. The namespace suites cannot run here. Do one of\n  \
                     {}\n  \
                     cargo xtask test --vm       # inside a virtual machine, without root\n  \
                     cargo xtask test --host     # only what needs neither root nor BPF",
                    host::as_root()
                )
            })?;
            let whole = filter.is_none();
            setup::ensure(Needs { network: true, peers: true, machine: whole, lints: whole })?;
        }
        if filter.is_none() {
            report.step("formatting", |_| shown(workspace::cargo().args(["fmt", "--all", "--check"])));
            report.step("clippy", |_| {
                shown(workspace::cargo().args([
                    "clippy",
                    "--workspace",
                    "--all-targets",
                    "--",
                    "-D",
                    "warnings",
                ]))
            });
        }
        report.step("host tests", |report| {
            let mut command = workspace::cargo();
            command.args(["test", "--workspace", "--exclude", "tests", "--no-fail-fast"]);
            if toolchain::find().is_err() || toolchain::find_linker(&workspace::root()).is_err() {
                println!("without BPF tools only the libraries' own tests can run");
                command.arg("--lib");
            }
            command.arg("--").args(filter);
            counted(report, &mut command)
        });
        if !args.host {
            if filter.is_none() {
                report.step("budget of the packet path", |_| verify::verify());
                report.step("benches, one short round of each", |_| bench::short_rounds());
                report.step("conformance of the gateway, its short parts", |_| conformance::short_parts());
            }
            report.step("namespace suites", |report| {
                let mut command = workspace::cargo();
                // Two cores: suites that measure outages must not compete with each other.
                command
                    .args(["test", "-p", "tests", "--no-fail-fast", "--", "--test-threads=1"])
                    .args(filter);
                counted(report, &mut command)
            });
            if filter.is_none() {
                report.step("short part in the virtual machine", |report| {
                    in_machine(report, &VM_SHORT, VM_SHORT_TIMEOUT)
                });
            }
        }
    }
    report.finish(started.elapsed())
}

/// What the steps said.
#[derive(Default)]
struct Report {
    passed: u64,
    failed: u64,
    skipped: u64,
    /// Names of the tests that failed: in the middle of a long output they are overlooked.
    failures: Vec<String>,
    steps: Vec<(&'static str, Duration, bool)>,
}

impl Report {
    /// A step that fails does not keep the later ones from running.
    fn step(&mut self, name: &'static str, body: impl FnOnce(&mut Report) -> Result<()>) {
        let started = Instant::now();
        let outcome = step(name, || body(self));
        if let Err(error) = &outcome {
            eprintln!("{name}: {error:#}");
        }
        self.steps.push((name, started.elapsed(), outcome.is_ok()));
    }

    /// Adds up a test runner's `test result: ok. 5 passed; 0 failed; 1 ignored; …`.
    fn line(&mut self, line: &str) {
        if let Some(test) =
            line.strip_prefix("test ").and_then(|rest| rest.trim_end().strip_suffix(" ... FAILED"))
        {
            self.failures.push(test.to_owned());
        }
        let Some((_, counts)) = line.split_once("test result: ") else { return };
        let count = |of: &str| -> u64 {
            counts
                .split([';', '.'])
                .find_map(|part| part.trim().strip_suffix(of)?.trim().parse().ok())
                .unwrap_or(0)
        };
        self.passed += count("passed");
        self.failed += count("failed");
        self.skipped += count("ignored");
    }

    fn finish(&self, took: Duration) -> Result<()> {
        println!();
        for (name, took, well) in &self.steps {
            println!("{} {name}: {:.1} s", if *well { "✔" } else { "✘" }, took.as_secs_f32());
        }
        println!("in all {:.0} s", took.as_secs_f32());
        for test in &self.failures {
            println!("FAILED {test}");
        }
        match self.skipped {
            0 => println!("{} passed, {} failed", self.passed, self.failed),
            skipped => println!("{} passed, {} failed, {skipped} skipped", self.passed, self.failed),
        }
        std::io::stdout().flush()?;
        let broken: Vec<_> = self.steps.iter().filter(|(_, _, well)| !well).map(|(name, ..)| *name).collect();
        if !broken.is_empty() {
            bail!("failed: {}", broken.join(", "));
        }
        if self.passed == 0 {
            bail!("no test was run");
        }
        Ok(())
    }
}

/// Runs tests, shows their output as it comes, and counts.
fn counted(report: &mut Report, command: &mut Command) -> Result<()> {
    let mut child = command
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run {}", describe(command)))?;
    if let Some(stdout) = child.stdout.take() {
        for line in BufReader::new(stdout).split(b'\n') {
            let line = String::from_utf8_lossy(&line?).into_owned();
            println!("{line}");
            report.line(&line);
        }
    }
    let status = child.wait()?;
    if status.success() { Ok(()) } else { bail!("{} ({status})", describe(command)) }
}

/// The suites of crate `tests`, built here and run there.
fn in_machine(report: &mut Report, filters: &[&str], timeout: Duration) -> Result<()> {
    let mut built = workspace::build_tests(&["-p", "tests"])?;
    let suites: Vec<_> = built.executables.iter().map(|(_, path)| path.display().to_string()).collect();
    let daemons = workspace::build(workspace::Profile::Dev, &workspace::DAEMONS)?;
    let mut files: Vec<_> = built.executables.drain(..).map(|(_, path)| path).collect();
    files.extend(daemons.executables.iter().map(|(_, path)| path.clone()));
    // Suites and programs are built with other packages beside them, so that each may have objects of its own.
    files.extend(built.bpf_objects.iter().chain(&daemons.bpf_objects).cloned());
    files.sort_unstable();
    files.dedup();
    files.push(workspace::root().join("examples"));
    // First whether the older verifier takes the programs at all, and at what price.
    let mut command = format!("failed=0\n{} || failed=1\n", daemons.executable("verify")?.display());
    for suite in &suites {
        command.push_str(&format!("{suite} --test-threads=1 {} || failed=1\n", filters.join(" ")));
    }
    command.push_str("exit $failed");
    let outcome = vm::run(&VmJob { command, files, timeout })?;
    for line in &outcome.output {
        report.line(line);
    }
    outcome.into_result()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runners_lines_are_added_up() {
        let mut report = Report::default();
        for line in [
            "test result: ok. 5 passed; 0 failed; 1 ignored; 0 measured; 2 filtered out; finished in 0.00s",
            "test a::b ... FAILED",
            "test result: FAILED. 10 passed; 3 failed; 0 ignored; 0 measured; 0 filtered out",
            "5 passed is no runner's line",
        ] {
            report.line(line);
        }
        assert_eq!((report.passed, report.failed, report.skipped), (15, 3, 1));
        assert_eq!(report.failures, ["a::b"]);
    }
}
