//! One process image, one name: the `exec_id`.

/// Length of a clock tick as `/proc/<pid>/stat` shows start times, in nanoseconds.
///
/// `USER_HZ` is 100 on every architecture we support (`include/asm-generic/param.h`).
pub const NANOSECONDS_PER_TICK: u64 = 10_000_000;

/// The identity of one process image: the same in the kernel, and in user space from `/proc`.
///
/// `seed` is a hash of the boot id, `tgid` the process in the initial PID namespace,
/// `start_ticks` its start since boot in clock ticks (`/proc/<pid>/stat` field 22), `execs` the
/// successful execs seen of it since the programs were attached. Zero is never returned: it means
/// "unknown" in a record.
#[inline(always)]
pub const fn exec_id(seed: u64, tgid: u32, start_ticks: u64, execs: u32) -> u64 {
    let mut hash = mix(seed ^ ((tgid as u64) << 32 | execs as u64));
    hash = mix(hash ^ start_ticks);
    if hash == 0 { 1 } else { hash }
}

/// The finalizer of splitmix64 (Steele, Lea, Flood, 2014): a bijection with good avalanche.
#[inline(always)]
const fn mix(mut x: u64) -> u64 {
    x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}
