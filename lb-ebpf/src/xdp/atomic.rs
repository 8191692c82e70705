//! Atomic instructions (Linux 5.12) that Rust's target says it does not have.

use core::arch::asm;

/// Adds to a word; returns what it was.
///
/// # Safety
/// `word` is an aligned word of a map.
#[inline(always)]
pub unsafe fn fetch_add(word: *mut u64, mut addend: u64) -> u64 {
    // SAFETY: by the caller.
    unsafe {
        asm!("{addend} = atomic_fetch_add((u64 *)({word} + 0), {addend})", word = in(reg) word, addend = inout(reg) addend)
    }
    addend
}

/// Writes `to` where `from` stands; returns whether it did.
///
/// # Safety
/// `word` is an aligned word of a map.
#[inline(always)]
pub unsafe fn compare_exchange(word: *mut u64, from: u64, to: u64) -> bool {
    let mut found = from;
    // SAFETY: by the caller.
    unsafe {
        asm!("r0 = cmpxchg_64({word} + 0, r0, {to})", word = in(reg) word, to = in(reg) to, inout("r0") found)
    }
    found == from
}
