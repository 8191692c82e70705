//! What this machine lets us do: who we are, its kernel, BPF, namespaces, disk.

use std::ffi::CString;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::{Command, Stdio};

/// The oldest kernel that the packet path is tested on.
pub const KERNEL_MIN: (u32, u32) = (6, 1);

const CAP_NET_ADMIN: u32 = 12;
const CAP_SYS_ADMIN: u32 = 21;

/// How a command gets root's rights.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Elevation {
    /// We are root.
    Root,
    /// Through sudo.
    Sudo,
    /// There is no way: the user must be told what to run.
    None,
}

impl Elevation {
    /// What this process may do.
    pub fn of_this_process() -> Elevation {
        if is_root() {
            Elevation::Root
        } else if succeeds(Command::new("sudo").arg("--version")) {
            Elevation::Sudo
        } else {
            Elevation::None
        }
    }

    /// The command with root's rights; without a way to get them, the command as it is.
    pub fn command(self, program: &str) -> Command {
        match self {
            Elevation::Sudo => {
                let mut command = Command::new("sudo");
                // Without a terminal a question for the password would hang.
                if !std::io::IsTerminal::is_terminal(&std::io::stdin()) {
                    command.arg("-n");
                }
                command.arg(program);
                command
            }
            Elevation::Root | Elevation::None => Command::new(program),
        }
    }
}

/// Whether this process runs as root.
pub fn is_root() -> bool {
    // SAFETY: geteuid has no arguments and cannot fail.
    unsafe { libc::geteuid() == 0 }
}

/// How a plain user types the present command with root's rights.
pub fn as_root() -> String {
    let words: Vec<_> = std::env::args().skip(1).collect();
    format!("sudo -E env PATH=\"$PATH\" cargo xtask {}", words.join(" "))
}

/// The running kernel's version, or nothing if it cannot be read.
pub fn kernel() -> Option<(u32, u32)> {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").ok()?;
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

/// Whether XDP programs can be loaded and namespaces made here, or else why not.
pub fn runs_bpf() -> Result<(), String> {
    let kernel = kernel().unwrap_or_default();
    if kernel < KERNEL_MIN {
        return Err(format!(
            "the kernel is {}.{}, the packet path needs {}.{}",
            kernel.0, kernel.1, KERNEL_MIN.0, KERNEL_MIN.1
        ));
    }
    if !Path::new("/sys/kernel/btf/vmlinux").exists() {
        return Err("the kernel has no BTF (/sys/kernel/btf/vmlinux, CONFIG_DEBUG_INFO_BTF)".to_owned());
    }
    if !is_root() {
        return Err("BPF programs and network namespaces need root".to_owned());
    }
    for (bit, name) in [(CAP_NET_ADMIN, "CAP_NET_ADMIN"), (CAP_SYS_ADMIN, "CAP_SYS_ADMIN")] {
        if effective_capabilities() & (1 << bit) == 0 {
            return Err(format!("root has no {name} here (a container without --privileged?)"));
        }
    }
    if !bpffs_mounts() {
        return Err("the BPF file system cannot be mounted (mount -t bpf bpf /sys/fs/bpf)".to_owned());
    }
    if !succeeds(Command::new("unshare").args(["--net", "--mount", "true"])) {
        return Err("network namespaces cannot be made (unshare --net --mount true)".to_owned());
    }
    Ok(())
}

/// Mounts the BPF file system at its usual place unless it is there.
fn bpffs_mounts() -> bool {
    let mounts = fs::read_to_string("/proc/mounts").unwrap_or_default();
    mounts.lines().any(|line| line.split(' ').nth(2) == Some("bpf"))
        || succeeds(Command::new("mount").args(["-t", "bpf", "bpf", "/sys/fs/bpf"]))
}

fn effective_capabilities() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .unwrap_or(0)
}

/// Whether this network namespace has the interface; /sys would show another namespace's.
pub fn has_interface(name: &str) -> bool {
    let Ok(name) = CString::new(name) else { return false };
    // SAFETY: the name ends in a zero.
    unsafe { libc::if_nametoindex(name.as_ptr()) != 0 }
}

/// The bytes that this user may still write to the disk that holds `path`.
pub fn free_bytes(path: &Path) -> Option<u64> {
    let path = CString::new(path.as_os_str().as_bytes()).ok()?;
    // SAFETY: statvfs is plain integers, for which zeroes are valid.
    let mut stat: libc::statvfs = unsafe { std::mem::zeroed() };
    // SAFETY: the path ends in a zero and `stat` is ours to write.
    if unsafe { libc::statvfs(path.as_ptr(), &mut stat) } != 0 {
        return None;
    }
    Some(stat.f_bavail * stat.f_frsize)
}

/// Whether a command can be run and ends well, without showing its output.
pub fn succeeds(command: &mut Command) -> bool {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}
