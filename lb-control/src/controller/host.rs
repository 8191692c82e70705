//! What the controller needs of the host: a clock, directories, a bpffs, forwarding, and to be alone.

pub mod ipv6;

use std::{
    ffi::CString,
    fs::{self, File},
    io,
    os::{
        fd::AsRawFd,
        unix::{
            ffi::OsStrExt as _,
            fs::{MetadataExt as _, PermissionsExt as _},
        },
    },
    path::Path,
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, bail};

/// Seconds of the wall clock.
pub fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// Creates a directory that only root may enter.
pub fn private_directory(path: &Path) -> anyhow::Result<()> {
    let made = !path.exists();
    fs::create_dir_all(path).with_context(|| format!("cannot create {}", path.display()))?;
    if made {
        fs::set_permissions(path, fs::Permissions::from_mode(0o700))
            .with_context(|| format!("cannot protect {}", path.display()))?;
    }
    Ok(())
}

/// Held while a controller uses a directory.
#[derive(Debug)]
pub struct Lock {
    _directory: File,
}

/// Locks a directory against other controllers; the lock ends with the process, however it ends.
pub fn lock(path: &Path, what: &str) -> anyhow::Result<Lock> {
    let directory = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    // SAFETY: the descriptor is open.
    if unsafe { libc::flock(directory.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) } == 0 {
        return Ok(Lock { _directory: directory });
    }
    let error = io::Error::last_os_error();
    if error.kind() == io::ErrorKind::WouldBlock {
        bail!(
            "another controller uses the {what} {}: stop it first, or choose another directory",
            path.display()
        );
    }
    Err(error).with_context(|| format!("cannot lock {}", path.display()))
}

const BPFFS: &str = "/sys/fs/bpf";

/// Creates the pin directory, and mounts a bpffs where none is: at its usual place if the directory is
/// under that, else on the directory itself.
pub fn pin_directory(path: &Path) -> anyhow::Result<()> {
    let existing = path.ancestors().find(|ancestor| ancestor.exists()).unwrap_or(Path::new("/"));
    if !on_bpffs(existing)? {
        let place = if path.starts_with(BPFFS) { Path::new(BPFFS) } else { path };
        fs::create_dir_all(place).with_context(|| format!("cannot create {}", place.display()))?;
        mount_bpffs(place).with_context(|| format!("cannot mount a bpffs on {}", place.display()))?;
        tracing::info!("mounted a bpffs on {}", place.display());
        if in_own_mount_namespace() {
            tracing::warn!(
                "this process has a mount namespace of its own: what is pinned in {} may end with it",
                place.display()
            );
        }
    }
    fs::create_dir_all(path).with_context(|| format!("cannot create {}", path.display()))
}

/// Whether a directory is on a bpffs.
pub fn on_bpffs(path: &Path) -> anyhow::Result<bool> {
    let c_path = CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: all-zero is a valid statfs, and the path ends in a zero.
    let (result, told) = unsafe {
        let mut told: libc::statfs = std::mem::zeroed();
        (libc::statfs(c_path.as_ptr(), &mut told), told)
    };
    if result != 0 {
        return Err(io::Error::last_os_error()).with_context(|| format!("cannot read {}", path.display()));
    }
    Ok(told.f_type == libc::BPF_FS_MAGIC as libc::c_long)
}

fn mount_bpffs(place: &Path) -> anyhow::Result<()> {
    let target = CString::new(place.as_os_str().as_bytes())?;
    let flags = libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC;
    // SAFETY: every string ends in a zero and outlives the call.
    let result = unsafe {
        libc::mount(c"bpf".as_ptr(), target.as_ptr(), c"bpf".as_ptr(), flags, c"mode=0700".as_ptr().cast())
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error().into()) }
}

fn in_own_mount_namespace() -> bool {
    let namespace = |process: &str| fs::metadata(format!("/proc/{process}/ns/mnt")).map(|it| it.ino());
    matches!((namespace("self"), namespace("1")), (Ok(own), Ok(first)) if own != first)
}

/// Lets the kernel forward packets that arrive on an interface: its routing answers refuse to otherwise, and
/// the program asks for routes of clients. Returns whether that was news.
pub fn enable_forwarding(interface: &str) -> io::Result<bool> {
    let path = format!("/proc/sys/net/ipv4/conf/{interface}/forwarding");
    if fs::read_to_string(&path)?.trim() == "1" {
        return Ok(false);
    }
    fs::write(&path, "1\n")?;
    Ok(true)
}

/// Loosens strict reverse path filtering on an interface (RFC 3704). A reply to a client whose Ethernet address the
/// kernel has yet to ask for is passed to the stack; its source is the virtual address, to which no route leads
/// by the backend's interface, and the stack would drop it and never ask. Returns whether that was news.
pub fn loosen_reverse_path_filter(interface: &str) -> io::Result<bool> {
    let path = |interface: &str| format!("/proc/sys/net/ipv4/conf/{interface}/rp_filter");
    let (all, own) = (fs::read_to_string(path("all"))?, fs::read_to_string(path(interface))?);
    if !filters_strictly(&all, &own) {
        return Ok(false);
    }
    fs::write(path(interface), "2\n")?;
    Ok(true)
}

/// The larger of the two values of `rp_filter` holds; 1 is strict.
fn filters_strictly(all: &str, own: &str) -> bool {
    let strictness = |text: &str| text.trim().parse::<u8>().unwrap_or(0);
    strictness(all).max(strictness(own)) == 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_larger_reverse_path_filter_holds() {
        for (all, own, strict) in [
            ("0\n", "0\n", false),
            ("1\n", "0\n", true),
            ("0\n", "1\n", true),
            ("1\n", "1\n", true),
            ("2\n", "1\n", false),
            ("1\n", "2\n", false),
            ("2\n", "0\n", false),
        ] {
            assert_eq!(filters_strictly(all, own), strict, "all {all:?}, own {own:?}");
        }
    }

    #[test]
    fn a_directory_is_locked_once() {
        let directory = tempfile::tempdir().expect("there is room");
        let held = lock(directory.path(), "state directory").expect("it is free");
        let refused = lock(directory.path(), "state directory").expect_err("it is held").to_string();
        assert!(refused.contains("another controller uses the state directory"), "{refused}");
        drop(held);
        lock(directory.path(), "state directory").expect("it is free again");
        assert!(!on_bpffs(directory.path()).expect("it exists"));
    }
}
