//! The pods of this node, as the API server describes them, and the names of their containers.

use std::{
    collections::{HashMap, VecDeque, hash_map::Entry},
    sync::{
        Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use ebpf_hello_policy::Labels;
use ebpf_hello_proto::v1::Workload;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

/// How long a pod is still known after it was deleted: its last events are on their way.
const GRACE: Duration = Duration::from_secs(60);
/// Pods that are kept after they were deleted: a node that replaces its pods all the time has no more.
const DEPARTED: usize = 2_048;
/// Pods that are known at most; a kubelet takes a few hundred.
const PODS: usize = 16_384;
/// Ids of a container that are remembered: it was started again so often.
const IDS: usize = 8;
/// Containers whose names are known before their status is.
const LINKS: usize = 8_192;

/// The class that decides below which cgroup a pod's is (`status.qosClass`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
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
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
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
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Container {
    /// Its name in the spec.
    pub name: String,
    /// The ids it has had as far as is known, the newest last, without a runtime's prefix.
    pub ids: Vec<String>,
    /// Its image.
    pub image: String,
}

/// Whose a container is, as the kubelet names its log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Namespace of the pod.
    pub namespace: String,
    /// Name of the pod.
    pub pod: String,
    /// Name of the container.
    pub container: String,
}

/// The pods of this node, shared by who watches them and who asks.
#[derive(Debug)]
pub struct Pods {
    known: RwLock<Known>,
    changes: watch::Sender<u64>,
    is_listed: AtomicBool,
}

#[derive(Debug, Default)]
struct Known {
    /// By the UID that their cgroups carry.
    pods: HashMap<String, Kept>,
    /// Deleted ones, the oldest first; a pod that came again is in here as well.
    departed: VecDeque<(Instant, String)>,
    /// By container id.
    links: HashMap<String, Link>,
    /// Their ids, the oldest first.
    linked: VecDeque<String>,
}

#[derive(Debug)]
struct Kept {
    pod: Arc<Pod>,
    /// When it was deleted.
    gone: Option<Instant>,
}

// === impl Pods ===

impl Default for Pods {
    fn default() -> Self {
        Pods {
            known: RwLock::default(),
            changes: watch::Sender::new(0),
            is_listed: AtomicBool::new(false),
        }
    }
}

impl Pods {
    /// The pod whose cgroup carries this UID; also one that was deleted a short while ago.
    pub fn get(&self, cgroup_uid: &str) -> Option<Arc<Pod>> {
        let known = self.read();
        known.pods.get(cgroup_uid).map(|kept| kept.pod.clone())
    }

    /// All pods that are there, in no order.
    pub fn all(&self) -> Vec<Arc<Pod>> {
        let known = self.read();
        let present = known.pods.values().filter(|kept| kept.gone.is_none());
        present.map(|kept| kept.pod.clone()).collect()
    }

    /// Takes in a pod as it is now.
    ///
    /// One that claims another's cgroup is left out: only static pods name theirs, in an annotation, which everybody
    /// who may make pods can write. When the kubelet makes a static pod's mirror again, that has the same name.
    pub fn put(&self, pod: Pod) {
        if self.write().put(pod) {
            self.changed();
        }
    }

    /// Forgets a pod, after a while; one that was left out takes nothing with it.
    pub fn remove(&self, pod: &Pod) {
        if self.write().remove(pod, Instant::now()) {
            self.changed();
        }
    }

    /// The name and image of a pod's container with this id: as its status or its log's link has it.
    pub fn container(&self, pod: &Pod, id: &str) -> Option<Container> {
        let has = |container: &&Container| container.ids.iter().any(|known| known == id);
        if let Some(container) = pod.containers.iter().find(has) {
            return Some(container.clone());
        }
        let known = self.read();
        let link = known.links.get(id)?;
        let is_its = link.namespace == pod.namespace && link.pod == pod.name;
        is_its.then(|| Container {
            name: link.container.clone(),
            ids: vec![id.to_owned()],
            image: pod
                .containers
                .iter()
                .find(|container| container.name == link.container)
                .map(|container| container.image.clone())
                .unwrap_or_default(),
        })
    }

    /// Takes in whose the container with this id is. It is not forgotten when the link goes, but when many others have
    /// come: what it names may not have been asked for yet.
    pub fn link(&self, id: String, link: Link) {
        if self.write().link(id, link) {
            self.changed();
        }
    }

    /// Notes that all pods of the node were told once.
    pub fn note_listed(&self) {
        self.is_listed.store(true, Ordering::Release);
        self.changed();
    }

    /// Whether all pods of the node were told once.
    pub fn is_listed(&self) -> bool {
        self.is_listed.load(Ordering::Acquire)
    }

    /// Changes whenever a pod or container came, changed or went.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    fn changed(&self) {
        self.changes.send_modify(|changes| *changes += 1);
    }

    fn read(&self) -> RwLockReadGuard<'_, Known> {
        // Nothing panics while it is held.
        self.known.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Known> {
        self.known.write().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Known ===

impl Known {
    /// Whether something changed.
    fn put(&mut self, mut pod: Pod) -> bool {
        let is_full = self.pods.len() >= PODS;
        match self.pods.entry(pod.cgroup_uid.clone()) {
            Entry::Vacant(_) if is_full => {
                tracing::warn!(
                    namespace = pod.namespace,
                    pod = pod.name,
                    "more pods than a node can have: its events stay without their pod"
                );
                false
            }
            Entry::Vacant(place) => {
                place.insert(Kept {
                    pod: Arc::new(pod),
                    gone: None,
                });
                true
            }
            Entry::Occupied(mut place) => {
                let kept = place.get_mut();
                let is_again = kept.gone.is_some()
                    && (&kept.pod.namespace, &kept.pod.name) == (&pod.namespace, &pod.name);
                if kept.pod.uid != pod.uid && !is_again {
                    tracing::warn!(
                        namespace = pod.namespace,
                        pod = pod.name,
                        cgroup = pod.cgroup_uid,
                        "claims the cgroup of another pod: left out"
                    );
                    return false;
                }
                if kept.pod.uid == pod.uid {
                    pod.remember(&kept.pod);
                }
                if *kept.pod == pod && kept.gone.is_none() {
                    return false;
                }
                *kept = Kept {
                    pod: Arc::new(pod),
                    gone: None,
                };
                true
            }
        }
    }

    fn remove(&mut self, pod: &Pod, now: Instant) -> bool {
        let Some(kept) = self.pods.get_mut(&pod.cgroup_uid) else {
            return false;
        };
        let is_news = kept.gone.is_none() && kept.pod.uid == pod.uid;
        if is_news {
            kept.gone = Some(now);
            self.departed.push_back((now, pod.cgroup_uid.clone()));
        }
        while let Some((gone, _)) = self.departed.front()
            && (self.departed.len() > DEPARTED || now - *gone > GRACE)
        {
            let Some((gone, uid)) = self.departed.pop_front() else {
                break;
            };
            // Unless it came back since.
            if self
                .pods
                .get(&uid)
                .is_some_and(|kept| kept.gone == Some(gone))
            {
                self.pods.remove(&uid);
            }
        }
        is_news
    }

    fn link(&mut self, id: String, link: Link) -> bool {
        if self.links.get(&id) == Some(&link) {
            return false;
        }
        self.linked.push_back(id.clone());
        self.links.insert(id, link);
        while self.linked.len() > LINKS {
            if let Some(oldest) = self.linked.pop_front() {
                self.links.remove(&oldest);
            }
        }
        true
    }
}

// === impl Pod ===

impl Pod {
    /// Takes over the ids that its containers had: a status names only the last ones.
    fn remember(&mut self, earlier: &Pod) {
        for container in &mut self.containers {
            let Some(known) = earlier
                .containers
                .iter()
                .find(|known| known.name == container.name)
            else {
                continue;
            };
            let mut ids = known.ids.clone();
            ids.retain(|id| !container.ids.contains(id));
            ids.append(&mut container.ids);
            ids.drain(..ids.len().saturating_sub(IDS));
            container.ids = ids;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(uid: &str, cgroup_uid: &str, ids: &[&str]) -> Pod {
        Pod {
            uid: uid.to_owned(),
            cgroup_uid: cgroup_uid.to_owned(),
            namespace: "shop".into(),
            name: "cart-0".into(),
            containers: vec![Container {
                name: "web".into(),
                ids: ids.iter().map(|id| (*id).to_owned()).collect(),
                image: "web:1".into(),
            }],
            ..Pod::default()
        }
    }

    #[test]
    fn a_pod_is_told_once_and_known_a_while_after_it_went() {
        let pods = Pods::default();
        let mut changes = pods.changes();
        pods.put(pod("u", "u", &[]));
        assert!(changes.has_changed().unwrap());
        changes.mark_unchanged();
        pods.put(pod("u", "u", &[]));
        assert!(!changes.has_changed().unwrap(), "nothing changed");
        pods.remove(&pod("u", "u", &[]));
        assert!(changes.has_changed().unwrap());
        assert_eq!((pods.all().len(), pods.get("u").is_some()), (0, true));
        let later = Instant::now() + GRACE + Duration::from_secs(1);
        pods.put(pod("v", "v", &[]));
        pods.write().remove(&pod("v", "v", &[]), later);
        assert!(pods.get("u").is_none() && pods.get("v").is_some());
    }

    #[test]
    fn only_so_many_that_went_are_known() {
        let pods = Pods::default();
        for number in 0..DEPARTED + 10 {
            let uid = number.to_string();
            pods.put(pod(&uid, &uid, &[]));
            pods.remove(&pod(&uid, &uid, &[]));
        }
        assert_eq!(pods.read().pods.len(), DEPARTED);
        assert!(pods.get("9").is_none() && pods.get("10").is_some());
    }

    #[test]
    fn a_pod_that_claims_anothers_cgroup_is_left_out() {
        let pods = Pods::default();
        let mirror = pod("mirror", "hash", &[]);
        let thief = Pod {
            namespace: "evil".into(),
            ..pod("thief", "hash", &[])
        };
        pods.put(mirror.clone());
        pods.put(thief.clone());
        assert_eq!(pods.get("hash").unwrap().uid, "mirror");
        pods.remove(&thief);
        assert_eq!(pods.all().len(), 1, "the thief's end is not the mirror's");
        pods.remove(&mirror);
        pods.put(thief);
        assert_eq!(pods.get("hash").unwrap().uid, "mirror", "nor its heir");
        // The kubelet's own next mirror of the same configuration.
        pods.put(pod("mirror 2", "hash", &[]));
        assert_eq!(pods.get("hash").unwrap().uid, "mirror 2");
        assert_eq!(pods.all().len(), 1);
    }

    #[test]
    fn a_container_is_known_by_all_its_ids_and_by_its_log() {
        let pods = Pods::default();
        let name = |id: &str| {
            let pod = pods.get("u").unwrap();
            pods.container(&pod, id)
                .map(|found| (found.name, found.image))
        };
        let web = Some(("web".to_owned(), "web:1".to_owned()));
        pods.put(pod("u", "u", &["a"]));
        pods.put(pod("u", "u", &["b"]));
        assert_eq!(
            (name("a"), name("b"), name("c")),
            (web.clone(), web.clone(), None)
        );
        let link = |pod: &str| Link {
            namespace: "shop".into(),
            pod: pod.into(),
            container: "web".into(),
        };
        pods.link("c".into(), link("cart-0"));
        pods.link("d".into(), link("cart-1"));
        assert_eq!((name("c"), name("d")), (web, None), "another pod's log");
    }
}
