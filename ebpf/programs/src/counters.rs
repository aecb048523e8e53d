//! Exact counters in maps that can be full.

use aya_ebpf::maps::HashMap;
use ebpf_hello_abi::Overflow;

use crate::{atomic, maps};

/// `BPF_NOEXIST` (`include/uapi/linux/bpf.h`).
pub(crate) const NOEXIST: u64 = 1;

/// The value at `key`, inserted as `empty` by whoever comes first; `None` when the map is full.
#[inline(always)]
pub(crate) fn entry<K, V>(map: &HashMap<K, V>, key: &K, empty: &V) -> Option<*mut V> {
    if let Some(value) = map.get_ptr_mut(key) {
        return Some(value);
    }
    // Another CPU may be first, or the map may be full: the second look tells.
    let _ = map.insert(key, empty, NOEXIST);
    map.get_ptr_mut(key)
}

/// Adds one at `key`, or to the overflow cell when the map is full.
#[inline(always)]
pub(crate) fn add<K>(map: &HashMap<K, u64>, key: &K, cell: Overflow) {
    match entry(map, key, &0) {
        // SAFETY: values live as long as their map and are aligned to 8.
        Some(counter) => unsafe { atomic::increment(counter) },
        None => overflow(cell),
    }
}

/// Adds one to this CPU's overflow cell.
#[inline(always)]
pub(crate) fn overflow(cell: Overflow) {
    if let Some(counter) = maps::OVERFLOW.get_ptr_mut(cell as u32) {
        // SAFETY: values live as long as their map and are aligned to 8.
        unsafe { atomic::increment(counter) };
    }
}
