//! Atomic adds on map values.
//!
//! The BPF target's `core` has no compare-and-swap, hence no `fetch_add`; the instructions have
//! been there since BPF cpu v3.

use core::arch::asm;

/// Adds one to a map value, whoever else does on other CPUs.
///
/// # Safety
///
/// `counter` must point to a map value and be aligned to 8.
#[inline(always)]
pub(crate) unsafe fn increment(counter: *mut u64) {
    // SAFETY: the caller's promise; the verifier checks the bounds.
    unsafe {
        asm!("lock *(u64 *)({counter} + 0) += {one}", counter = in(reg) counter, one = in(reg) 1u64);
    }
}

/// Stores `value` in a map value and returns what was there.
///
/// # Safety
///
/// As [`increment`].
#[inline(always)]
pub(crate) unsafe fn swap(word: *mut u64, value: u64) -> u64 {
    let mut exchanged = value;
    // SAFETY: the caller's promise; the verifier checks the bounds.
    unsafe {
        asm!("{value} = xchg_64({word} + 0, {value})", word = in(reg) word, value = inout(reg) exchanged);
    }
    exchanged
}
