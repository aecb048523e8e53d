//! Which table the filters ask for, by a cgroup's path.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use ebpf_hello_policy::{Arch, Filter, Host, Subject, Table, compile};

/// The filters, and the tables that they came to so far.
#[derive(Debug)]
pub(crate) struct Selection {
    filters: Vec<Filter>,
    arch: Arch,
    /// Cgroups that the same filters select have the same table.
    compiled: HashMap<Vec<bool>, Arc<Table>>,
}

// === impl Selection ===

impl Selection {
    pub(crate) fn new(filters: Vec<Filter>, arch: Arch) -> Self {
        Selection {
            filters,
            arch,
            compiled: HashMap::new(),
        }
    }

    pub(crate) fn filters(&self) -> &[Filter] {
        &self.filters
    }

    /// Whether one cgroup's table can be another than the default's.
    pub(crate) fn names_cgroups(&self) -> bool {
        self.filters.iter().any(Filter::names_cgroups)
    }

    /// The table of the cgroup at a path; `None` is whatever has none of its own.
    pub(crate) fn table(&mut self, cgroup: Option<&str>) -> Arc<Table> {
        let subject = Subject::Host(Host {
            cgroup: cgroup.map(ToOwned::to_owned),
            ..Host::default()
        });
        let selected = self
            .filters
            .iter()
            .map(|filter| filter.selects(&subject))
            .collect();
        let table = self
            .compiled
            .entry(selected)
            .or_insert_with(|| Arc::new(compile(&self.filters, &subject, self.arch).table));
        Arc::clone(table)
    }

    /// Names of directories in the cgroup at `parent` that have a table of their own when they
    /// come: those that a filter spells out.
    pub(crate) fn names_in(&self, parent: &str) -> BTreeSet<&str> {
        self.filters
            .iter()
            .filter_map(|filter| filter.cgroup_name_in(parent))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ebpf_hello_policy::read;

    fn selection(globs: &[&str]) -> Selection {
        let filters = globs.iter().enumerate().map(|(number, glob)| {
            let text = format!(
                "apiVersion: ebpf-hello.dev/v1alpha1\nkind: ClusterSyscallFilter\nmetadata: {{name: f{number}}}\n\
                 spec:\n  matchCgroup: {glob:?}\n  rules:\n  - {{syscalls: [getppid], handler: Trace}}\n"
            );
            read("test", &text).unwrap().remove(0).filter
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
}
