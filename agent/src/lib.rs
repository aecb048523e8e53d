//! The node pipeline: kernel records in, events out, every loss counted.
//!
//! ```text
//! loader::Reader ─▶ intake (its thread): event, processes ─▶ events ─▶ whoever prints or publishes
//! Policy (files, or kubernetes) ─▶ compiler ─▶ desired ─▶ placement: assignment (which cgroup, which table) ─▶ programming ─▶ loader::Kernel
//! loader::Reader ─▶ intake ─▶ follower (its thread): cgroups that came and went ─▶ placement
//! loader::Kernel, intake, deliveries ─▶ ledger, status
//! ```

mod accounts;
mod assignment;
mod call;
mod canary;
mod cgroups;
mod compiler;
mod counters;
mod desired;
pub mod enrolment;
pub mod epoch;
mod event;
mod events;
mod flags;
mod follower;
pub mod identity;
mod intake;
mod kubelet;
pub mod kubernetes;
mod ledger;
pub mod metrics;
mod node;
mod owners;
mod placement;
mod policies;
mod pool;
mod private;
mod processes;
mod programming;
pub mod publish;
mod readiness;
mod redact;
mod report;
mod scope;
mod seed;
mod status;
mod suppressed;
mod text;
mod waiting;
mod wall;

pub use accounts::{Accounts, Outcome};
pub use canary::Way;
pub use compiler::{Installed, Policy};
pub use events::Events;
pub use intake::{Batch, Item};
pub use node::{AgentError, Node, NodeOptions};
pub use owners::GONE;
pub use redact::{NONE, REDACTED, RedactError, Redactor};
pub use status::{
    CgroupStatus, ExecSourceStatus, FilterStatus, FilterWithoutTable, IoUringStatus, Status,
    TableStatus,
};
pub use text::lossless;
