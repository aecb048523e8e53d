//! The policy engine: from filters as people write them to the table a node's kernel runs.
//!
//! ```text
//! YAML text ──read──▶ Document ─┐
//!                               ├─▶ Filter ──compile(filters, subject, arch)──▶ Table
//! API object ────try_from───────┘                                        └──▶ Overridden
//! ```
//!
//! Pure: no I/O, no clock, no cluster. `run` and `check` read files and hand the text in; the
//! agent watches objects and converts them; the loader writes tables into the kernel; the
//! collector writes status. All of them share this one validation and this one compilation.

mod arch;
mod builtin;
mod cgroup;
mod compile;
pub mod crd;
pub mod decode;
mod explain;
mod filter;
pub mod group;
mod handler;
pub mod io_uring;
mod nearest;
mod node;
mod problem;
pub mod read;
mod subject;
pub mod syscall;
mod table;
mod validate;

pub use arch::{Abi, Arch, UnknownArch};
pub use builtin::{BUILTIN_NAME, builtin};
pub use compile::{Compiled, LossReason, Overridden, compile, compile_pod, merge};
pub use explain::{Decision, Explanation, explain, explain_overlap};
pub use filter::Filter;
pub use handler::{DefaultAction, EXEC_CALLS, Handler};
pub use node::Place;
pub use problem::{Path, Problem, Reason, Severity};
pub use read::{Diagnostic, Document, MAX_BYTES, duplicates, read, read_in};
pub use subject::{Host, Labels, Pod, Subject};
pub use table::{BinaryPattern, DefaultSlot, FilterName, Half, RateLimit, Slot, Table, UidRange};
pub use validate::DEFAULT_NAMESPACE;
