//! Whose a process is: from its cgroup to pod and container.
//!
//! ```text
//! cgroup id ──cgroups::Tree──▶ path ──place──▶ (pod uid, container id) ──Pods──▶ pod, container
//!                                                                          ▲
//!                                          API server: pods of this node ──┘
//! ```

mod place;
mod pods;

pub use place::{Place, place};
pub use pods::{Container, Pod, Pods, Qos};
