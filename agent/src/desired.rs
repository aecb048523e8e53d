//! What the filters ask of every cgroup.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use ebpf_hello_policy::{Arch, Filter, Host, Subject, Table, compile};

use crate::cgroups::{Cgroup, below};

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
    cgroups: HashMap<Cgroup, Asked>,
}

/// What is asked of one cgroup.
#[derive(Debug)]
struct Asked {
    table: Arc<Table>,
    /// And of those that are yet to come in it, by name.
    names: Vec<(String, Arc<Table>)>,
}

/// A cgroup that is yet to come: the id of the one it will be in, its directory's name.
pub(crate) type Name = (u64, String);

/// What every cgroup should have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Desired {
    pub(crate) default: Arc<Table>,
    /// Cgroups whose table is not the default, parents first.
    pub(crate) others: Vec<(u64, Arc<Table>)>,
    /// Cgroups that are yet to come whose table is not their parent's.
    pub(crate) names: Vec<(Name, Arc<Table>)>,
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

    /// What the filters ask of every one of `cgroups`, and of those that they foretell in them.
    pub(crate) fn desired(&mut self, cgroups: &[Cgroup]) -> Desired {
        let mut known = std::mem::take(&mut self.cgroups);
        let mut desired = Desired {
            default: Arc::clone(&self.default),
            others: Vec::new(),
            names: Vec::new(),
        };
        for cgroup in cgroups {
            let (cgroup, asked) = known.remove_entry(cgroup).unwrap_or_else(|| {
                let table = self.table(Some(&cgroup.path));
                let names = self.foretold(&cgroup.path, &table);
                (cgroup.clone(), Asked { table, names })
            });
            if asked.table != self.default {
                desired.others.push((cgroup.id, Arc::clone(&asked.table)));
            }
            let names = asked.names.iter();
            let names = names.map(|(name, table)| ((cgroup.id, name.clone()), Arc::clone(table)));
            desired.names.extend(names);
            self.cgroups.insert(cgroup, asked);
        }
        desired
    }

    /// What the filters spell out in the cgroup at `path`, whose table is `table`, as far as a child
    /// does not simply inherit that.
    pub(crate) fn foretold(&mut self, path: &str, table: &Arc<Table>) -> Vec<(String, Arc<Table>)> {
        let names: Vec<String> = self
            .names_in(path)
            .into_iter()
            .map(ToOwned::to_owned)
            .collect();
        names
            .into_iter()
            .map(|name| {
                let named = self.table(Some(&below(path, &name)));
                (name, named)
            })
            .filter(|(_, named)| named != table)
            .collect()
    }

    /// Names of directories in the cgroup at `parent` that have a table of their own when they
    /// come: those that a filter spells out.
    fn names_in(&self, parent: &str) -> BTreeSet<&str> {
        self.filters
            .iter()
            .filter_map(|filter| filter.cgroup_name_in(parent))
            .collect()
    }

    /// The table of the cgroup at a path; `None` is whatever has none of its own.
    pub(crate) fn table(&mut self, cgroup: Option<&str>) -> Arc<Table> {
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

    fn selection(globs: &[&str]) -> Selection {
        let filters = globs.iter().enumerate().map(|(number, glob)| {
            let text = format!(
                "apiVersion: ebpf-hello.dev/v1alpha1\nkind: ClusterSyscallFilter\nmetadata: {{name: f{number}}}\n\
                 spec:\n  matchCgroup: {glob:?}\n  rules:\n  - {{syscalls: [getppid], handler: Trace}}\n"
            );
            ebpf_hello_policy::read("test", &text)
                .unwrap()
                .remove(0)
                .filter
        });
        Selection::new(filters.collect(), Arch::X86_64)
    }

    #[test]
    fn only_a_literal_name_below_a_matching_parent_is_foretold() {
        let selection = selection(&["/web", "/pods/*/app", "/pods/app-*", "/a[/]b", "/"]);
        let names = |parent| selection.names_in(parent).into_iter().collect::<Vec<_>>();
        assert_eq!(names("/"), ["web"]);
        assert_eq!(names("/pods/one"), ["app"]);
        assert!(names("/pods").is_empty());
        assert!(names("/pods/one/two").is_empty());
        assert!(names("/other").is_empty());
    }

    #[test]
    fn cgroups_that_the_same_filters_select_share_a_table() {
        let mut selection = selection(&["/pods/*", "/web"]);
        let [one, two] = ["/pods/one", "/pods/two/three"].map(|path| selection.table(Some(path)));
        assert!(Arc::ptr_eq(&one, &two));
        assert_ne!(one, selection.table(None));
    }

    #[test]
    fn what_is_yet_to_come_is_asked_for_in_its_parent_as_often_as_one_looks() {
        let mut selection = selection(&["/a/b", "/a/c/*", "/a"]);
        let tree = [cgroup(1, "/"), cgroup(2, "/a")];
        for _ in 0..2 {
            let desired = selection.desired(&tree);
            let names: Vec<_> = desired.names.iter().map(|(name, _)| name.clone()).collect();
            assert_eq!(names, [(1, "a".to_owned()), (2, "b".to_owned())]);
        }
    }

    #[test]
    fn a_cgroup_is_asked_for_by_number_and_path() {
        let mut selection = selection(&["/a"]);
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
