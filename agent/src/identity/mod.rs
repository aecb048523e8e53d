//! Whose a process is: from its cgroup to pod and container.
//!
//! ```text
//! cgroup id ──Paths──▶ path ──place──▶ (pod uid, container id) ──Pods──▶ pod, container ──Stage──▶ Event.pod
//!               ▲                                                  ▲
//!  kernel records, walks              API server: pods of this node; links to containers' logs
//! ```

mod figures;
mod follow;
mod links;
mod object;
mod paths;
mod place;
mod pods;
mod resolve;
mod stage;
mod thread;

use std::{fmt, sync::Arc, time::Duration};

use ebpf_hello_proto::v1::{self, Event};

pub use follow::follow_pods;
pub use links::follow_links;
pub use place::{Place, place};
pub use pods::{Container, Link, Pod, Pods, Qos};

pub(crate) use paths::Paths;
pub(crate) use thread::spawn;

use figures::Figures;
use resolve::Resolver;

/// Decides, once it is known whose an event is, whether a filter that wants it is for its container.
pub trait ContainerScope: Send + Sync {
    /// Whether an event of a pod goes out; one that does is told as its container's filter has it. `container` is the
    /// name of its container, `None` while that is not known, and for processes of a pod that are in none.
    fn admits(&self, event: &mut Event, pod: &v1::Pod, container: Option<&str>) -> bool;
}

/// How a node finds out whose its events are.
#[derive(Clone)]
pub struct IdentityOptions {
    /// The pods of this node, kept by who starts it ([`follow_pods`], [`follow_links`]).
    pub pods: Arc<Pods>,
    /// How long an event waits for its pod and its container's name.
    pub wait: Duration,
    /// What drops events of containers that no filter is for; the node has its own where there is none.
    pub scope: Option<Arc<dyn ContainerScope>>,
}

/// What of identity a node holds.
#[derive(Debug)]
pub(crate) struct Identity {
    pub(crate) options: IdentityOptions,
    pub(crate) paths: Arc<Paths>,
    figures: Figures,
}

// === impl Identity ===

impl Identity {
    pub(crate) fn new(options: IdentityOptions) -> Self {
        Identity {
            options,
            paths: Arc::default(),
            figures: Figures::default(),
        }
    }

    /// Namespace and name of the pod that a cgroup is of; `None` where it is of none, as far as is known.
    pub(crate) fn pod(&self, cgroup: u64) -> Option<(String, String)> {
        let pod = self.resolver().pod(cgroup)?;
        Some((pod.namespace.clone(), pod.name.clone()))
    }

    pub(crate) fn register(&self, registry: &mut prometheus_client::registry::Registry) {
        self.figures.register(registry);
    }

    fn resolver(&self) -> Resolver {
        Resolver {
            pods: Arc::clone(&self.options.pods),
            paths: Arc::clone(&self.paths),
        }
    }
}

impl fmt::Debug for IdentityOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IdentityOptions")
            .field("wait", &self.wait)
            .finish_non_exhaustive()
    }
}
