//! The custom resources, exactly as the API server stores them.
//!
//! These types are the wire format and the source of the CRD manifests. What they mean is decided
//! elsewhere: [`crate::Filter`] is a validated one, and the only thing [`crate::compile`] takes.

mod manifest;
mod selector;
// The schema derive repeats each struct inside a function, where `pub` reaches nobody.
// Each printer column says `type_`, which clippy takes for the same attribute twice.
#[allow(unreachable_pub, clippy::duplicated_attributes)]
mod spec;
mod status;

pub use manifest::{crds, crds_yaml, file_schema, manifests};
pub use spec::{
    ClusterSyscallFilter, ClusterSyscallFilterSpec, FilterRule, RateLimitSpec, SyscallFilter,
    SyscallFilterSpec,
};
pub use status::{FilterStatus, NodeCounts, NodeFailure};

/// API group of both kinds.
pub const GROUP: &str = "ebpf-hello.dev";
/// The one version there is.
pub const VERSION: &str = "v1alpha1";
