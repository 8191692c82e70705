//! Where things are in the checkout, and how its crates are built.

use std::env;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use serde_json::Value;

/// The folder that holds the workspace's Cargo.toml.
pub fn root() -> PathBuf {
    let above = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    above.canonicalize().unwrap_or(above)
}

/// The project's own tools, caches and logs; git ignores it.
pub fn tools() -> PathBuf {
    root().join(".tools")
}

/// The cargo that runs this program, to be used for the host's crates.
pub fn cargo() -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root());
    command
}

/// What to build for namespaces: both daemons, their clients, and the programs of crate `tests`.
pub const DAEMONS: [&str; 7] = ["-p", "lb-control", "-p", "gateway", "-p", "tests", "--bins"];

/// How to compile what is run afterwards.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Profile {
    /// Tests, demo and benches share it, so that a fresh checkout compiles once.
    Dev,
    /// For a balancer that stays.
    Release,
}

/// What cargo has built.
#[derive(Default)]
pub struct Built {
    /// Executables by the name of their target: of the binary, or of the test file.
    pub executables: Vec<(String, PathBuf)>,
    /// The BPF object that the packet tests load, where crate `tests` was built.
    pub bpf_objects: Vec<PathBuf>,
}

impl Built {
    /// One of the executables.
    pub fn executable(&self, name: &str) -> Result<&Path> {
        self.executables
            .iter()
            .find(|(target, _)| target == name)
            .map(|(_, path)| path.as_path())
            .with_context(|| format!("the build made no executable called {name}"))
    }
}

/// Builds binaries, for instance `["-p", "lb-control", "--bins"]`.
pub fn build(profile: Profile, arguments: &[&str]) -> Result<Built> {
    let mut command = cargo();
    command.arg("build").args(arguments);
    if profile == Profile::Release {
        command.arg("--release");
    }
    built(command, false)
}

/// Builds binaries in a profile of the workspace's manifest.
pub fn build_as(profile: &str, arguments: &[&str]) -> Result<Built> {
    let mut command = cargo();
    command.args(["build", "--profile", profile]).args(arguments);
    built(command, false)
}

/// Builds test executables without running them.
pub fn build_tests(arguments: &[&str]) -> Result<Built> {
    let mut command = cargo();
    command.args(["test", "--no-run"]).args(arguments);
    // Cargo builds the package's binaries for its tests as well.
    built(command, true)
}

fn built(mut command: Command, tests: bool) -> Result<Built> {
    command.arg("--message-format=json-render-diagnostics").stdout(Stdio::piped());
    let mut child = command.spawn().with_context(|| format!("cannot run {command:?}"))?;
    let mut built = Built::default();
    if let Some(stdout) = child.stdout.take() {
        for line in BufReader::new(stdout).lines() {
            let Ok(message) = serde_json::from_str::<Value>(&line?) else { continue };
            let wanted = message["profile"]["test"] == tests;
            if let (true, Some(path), Some(name)) =
                (wanted, message["executable"].as_str(), message["target"]["name"].as_str())
            {
                built.executables.push((name.to_owned(), PathBuf::from(path)));
            }
            for variable in message["env"].as_array().into_iter().flatten() {
                let is_object = |name: &str| name.starts_with("PORTCULLIS_") && name.ends_with("_OBJECT");
                if variable[0].as_str().is_some_and(is_object) {
                    built.bpf_objects.extend(variable[1].as_str().map(PathBuf::from));
                }
            }
        }
    }
    if !child.wait()?.success() {
        bail!("the build failed (see the messages above)");
    }
    Ok(built)
}
