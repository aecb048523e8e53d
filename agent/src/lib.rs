//! The node pipeline: kernel records in, events out, every loss counted.
//!
//! ```text
//! loader::Reader ─▶ intake (its thread): event, processes ─▶ batches ─▶ whoever prints or publishes
//! policy::Filter ─▶ selection ─▶ placement: assignment (which cgroup, which table) ─▶ programming ─▶ loader::Kernel
//! loader::Reader ─▶ intake ─▶ follower (its thread): cgroups that came and went ─▶ placement
//! loader::Kernel, intake, deliveries ─▶ ledger, status
//! ```

mod accounts;
mod assignment;
mod call;
mod cgroups;
mod event;
mod flags;
mod follower;
mod intake;
mod ledger;
mod node;
mod placement;
mod policies;
mod processes;
mod programming;
mod seed;
mod selection;
mod status;
mod text;
mod waiting;
mod wall;

pub use accounts::{Accounts, Outcome};
pub use intake::{Batch, Item};
pub use node::{AgentError, Counters, ExecCounter, Node, NodeOptions, SyscallCounter};
pub use status::{CgroupStatus, ExecSourceStatus, IoUringStatus, Status, TableStatus};
pub use text::lossless;
