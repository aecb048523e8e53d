//! A filter that was found valid: what [`crate::compile`] works with.
//!
//! There is no way to make one but through validation ([`Filter::try_from`] for objects of the
//! API server, [`crate::read`] for files), so compilation has no errors of its own. Groups are
//! expanded, exceptions taken out, selectors and limits parsed, once.

use std::{cmp::Reverse, collections::BTreeSet};

use kube::core::{Selector, SelectorExt};

use crate::{
    cgroup::CgroupGlob,
    crd::{ClusterSyscallFilter, SyscallFilter},
    handler::{DefaultAction, Handler},
    problem::Problem,
    subject::{Labels, Subject},
    table::{BinaryPattern, FilterName, RateLimit, Slot, UidRange},
    validate,
};

/// A valid `SyscallFilter` or `ClusterSyscallFilter`.
#[derive(Clone, Debug)]
pub struct Filter {
    pub(crate) name: FilterName,
    pub(crate) scope: Scope,
    pub(crate) pods: Selector,
    pub(crate) nodes: Selector,
    pub(crate) containers: BTreeSet<String>,
    pub(crate) cgroup: Option<CgroupGlob>,
    pub(crate) match_uids: Vec<UidRange>,
    pub(crate) match_binaries: Vec<BinaryPattern>,
    pub(crate) priority: i32,
    pub(crate) default: DefaultAction,
    pub(crate) rules: Vec<ValidRule>,
}

/// Where a filter may act, and whether others may overrule it.
#[derive(Clone, Debug)]
pub(crate) enum Scope {
    Namespace,
    Cluster {
        namespaces: Selector,
        host: bool,
        overridable: bool,
    },
}

/// A rule with its groups expanded.
#[derive(Clone, Debug)]
pub(crate) struct ValidRule {
    pub(crate) calls: BTreeSet<&'static str>,
    /// Those of `calls` that are named and not only in a group.
    pub(crate) explicit: BTreeSet<&'static str>,
    pub(crate) handler: Handler,
    pub(crate) rate_limit: Option<RateLimit>,
    pub(crate) sampling: u32,
    pub(crate) returns: bool,
    pub(crate) denied: bool,
}

// === impl Filter ===

impl Filter {
    /// Its name, as events and status show it.
    pub fn name(&self) -> &FilterName {
        &self.name
    }

    /// Its priority, -1,000,000 to 1,000,000.
    pub fn priority(&self) -> i32 {
        self.priority
    }

    /// What it does with system calls that no rule names.
    pub fn default_action(&self) -> DefaultAction {
        self.default
    }

    /// Whether it is a `ClusterSyscallFilter`.
    pub fn is_cluster(&self) -> bool {
        matches!(self.scope, Scope::Cluster { .. })
    }

    /// The containers it is limited to, by name; empty: all.
    pub fn containers(&self) -> impl Iterator<Item = &str> {
        self.containers.iter().map(String::as_str)
    }

    /// Whether it acts on nodes with these labels.
    pub fn matches_node(&self, labels: &Labels) -> bool {
        self.nodes.matches(labels)
    }

    /// Whether it depends on the labels of namespaces.
    pub fn selects_namespaces(&self) -> bool {
        match &self.scope {
            Scope::Namespace => false,
            Scope::Cluster { namespaces, .. } => !namespaces.selects_all(),
        }
    }

    /// Whether it acts on every container of every pod of a node with these labels: also on those of a pod
    /// of which nothing is known yet.
    pub fn selects_every_pod(&self, node_labels: &Labels) -> bool {
        self.is_cluster()
            && !self.selects_namespaces()
            && self.pods.selects_all()
            && self.containers.is_empty()
            && self.cgroup.is_none()
            && self.matches_node(node_labels)
    }

    /// Whether it is for some cgroups only (`matchCgroup`, in files).
    pub fn names_cgroups(&self) -> bool {
        self.cgroup.is_some()
    }

    /// Whether `run` (no pods, no namespaces) could ever act on it.
    pub fn can_select_host(&self) -> bool {
        match self.scope {
            Scope::Namespace => false,
            // Naming a cgroup is naming processes, whoever's they are.
            Scope::Cluster { host, .. } => host || self.cgroup.is_some(),
        }
    }

    /// Whether it acts on `subject`.
    pub fn selects(&self, subject: &Subject) -> bool {
        self.nodes.matches(subject.node_labels())
            && self.selects_cgroup(subject.cgroup())
            && match subject {
                Subject::Host(_) => self.can_select_host(),
                Subject::Pod(pod) => {
                    let namespace = match &self.scope {
                        Scope::Namespace => self.name.namespace() == Some(pod.namespace.as_str()),
                        Scope::Cluster { namespaces, .. } => {
                            namespaces.matches(&pod.namespace_labels)
                        }
                    };
                    let container = self.containers.is_empty()
                        || pod
                            .container
                            .as_ref()
                            .is_some_and(|name| self.containers.contains(name));
                    namespace && container && self.pods.matches(&pod.labels)
                }
            }
    }

    fn selects_cgroup(&self, path: Option<&str>) -> bool {
        let Some(glob) = &self.cgroup else {
            return true;
        };
        path.is_some_and(|path| glob.selects(path))
    }

    /// The one name that its `matchCgroup` asks for in the cgroup at `parent`: its last part, where
    /// that is literal and what stands before it matches `parent`.
    pub fn cgroup_name_in(&self, parent: &str) -> Option<&str> {
        self.cgroup.as_ref()?.name_in(parent)
    }

    /// Whether no namespaced filter may weaken it.
    pub(crate) fn is_protected(&self) -> bool {
        matches!(
            self.scope,
            Scope::Cluster {
                overridable: false,
                ..
            }
        )
    }

    /// The smaller goes first: priority, then name.
    pub(crate) fn rank(&self) -> (Reverse<i32>, &FilterName) {
        (Reverse(self.priority), &self.name)
    }

    /// The slot that rule number `index` (from 0) asks for.
    pub(crate) fn slot(&self, index: usize) -> Slot {
        let rule = &self.rules[index];
        Slot {
            handler: rule.handler,
            filter: Some(self.name.clone()),
            // At most 64 rules: validation.
            rule: u16::try_from(index + 1).unwrap_or(u16::MAX),
            rate_limit: rule.rate_limit,
            sampling: rule.sampling,
            returns: rule.returns,
            denied: rule.denied,
            match_uids: self.match_uids.clone(),
            match_binaries: self.match_binaries.clone(),
        }
    }

    /// The first rule that names `call`, from 0.
    pub(crate) fn rule_for(&self, call: &str) -> Option<usize> {
        self.rules.iter().position(|rule| rule.calls.contains(call))
    }
}

impl TryFrom<&serde_json::Value> for Filter {
    type Error = Vec<Problem>;

    /// Validates an object of the API server as it came, one that is not of our types too: such an object
    /// is a problem of its own, and not of the list it is in.
    fn try_from(object: &serde_json::Value) -> Result<Self, Vec<Problem>> {
        validate::object(object)
    }
}

impl TryFrom<&SyscallFilter> for Filter {
    type Error = Vec<Problem>;

    /// Validates an object of the API server: everything that would be an error in a file is one
    /// here, each with the reason that belongs into its `Accepted` condition.
    fn try_from(object: &SyscallFilter) -> Result<Self, Vec<Problem>> {
        validate::object(object)
    }
}

impl TryFrom<&ClusterSyscallFilter> for Filter {
    type Error = Vec<Problem>;

    /// As for a [`SyscallFilter`].
    fn try_from(object: &ClusterSyscallFilter) -> Result<Self, Vec<Problem>> {
        validate::object(object)
    }
}
