//! The pods of this node, as the API server describes them.

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError, RwLock},
};

use ebpf_hello_policy::Labels;
use ebpf_hello_proto::v1::Workload;
use tokio::sync::watch;

/// The class that decides below which cgroup a pod's is (`status.qosClass`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Qos {
    /// Directly below the pods' root.
    Guaranteed,
    /// Below `burstable`.
    Burstable,
    /// Below `besteffort`.
    #[default]
    BestEffort,
}

/// One pod, trimmed to what events and filters need.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pod {
    /// `metadata.uid`.
    pub uid: String,
    /// The UID that its cgroup carries: `metadata.uid`, or for a static pod the hash of its configuration
    /// (annotation `kubernetes.io/config.hash`).
    pub cgroup_uid: String,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its labels.
    pub labels: Labels,
    /// What made it; `None` for a bare pod.
    pub workload: Option<Workload>,
    /// Where its cgroup is.
    pub qos: Qos,
    /// Its containers: init, ordinary and ephemeral ones, in this order.
    pub containers: Vec<Container>,
}

/// A container of a pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Container {
    /// Its name in the spec.
    pub name: String,
    /// The ids it has had as far as is known, the newest last, without a runtime's prefix.
    pub ids: Vec<String>,
    /// Its image.
    pub image: String,
}

/// The pods of this node, shared by who watches them and who asks.
#[derive(Debug)]
pub struct Pods {
    pods: RwLock<HashMap<String, Arc<Pod>>>,
    changes: watch::Sender<u64>,
}

// === impl Pods ===

impl Default for Pods {
    fn default() -> Self {
        Pods {
            pods: RwLock::default(),
            changes: watch::Sender::new(0),
        }
    }
}

impl Pods {
    /// The pod whose cgroup carries this UID.
    pub fn get(&self, cgroup_uid: &str) -> Option<Arc<Pod>> {
        let pods = self.pods.read().unwrap_or_else(PoisonError::into_inner);
        pods.get(cgroup_uid).cloned()
    }

    /// All pods, in no order.
    pub fn all(&self) -> Vec<Arc<Pod>> {
        let pods = self.pods.read().unwrap_or_else(PoisonError::into_inner);
        pods.values().cloned().collect()
    }

    /// Takes in a pod as it is now.
    pub fn put(&self, pod: Pod) {
        let mut pods = self.pods.write().unwrap_or_else(PoisonError::into_inner);
        pods.insert(pod.cgroup_uid.clone(), Arc::new(pod));
        drop(pods);
        self.changes.send_modify(|changes| *changes += 1);
    }

    /// Forgets the pod whose cgroup carries this UID.
    pub fn remove(&self, cgroup_uid: &str) {
        let mut pods = self.pods.write().unwrap_or_else(PoisonError::into_inner);
        pods.remove(cgroup_uid);
        drop(pods);
        self.changes.send_modify(|changes| *changes += 1);
    }

    /// Changes whenever a pod or container came, changed or went.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }
}
