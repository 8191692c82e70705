//! Compiles the packet path for the BPF virtual machine.
//!
//! Std only: the build scripts of `lb-control` and `tests` include this file as it stands. Everybody
//! builds into one target folder, so that only the first of them pays.

use std::env;
use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::toolchain::{self, Toolchain};

const TARGET: &str = "bpfel-unknown-none";

/// What a surrounding cargo, rustup or clippy leaves in the environment and must not reach the child:
/// it would choose another compiler, wrap it, or replace the flags below.
const CLEARED: [&str; 11] = [
    "RUSTC",
    "RUSTC_WRAPPER",
    "RUSTC_WORKSPACE_WRAPPER",
    "RUSTDOC",
    "CARGO",
    "RUSTFLAGS",
    "CARGO_ENCODED_RUSTFLAGS",
    "RUSTUP_TOOLCHAIN",
    "CARGO_MAKEFLAGS",
    "CARGO_BUILD_TARGET",
    "CARGO_TARGET_DIR",
];

/// Why there is no object.
#[derive(Debug)]
pub enum Error {
    /// Tools are missing: `cargo xtask setup` helps.
    NoTools(String),
    /// The tools are there and the build failed; the compiler has said why.
    Failed(String),
}

impl fmt::Display for Error {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::NoTools(why) => write!(formatter, "{why}; run\n  cargo xtask setup"),
            Error::Failed(why) => formatter.write_str(why),
        }
    }
}

impl std::error::Error for Error {}

/// Builds one program of `lb-ebpf` and returns the path of its object.
pub fn build(workspace: &Path, program: &str) -> Result<PathBuf, Error> {
    let toolchain = toolchain::find().map_err(Error::NoTools)?;
    let linker = toolchain::find_linker(workspace).map_err(Error::NoTools)?;
    let target_dir = workspace.join("target/bpf");
    let status = cargo(&toolchain, &linker, workspace, &target_dir, program)
        .status()
        .map_err(|error| Error::Failed(format!("{}: {error}", toolchain.cargo.display())))?;
    if !status.success() {
        return Err(Error::Failed(format!(
            "the BPF program {program} does not compile with {} (see the messages above)",
            toolchain.origin
        )));
    }
    Ok(target_dir.join(TARGET).join("release").join(program))
}

fn cargo(
    toolchain: &Toolchain,
    linker: &Path,
    workspace: &Path,
    target_dir: &Path,
    program: &str,
) -> Command {
    let mut command = Command::new(&toolchain.cargo);
    for name in CLEARED {
        command.env_remove(name);
    }
    command
        .current_dir(workspace)
        .args(["build", "--release", "--package", "lb-ebpf", "--bin", program])
        .args(["--target", TARGET, "-Z", "build-std=core", "--target-dir"])
        .arg(target_dir)
        .env("RUSTC", &toolchain.rustc)
        // Building core takes an unstable flag, which a stable compiler accepts only so.
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_ENCODED_RUSTFLAGS", flags(linker))
        .stdin(Stdio::null())
        // A build script's own stdout is read by cargo.
        .stdout(Stdio::null());
    command
}

/// The compiler's flags, separated as cargo wants them.
fn flags(linker: &Path) -> OsString {
    let mut flags = OsString::from(format!("--cfg=bpf_target_arch=\"{}\"", env::consts::ARCH));
    for flag in [
        // The loader needs line information to name the failing line, and BTF to create the maps.
        "-Cdebuginfo=2",
        "-Clink-arg=--btf",
        // The generic CPU has neither atomic read-modify-write with a result nor 32-bit jumps.
        "-Ctarget-cpu=v3",
    ] {
        flags.push("\u{1f}");
        flags.push(flag);
    }
    flags.push("\u{1f}-Clinker=");
    flags.push(linker);
    flags
}

/// For build scripts: builds `program`, copies the object to `OUT_DIR/<program>.o` and returns that path.
///
/// Where tools are missing the copy is empty and the configuration flag `bpf_object_missing` is set, so
/// that lints and host tests work without them; the crate that needs the object refuses to compile.
/// A failed compilation ends the build script.
pub fn for_build_script(program: &str) -> PathBuf {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let workspace = fs::canonicalize(&workspace).unwrap_or(workspace);
    println!("cargo::rustc-check-cfg=cfg(bpf_object_missing)");
    println!("cargo::rerun-if-env-changed={}", toolchain::TOOLCHAIN_ENV);
    // Cargo takes a path that does not exist for one that always changes.
    let tools = toolchain::tools_bin(&workspace);
    let _ = fs::create_dir_all(&tools);
    for watched in ["lb-ebpf/src", "lb-ebpf/Cargo.toml", "lb-common/src", "lb-common/Cargo.toml"] {
        println!("cargo::rerun-if-changed={}", workspace.join(watched).display());
    }
    println!("cargo::rerun-if-changed={}", tools.display());

    let copy =
        PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR")).join(format!("{program}.o"));
    let written = match build(&workspace, program) {
        Ok(object) => fs::copy(object, &copy).map(|_bytes| ()),
        Err(Error::NoTools(why)) => {
            println!("cargo::rustc-cfg=bpf_object_missing");
            // Cargo shows this with --verbose only: the crate's own error is the one to be read.
            println!("no BPF object: {why}");
            fs::write(&copy, [])
        }
        Err(Error::Failed(why)) => {
            eprintln!("{why}");
            std::process::exit(1);
        }
    };
    if let Err(error) = written {
        eprintln!("{}: {error}", copy.display());
        std::process::exit(1);
    }
    copy
}
