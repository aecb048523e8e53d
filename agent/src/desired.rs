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
        let known: HashSet<&str> = known.map(|known| known.pod.cgroup_uid.as_str()).collect();
        self.scopes.retain(|uid| known.contains(uid));
    }

    fn learn(&mut self, pod: &Arc<crate::identity::Pod>) {
        let tables = self.compiler.pod(pod);
        self.scopes.insert(&pod.cgroup_uid, tables.scope.clone());
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

#[cfg(test)]
mod tests {
    use ebpf_hello_policy::{Arch, Filter, compile_pod, read};

    use super::*;
    use crate::identity::{Container, Pod, Qos};

    fn cgroup(id: u64, path: &str) -> Cgroup {
        Cgroup {
            id,
            path: path.to_owned(),
        }
    }

    fn filter(kind: &str, metadata: &str, spec: &str) -> Filter {
        let text = format!(
            "{{apiVersion: ebpf-hello.dev/v1alpha1, kind: {kind}, metadata: {metadata}, spec: {{{spec}}}}}"
        );
        let mut documents = read("test", &text).unwrap_or_else(|errors| panic!("{errors:?}"));
        documents.remove(0).filter
    }

    fn select(policy: Policy, pods: Option<&Arc<Pods>>) -> Selection {
        let scopes = Arc::new(Scopes::new(Arc::default(), Arch::X86_64));
        Selection::new(policy, pods.cloned(), scopes, Arch::X86_64)
    }

    fn selection(globs: &[&str]) -> Selection {
        let filters = globs.iter().enumerate().map(|(number, glob)| {
            let spec =
                format!("matchCgroup: {glob:?}, rules: [{{syscalls: [getppid], handler: Trace}}]");
            filter(
                "ClusterSyscallFilter",
                &format!("{{name: f{number}}}"),
                &spec,
            )
        });
        select(Policy::of(filters.collect()), None)
    }

    fn pod(uid: &str, app: &str, qos: Qos) -> Pod {
        let container = |name: &str, id: &str| Container {
            name: name.to_owned(),
            ids: vec![id.to_owned()],
            image: String::new(),
        };
        Pod {
            uid: uid.to_owned(),
            cgroup_uid: uid.to_owned(),
            namespace: "shop".to_owned(),
            name: uid.to_owned(),
            labels: [("app".to_owned(), app.to_owned())].into(),
            qos,
            containers: vec![container("web", "aa"), container("db", "bb")],
            ..Pod::default()
        }
    }

    /// `shop/cart` of the pods of one app, `shop/web` of their containers of this name, `every` of all.
    fn policy() -> Policy {
        let rule = |call: &str| format!("rules: [{{syscalls: [{call}], handler: Trace}}]");
        let cart = format!(
            "podSelector: {{matchLabels: {{app: cart}}}}, {}",
            rule("getpid")
        );
        let web = format!(
            "podSelector: {{matchLabels: {{app: cart}}}}, containers: [web], {}",
            rule("getppid")
        );
        Policy::of(vec![
            filter("SyscallFilter", "{name: cart, namespace: shop}", &cart),
            filter("SyscallFilter", "{name: web, namespace: shop}", &web),
            filter("ClusterSyscallFilter", "{name: every}", &rule("getpgrp")),
        ])
    }

    /// The filters of a table, in the order of the calls' numbers: getpid, getppid, getpgrp.
    fn filters(table: &PooledTable) -> Vec<String> {
        let slots = table.native.slots.values();
        slots
            .filter_map(|slot| Some(slot.filter.as_ref()?.to_string()))
            .collect()
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
        let [one, two] = ["/pods/one", "/pods/two/three"].map(|path| selection.at(path).0);
        assert_eq!(one, two);
        assert_ne!(one, *selection.default());
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

    #[test]
    fn a_pods_cgroups_have_what_is_known_of_them() {
        let pods = Arc::new(Pods::default());
        pods.put(pod("p1", "cart", Qos::Burstable));
        pods.put(pod("p2", "till", Qos::Burstable));
        let mut selection = select(policy(), Some(&pods));
        let mut of = |path: &str| filters(&selection.at(path).0);
        let burstable = "/kubepods/burstable";
        let (all, own) = (
            vec!["shop/cart", "shop/web", "every"],
            vec!["shop/cart", "every"],
        );
        assert_eq!(of(&format!("{burstable}/podp1")), all, "the union");
        assert_eq!(
            of(&format!("{burstable}/podp1/cc")),
            all,
            "nobody knows which"
        );
        assert_eq!(of(&format!("{burstable}/podp1/aa")), all);
        assert_eq!(of(&format!("{burstable}/podp1/bb/nested")), own);
        assert_eq!(of(&format!("{burstable}/podp2/aa")), ["every"]);
        assert_eq!(
            of(&format!("{burstable}/podp3/aa")),
            ["every"],
            "not told of yet"
        );
        assert_eq!(
            of(burstable),
            ["every"],
            "what a pod inherits that nobody knows"
        );
        assert!(of("/system.slice").is_empty(), "not the host's");
    }

    #[test]
    fn a_pod_is_foretold_where_kubelet_will_make_it() {
        let pods = Arc::new(Pods::default());
        let mut selection = select(policy(), Some(&pods));
        let tree = [
            cgroup(1, "/kubepods"),
            cgroup(2, "/kubepods/burstable"),
            cgroup(3, "/kubepods/besteffort"),
        ];
        assert_eq!(selection.desired(&tree).names, []);
        pods.put(pod("p1", "cart", Qos::Burstable));
        pods.put(pod("p2", "till", Qos::Burstable));
        let names = |selection: &mut Selection| -> Vec<Name> {
            let names = selection.desired(&tree).names.into_iter();
            names.map(|(name, _)| name).collect()
        };
        // The other one inherits what it is to have.
        assert_eq!(names(&mut selection), [(2, "podp1".to_owned())]);
        let pods_of = |selection: &Selection| -> Vec<usize> {
            selection.selected().iter().map(|one| one.pods).collect()
        };
        assert_eq!(pods_of(&selection), [1, 1, 2]);
        pods.remove(&pod("p1", "cart", Qos::Burstable));
        assert_eq!(names(&mut selection), []);
        assert_eq!(pods_of(&selection), [0, 0, 1]);
    }

    #[test]
    fn a_pod_that_changes_is_selected_anew_and_no_other() {
        let pods = Arc::new(Pods::default());
        for number in 0..250 {
            pods.put(pod(&format!("p{number}"), "till", Qos::BestEffort));
        }
        let mut selection = select(policy(), Some(&pods));
        let tree: Vec<Cgroup> = (0..250)
            .map(|number| cgroup(number + 1, &format!("/kubepods/besteffort/podp{number}")))
            .collect();
        let before = selection.desired(&tree);
        pods.put(pod("p7", "cart", Qos::BestEffort));
        let after = selection.desired(&tree);
        let changed: Vec<_> = after
            .others
            .iter()
            .zip(&before.others)
            .filter(|(after, before)| after != before)
            .map(|((id, _), _)| *id)
            .collect();
        assert_eq!(changed, [8]);
        assert_eq!(after.tables().len(), 2);
    }

    #[test]
    fn a_union_is_what_the_policy_says_it_is() {
        let pods = Arc::new(Pods::default());
        let mut selection = select(policy(), Some(&pods));
        pods.put(pod("p1", "cart", Qos::Guaranteed));
        let all: Vec<Filter> = policy().filters.into_iter().map(|one| one.filter).collect();
        let subject = ebpf_hello_policy::Pod {
            namespace: "shop".to_owned(),
            labels: [("app".to_owned(), "cart".to_owned())].into(),
            ..ebpf_hello_policy::Pod::default()
        };
        let union = compile_pod(&all, &subject, ["web", "db"], Arch::X86_64);
        assert_eq!(*selection.at("/kubepods/podp1").0, union);
    }

    #[test]
    fn a_filter_for_other_nodes_is_not_this_ones() {
        let mut policy = policy();
        let elsewhere = "nodeSelector: {matchLabels: {disk: tape}}";
        let elsewhere = filter("SyscallFilter", "{name: tape, namespace: shop}", elsewhere);
        policy.filters.extend(Policy::of(vec![elsewhere]).filters);
        let mut selection = select(policy.clone(), Some(&Arc::default()));
        assert_eq!(selection.selected().len(), 3);
        policy.node_labels = [("disk".to_owned(), "tape".to_owned())].into();
        selection.replace(policy);
        assert_eq!(selection.selected().len(), 4);
    }

    #[test]
    fn a_namespace_that_is_not_known_is_not_one_without_labels() {
        let spec = "namespaceSelector: {matchExpressions: [{key: team, operator: DoesNotExist}]}, \
                    rules: [{syscalls: [getpid], handler: Trace}]";
        let mut policy = Policy::of(vec![filter(
            "ClusterSyscallFilter",
            "{name: teamless}",
            spec,
        )]);
        let pods = Arc::new(Pods::default());
        pods.put(pod("p1", "cart", Qos::Guaranteed));
        let mut selection = select(policy.clone(), Some(&pods));
        assert!(filters(&selection.at("/kubepods/podp1").0).is_empty());
        policy.namespaces = [("shop".to_owned(), ebpf_hello_policy::Labels::new())].into();
        selection.replace(policy);
        assert_eq!(filters(&selection.at("/kubepods/podp1").0), ["teamless"]);
    }
}
