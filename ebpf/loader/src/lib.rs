//! The user side of BPF: loads the programs, attaches them, fills their tables and reads their
//! records. The only crate that knows aya.
//!
//! ```text
//! Options ─ machine, btf ─▶ Config ─▶ Kernel::load ─▶ Kernel   tables, processes, ledger, counts
//!                                                 └─▶ Reader   ring buffers ─▶ Record ─▶ Sink
//! ```
//!
//! Needs root (or CAP_BPF and CAP_PERFMON), and Linux 5.15 or what has the same features.

mod adoption;
mod baseline;
pub mod btf;
mod canary;
mod cgroups;
mod counts;
mod error;
mod exclusion;
mod inspect;
mod interest;
mod io_uring;
mod kernel;
mod ledger;
mod machine;
mod object;
mod options;
mod positions;
mod reader;
mod record;
mod table;
mod tables;

pub use adoption::ProcessAge;
pub use baseline::EmptyProgram;
pub use cgroups::cgroup_mount;
pub use counts::{CallCount, Counts, FOLDED, OperationCount};
pub use ebpf_hello_abi as abi;
pub use error::LoadError;
pub use exclusion::Exclusion;
pub use inspect::{MapStatus, ProgramStatus};
pub use kernel::{ExitSource, Kernel};
pub use ledger::KernelLedger;
pub use machine::NodeScope;
pub use options::{MAX_TABLES, Options};
pub use reader::{Reader, ReaderCounters, Sink, StopHandle};
pub use record::{CgroupView, Entry, ExecView, PathView, Record, RecordError};
pub use table::{ConditionSpec, HalfSpec, Handler, SlotSpec, TableSpec};
pub use tables::{DEFAULT_OUTCOME, Programmed};
