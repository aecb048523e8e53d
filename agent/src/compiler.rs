//! From the filters to the table of every workload of the node, each set of filters compiled once.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use ebpf_hello_policy::{Arch, Filter, Host, Labels, Pod, Subject, merge};

use crate::{
    identity,
    pool::{Pool, PooledTable},
    scope::Scope,
};

/// What a node is to do, and what filters select by beside pods.
#[derive(Clone, Debug, Default)]
pub struct Policy {
    /// The filters.
    pub filters: Vec<Installed>,
    /// The node's labels; empty standalone.
    pub node_labels: Labels,
    /// Labels of namespaces, by name; empty unless a filter selects by them.
    pub namespaces: HashMap<String, Labels>,
}

/// A filter, and which version of which object it is.
#[derive(Clone, Debug)]
pub struct Installed {
    /// What it says.
    pub filter: Filter,
    /// Its `metadata.uid`; empty for one that is a file.
    pub uid: String,
    /// Its `metadata.generation`; 0 for one that is a file.
    pub generation: i64,
}

/// What the cgroups of one pod are to have.
#[derive(Debug)]
pub(crate) struct PodTables {
    /// As it was then.
    pub(crate) pod: Arc<identity::Pod>,
    /// Whether it was not deleted since.
    pub(crate) is_there: bool,
    /// Those that select any of its containers, by their place in the policy.
    pub(crate) filters: BTreeSet<usize>,
    pub(crate) scope: Scope,
}

/// The filters, and what they were found to ask.
#[derive(Debug)]
pub(crate) struct Compiler {
    policy: Policy,
    arch: Arch,
    pool: Pool,
    /// By the filters that select it: workloads that the same filters select have the same table.
    tables: HashMap<Vec<usize>, PooledTable>,
    /// By the filters that select each container, in order, each once.
    unions: HashMap<BTreeSet<Vec<usize>>, PooledTable>,
}

// === impl Policy ===

impl Policy {
    /// Of filters that are files, on a machine without pods.
    pub fn of(filters: Vec<Filter>) -> Self {
        let filters = filters.into_iter().map(|filter| Installed {
            filter,
            uid: String::new(),
            generation: 0,
        });
        Policy {
            filters: filters.collect(),
            ..Policy::default()
        }
    }
}

// === impl PodTables ===

impl PodTables {
    /// What a cgroup of the pod is to have: its own, or that of the container of this name.
    pub(crate) fn table(&self, container: Option<&str>) -> &PooledTable {
        container
            .and_then(|name| self.scope.containers.get(name))
            .unwrap_or(&self.scope.union)
    }
}

// === impl Compiler ===

impl Compiler {
    pub(crate) fn new(policy: Policy, arch: Arch) -> Self {
        Compiler {
            policy,
            arch,
            pool: Pool::default(),
            tables: HashMap::new(),
            unions: HashMap::new(),
        }
    }

    /// From now on it is another policy. Tables that say the same are the same as before.
    pub(crate) fn replace(&mut self, policy: Policy) {
        self.policy = policy;
        self.tables.clear();
        self.unions.clear();
        self.pool.prune();
    }

    pub(crate) fn policy(&self) -> &Policy {
        &self.policy
    }

    /// The table of processes outside pods, in the cgroup at a path; `None` is whatever has none of its own.
    pub(crate) fn host(&mut self, cgroup: Option<&str>) -> PooledTable {
        let subject = Subject::Host(Host {
            cgroup: cgroup.map(ToOwned::to_owned),
            node_labels: self.policy.node_labels.clone(),
        });
        let selecting = self.selecting(|filter| filter.selects(&subject));
        self.table(selecting)
    }

    /// The table of a pod of which nothing is known yet.
    pub(crate) fn any_pod(&mut self) -> PooledTable {
        let selecting = self.selecting(|filter| filter.selects_every_pod(&self.policy.node_labels));
        self.table(selecting)
    }

    /// The tables of a pod.
    pub(crate) fn pod(&mut self, pod: &Arc<identity::Pod>) -> PodTables {
        let namespace = self.policy.namespaces.get(&pod.namespace);
        let wish = |container: Option<String>| {
            let subject = Subject::Pod(Pod {
                namespace: pod.namespace.clone(),
                labels: pod.labels.clone(),
                namespace_labels: namespace.cloned().unwrap_or_default(),
                container: container.clone(),
                cgroup: None,
                node_labels: self.policy.node_labels.clone(),
            });
            let selecting = self.selecting(|filter| {
                // A namespace that is not known yet is not one without labels.
                (namespace.is_some() || !filter.selects_namespaces()) && filter.selects(&subject)
            });
            (container, selecting)
        };
        let containers = pod.containers.iter();
        let mut wishes: Vec<(Option<String>, Vec<usize>)> = containers
            .map(|container| wish(Some(container.name.clone())))
            .collect();
        if wishes.is_empty() {
            wishes.push(wish(None));
        }
        let all: BTreeSet<Vec<usize>> = wishes.iter().map(|(_, filters)| filters.clone()).collect();
        PodTables {
            pod: Arc::clone(pod),
            is_there: true,
            filters: all.iter().flatten().copied().collect(),
            scope: Scope {
                union: self.union(all),
                containers: wishes
                    .into_iter()
                    .filter_map(|(name, filters)| Some((name?, self.table(filters))))
                    .collect(),
            },
        }
    }

    fn selecting(&self, selects: impl Fn(&Filter) -> bool) -> Vec<usize> {
        let filters = self.policy.filters.iter().enumerate();
        filters
            .filter(|(_, installed)| selects(&installed.filter))
            .map(|(index, _)| index)
            .collect()
    }

    fn table(&mut self, selecting: Vec<usize>) -> PooledTable {
        if let Some(known) = self.tables.get(&selecting) {
            return known.clone();
        }
        let filters: Vec<&Filter> = selecting
            .iter()
            .map(|index| &self.policy.filters[*index].filter)
            .collect();
        let table = self.pool.take(merge(filters, self.arch).table);
        self.tables.insert(selecting, table.clone());
        table
    }

    fn union(&mut self, of: BTreeSet<Vec<usize>>) -> PooledTable {
        if let Some(known) = self.unions.get(&of) {
            return known.clone();
        }
        let tables: Vec<PooledTable> = of.iter().map(|one| self.table(one.clone())).collect();
        let union = match tables.split_first() {
            Some((first, [])) => first.clone(),
            Some((first, others)) => {
                let all = others
                    .iter()
                    .fold((**first).clone(), |all, one| all.union(one));
                self.pool.take(all)
            }
            None => self.table(Vec::new()),
        };
        self.unions.insert(of, union.clone());
        union
    }
}
