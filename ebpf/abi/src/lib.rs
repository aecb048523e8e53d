//! What the eBPF programs and user space agree on: record layouts, map and program names, table
//! geometry, the ledger's cells and the configuration set before load.
//!
//! `no_std` and free of dependencies on the kernel side. Every shared struct is `repr(C)`, has
//! explicit padding, integer tags instead of `bool` or enums, alignment at most 8, and a size
//! asserted at compile time.
#![no_std]
#![deny(missing_docs)]

mod canary;
mod config;
mod identity;
mod ledger;
mod names;
mod record;
mod table;

pub use canary::{CANARY_ARGUMENT, canary_call, canary_exec};
pub use config::{ABSENT, CONFIG, Config, Layout};
pub use identity::{NANOSECONDS_PER_TICK, exec_id};
pub use ledger::{CpuLedger, FATES, Fate, HANDLERS, Handler};
pub use names::{MAX_RING_SHARDS, RINGS, map, program};
pub use record::{
    CGROUP_RECORD_NAME, CgroupChange, CgroupRecord, ExecFlags, ExecRecord, ExitRecord, ForkRecord,
    Header, HeaderFlags, Join, PathRecord, RecordKind, SOCKET_ADDRESS, SockRecord, SyscallRecord,
    TimerRecord,
};
pub use table::{
    Abi, BITMAP_EXIT, BITMAP_UNION, BITMAPS, BinaryKey, Bitmap, Bucket, BucketKey, CGROUP_NAME,
    CONDITION_UIDS, CgroupName, Condition, CountKey, Decode, Exe, IO_URING, MATCHED_PATH,
    NAMESPACE_BUCKET, NO_ARGUMENT, OUT_OF_RANGE, OVERFLOWS, Opcodes, Outcome, Overflow, Process,
    SELF_HINTS, SLOTS_PER_ABI, SLOTS_PER_TABLE, SYSCALL_LIMIT, SelfKind, SlotFlags, SlotParameters,
    THREAD_WORDS, THREADS, WhoAmI, bitmap_of, slot,
};
