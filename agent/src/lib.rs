//! The node pipeline: kernel records in, events out, every loss counted.
//!
//! ```text
//! loader::Reader ─▶ intake (its thread): event, processes ─▶ batches ─▶ whoever prints or publishes
//! policy::Filter ─▶ assignment (which cgroup, which table) ─▶ programming ─▶ loader::Kernel
//! loader::Kernel, intake, deliveries ─▶ ledger, status
//! ```

mod accounts;
mod assignment;
mod call;
mod cgroups;
mod event;
mod flags;
mod intake;
mod ledger;
mod node;
mod policies;
mod processes;
mod programming;
pub mod publish;
mod redact;
mod seed;
mod status;
mod text;
mod waiting;
mod wall;

pub use accounts::{Accounts, Outcome};
pub use intake::{Batch, Item};
pub use node::{AgentError, Counters, ExecCounter, Node, NodeOptions, SyscallCounter};
pub use redact::{NONE, REDACTED, RedactError, Redactor};
pub use status::{ExecSourceStatus, Status, TableStatus};
pub use text::lossless;
