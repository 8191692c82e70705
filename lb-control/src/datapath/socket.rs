//! Sockets of the balancer's own host: the programs that turn them to backends, attached to a cgroup by pinned links.
//!
//! A directory beside the pinned maps holds the links, and the table by which sockets know their service. A start
//! attaches new programs before it detaches those of an earlier controller: what the first has turned to a backend is no
//! service to the second, so there is no gap and nothing happens twice.

use std::{
    fs::{self, File},
    io,
    net::UdpSocket,
    os::fd::AsRawFd as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, ensure};
use aya::{
    Ebpf, EbpfLoader,
    programs::{CgroupAttachMode, CgroupSockAddr, links::FdLink},
};
use lb_common::limits::{LAYOUT_VERSION, maps};

use super::bpf::attach;

/// The BPF object, aligned as its ELF header asks; empty where it could not be built.
#[cfg(not(bpf_object_missing))]
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/socket.o"));
#[cfg(bpf_object_missing)]
static OBJECT: &[u8] = &[];

/// Programs by the hook that they are for; all are attached.
const HOOKS: [&str; 8] =
    ["connect4", "connect6", "sendmsg4", "sendmsg6", "recvmsg4", "recvmsg6", "getpeername4", "getpeername6"];
/// Maps of the balancer that the programs read.
const SHARED: [&str; 4] = [maps::SERVICES, maps::WIDE, maps::SLOTS, maps::BACKENDS];
const PEERS: &str = "PEERS";
const NETWORK_NAMESPACE: &str = "NETWORK_NAMESPACE";
/// What the pin of a link begins with while those of an earlier controller are still there.
const NEW_PREFIX: &str = "new-";

/// Turns the sockets of this network namespace whose process is in `cgroup` or below it. The balancer's maps are pinned
/// in `pin_dir`.
///
/// # Errors
/// `cgroup` is in no cgroup2 file system, or the kernel refuses a program.
pub fn attach(pin_dir: &Path, cgroup: &Path) -> Result<()> {
    ensure!(!OBJECT.is_empty(), "this build carries no BPF object: `cargo xtask setup`, and build it again");
    let directory = directory(pin_dir);
    fs::create_dir_all(&directory).with_context(|| format!("creating {}", directory.display()))?;
    let earlier = pinned_links(&directory)?;
    let mut ebpf = load(pin_dir, &directory)?;
    let links = attach_all(&mut ebpf, cgroup)?;
    let pinned = pin_all(links, &directory);
    for path in if pinned.is_ok() { earlier } else { new_links(&directory) } {
        attach::detach(&path)?;
    }
    pinned?;
    for path in new_links(&directory) {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let hook = name.strip_prefix(NEW_PREFIX).unwrap_or(name);
        fs::rename(&path, directory.join(hook)).with_context(|| format!("renaming {}", path.display()))?;
    }
    Ok(())
}

/// Leaves sockets alone, of which those that are connected stay so.
pub fn detach(pin_dir: &Path) -> Result<()> {
    let directory = directory(pin_dir);
    for path in pinned_links(&directory)? {
        attach::detach(&path)?;
    }
    match fs::remove_dir_all(&directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("removing {}", directory.display()))
        }
        _ => Ok(()),
    }
}

/// Where the host's cgroup2 hierarchy begins.
///
/// # Errors
/// None is mounted.
pub fn cgroup_root() -> Result<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").context("reading /proc/self/mounts")?;
    let mut mounts = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    let root = mounts.find(|mount| mount.get(2) == Some(&"cgroup2"));
    let root = root.and_then(|mount| mount.get(1).map(PathBuf::from));
    root.context("no cgroup2 file system is mounted; `mount -t cgroup2 cgroup2 /sys/fs/cgroup`")
}

fn load(pin_dir: &Path, directory: &Path) -> Result<Ebpf> {
    let namespace = network_namespace().context("asking for the network namespace")?;
    let mut loader = EbpfLoader::new();
    loader.override_global(NETWORK_NAMESPACE, &namespace, true);
    for name in SHARED {
        loader.map_pin_path(name, pin_dir.join(layout()).join("maps").join(name));
    }
    loader.map_pin_path(PEERS, directory.join(PEERS));
    loader.load(OBJECT).context("creating the BPF maps")
}

fn attach_all(ebpf: &mut Ebpf, cgroup: &Path) -> Result<Vec<(&'static str, FdLink)>> {
    let file = File::open(cgroup).with_context(|| format!("the cgroup {}", cgroup.display()))?;
    let mut links = Vec::new();
    for hook in HOOKS {
        let name = format!("portcullis_{hook}");
        let program = ebpf.program_mut(&name).with_context(|| format!("the object has no program {name}"))?;
        let program: &mut CgroupSockAddr = program.try_into()?;
        attach::explained(&name, program.load())?;
        // Links are beside others in any case, and the kernel refuses the flag that says so.
        let id = program.attach(&file, CgroupAttachMode::Single).with_context(|| {
            format!("attaching to {hook} of {}: is it in a cgroup2 file system?", cgroup.display())
        })?;
        links.push((hook, program.take_link(id)?.try_into()?));
    }
    Ok(links)
}

fn pin_all(links: Vec<(&'static str, FdLink)>, directory: &Path) -> Result<()> {
    for (hook, link) in links {
        let path = directory.join(format!("{NEW_PREFIX}{hook}"));
        link.pin(&path).with_context(|| format!("pinning {}", path.display()))?;
    }
    Ok(())
}

/// Every pinned link, also of a start that was killed half-way.
fn pinned_links(directory: &Path) -> Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.with_context(|| format!("reading {}", directory.display()))?,
    };
    let paths = entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    Ok(paths.into_iter().filter(|path| !path.ends_with(PEERS)).collect())
}

fn new_links(directory: &Path) -> Vec<PathBuf> {
    let paths = HOOKS.map(|hook| directory.join(format!("{NEW_PREFIX}{hook}")));
    paths.into_iter().filter(|path| path.exists()).collect()
}

fn directory(pin_dir: &Path) -> PathBuf {
    pin_dir.join(layout()).join("sockets")
}

fn layout() -> String {
    format!("v{LAYOUT_VERSION}")
}

/// The cookie of this thread's network namespace.
fn network_namespace() -> io::Result<u64> {
    // Bound to nothing that could be taken; the kernel tells of a socket, not of a thread.
    let socket = UdpSocket::bind((std::net::Ipv4Addr::LOCALHOST, 0))?;
    let (mut cookie, mut length) = (0_u64, size_of::<u64>() as libc::socklen_t);
    // SAFETY: the descriptor is open, and the option is a u64.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &mut length,
        )
    };
    if result == 0 { Ok(cookie) } else { Err(io::Error::last_os_error()) }
}
