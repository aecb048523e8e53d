//! What the filters ask of every cgroup.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use ebpf_hello_policy::{Arch, Filter, Host, Subject, Table, compile};

use crate::cgroups::Cgroup;

/// Filters, and what they were found to ask of each cgroup: the tree is looked at every second, and
/// hardly ever changes.
#[derive(Debug)]
pub(crate) struct Selection {
    filters: Vec<Filter>,
    arch: Arch,
    default: Arc<Table>,
    /// By the filters that select it: cgroups that the same filters select have the same table.
    compiled: HashMap<Vec<usize>, Arc<Table>>,
    /// As of the last look at the tree.
    cgroups: HashMap<Cgroup, Arc<Table>>,
}

/// What every cgroup should have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Desired {
    pub(crate) default: Arc<Table>,
    /// Cgroups whose table is not the default, parents first.
    pub(crate) others: Vec<(u64, Arc<Table>)>,
}

// === impl Selection ===

impl Selection {
    pub(crate) fn new(filters: Vec<Filter>, arch: Arch) -> Self {
        let mut selection = Selection {
            filters,
            arch,
            default: Arc::default(),
            compiled: HashMap::new(),
            cgroups: HashMap::new(),
        };
        selection.default = selection.table(None);
        selection
    }

    pub(crate) fn filters(&self) -> &[Filter] {
        &self.filters
    }

    /// The policy of every cgroup without one of its own.
    pub(crate) fn default(&self) -> &Arc<Table> {
        &self.default
    }

    /// Whether any filter is for some cgroups only.
    pub(crate) fn names_cgroups(&self) -> bool {
        self.filters.iter().any(Filter::names_cgroups)
    }

    /// What the filters ask of every one of `cgroups`.
    pub(crate) fn desired(&mut self, cgroups: &[Cgroup]) -> Desired {
        let mut known = std::mem::take(&mut self.cgroups);
        let mut others = Vec::new();
        for cgroup in cgroups {
            let (cgroup, table) = known.remove_entry(cgroup).unwrap_or_else(|| {
                let table = self.table(Some(&cgroup.path));
                (cgroup.clone(), table)
            });
            if table != self.default {
                others.push((cgroup.id, Arc::clone(&table)));
            }
            self.cgroups.insert(cgroup, table);
        }
        Desired {
            default: Arc::clone(&self.default),
            others,
        }
    }

    fn table(&mut self, cgroup: Option<&str>) -> Arc<Table> {
        let subject = Subject::Host(Host {
            cgroup: cgroup.map(ToOwned::to_owned),
            ..Host::default()
        });
        let selecting: Vec<usize> = self
            .filters
            .iter()
            .enumerate()
            .filter(|(_, filter)| filter.selects(&subject))
            .map(|(index, _)| index)
            .collect();
        let (filters, arch) = (&self.filters, self.arch);
        let table = self.compiled.entry(selecting).or_insert_with_key(|these| {
            let these = these.iter().map(|index| &filters[*index]);
            Arc::new(compile(these, &subject, arch).table)
        });
        Arc::clone(table)
    }
}

// === impl Desired ===

impl Desired {
    /// Every table that is not the default's, once, in the order of its first cgroup.
    pub(crate) fn tables(&self) -> Vec<Arc<Table>> {
        let mut seen = HashSet::new();
        self.others
            .iter()
            .map(|(_, table)| table)
            .filter(|table| seen.insert(Arc::clone(table)))
            .cloned()
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cgroup(id: u64, path: &str) -> Cgroup {
        Cgroup {
            id,
            path: path.to_owned(),
        }
    }

    #[test]
    fn a_cgroup_is_asked_for_by_number_and_path() {
        let text = "apiVersion: ebpf-hello.dev/v1alpha1\nkind: ClusterSyscallFilter\n\
             metadata: {name: f}\nspec:\n  matchCgroup: /a\n  rules:\n  \
             - {syscalls: [getppid], handler: Trace}\n";
        let documents = ebpf_hello_policy::read("test", text).unwrap();
        let filters = documents
            .into_iter()
            .map(|document| document.filter)
            .collect();
        let mut selection = Selection::new(filters, Arch::X86_64);
        let mut ids = |cgroups: &[Cgroup]| {
            let desired = selection.desired(cgroups);
            let ids: Vec<u64> = desired.others.iter().map(|(id, _)| *id).collect();
            ids
        };
        let tree = [
            cgroup(1, "/"),
            cgroup(2, "/a"),
            cgroup(3, "/a/b"),
            cgroup(4, "/c"),
        ];
        assert_eq!(ids(&tree), [2, 3]);
        assert_eq!(ids(&tree), [2, 3], "as it was found before");
        // The directory is gone, and its number is another's.
        assert_eq!(ids(&[cgroup(2, "/c"), cgroup(5, "/a")]), [5]);
    }
}
