//! What `ebpf-hello status` shows of a running instance.

use ebpf_hello_loader::{ExitSource, MapStatus, NodeScope, ProgramStatus};
use ebpf_hello_proto::v1::Ledger;
use serde::Serialize;

/// A running instance.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// Its version.
    pub version: String,
    /// Its process id, in the initial PID namespace.
    pub pid: u32,
    /// The node's name on events.
    pub node: String,
    /// What is reported: the machine, or one node of several on one kernel.
    pub scope: NodeScope,
    /// Where execs come from, and why from there.
    pub exec_source: ExecSourceStatus,
    /// How the end of a process is told from that of a thread.
    pub exit_source: ExitSource,
    /// What keeps it from doing its work. Empty when ready.
    pub unready: Vec<String>,
    /// What this kernel cannot give, and why.
    pub missing: Vec<String>,
    /// Whether processes that are older than this instance were reported.
    pub older_processes: String,
    /// Whether any policy wants system calls.
    pub sys_enter_attached: bool,
    /// Whether any policy wants what system calls return.
    pub sys_exit_attached: bool,
    /// io_uring, which passes system calls by.
    pub io_uring: IoUringStatus,
    /// Tables.
    pub tables: TableStatus,
    /// Filters that are for this node.
    pub filters: Vec<FilterStatus>,
    /// Cgroups.
    pub cgroups: CgroupStatus,
    /// Ring buffers in use.
    pub ring_shards: u32,
    /// Bytes of each.
    pub ring_bytes: u32,
    /// Programs in the kernel.
    pub programs: Vec<ProgramStatus>,
    /// Maps in the kernel.
    pub maps: Vec<MapStatus>,
    /// The last sequence number taken on each CPU: a gap below it is a lost record.
    pub sequences: Vec<u64>,
    /// What became of everything that was seen.
    pub ledger: Ledger,
}

/// The source of exec events.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ExecSourceStatus {
    /// The tracepoint, or `off`.
    pub source: &'static str,
    /// Why this one.
    pub reason: &'static str,
}

/// Operations of io_uring, which are no system calls and do what those do.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct IoUringStatus {
    /// Where they are counted; absent where this kernel has no such place.
    pub tracepoint: Option<&'static str>,
    /// Whether any policy wants a call that there is an operation for.
    pub attached: bool,
    /// Operations counted so far.
    pub operations: u64,
}

/// Cgroups of version 2.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CgroupStatus {
    /// Those that are there.
    pub known: usize,
    /// Those that are to come, and have their policy from their first process on: of pods that are bound to this
    /// node, and those that a filter spells out.
    pub foretold: usize,
    /// Times one came or went while a ring buffer had no room to say so: found by the next sweep.
    pub untold: u64,
    /// Those that found no room for their parent's policy, and so had the default's until the next
    /// sweep.
    pub without_room: u64,
}

/// Tail-call tables.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TableStatus {
    /// Tables there is room for.
    pub capacity: u32,
    /// Tables in use.
    pub live: usize,
    /// Policies in use, the default's included.
    pub outcomes: usize,
    /// Those that found no free table: their cgroups have the default's.
    pub exhausted: usize,
    /// The filters that those are made of.
    pub without_table: Vec<FilterWithoutTable>,
    /// Generation of the policy in the kernel, from 1.
    pub generation: u64,
    /// System calls of the native ABI with a slot of their own, in the live tables.
    pub slots: usize,
    /// What happens to all others.
    pub default: String,
    /// Filters of the policy.
    pub filters: Vec<String>,
}

/// A filter that is for this node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct FilterStatus {
    /// `NAMESPACE/NAME` of a SyscallFilter, `NAME` of a ClusterSyscallFilter.
    pub filter: String,
    /// Its `metadata.uid`; empty for one that is a file.
    pub uid: String,
    /// The `metadata.generation` that is in the kernel; 0 for one that is a file.
    pub generation: i64,
    /// Pods it selects here.
    pub pods: usize,
    /// Whether it is in the kernel for all of them.
    pub programmed: bool,
    /// Why not: `TablesExhausted` or `ProgrammingFailed`.
    pub reason: &'static str,
    /// The same as a sentence.
    pub message: String,
}

/// A filter some of whose cgroups have the default's policy instead.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct FilterWithoutTable {
    /// Its name.
    pub filter: String,
    /// Why: `TablesExhausted`.
    pub reason: &'static str,
    /// Policies without a table that it is part of.
    pub policies: usize,
}
