//! A real cluster, and the product on it.
//!
//! ```text
//! Cluster ── kubectl, helm, client           Namespace ── workloads (Pod lines), readers
//!    └─ Node: stop, start, run in it           └─ Observer: `ebpf-hello observe`, Event by Event
//! ```

mod cluster;
mod event;
mod namespace;
mod node;
mod observer;
mod workload;

pub use cluster::{Cluster, RELEASE, SYSTEM, ask_until};
pub use event::Event;
pub use namespace::{Namespace, Pod};
pub use node::Node;
pub use observer::Observer;
pub use workload::{Container, Workload};
