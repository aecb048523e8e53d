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

/// Adds one and returns what was there.
///
/// # Safety
///
/// As [`increment`].
#[inline(always)]
pub(crate) unsafe fn take_number(counter: *mut u64) -> u64 {
    let mut number = 1u64;
    // SAFETY: the caller's promise; the verifier checks the bounds.
    unsafe {
        asm!("{number} = atomic_fetch_add((u64 *)({counter} + 0), {number})", counter = in(reg) counter, number = inout(reg) number);
    }
    number
}

/// Sets bits.
///
/// # Safety
///
/// As [`increment`].
#[inline(always)]
pub(crate) unsafe fn set(word: *mut u64, bits: u64) {
    // SAFETY: the caller's promise; the verifier checks the bounds.
    unsafe {
        asm!("lock *(u64 *)({word} + 0) |= {bits}", word = in(reg) word, bits = in(reg) bits);
    }
}

/// Clears bits.
///
/// # Safety
///
/// As [`increment`].
#[inline(always)]
pub(crate) unsafe fn clear(word: *mut u64, bits: u64) {
    // SAFETY: the caller's promise; the verifier checks the bounds.
    unsafe {
        asm!("lock *(u64 *)({word} + 0) &= {bits}", word = in(reg) word, bits = in(reg) !bits);
    }
}

/// Stores `new` if the word holds `old`; returns what it held.
///
/// # Safety
///
/// As [`increment`].
#[inline(always)]
pub(crate) unsafe fn compare_exchange(word: *mut u64, old: u64, new: u64) -> u64 {
    let held;
    // SAFETY: the caller's promise; the verifier checks the bounds.
    unsafe {
        asm!("r0 = cmpxchg_64({word} + 0, r0, {new})", word = in(reg) word, new = in(reg) new, inout("r0") old => held);
    }
    held
}
