//! What the filters ask of every cgroup.
//!
//! ```text
//! path ──identity::place──▶ a pod's? ── Pods ──▶ PodTables: of its containers, of what is none of them
//!      ──PodParent────────▶ holds pods? ───────▶ the table of any pod, and the names of those that may come
//!      otherwise ─────────▶ the host's, by matchCgroup
//! ```

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use ebpf_hello_policy::Arch;

use crate::{
    cgroups::{Cgroup, below},
    compiler::{Compiler, PodTables, Policy},
    identity::{Place, Pods, place},
    kubelet::PodParent,
    pool::PooledTable,
    scope::Scopes,
};

/// Filters, and what they were found to ask of each cgroup: the tree is looked at every second, and
/// hardly ever changes.
#[derive(Debug)]
pub(crate) struct Selection {
    compiler: Compiler,
    default: PooledTable,
    any_pod: PooledTable,
    /// `None` where there are none: a machine that is no node of a cluster.
    pods: Option<Arc<Pods>>,
    /// By the UID that the pod's cgroup carries.
    known_pods: HashMap<String, PodTables>,
    scopes: Arc<Scopes>,
    /// As of the last look at the tree.
    cgroups: HashMap<Cgroup, Asked>,
}

/// What is asked of one cgroup.
#[derive(Debug)]
enum Asked {
    /// Of processes outside pods.
    Host {
        table: PooledTable,
        /// And of those that are yet to come in it, by name.
        names: Vec<(String, PooledTable)>,
    },
    /// It holds pods: who may come is asked every time.
    Parent,
    /// It is a pod's, or is in one.
    Pod(Place),
}

/// A cgroup that is yet to come: the id of the one it will be in, its directory's name.
pub(crate) type Name = (u64, String);

/// What every cgroup should have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Desired {
    pub(crate) default: PooledTable,
    /// Cgroups whose table is not the default, parents first.
    pub(crate) others: Vec<(u64, PooledTable)>,
    /// Cgroups that are yet to come whose table is not their parent's.
    pub(crate) names: Vec<(Name, PooledTable)>,
}

/// A filter that is for this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Selected {
    pub(crate) filter: String,
    pub(crate) uid: String,
    pub(crate) generation: i64,
    /// Pods it selects.
    pub(crate) pods: usize,
}

// === impl Selection ===

impl Selection {
    pub(crate) fn new(
        policy: Policy,
        pods: Option<Arc<Pods>>,
        scopes: Arc<Scopes>,
        arch: Arch,
    ) -> Self {
        let mut compiler = Compiler::new(policy, arch);
        Selection {
            default: compiler.host(None),
            any_pod: compiler.any_pod(),
            compiler,
            pods,
            known_pods: HashMap::new(),
            scopes,
            cgroups: HashMap::new(),
        }
    }

    /// From now on it is another policy.
    pub(crate) fn replace(&mut self, policy: Policy) {
        self.compiler.replace(policy);
        self.default = self.compiler.host(None);
        self.any_pod = self.compiler.any_pod();
        self.known_pods.clear();
        self.cgroups.clear();
    }

    pub(crate) fn policy(&self) -> &Policy {
        self.compiler.policy()
    }

    /// The policy of every cgroup without one of its own.
    pub(crate) fn default(&self) -> &PooledTable {
        &self.default
    }

    /// Whether cgroups may differ in what is asked of them.
    pub(crate) fn is_selective(&self) -> bool {
        let filters = &self.policy().filters;
        !filters.is_empty() && self.pods.is_some() || self.names_cgroups()
    }

    /// Whether any filter is for some cgroups only.
    fn names_cgroups(&self) -> bool {
        let mut filters = self.policy().filters.iter();
        filters.any(|installed| installed.filter.names_cgroups())
    }

    /// The filters that are for this node, and how many of its pods each selects, as of the last look.
    pub(crate) fn selected(&self) -> Vec<Selected> {
        let policy = self.policy();
        let mut pods = vec![0; policy.filters.len()];
        let there = self.known_pods.values().filter(|pod| pod.is_there);
        for index in there.flat_map(|pod| &pod.filters) {
            pods[*index] += 1;
        }
        let filters = policy.filters.iter().zip(pods);
        filters
            .filter(|(installed, _)| installed.filter.matches_node(&policy.node_labels))
            .map(|(installed, pods)| Selected {
                filter: installed.filter.name().to_string(),
                uid: installed.uid.clone(),
                generation: installed.generation,
                pods,
            })
            .collect()
    }

    /// What the filters ask of every one of `cgroups`, and of those that they foretell in them.
    pub(crate) fn desired(&mut self, cgroups: &[Cgroup]) -> Desired {
        self.look_at_pods();
        let mut known = std::mem::take(&mut self.cgroups);
        let mut desired = Desired {
            default: self.default.clone(),
            others: Vec::new(),
            names: Vec::new(),
        };
        for cgroup in cgroups {
            let (cgroup, asked) = known.remove_entry(cgroup).unwrap_or_else(|| {
                let asked = self.ask(&cgroup.path);
                (cgroup.clone(), asked)
            });
            let (table, names) = match &asked {
                Asked::Host { table, names } => (table.clone(), names.clone()),
                Asked::Parent => (self.any_pod.clone(), self.pods_in(&cgroup.path)),
                Asked::Pod(place) => (self.table_of(place), Vec::new()),
            };
            if table != self.default {
                desired.others.push((cgroup.id, table));
            }
            let names = names
                .into_iter()
                .map(|(name, table)| ((cgroup.id, name), table));
            desired.names.extend(names);
            self.cgroups.insert(cgroup, asked);
        }
        desired
    }

    /// The table of the cgroup at a path, and what is foretold in it as far as a child does not simply
    /// inherit that.
    pub(crate) fn at(&mut self, path: &str) -> (PooledTable, Vec<(String, PooledTable)>) {
        match self.ask(path) {
            Asked::Host { table, names } => (table, names),
            Asked::Parent => (self.any_pod.clone(), self.pods_in(path)),
            Asked::Pod(place) => (self.table_of(&place), Vec::new()),
        }
    }

    fn ask(&mut self, path: &str) -> Asked {
        if self.pods.is_some() {
            if let Some(place) = place(path) {
                return Asked::Pod(place);
            }
            if PodParent::at(path).is_some() {
                return Asked::Parent;
            }
        }
        if !self.names_cgroups() {
            return Asked::Host {
                table: self.default.clone(),
                names: Vec::new(),
            };
        }
        let table = self.compiler.host(Some(path));
        let names = self
            .names_in(path)
            .into_iter()
            .map(|name| {
                let named = self.compiler.host(Some(&below(path, &name)));
                (name, named)
            })
            .filter(|(_, named)| *named != table)
            .collect();
        Asked::Host { table, names }
    }

    /// Names of directories in the cgroup at `parent` that have a table of their own when they
    /// come: those that a filter spells out.
    fn names_in(&self, parent: &str) -> BTreeSet<String> {
        let filters = self.policy().filters.iter();
        filters
            .filter_map(|installed| installed.filter.cgroup_name_in(parent))
            .map(ToOwned::to_owned)
            .collect()
    }

    /// Pods whose cgroups are, or will be, in the cgroup at `parent`.
    fn pods_in(&self, parent: &str) -> Vec<(String, PooledTable)> {
        let Some(parent) = PodParent::at(parent) else {
            return Vec::new();
        };
        let pods = self.known_pods.values();
        let mut names: Vec<_> = pods
            .filter(|pod| pod.is_there && pod.scope.union != self.any_pod)
            .filter_map(|pod| Some((parent.name_of(&pod.pod)?, pod.scope.union.clone())))
            .collect();
        names.sort_by(|a, b| a.0.cmp(&b.0));
        names
    }

    /// The table of a cgroup that is a pod's, or is in one.
    fn table_of(&mut self, place: &Place) -> PooledTable {
        let Some(pods) = self.pods.clone() else {
            return self.default.clone();
        };
        if !self.known_pods.contains_key(&place.pod)
            && let Some(pod) = pods.get(&place.pod)
        {
            self.learn(&pod);
        }
        let Some(known) = self.known_pods.get(&place.pod) else {
            return self.any_pod.clone();
        };
        let id = place.container.as_deref();
        let container = id.and_then(|id| pods.container(&known.pod, id));
        known
            .table(container.as_ref().map(|container| container.name.as_str()))
            .clone()
    }

    /// Takes in pods that came or changed, and forgets those that went.
    fn look_at_pods(&mut self) {
        let Some(pods) = self.pods.clone() else {
            return;
        };
        let there = pods.all();
        for pod in &there {
            let known = self.known_pods.get(&pod.cgroup_uid);
            if !known.is_some_and(|known| Arc::ptr_eq(&known.pod, pod)) {
                self.learn(pod);
            }
        }
        let there: HashSet<&str> = there.iter().map(|pod| pod.cgroup_uid.as_str()).collect();
        // One that was deleted is known for a while: its processes may be there.
        self.known_pods.retain(|cgroup_uid, known| {
            known.is_there = there.contains(cgroup_uid.as_str());
            known.is_there || pods.get(cgroup_uid).is_some()
        });
        let known = self.known_pods.values();
        let known: HashSet<&str> = known.map(|known| known.pod.uid.as_str()).collect();
        self.scopes.retain(|uid| known.contains(uid));
    }

    fn learn(&mut self, pod: &Arc<crate::identity::Pod>) {
        let tables = self.compiler.pod(pod);
        self.scopes.insert(&pod.uid, tables.scope.clone());
        self.known_pods.insert(pod.cgroup_uid.clone(), tables);
    }
}

// === impl Desired ===

impl Desired {
    /// Every table that is not the default's, once, in the order of its first cgroup.
    pub(crate) fn tables(&self) -> Vec<PooledTable> {
        let mut seen = HashSet::new();
        self.others
            .iter()
            .map(|(_, table)| table)
            .filter(|table| seen.insert((*table).clone()))
            .cloned()
            .collect()
    }
}
