//! A mapped BPF array as aligned words: the controller's plain stores, each seen whole by packets.

use std::{
    os::fd::{AsRawFd as _, BorrowedFd},
    ptr::NonNull,
    sync::atomic::{AtomicU64, Ordering},
};

use anyhow::{Context as _, Result};

/// An array created with `BPF_F_MMAPABLE`, mapped into this process.
pub struct Words {
    start: NonNull<AtomicU64>,
    words: usize,
    bytes: usize,
}

// SAFETY: shared memory that is only accessed through atomics; the mapping lives as long as the value.
unsafe impl Send for Words {}

impl Words {
    /// Maps `words` words of the array behind `map`.
    pub fn map(map: BorrowedFd<'_>, words: usize) -> Result<Self> {
        let bytes = words * size_of::<u64>();
        // SAFETY: a fresh mapping at an address of the kernel's choice.
        let address = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                map.as_raw_fd(),
                0,
            )
        };
        if address == libc::MAP_FAILED {
            return Err(std::io::Error::last_os_error()).context("mapping a BPF array");
        }
        let start = NonNull::new(address.cast()).context("mapping a BPF array gave no address")?;
        Ok(Self { start, words, bytes })
    }

    /// The word at `index`.
    pub fn get(&self, index: usize) -> Option<&AtomicU64> {
        // SAFETY: within the mapping, aligned, and valid for every bit pattern.
        (index < self.words).then(|| unsafe { self.start.add(index).as_ref() })
    }

    /// Stores `values` from `index` on, word by word. One that stands there already is left alone: packets keep it in
    /// their caches.
    pub fn store(&self, index: usize, values: impl ExactSizeIterator<Item = u64>) -> Result<()> {
        anyhow::ensure!(
            index + values.len() <= self.words,
            "words {index} and following lie outside of the array"
        );
        for (offset, value) in values.enumerate() {
            if let Some(word) = self.get(index + offset)
                && word.load(Ordering::Relaxed) != value
            {
                // Release: what the word names was written before.
                word.store(value, Ordering::Release);
            }
        }
        Ok(())
    }
}

impl Drop for Words {
    fn drop(&mut self) {
        // SAFETY: the mapping of `map`, to which no reference outlives this value.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.bytes) };
    }
}
