//! Whose counts are, for as long as they are told: that is until the end, and everything else forgets who is gone.
//!
//! What was counted for a cgroup or a policy that is gone is taken out of the kernel's map, where it would fill the room
//! of others, and told under another key ([`folds`]): that of the first such cgroup of the same pod. So it stays in its
//! pod's row, and takes no more room the more cgroups and policies there were.
//!
//! ```text
//! cgroup, generation, call ──policy gone──▶ cgroup, FOLDED, call ──cgroup gone──▶ its pod's first, FOLDED, call
//! ```

use std::{
    collections::{HashMap, HashSet, hash_map::Entry},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use ebpf_hello_loader::{FOLDED, abi::CountKey};

use crate::identity::Identity;

/// The pod, in no namespace, in whose row is what was counted in the pods that are gone longest. No pod has such a name.
/// A pod's counts come all at once: whoever takes differences leaves this row out.
pub const GONE: &str = "(gone)";

/// Pods that are gone and have a row of their own at most: each is in every report.
const GONE_PODS: usize = 32;
/// No cgroup has this id: under it is told what was counted in those that are gone and were no pod's.
pub(crate) const HOST: u64 = 0;

/// Namespace and name.
type Pod = (String, String);

/// What a node knows of its cgroups' pods, and of those that are gone.
pub(crate) struct Owners {
    identity: Arc<Identity>,
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    /// Of all cgroups that counts are told under, as far as they are a pod's.
    pods: HashMap<u64, Pod>,
    /// Under which cgroup it is told what was counted in a pod's cgroups that are gone. First pods that are gone, in the
    /// order in which they went.
    rows: Vec<(Pod, u64)>,
}

/// What is to be told under another key, and under which. `is_gone` says so of a cgroup, `is_over` of a generation;
/// `row` says under which cgroup a gone one's counts are told, `None` while that is not known.
pub(crate) fn folds(
    counted: &[CountKey],
    is_gone: impl Fn(u64) -> bool,
    is_over: impl Fn(u64) -> bool,
    mut row: impl FnMut(u64) -> Option<u64>,
) -> Vec<(CountKey, CountKey)> {
    let fold = |key: &CountKey| {
        let cgroup_id = if is_gone(key.cgroup_id) {
            row(key.cgroup_id)?
        } else if is_over(key.generation) {
            key.cgroup_id
        } else {
            return None;
        };
        let to = CountKey {
            cgroup_id,
            generation: FOLDED,
            ..*key
        };
        (to != *key).then_some((*key, to))
    };
    counted.iter().filter_map(fold).collect()
}

// === impl Owners ===

impl Owners {
    pub(crate) fn new(identity: Arc<Identity>) -> Self {
        Owners {
            identity,
            kept: Mutex::default(),
        }
    }

    /// Namespace and name of the pod that a cgroup is of; of one that something was counted in also when it is gone.
    /// `None` where it is of none, as far as is known.
    pub(crate) fn pod(&self, cgroup: u64) -> Option<(String, String)> {
        let kept = self.kept().pods.get(&cgroup).cloned();
        kept.or_else(|| self.identity.pod(cgroup))
    }

    /// Notes whose the cgroups are, before they are forgotten elsewhere; forgets those that nothing is told under.
    pub(crate) fn follow(&self, counted: &[CountKey]) {
        self.kept()
            .follow(counted, |cgroup| self.identity.pod(cgroup));
    }

    /// Under which cgroup it is told what was counted in one that is gone; `None` while its pod may become known.
    pub(crate) fn row(&self, cgroup: u64) -> Option<u64> {
        let row = self.kept().row(cgroup);
        row.or_else(|| (!self.identity.paths.knows(cgroup)).then_some(HOST))
    }

    /// Throws the pods together that are gone longest, if there are too many.
    pub(crate) fn retire(&self, is_gone: impl Fn(u64) -> bool) {
        self.kept().retire(is_gone);
    }

    pub(crate) fn register(&self, registry: &mut prometheus_client::registry::Registry) {
        self.identity.register(registry);
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        // Nothing panics while it is held.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Kept ===

impl Kept {
    fn follow(&mut self, counted: &[CountKey], find: impl Fn(u64) -> Option<Pod>) {
        let cgroups: HashSet<u64> = counted.iter().map(|key| key.cgroup_id).collect();
        self.pods.retain(|cgroup, _| cgroups.contains(cgroup));
        for cgroup in cgroups {
            if let Entry::Vacant(place) = self.pods.entry(cgroup)
                && let Some(pod) = find(cgroup)
            {
                place.insert(pod);
            }
        }
    }

    /// `None` for a cgroup that is not known to be a pod's.
    fn row(&mut self, cgroup: u64) -> Option<u64> {
        let pod = self.pods.get(&cgroup)?;
        if let Some((_, row)) = self.rows.iter().find(|(of, _)| of == pod) {
            return Some(*row);
        }
        self.rows.push((pod.clone(), cgroup));
        Some(cgroup)
    }

    fn retire(&mut self, is_gone: impl Fn(u64) -> bool) {
        let living: HashSet<&Pod> = self
            .pods
            .iter()
            .filter(|(cgroup, pod)| pod.1 == GONE || !is_gone(**cgroup))
            .map(|(_, pod)| pod)
            .collect();
        // Stable: who went since the last time comes behind those who had gone before.
        self.rows.sort_by_key(|(pod, _)| living.contains(pod));
        let gone = self.rows.partition_point(|(pod, _)| !living.contains(pod));
        for (_, row) in self.rows.drain(..gone.saturating_sub(GONE_PODS)) {
            self.pods.insert(row, (String::new(), GONE.to_owned()));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use ebpf_hello_loader::{CallCount, Counts};
    use ebpf_hello_policy::Arch;

    use super::*;
    use crate::counters::by_pod;

    /// What the loader holds, of one call.
    #[derive(Default)]
    struct Counted {
        calls: HashMap<CountKey, u64>,
        kept: Kept,
    }

    /// Calls by pod.
    type Rows = BTreeMap<String, u64>;

    impl Counted {
        fn count(&mut self, cgroup_id: u64, generation: u64, calls: u64) {
            let key = CountKey {
                cgroup_id,
                generation,
                ..CountKey::default()
            };
            *self.calls.entry(key).or_default() += calls;
        }

        /// A sweep, with these cgroups and this generation.
        fn sweep(&mut self, living: &[(u64, &str)], generation: u64) {
            let counted: Vec<CountKey> = self.calls.keys().copied().collect();
            let is_gone = |cgroup| !living.iter().any(|(id, _)| *id == cgroup);
            self.kept.follow(&counted, |cgroup| pod(living, cgroup));
            let folds = folds(
                &counted,
                is_gone,
                |of| of != generation,
                |cgroup| self.kept.row(cgroup).or(Some(HOST)),
            );
            for (from, to) in folds {
                let calls = self.calls.remove(&from).unwrap();
                *self.calls.entry(to).or_default() += calls;
            }
            self.kept.retire(is_gone);
        }

        /// As they are told when nobody else knows a pod any more.
        fn rows(&self) -> Rows {
            let calls = self.calls.iter().map(|(key, calls)| CallCount {
                cgroup_id: key.cgroup_id,
                generation: key.generation,
                number: key.number,
                compat: false,
                calls: *calls,
            });
            let counts = Counts {
                calls: calls.collect(),
                ..Counts::default()
            };
            by_pod(&counts, Arch::X86_64, |cgroup| {
                self.kept.pods.get(&cgroup).cloned()
            })
            .into_iter()
            .filter_map(|row| Some((row.pod, row.counters?.syscalls.first()?.count)))
            .collect()
        }
    }

    fn pod(living: &[(u64, &str)], cgroup: u64) -> Option<Pod> {
        let (_, name) = living.iter().find(|(id, _)| *id == cgroup)?;
        (!name.is_empty()).then(|| ("shop".to_owned(), (*name).to_owned()))
    }

    fn rows<const N: usize>(rows: [(&str, u64); N]) -> Rows {
        rows.map(|(pod, calls)| (pod.to_owned(), calls)).into()
    }

    #[test]
    fn what_is_folded_stays_in_its_row() {
        let mut counted = Counted::default();
        // A host's cgroup, two of one pod, one of another.
        let living = [(1, ""), (7, "cart"), (8, "cart"), (9, "till")];
        for (cgroup, _) in living {
            counted.count(cgroup, 1, 10 * cgroup);
            counted.count(cgroup, 2, cgroup);
        }
        let all = rows([("", 11), ("cart", 77 + 88), ("till", 99)]);
        counted.sweep(&living, 2);
        assert_eq!((counted.rows(), counted.calls.len()), (all.clone(), 8));
        counted.sweep(&living, 3);
        assert_eq!((counted.rows(), counted.calls.len()), (all.clone(), 4));
        // A container is gone, then all is; each row is one key.
        counted.sweep(&living[..2], 3);
        assert_eq!((counted.rows(), counted.calls.len()), (all.clone(), 4));
        counted.sweep(&[], 3);
        assert_eq!((counted.rows(), counted.calls.len()), (all, 3));
        // A pod of the same name goes on where it was.
        counted.count(10, 3, 1);
        counted.sweep(&[(10, "till")], 3);
        assert_eq!(counted.rows()["till"], 100);
    }

    #[test]
    fn a_cgroup_that_may_be_a_pods_keeps_its_counts_until_that_is_known() {
        let mut counted = Counted::default();
        counted.count(7, 1, 5);
        let keys: Vec<CountKey> = counted.calls.keys().copied().collect();
        assert_eq!(folds(&keys, |_| true, |_| true, |_| None), []);
    }

    #[test]
    fn pods_that_are_gone_longest_are_thrown_together() {
        let mut counted = Counted::default();
        let names: Vec<String> = (0..GONE_PODS as u64 + 3)
            .map(|number| format!("job-{number}"))
            .collect();
        // The first cgroup of all is of the pod that goes last.
        let long = (1, "long");
        counted.count(1, 1, 5);
        for (cgroup, name) in (10..).zip(&names) {
            counted.count(cgroup, 1, 1);
            counted.sweep(&[long, (cgroup, name)], 1);
            counted.sweep(&[long], 1);
        }
        counted.sweep(&[], 1);
        counted.sweep(&[], 1);
        let told = counted.rows();
        assert_eq!((told["long"], told[GONE]), (5, 4));
        assert!(!told.contains_key("job-3") && told["job-4"] == 1);
        assert_eq!(told.len(), GONE_PODS + 1);
        assert_eq!(told.values().sum::<u64>(), 5 + names.len() as u64);
        assert_eq!(counted.calls.len(), told.len());
    }
}
