//! A program that passes every packet, and a map of no use.
//!
//! The program makes a veth take what its peer sends by `XDP_TX`: with GRO alone such frames lie in its ring
//! until something else wakes it. It is also somebody else's program, where the controller's would go.

use std::{
    ffi::CString,
    io,
    os::{
        fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
};

use anyhow::{Context as _, Result};
use aya_obj::generated::{
    BPF_F_XDP_HAS_FRAGS, bpf_attach_type::BPF_XDP, bpf_attr, bpf_cmd, bpf_insn,
    bpf_map_type::BPF_MAP_TYPE_ARRAY, bpf_prog_type::BPF_PROG_TYPE_XDP,
};

use crate::netns::Namespace;

const MOVE_IMMEDIATE: u8 = 0xb7;
const EXIT: u8 = 0x95;
const XDP_PASS: i32 = 2;

/// Two instructions on an interface, until dropped.
pub struct PassProgram {
    _link: OwnedFd,
}

impl PassProgram {
    /// Loads and attaches it.
    pub fn attach(namespace: &Namespace, interface: &str) -> Result<Self> {
        let name = CString::new(interface)?;
        let link = namespace.enter(|| {
            // SAFETY: takes a C string.
            let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
            attach(&load()?, index)
        })?;
        Ok(Self {
            _link: link.with_context(|| format!("an XDP program on {interface} of {}", namespace.name()))?,
        })
    }
}

/// Pins an array of one element of an odd size at `path`.
pub fn pin_map(path: &Path) -> Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: all-zero is a valid bpf_attr.
    let mut attr: bpf_attr = unsafe { std::mem::zeroed() };
    // SAFETY: these fields are plain integers of the variant that BPF_MAP_CREATE reads.
    let map = unsafe { &mut attr.__bindgen_anon_1 };
    map.map_type = BPF_MAP_TYPE_ARRAY as u32;
    map.key_size = 4;
    map.value_size = 24;
    map.max_entries = 1;
    let map = call(bpf_cmd::BPF_MAP_CREATE, &attr)?;
    // SAFETY: all-zero is a valid bpf_attr.
    let mut attr: bpf_attr = unsafe { std::mem::zeroed() };
    // SAFETY: these fields are plain integers of the variant that BPF_OBJ_PIN reads.
    let pin = unsafe { &mut attr.__bindgen_anon_4 };
    pin.pathname = path.as_ptr() as u64;
    pin.bpf_fd = map.as_raw_fd() as u32;
    // SAFETY: the kernel reads the size that it is told, and a path that lives.
    let result = unsafe {
        libc::syscall(libc::SYS_bpf, bpf_cmd::BPF_OBJ_PIN as libc::c_int, &attr, size_of::<bpf_attr>())
    };
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()).context("pinning another map"),
    }
}

fn load() -> io::Result<OwnedFd> {
    let instruction = |code, imm| bpf_insn {
        code,
        _bitfield_align_1: [],
        _bitfield_1: bpf_insn::new_bitfield_1(0, 0),
        off: 0,
        imm,
    };
    let instructions = [instruction(MOVE_IMMEDIATE, XDP_PASS), instruction(EXIT, 0)];
    let license = c"Dual MIT/GPL";
    // SAFETY: all-zero is a valid bpf_attr.
    let mut attr: bpf_attr = unsafe { std::mem::zeroed() };
    // SAFETY: these fields are plain integers of the variant that BPF_PROG_LOAD reads.
    let program = unsafe { &mut attr.__bindgen_anon_3 };
    program.prog_type = BPF_PROG_TYPE_XDP as u32;
    program.insns = instructions.as_ptr() as u64;
    program.insn_cnt = instructions.len() as u32;
    program.license = license.as_ptr() as u64;
    // Or the peer's MTU could not exceed a page.
    program.prog_flags = BPF_F_XDP_HAS_FRAGS;
    call(bpf_cmd::BPF_PROG_LOAD, &attr)
}

fn attach(program: &OwnedFd, interface: u32) -> io::Result<OwnedFd> {
    // SAFETY: all-zero is a valid bpf_attr.
    let mut attr: bpf_attr = unsafe { std::mem::zeroed() };
    // SAFETY: these fields are plain integers of the variant that BPF_LINK_CREATE reads.
    let link = unsafe { &mut attr.link_create };
    link.__bindgen_anon_1.prog_fd = program.as_raw_fd() as u32;
    link.__bindgen_anon_2.target_ifindex = interface;
    link.attach_type = BPF_XDP as u32;
    call(bpf_cmd::BPF_LINK_CREATE, &attr)
}

fn call(command: bpf_cmd, attr: &bpf_attr) -> io::Result<OwnedFd> {
    // SAFETY: the kernel reads the size that it is told; pointers inside live as long as the callers' data.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command as libc::c_int, attr, size_of::<bpf_attr>()) };
    match result {
        0.. => Ok(
            // SAFETY: a new descriptor that nobody else owns.
            unsafe { OwnedFd::from_raw_fd(result as RawFd) },
        ),
        _ => Err(io::Error::last_os_error()),
    }
}
