//! From a cgroup's id to its pod and container, as far as they are known now.

use std::sync::Arc;

use ebpf_hello_proto::v1;

use super::{Pod, Pods, paths::Paths, place};

/// What is known of whose a cgroup is.
#[derive(Clone, Debug)]
pub(super) enum Resolution {
    /// Not where it is.
    NoPath,
    /// It is no pod's.
    Host,
    /// It is a pod's, which the API server has not told of.
    NoPod,
    /// Its pod, and not yet the name of its container.
    NoContainer(Arc<Answer>),
    /// All there is to know.
    Known(Arc<Answer>),
}

/// A pod and container as events have them.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) pod: v1::Pod,
    /// The pod that it was made of.
    of: Arc<Pod>,
}

/// Who is asked.
#[derive(Clone, Debug)]
pub(super) struct Resolver {
    pub(super) pods: Arc<Pods>,
    pub(super) paths: Arc<Paths>,
}

// === impl Resolver ===

impl Resolver {
    pub(super) fn resolve(&self, cgroup: u64) -> Resolution {
        let Some(path) = self.paths.path(cgroup) else {
            return Resolution::NoPath;
        };
        let Some(place) = place(&path) else {
            return Resolution::Host;
        };
        let Some(pod) = self.pods.get(&place.pod) else {
            return Resolution::NoPod;
        };
        let Some(id) = place.container else {
            return Resolution::Known(Arc::new(answer(pod, None)));
        };
        let container = self.pods.container(&pod, &id);
        let is_known = container.is_some();
        let container = v1::Container {
            id,
            name: container
                .as_ref()
                .map_or_else(String::new, |found| found.name.clone()),
            image: container.map_or_else(String::new, |found| found.image),
        };
        let answer = Arc::new(answer(pod, Some(container)));
        if is_known {
            Resolution::Known(answer)
        } else {
            Resolution::NoContainer(answer)
        }
    }

    pub(super) fn pod(&self, cgroup: u64) -> Option<Arc<Pod>> {
        self.pods.get(&place(&self.paths.path(cgroup)?)?.pod)
    }

    /// The same of a pod that may have changed meanwhile; `None` where nothing better is known.
    pub(super) fn renew(&self, cgroup: u64, known: &Answer) -> Option<Arc<Answer>> {
        let now = self.pods.get(&known.of.cgroup_uid)?;
        if Arc::ptr_eq(&now, &known.of) {
            return None;
        }
        match self.resolve(cgroup) {
            Resolution::Known(answer) => Some(answer),
            // What was known of a container stays so.
            _ => None,
        }
    }
}

fn answer(pod: Arc<Pod>, container: Option<v1::Container>) -> Answer {
    Answer {
        pod: v1::Pod {
            namespace: pod.namespace.clone(),
            name: pod.name.clone(),
            uid: pod.cgroup_uid.clone(),
            labels: pod.labels.clone().into_iter().collect(),
            workload: pod.workload.clone(),
            container,
        },
        of: pod,
    }
}
