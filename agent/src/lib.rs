//! The node pipeline: kernel records in, events out, every loss counted.
//!
//! ```text
//! loader::Reader ─▶ intake (its thread): event, processes ─▶ batches ─▶ whoever prints or publishes
//! policy::Table ─▶ programming ─▶ loader::Kernel
//! loader::Kernel, intake, deliveries ─▶ ledger, status
//! ```

mod accounts;
mod event;
mod intake;
mod ledger;
mod node;
mod processes;
mod programming;
mod seed;
mod status;
mod text;
mod wall;

pub use accounts::{Accounts, Outcome};
pub use intake::{Batch, Item};
pub use node::{AgentError, Counters, ExecCounter, Node, NodeOptions, SyscallCounter};
pub use programming::{Unsupported, table_spec};
pub use status::{ExecSourceStatus, Status, TableStatus};
pub use text::lossless;
