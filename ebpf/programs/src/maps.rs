//! Every map. Sizes are defaults; the loader may set others.

use aya_ebpf::{
    macros::map,
    maps::{Array, HashMap, LpmTrie, PerCpuArray, ProgramArray, RingBuf},
};
use ebpf_hello_abi::{
    BITMAPS as BITMAP_COUNT, BinaryKey, Bitmap, Bucket, BucketKey, CgroupName, Condition, CountKey,
    CpuLedger, Join, MAX_RING_SHARDS, OVERFLOWS, Opcodes, Process, SELF_HINTS as SELF_HINT_COUNT,
    SLOTS_PER_TABLE, SlotParameters, THREAD_WORDS, WhoAmI,
};

use crate::{
    cgroups::Change,
    emit::{Executable, Scratch},
};

#[map]
pub(crate) static TABLES: ProgramArray = ProgramArray::with_max_entries(SLOTS_PER_TABLE, 0);
#[map]
pub(crate) static PARAMETERS: Array<SlotParameters> = Array::with_max_entries(SLOTS_PER_TABLE, 0);
/// By table; the loader makes it as long as there are tables.
#[map]
pub(crate) static IO_URING: Array<Opcodes> = Array::with_max_entries(1, 0);
#[map]
pub(crate) static BITMAPS: Array<Bitmap> = Array::with_max_entries(BITMAP_COUNT, 0);
/// Outcome id to packed (table, generation); 0 is the node's default.
#[map]
pub(crate) static OUTCOMES: Array<u64> = Array::with_max_entries(65_536, 0);
/// cgroup id to outcome id; a cgroup that is missing has the default.
#[map]
pub(crate) static CGROUPS: HashMap<u64, u32> = HashMap::with_max_entries(65_536, 0);
#[map]
pub(crate) static CGROUP_NAMES: HashMap<CgroupName, u32> = HashMap::with_max_entries(8_192, 0);
/// Room to work in for who makes or removes a cgroup.
#[map]
pub(crate) static CGROUP_CHANGE: Array<Change> = Array::with_max_entries(1, 0);

#[map]
pub(crate) static CONDITIONS: Array<Condition> = Array::with_max_entries(4_096, 0);
#[map]
pub(crate) static BINARIES: LpmTrie<BinaryKey, u8> = LpmTrie::with_max_entries(16_384, 0);
#[map]
pub(crate) static EXECUTABLES: HashMap<u32, Executable> = HashMap::with_max_entries(32_768, 0);
#[map]
pub(crate) static BUCKETS: HashMap<BucketKey, Bucket> = HashMap::with_max_entries(65_536, 0);
#[map]
pub(crate) static JOINS: HashMap<u32, Join> = HashMap::with_max_entries(16_384, 0);

#[map]
pub(crate) static ENTERED: Array<u64> = Array::with_max_entries(THREAD_WORDS, 0);

#[map]
pub(crate) static LEDGER: PerCpuArray<CpuLedger> = PerCpuArray::with_max_entries(1, 0);
#[map]
pub(crate) static SCRATCH: PerCpuArray<Scratch> = PerCpuArray::with_max_entries(1, 0);

// Preallocated and never LRU: a count is exact or its overflow is counted.
#[map]
pub(crate) static COUNTS: HashMap<CountKey, u64> = HashMap::with_max_entries(65_536, 0);
#[map]
pub(crate) static EXECS_BY_UID: HashMap<u32, u64> = HashMap::with_max_entries(4_096, 0);
#[map]
pub(crate) static OVERFLOW: PerCpuArray<u64> = PerCpuArray::with_max_entries(OVERFLOWS, 0);

#[map]
pub(crate) static PROCESSES: HashMap<u32, Process> = HashMap::with_max_entries(32_768, 0);
#[map(name = "SELF")]
pub(crate) static OURSELVES: HashMap<u32, u32> = HashMap::with_max_entries(4_096, 0);
/// By the low bits of a tgid: not 0 where a process with such a tgid is, or was, ours. All others are
/// spared the look-up.
#[map]
pub(crate) static SELF_HINTS: Array<u64> = Array::with_max_entries(SELF_HINT_COUNT, 0);
/// Kernel addresses of the inodes that our output goes to.
#[map]
pub(crate) static OUTPUTS: HashMap<u64, u32> = HashMap::with_max_entries(64, 0);
/// What is announced, by [`canary_call`](ebpf_hello_abi::canary_call) or `canary_exec`, to its nonce.
#[map]
pub(crate) static CANARIES: HashMap<u64, u64> = HashMap::with_max_entries(64, 0);
#[map]
pub(crate) static WHOAMI: Array<WhoAmI> = Array::with_max_entries(1, 0);

/// By shard: 1 while its reader drains on a timer.
#[map]
pub(crate) static DRAINING: Array<u32> = Array::with_max_entries(MAX_RING_SHARDS, 0);

macro_rules! rings {
    ($($name:ident)*) => {
        $(#[map] pub(crate) static $name: RingBuf = RingBuf::with_byte_size(4096, 0);)*
    };
}
rings!(RING_0 RING_1 RING_2 RING_3 RING_4 RING_5 RING_6 RING_7);
