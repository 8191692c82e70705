//! What a test needs of its host, and the sweep of what killed runs left behind.
//!
//! A test without its needs fails loudly: a silent pass would be a lie.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

use anyhow::{Result, ensure};

use crate::netns::{NAMES, run};

const BPFFS: &str = "/sys/fs/bpf";
const BPFFS_MAGIC: i64 = 0xcafe_4a11;
/// How pin directories and runtime directories of tests are named, before the process id.
pub const DIRECTORY_PREFIX: &str = "portcullis-test-";

/// Checks root, BPF, bpffs (mounted where it is not) and the tools, and sweeps; panics with what is missing.
pub fn requires() {
    static CHECKED: OnceLock<Result<(), String>> = OnceLock::new();
    if let Err(missing) = CHECKED.get_or_init(|| prepare().map_err(|error| format!("{error:#}"))) {
        panic!("this test cannot run here: {missing}");
    }
}

/// [`requires`] for those who report errors themselves.
pub fn prepare() -> Result<()> {
    // SAFETY: takes nothing and cannot fail.
    ensure!(unsafe { libc::geteuid() } == 0, "it makes network namespaces and loads BPF: run it as root");
    for tool in ["ip", "ethtool", "curl", "ping", "tracepath", "openssl"] {
        ensure!(
            is_installed(tool),
            "`{tool}` is not installed: apt-get install iproute2 ethtool curl iputils-ping iputils-tracepath openssl"
        );
    }
    ensure!(Path::new("/proc/self/ns/net").exists(), "the kernel has no network namespaces");
    mount_bpffs()?;
    raise_file_limit();
    sweep();
    sweep_cgroups();
    Ok(())
}

/// Where the daemons of this process pin, for the topology of number `number`.
pub fn pin_directory(number: u32) -> PathBuf {
    Path::new(BPFFS).join(format!("{DIRECTORY_PREFIX}{}-{number}", std::process::id()))
}

/// Removes namespaces, their processes, pins and runtime directories of runs whose process is gone.
pub fn sweep() {
    for name in entries(NAMES) {
        if is_left_over(name.strip_prefix("pc-")) {
            stop_processes_of(&name);
            let _ = run(Command::new("ip").args(["netns", "del", &name]));
        }
    }
    for directory in [Path::new(BPFFS), &std::env::temp_dir()] {
        for name in entries(directory) {
            if is_left_over(name.strip_prefix(DIRECTORY_PREFIX)) {
                let _ = fs::remove_dir_all(directory.join(name));
            }
        }
    }
}

/// Removes cgroups of runs whose process is gone: their processes went with it.
fn sweep_cgroups() {
    let Ok(root) = lb_control::datapath::socket::cgroup_root() else { return };
    for name in entries(&root) {
        if is_left_over(name.strip_prefix(DIRECTORY_PREFIX)) {
            let _ = fs::remove_dir(root.join(name));
        }
    }
}

/// Whether a program of this name stands in PATH.
pub fn is_installed(tool: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).chain([PathBuf::from("/usr/sbin")]).any(|folder| folder.join(tool).is_file())
}

/// Thousands of connections are held at once; servers inherit the limit.
fn raise_file_limit() {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: both calls take a pointer to a live struct.
    unsafe {
        if libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) == 0 {
            limit.rlim_cur = limit.rlim_max.min(1 << 17);
            libc::setrlimit(libc::RLIMIT_NOFILE, &limit);
        }
    }
}

fn mount_bpffs() -> Result<()> {
    ensure!(Path::new(BPFFS).is_dir(), "the kernel has no BPF file system");
    // SAFETY: zero is a valid statfs, and the path is a C string.
    let is_bpffs = || unsafe {
        let mut stat: libc::statfs = std::mem::zeroed();
        libc::statfs(c"/sys/fs/bpf".as_ptr(), &mut stat) == 0 && stat.f_type as i64 == BPFFS_MAGIC
    };
    // Another process may mount it in the same moment: only the outcome counts.
    if !is_bpffs() {
        let mounted = run(Command::new("mount").args(["-t", "bpf", "bpf", BPFFS]));
        ensure!(is_bpffs(), "bpffs cannot be mounted: {mounted:?}");
    }
    Ok(())
}

/// `rest` begins with the process id of the run that made it.
fn is_left_over(rest: Option<&str>) -> bool {
    rest.and_then(|rest| rest.split('-').next()?.parse::<u32>().ok())
        .is_some_and(|process| !Path::new("/proc").join(process.to_string()).exists())
}

fn stop_processes_of(namespace: &str) {
    let Ok(output) = Command::new("ip").args(["netns", "pids", namespace]).output() else { return };
    for process in String::from_utf8_lossy(&output.stdout).split_whitespace() {
        if let Ok(process) = process.parse::<libc::pid_t>() {
            // SAFETY: plain values; the process lives in a namespace that a dead run made.
            unsafe { libc::kill(process, libc::SIGKILL) };
        }
    }
}

fn entries(directory: impl AsRef<Path>) -> Vec<String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}
