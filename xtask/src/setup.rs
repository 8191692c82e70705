//! Brings a fresh machine to where Portcullis builds and runs; does nothing where it already does.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, anyhow, bail};
use serde_json::Value;

use crate::host;
use crate::packages;
use crate::step;
use crate::toolchain::{self, Toolchain};
use crate::workspace;

/// Newer linkers ask for a newer rustc than the project's.
const LINKER_VERSION: &str = "0.13.0";

/// Debian 12 carries this compiler for its browsers, with the sources of the standard library.
const TOOLCHAIN_PACKAGES: [&str; 3] = ["rustc-web", "rust-web-src", "cargo-web"];

/// What the namespaces of demo and tests are made of, and clients that are not ours.
const NETWORK_PACKAGES: [&str; 8] =
    ["iproute2", "ethtool", "curl", "wrk", "iputils-ping", "iputils-tracepath", "openssl", "python3-minimal"];

/// What gateway and packet path are measured beside, and with.
const PEER_PACKAGES: [&str; 8] =
    ["nginx-light", "haproxy", "wrk", "curl", "nftables", "conntrack", "nghttp2-client", "nghttp2-server"];

/// What runs the virtual machine with a stock kernel.
const MACHINE_PACKAGES: [&str; 4] = ["qemu-system-x86", "busybox-static", "kmod", "bpftool"];

/// A first run of all tests writes 3 GiB; packages and a second profile need the rest.
const FREE_BYTES_FIRST: u64 = 8 << 30;

/// What rebuilding takes once everything has been built.
const FREE_BYTES_LATER: u64 = 2 << 30;

/// Install what is missing to build, run and test Portcullis
///
/// Finds a Rust toolchain that compiles for BPF (Debian's rustc-web with rust-web-src, or rustup's nightly
/// with rust-src), builds bpf-linker into .tools/bin, installs the packages that demo and tests use,
/// and checks kernel, BTF, bpffs, rights and disk. It asks nothing, starts no daemon, and does only what
/// is still to be done; what needs root is done through sudo, or printed for you to run.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  \
    cargo xtask setup            do it\n  \
    cargo xtask setup --check    only say what is there and what is missing\n\n\
    LB_EBPF_TOOLCHAIN names another BPF toolchain: one of rustup's, or a folder with bin/cargo.")]
pub struct Args {
    /// Change nothing: report, and fail if something is missing
    #[arg(long)]
    check: bool,
}

/// What a command is going to do, and so what must be there.
#[derive(Clone, Copy, Default)]
pub struct Needs {
    /// Namespaces with real clients and servers.
    pub network: bool,
    /// What gateway and packet path are measured beside.
    pub peers: bool,
    /// The virtual machine.
    pub machine: bool,
    /// rustfmt and clippy.
    pub lints: bool,
}

pub fn run(args: &Args) -> Result<()> {
    if args.check {
        return check();
    }
    ensure(Needs { network: true, peers: true, machine: true, lints: true })?;
    println!("\nready; next: cargo xtask demo");
    Ok(())
}

/// Does what is still to be done for the needs. Every command begins with it.
pub fn ensure(needs: Needs) -> Result<()> {
    disk()?;
    let toolchain = ensure_toolchain()?;
    ensure_linker(&toolchain)?;
    if needs.network {
        ensure_packages(
            "network tools",
            &NETWORK_PACKAGES,
            &["ip", "ethtool", "curl", "ping", "tracepath", "openssl"],
        )?;
    }
    if needs.peers {
        ensure_packages(
            "what to measure beside",
            &PEER_PACKAGES,
            &["nginx", "haproxy", "wrk", "curl", "nft", "conntrack", "nghttp", "nghttpd"],
        )?;
    }
    if needs.machine {
        ensure_packages("virtual machine", &MACHINE_PACKAGES, &["qemu-system-x86_64", "busybox", "depmod"])?;
    }
    if needs.lints {
        ensure_lints()?;
    }
    Ok(())
}

/// The report of `--check`: one line per thing, and what follows where it is missing.
fn check() -> Result<()> {
    let mut missing = 0;
    let mut line = |name: &str, state: Result<String, String>| match state {
        Ok(found) => println!("ok       {name}: {found}"),
        Err(why) => {
            missing += 1;
            println!("missing  {name}: {why}");
        }
    };
    let found = toolchain::find();
    line(
        "BPF toolchain",
        found.clone().map(|toolchain| format!("{} ({})", toolchain.rustc.display(), toolchain.origin)),
    );
    line("bpf-linker", linker_for(found.ok().as_ref()).map(|path| path.display().to_string()));
    for (name, list) in [
        ("network packages", &NETWORK_PACKAGES[..]),
        ("what to measure beside", &PEER_PACKAGES),
        ("machine packages", &MACHINE_PACKAGES),
    ] {
        let absent = packages::missing(list);
        line(name, if absent.is_empty() { Ok(list.join(" ")) } else { Err(absent.join(" ")) });
    }
    let lints = lints_missing();
    line("rustfmt, clippy", if lints.is_empty() { Ok("there".to_owned()) } else { Err(lints.join(" ")) });
    line("disk", disk().map(|free| format!("{} GiB free", free >> 30)).map_err(|error| error.to_string()));
    // Not counted: the virtual machine serves where the host cannot.
    match host::runs_bpf() {
        Ok(()) => println!("ok       kernel, BTF, bpffs, rights: XDP programs run on this host"),
        Err(why) => println!("note     XDP programs run only inside the virtual machine here: {why}"),
    }
    match missing {
        0 => Ok(()),
        _ => bail!("something is missing; install it with\n  cargo xtask setup"),
    }
}

fn disk() -> Result<u64> {
    let root = workspace::root();
    let free = host::free_bytes(&root)
        .with_context(|| format!("cannot ask for the free disk of {}", root.display()))?;
    let needed = if root.join("target/bpf").exists() { FREE_BYTES_LATER } else { FREE_BYTES_FIRST };
    if free < needed {
        bail!(
            "{} has {:.1} GiB free and the build needs {} GiB; make room, or move the checkout",
            root.display(),
            free as f64 / f64::from(1 << 30),
            needed >> 30
        );
    }
    Ok(free)
}

fn ensure_toolchain() -> Result<Toolchain> {
    let why = match toolchain::find() {
        Ok(found) => return Ok(found),
        Err(why) if env::var_os(toolchain::TOOLCHAIN_ENV).is_some() => {
            bail!("{why}\nunset {} to let the set-up search for itself", toolchain::TOOLCHAIN_ENV)
        }
        Err(why) => why,
    };
    println!("no BPF-capable Rust toolchain yet ({why})");
    if packages::available() {
        // Old lists know an old compiler, whose LLVM no bpf-linker can be built with.
        packages::refresh();
        if packages::known(TOOLCHAIN_PACKAGES[0]) {
            packages::install_newest("BPF toolchain", &TOOLCHAIN_PACKAGES)?;
            return toolchain::find().map_err(|why| anyhow!("{why}"));
        }
    }
    install_nightly()?;
    toolchain::find().map_err(|why| anyhow!("{why}"))
}

fn install_nightly() -> Result<()> {
    let mut rustup = Command::new("rustup");
    rustup.args(["toolchain", "install", "nightly", "--profile", "minimal", "--component", "rust-src"]);
    step::quiet("BPF toolchain: rustup's nightly with rust-src", "rustup", &mut rustup).context(
        "no BPF-capable Rust toolchain could be installed. Do one of\n  \
         rustup toolchain install nightly --profile minimal --component rust-src\n  \
         apt-get install rustc-web rust-web-src cargo-web       # Debian 12, as root\nand then\n  \
         cargo xtask setup",
    )
}

fn ensure_linker(toolchain: &Toolchain) -> Result<()> {
    if linker_for(Some(toolchain)).is_ok() {
        return Ok(());
    }
    let llvm = toolchain::llvm_of(&toolchain.rustc).map_err(|why| anyhow!("{why}"))?;
    let prefix = install_llvm(llvm)?;
    let tools = workspace::tools();
    let mut install = workspace::cargo();
    install
        .args(["install", "bpf-linker", "--version", LINKER_VERSION, "--locked", "--force"])
        .args(["--no-default-features", "--features", &format!("llvm-{llvm}"), "--root"])
        .arg(&tools)
        .arg("--target-dir")
        .arg(tools.join("build"))
        .env("PATH", path_with(&prefix.join("bin")))
        // The flags of a surrounding build are not the linker's.
        .env_remove("RUSTFLAGS")
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .env_remove("CARGO_BUILD_TARGET");
    step::quiet(
        &format!("bpf-linker {LINKER_VERSION} with LLVM {llvm} into .tools/bin"),
        "bpf-linker",
        &mut install,
    )
    .with_context(|| {
        format!(
            "bpf-linker could not be built. By hand:\n  \
                 PATH={}/bin:$PATH cargo install bpf-linker --version {LINKER_VERSION} --locked \
                 --no-default-features --features llvm-{llvm} --root {}",
            prefix.display(),
            tools.display()
        )
    })?;
    // Nobody builds it twice.
    let _ = fs::remove_dir_all(tools.join("build"));
    linker_for(Some(toolchain))
        .map(|_path| ())
        .map_err(|why| anyhow!("the new bpf-linker will not do: {why}"))
}

/// LLVM's headers and libraries of the given major version; returns its prefix.
fn install_llvm(llvm: u32) -> Result<PathBuf> {
    let prefix = PathBuf::from(format!("/usr/lib/llvm-{llvm}"));
    let complete = prefix.join("bin/llvm-config").exists() && prefix.join("include/llvm").exists();
    if !complete {
        let package = format!("llvm-{llvm}-dev");
        if packages::available() {
            if !packages::known(&package) {
                packages::refresh();
            }
            if packages::known(&package) {
                packages::install("LLVM", &[&package])?;
                return Ok(prefix);
            }
        }
        bail!(
            "bpf-linker needs LLVM {llvm}, as the BPF toolchain has it, and no {package} is to be had here. \
             LLVM's own packages (https://apt.llvm.org) have it:\n  \
             wget https://apt.llvm.org/llvm.sh && bash llvm.sh {llvm} && apt-get install {package}\nand then\n  \
             cargo xtask setup"
        );
    }
    Ok(prefix)
}

/// The linker that is there, if it runs and its LLVM is new enough for the compiler's bitcode.
fn linker_for(toolchain: Option<&Toolchain>) -> Result<PathBuf, String> {
    let linker = toolchain::find_linker(&workspace::root())?;
    if !host::succeeds(Command::new(&linker).arg("--version")) {
        return Err(format!("{} does not run", linker.display()));
    }
    let needed = toolchain.map(|toolchain| toolchain::llvm_of(&toolchain.rustc)).transpose()?;
    match (needed, built_with(&linker)) {
        (Some(needed), Some(has)) if has < needed => {
            Err(format!("{} has LLVM {has}, the compiler has LLVM {needed}", linker.display()))
        }
        // One that somebody else installed does not say which LLVM it has.
        _ => Ok(linker),
    }
}

/// The LLVM that our own linker was built with: cargo notes the features of what it installs.
fn built_with(linker: &Path) -> Option<u32> {
    if linker != toolchain::own_linker(&workspace::root()) {
        return None;
    }
    let notes = fs::read_to_string(workspace::tools().join(".crates2.json")).ok()?;
    let notes: Value = serde_json::from_str(&notes).ok()?;
    let (_, install) =
        notes["installs"].as_object()?.iter().find(|(name, _)| name.starts_with("bpf-linker "))?;
    install["features"]
        .as_array()?
        .iter()
        .find_map(|feature| feature.as_str()?.strip_prefix("llvm-")?.parse().ok())
}

/// Installs packages on Debian; elsewhere the programs must be there already.
fn ensure_packages(purpose: &str, list: &[&str], programs: &[&str]) -> Result<()> {
    if packages::available() {
        return packages::install(purpose, list);
    }
    let absent: Vec<_> = programs.iter().copied().filter(|program| !in_path(program)).collect();
    if absent.is_empty() {
        return Ok(());
    }
    bail!(
        "{purpose}: {} not found, and this is no system with apt. Install what Debian calls\n  {}\n\
         and then run this command again",
        absent.join(", "),
        list.join(" ")
    )
}

fn ensure_lints() -> Result<()> {
    let missing = lints_missing();
    if missing.is_empty() {
        return Ok(());
    }
    let mut rustup = Command::new("rustup");
    rustup.args(["component", "add"]).args(&missing).current_dir(workspace::root());
    step::quiet(&format!("lints: rustup component add {}", missing.join(" ")), "rustup", &mut rustup)
        .with_context(|| {
            format!("run\n  rustup component add {}\nand then this command again", missing.join(" "))
        })
}

fn lints_missing() -> Vec<&'static str> {
    [("fmt", "rustfmt"), ("clippy", "clippy")]
        .into_iter()
        .filter(|(command, _)| !host::succeeds(workspace::cargo().args([command, "--version"])))
        .map(|(_, component)| component)
        .collect()
}

fn in_path(program: &str) -> bool {
    // Debian keeps these out of a plain user's PATH.
    env::split_paths(&path_with(Path::new("/usr/sbin"))).any(|folder| folder.join(program).is_file())
}

fn path_with(first: &Path) -> std::ffi::OsString {
    let mut path = first.as_os_str().to_owned();
    path.push(":");
    path.push(env::var_os("PATH").unwrap_or_default());
    path
}
