//! Which threads are in a call whose refusals are told.
//!
//! A call that seccomp refused has a sys_exit and no sys_enter. So has, at its sys_exit, a call that
//! was entered and left out, or told at once: a bit for every thread there can be tells them apart,
//! whatever map is full.

use ebpf_hello_abi::THREAD_WORDS;

use crate::{atomic, maps};

/// The thread enters.
#[inline(always)]
pub(crate) fn note(tid: u32) {
    if let Some(word) = word(tid) {
        // SAFETY: values live as long as their map and are aligned to 8.
        unsafe { atomic::set(word, bit(tid)) };
    }
}

/// The thread leaves; whether it had entered.
#[inline(always)]
pub(crate) fn take(tid: u32) -> bool {
    let Some(word) = word(tid) else { return false };
    // SAFETY: values live as long as their map. Only this thread changes its bit.
    let entered = unsafe { core::ptr::read_volatile(word) } & bit(tid) != 0;
    if entered {
        // SAFETY: as in `note`.
        unsafe { atomic::clear(word, bit(tid)) };
    }
    entered
}

#[inline(always)]
fn word(tid: u32) -> Option<*mut u64> {
    maps::ENTERED.get_ptr_mut((tid >> 6) & (THREAD_WORDS - 1))
}

#[inline(always)]
fn bit(tid: u32) -> u64 {
    1 << (tid & 63)
}
