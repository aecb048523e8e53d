//! Names of programs and maps, as the object file and the kernel show them.

/// Most ring buffers that a loader can spread CPUs over.
pub const MAX_RING_SHARDS: u32 = 8;

/// The ring buffers, by shard.
pub const RINGS: [&str; MAX_RING_SHARDS as usize] = [
    "RING_0", "RING_1", "RING_2", "RING_3", "RING_4", "RING_5", "RING_6", "RING_7",
];

/// Program names.
pub mod program {
    /// Raw tracepoint `sys_enter`: the dispatcher.
    pub const SYS_ENTER: &str = "sys_enter";
    /// Raw tracepoint `sched_process_exec`.
    pub const PROCESS_EXEC: &str = "process_exec";
    /// Raw tracepoint `sched_process_fork`.
    pub const PROCESS_FORK: &str = "process_fork";
    /// Raw tracepoint `sched_process_exit`.
    pub const PROCESS_EXIT: &str = "process_exit";
    /// Raw tracepoint `task_rename`: remembers the name a process had before its exec.
    pub const PROCESS_RENAME: &str = "process_rename";
    /// Tail-called: counts exec attempts per user.
    pub const HANDLE_EXEC: &str = "handle_exec";
    /// Tail-called: decodes timers.
    pub const HANDLE_TIMER: &str = "handle_timer";
    /// Tail-called: number and raw arguments.
    pub const HANDLE_TRACE: &str = "handle_trace";
    /// Tail-called: counts per cgroup and call.
    pub const HANDLE_COUNT: &str = "handle_count";
    /// Tail-called: decodes paths.
    pub const HANDLE_PATH: &str = "handle_path";
    /// Tail-called: decodes socket addresses.
    pub const HANDLE_SOCK: &str = "handle_sock";
    /// Raw tracepoint `sys_exit`: joins return values and out-parameters, tells what seccomp refused.
    pub const SYS_EXIT: &str = "sys_exit";
    /// Raw tracepoint `io_uring_submit_req`, or its predecessor: counts operations.
    pub const IO_URING: &str = "io_uring_submit";
    /// Raw tracepoint `cgroup_mkdir`: a new cgroup has its policy before its first process.
    pub const CGROUP_MKDIR: &str = "cgroup_mkdir";
    /// Raw tracepoint `cgroup_rmdir`.
    pub const CGROUP_RMDIR: &str = "cgroup_rmdir";
    /// Tail-called: returns at once.
    pub const HANDLE_IGNORE: &str = "handle_ignore";
    /// Run once by the loader in its own context: who am I, who are my ancestors.
    pub const IDENTIFY: &str = "identify";
    /// Run by the loader: which children of an ancestor read my output.
    pub const FIND_READERS: &str = "find_readers";
    /// Run by the loader on the thread that makes a readiness canary.
    pub const ANNOUNCE: &str = "announce";
    /// Raw tracepoint `sys_enter`: nothing, for the benchmarks to compare with.
    pub const BENCH_EMPTY: &str = "bench_empty";
}

/// Map names.
pub mod map {
    /// `PROG_ARRAY` of every table's handlers.
    pub const TABLES: &str = "TABLES";
    /// Parameters beside [`TABLES`], same index.
    pub const PARAMETERS: &str = "PARAMETERS";
    /// Wanted system calls: union, native, compat; those that sys_exit looks at.
    pub const BITMAPS: &str = "BITMAPS";
    /// Wanted io_uring opcodes, by table.
    pub const IO_URING: &str = "IO_URING";
    /// Outcome id to packed table and generation.
    pub const OUTCOMES: &str = "OUTCOMES";
    /// cgroup v2 id to outcome id.
    pub const CGROUPS: &str = "CGROUPS";
    /// Parent and name of a cgroup directory that is yet to come to outcome id.
    pub const CGROUP_NAMES: &str = "CGROUP_NAMES";
    /// Who a slot is for.
    pub const CONDITIONS: &str = "CONDITIONS";
    /// Patterns of executables, by condition.
    pub const BINARIES: &str = "BINARIES";
    /// Executable of each living process.
    pub const EXECUTABLES: &str = "EXECUTABLES";
    /// Rate limits and sampling.
    pub const BUCKETS: &str = "BUCKETS";
    /// Calls that wait for their sys_exit, by thread.
    pub const JOINS: &str = "JOINS";
    /// Threads that entered a call whose refusals are told, one bit for each.
    pub const ENTERED: &str = "ENTERED";
    /// Per-CPU ledger.
    pub const LEDGER: &str = "LEDGER";
    /// Calls per cgroup, generation and number.
    pub const COUNTS: &str = "COUNTS";
    /// Exec attempts per user.
    pub const EXECS_BY_UID: &str = "EXECS_BY_UID";
    /// What found no room in the counting maps, per CPU.
    pub const OVERFLOW: &str = "OVERFLOW";
    /// Living processes.
    pub const PROCESSES: &str = "PROCESSES";
    /// Processes whose doings are ours: not reported.
    pub const SELF: &str = "SELF";
    /// Which tgids may be in [`SELF`], by their low bits.
    pub const SELF_HINTS: &str = "SELF_HINTS";
    /// Inodes that our output goes to.
    pub const OUTPUTS: &str = "OUTPUTS";
    /// What `identify` found.
    pub const WHOAMI: &str = "WHOAMI";
    /// Announced readiness canaries.
    pub const CANARIES: &str = "CANARIES";
    /// 1 while the reader of a shard drains on a timer and wants no wake-ups.
    pub const DRAINING: &str = "DRAINING";
}
