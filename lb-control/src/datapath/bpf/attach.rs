//! Loading XDP programs and attaching them to interfaces by pinned links.

use std::{
    ffi::CString,
    fs, io,
    os::{
        fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd},
        unix::ffi::OsStrExt as _,
    },
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use aya::{
    Ebpf,
    programs::{ProgramError, Xdp, XdpMode, links::FdLink},
};
use aya_obj::generated::{bpf_attr, bpf_cmd};

/// How an interface runs the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttachedMode {
    /// In the driver, before the kernel allocates anything for the packet.
    Driver,
    /// In the stack, for drivers without XDP.
    Generic,
}

impl AttachedMode {
    /// As the API and the pin's name spell it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Driver => "driver",
            Self::Generic => "generic",
        }
    }

    /// The reverse of [`Self::name`].
    pub fn from_name(name: &str) -> Self {
        if name == Self::Driver.name() { Self::Driver } else { Self::Generic }
    }

    fn xdp(self) -> XdpMode {
        match self {
            Self::Driver => XdpMode::Driver,
            Self::Generic => XdpMode::Skb,
        }
    }
}

/// Which mode to attach in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum WantedMode {
    /// Driver where it can, else generic.
    #[default]
    Auto,
    /// Only this.
    Only(AttachedMode),
}

/// Attaches a program to an interface and pins the link at what `path` says for the mode.
///
/// # Errors
/// Another XDP program is there, or the mode is not to be had.
pub fn attach(
    program: &mut Xdp,
    (interface, ifindex): (&str, u32),
    wanted: WantedMode,
    path: impl Fn(AttachedMode) -> PathBuf,
) -> Result<(AttachedMode, FdLink)> {
    let attempts: &[AttachedMode] = match &wanted {
        WantedMode::Auto => &[AttachedMode::Driver, AttachedMode::Generic],
        WantedMode::Only(mode) => std::slice::from_ref(mode),
    };
    let mut refusal = None;
    for &mode in attempts {
        match program.attach_to_if_index(ifindex, mode.xdp()) {
            Ok(id) => {
                let link: FdLink = program.take_link(id)?.try_into().with_context(|| {
                    format!("interface {interface}: the kernel gave no link that could be pinned")
                })?;
                return Ok((mode, link.pin(path(mode))?.into()));
            }
            Err(error) if is_errno(&error, libc::EBUSY) || is_errno(&error, libc::EEXIST) => {
                bail!(
                    "interface {interface}: another XDP program is attached, and an interface runs only one: \
                     detach it first (`ip link set dev {interface} xdp off`, or the tool that attached it)"
                );
            }
            Err(error) => refusal = Some(error),
        }
    }
    let reason = refusal.map_or_else(|| "no mode to try".to_owned(), |error| chain(&error));
    let modes = attempts.iter().map(|mode| mode.name()).collect::<Vec<_>>().join(" or ");
    bail!("interface {interface}: XDP cannot be attached in mode {modes}: {reason}")
}

/// Detaches what a pinned link attaches, at once: without its pin the link would go when the kernel gets round to it.
pub fn detach(path: &Path) -> Result<()> {
    let name = CString::new(path.as_os_str().as_bytes()).context("the path of a link")?;
    // SAFETY: all-zero is a valid bpf_attr.
    let mut attr: bpf_attr = unsafe { std::mem::zeroed() };
    attr.__bindgen_anon_4.pathname = name.as_ptr() as u64;
    let link = bpf(bpf_cmd::BPF_OBJ_GET, &attr).with_context(|| format!("opening {}", path.display()))?;
    // SAFETY: a new descriptor that nobody else owns.
    let link = unsafe { OwnedFd::from_raw_fd(link) };
    // SAFETY: all-zero is a valid bpf_attr.
    let mut attr: bpf_attr = unsafe { std::mem::zeroed() };
    attr.link_detach.link_fd = link.as_raw_fd() as u32;
    bpf(bpf_cmd::BPF_LINK_DETACH, &attr).with_context(|| format!("detaching {}", path.display()))?;
    fs::remove_file(path).with_context(|| format!("unpinning {}", path.display()))
}

fn bpf(command: bpf_cmd, attr: &bpf_attr) -> io::Result<RawFd> {
    // SAFETY: the kernel reads the size that it is told; pointers inside live as long as the caller's data.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command as libc::c_int, attr, size_of::<bpf_attr>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result as RawFd) }
}

/// Loads a program of an object.
///
/// # Errors
/// There is none of that name, or the kernel refuses it: with the end of the verifier's log.
pub fn load(ebpf: &mut Ebpf, name: &str) -> Result<()> {
    let program = ebpf.program_mut(name).with_context(|| format!("the object has no program {name}"))?;
    let program: &mut Xdp = program.try_into()?;
    explained(name, program.load())
}

/// What loading the program `name` came to, for people.
pub fn explained(name: &str, loaded: Result<(), ProgramError>) -> Result<()> {
    match loaded {
        Ok(()) => Ok(()),
        Err(ProgramError::LoadError { io_error, verifier_log }) => {
            let log = verifier_log.to_string();
            let tail: Vec<&str> = log.lines().rev().take(12).collect();
            let tail: Vec<&str> = tail.into_iter().rev().collect();
            bail!("the kernel refused the program {name}: {io_error}\n{}", tail.join("\n"))
        }
        Err(error) => Err(error).with_context(|| format!("loading the program {name}")),
    }
}

/// Whether the kernel refused with this number.
pub fn is_errno(error: &ProgramError, errno: i32) -> bool {
    match error {
        ProgramError::SyscallError(error) => error.io_error.raw_os_error() == Some(errno),
        _ => false,
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    std::iter::successors(Some(error), |error| error.source())
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(": ")
}
