//! Single elements of hash maps by bare system calls: `BPF_MAP_LOOKUP_AND_DELETE_ELEM` (Linux 5.14), which aya does not
//! offer for them, and what goes before and after it, without a look at the map's type for each.

use std::{
    io::{Error, Result},
    os::fd::{AsRawFd as _, BorrowedFd},
};

use aya_obj::generated::{bpf_attr, bpf_cmd};

const NOEXIST: u64 = 1;

/// The value under `key`; `None` also where it cannot be read.
pub fn get<K: aya::Pod, V: aya::Pod + Default>(map: BorrowedFd<'_>, key: &K) -> Option<V> {
    let mut value = V::default();
    call(bpf_cmd::BPF_MAP_LOOKUP_ELEM, map, key, &raw mut value, 0).ok().map(|()| value)
}

/// Deletes what stands under `key`, and returns it.
pub fn take<K: aya::Pod, V: aya::Pod + Default>(map: BorrowedFd<'_>, key: &K) -> Result<Option<V>> {
    let mut value = V::default();
    match call(bpf_cmd::BPF_MAP_LOOKUP_AND_DELETE_ELEM, map, key, &raw mut value, 0) {
        Ok(()) => Ok(Some(value)),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Adds `value` under `key`, where nothing stands; returns whether it did.
pub fn add<K: aya::Pod, V: aya::Pod>(map: BorrowedFd<'_>, key: &K, value: &V) -> bool {
    let mut value = *value;
    call(bpf_cmd::BPF_MAP_UPDATE_ELEM, map, key, &raw mut value, NOEXIST).is_ok()
}

fn call<K, V>(command: bpf_cmd, map: BorrowedFd<'_>, key: &K, value: *mut V, flags: u64) -> Result<()> {
    // SAFETY: integers only; all zeroes are valid.
    let mut attr: bpf_attr = unsafe { std::mem::zeroed() };
    // SAFETY: the command reads this part of the union.
    let element = unsafe { &mut attr.__bindgen_anon_2 };
    element.map_fd = map.as_raw_fd() as u32;
    element.key = std::ptr::from_ref(key) as u64;
    element.__bindgen_anon_1.value = value as u64;
    element.flags = flags;
    // SAFETY: key and value are of the map's sizes, as the types of this module's callers are the map's.
    let result = unsafe {
        libc::syscall(libc::SYS_bpf, command as libc::c_long, &raw mut attr, size_of::<bpf_attr>())
    };
    if result < 0 { Err(Error::last_os_error()) } else { Ok(()) }
}
