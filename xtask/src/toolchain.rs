//! Finds what compiles for the BPF virtual machine: a rustc that has the standard library's sources,
//! and bpf-linker.
//!
//! Std only: the build scripts of `lb-control` and `tests` include this file as it stands.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Names a toolchain to use instead of searching: a rustup toolchain, or a folder that has `bin/cargo`.
pub const TOOLCHAIN_ENV: &str = "LB_EBPF_TOOLCHAIN";

/// The oldest LLVM that bpf-linker can be built with; a compiler must not have an older one than its linker.
const LLVM_MIN: u32 = 21;

/// Debian's toolchain lives here (packages rustc-web, cargo-web and rust-web-src).
const DEBIAN_SYSROOT: &str = "/usr";

/// A cargo and rustc pair that can build `core` for BPF.
#[derive(Debug, Clone)]
pub struct Toolchain {
    /// The cargo to run.
    pub cargo: PathBuf,
    /// The rustc that it shall use.
    pub rustc: PathBuf,
    /// Where it was found, in words for people.
    pub origin: String,
}

/// The toolchain to build the BPF object with, or the reasons why each candidate will not do.
pub fn find() -> Result<Toolchain, String> {
    if let Some(named) = env::var_os(TOOLCHAIN_ENV).filter(|value| !value.is_empty()) {
        let named = named.to_string_lossy().into_owned();
        let sysroot =
            if Path::new(&named).is_dir() { PathBuf::from(&named) } else { rustup_sysroot(&named)? };
        return probe(&sysroot, format!("{TOOLCHAIN_ENV}={named}"));
    }
    let debian = match probe(Path::new(DEBIAN_SYSROOT), "Debian's rustc-web".to_owned()) {
        Ok(toolchain) => return Ok(toolchain),
        Err(why) => why,
    };
    match rustup_sysroot("nightly").and_then(|sysroot| probe(&sysroot, "rustup's nightly".to_owned())) {
        Ok(toolchain) => Ok(toolchain),
        Err(nightly) => Err(format!("{debian}; {nightly}")),
    }
}

/// The bpf-linker to use: the project's own before any in PATH.
pub fn find_linker(workspace: &Path) -> Result<PathBuf, String> {
    let own = own_linker(workspace);
    if own.is_file() {
        return Ok(own);
    }
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .map(|folder| folder.join("bpf-linker"))
        .find(|candidate| candidate.is_file())
        .ok_or_else(|| format!("no bpf-linker: neither {} nor in PATH", own.display()))
}

/// Where `cargo xtask setup` puts bpf-linker.
pub fn own_linker(workspace: &Path) -> PathBuf {
    tools_bin(workspace).join("bpf-linker")
}

/// The folder of the project's own tools; build scripts watch it.
pub fn tools_bin(workspace: &Path) -> PathBuf {
    workspace.join(".tools/bin")
}

/// Whether a toolchain can build `core`, which rustup's and Debian's can only with their sources installed.
fn probe(sysroot: &Path, origin: String) -> Result<Toolchain, String> {
    let (cargo, rustc) = (sysroot.join("bin/cargo"), sysroot.join("bin/rustc"));
    for tool in [&cargo, &rustc] {
        if !tool.is_file() {
            return Err(format!("{origin}: there is no {}", tool.display()));
        }
    }
    let sources = sysroot.join("lib/rustlib/src/rust/library/Cargo.lock");
    if !sources.is_file() {
        return Err(format!("{origin}: no sources of core, {} is missing", sources.display()));
    }
    let llvm = llvm_of(&rustc)?;
    if llvm < LLVM_MIN {
        return Err(format!("{origin}: {} has LLVM {llvm}, bpf-linker needs {LLVM_MIN}", rustc.display()));
    }
    Ok(Toolchain { cargo, rustc, origin })
}

/// The major version of a compiler's LLVM.
pub fn llvm_of(rustc: &Path) -> Result<u32, String> {
    run(Command::new(rustc).arg("-vV"))?
        .lines()
        .find_map(|line| line.strip_prefix("LLVM version: ")?.split('.').next()?.parse().ok())
        .ok_or_else(|| format!("{} does not say which LLVM it has", rustc.display()))
}

fn rustup_sysroot(name: &str) -> Result<PathBuf, String> {
    run(Command::new("rustup").args(["run", name, "rustc", "--print", "sysroot"]))
        .map(|printed| PathBuf::from(printed.trim()))
        .map_err(|why| format!("rustup's {name}: {why}"))
}

fn run(command: &mut Command) -> Result<String, String> {
    // A surrounding cargo or rustup would decide which toolchain the proxies start.
    let output = command
        .env_remove("RUSTUP_TOOLCHAIN")
        .env_remove("RUSTC")
        .output()
        .map_err(|error| format!("{}: {error}", command.get_program().to_string_lossy()))?;
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        return Err(stderr.lines().next().unwrap_or("failed without a word").to_owned());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
