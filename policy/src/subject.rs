//! Whom a table is for: one container of a pod, or the processes outside pods.

use std::collections::BTreeMap;

use serde::Serialize;

/// Labels as Kubernetes has them.
pub type Labels = BTreeMap<String, String>;

/// A workload, as filters select it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subject {
    /// Processes outside pods.
    Host(Host),
    /// A container of a pod.
    Pod(Pod),
}

/// Processes outside pods; standalone, all processes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Host {
    /// The cgroup's path from the root of its hierarchy, such as `/system.slice/cron.service`;
    /// `None` where only the node as a whole is meant. Filters with `matchCgroup` need it.
    pub cgroup: Option<String>,
    /// The node's labels; empty standalone.
    pub node_labels: Labels,
}

/// A container of a pod.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Pod {
    /// The pod's namespace.
    pub namespace: String,
    /// The pod's labels.
    pub labels: Labels,
    /// The labels of its namespace.
    pub namespace_labels: Labels,
    /// The container's name; `None` for a cgroup of the pod that is no container's, which filters
    /// that name `containers` do not select. See [`crate::compile_pod`] for a container not known
    /// yet.
    pub container: Option<String>,
    /// The container's cgroup path, as for [`Host::cgroup`].
    pub cgroup: Option<String>,
    /// The labels of the node it runs on.
    pub node_labels: Labels,
}

// === impl Subject ===

impl Subject {
    /// All processes of a node without pods or labels: what `run` observes.
    pub fn host() -> Self {
        Subject::Host(Host::default())
    }

    pub(crate) fn node_labels(&self) -> &Labels {
        match self {
            Subject::Host(host) => &host.node_labels,
            Subject::Pod(pod) => &pod.node_labels,
        }
    }

    pub(crate) fn cgroup(&self) -> Option<&str> {
        match self {
            Subject::Host(host) => host.cgroup.as_deref(),
            Subject::Pod(pod) => pod.cgroup.as_deref(),
        }
    }
}
