//! The filters as the API server has them, and of each the last version that was good.

use std::collections::BTreeMap;

use ebpf_hello_policy::{Filter, Problem, crd};
use serde_json::{Value, json};

use super::{listing::Update, object::Object};
use crate::Installed;

/// One of the two kinds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Kind {
    SyscallFilter,
    ClusterSyscallFilter,
}

/// Namespace (empty for a cluster filter) and name.
type Key = (Kind, String, String);

/// Every filter.
#[derive(Debug, Default)]
pub(super) struct Catalogue(BTreeMap<Key, Entry>);

/// An object, as it is and as it was good.
#[derive(Debug)]
struct Entry {
    uid: String,
    /// `metadata.generation` that was looked at last.
    seen: i64,
    good: Option<Good>,
    /// What was made part of the policy last.
    applied: Option<Good>,
}

/// A version that was found valid.
#[derive(Clone, Debug)]
struct Good {
    filter: Filter,
    generation: i64,
    /// What it was read from.
    object: Value,
}

// === impl Kind ===

impl Kind {
    pub(super) const ALL: [Kind; 2] = [Kind::SyscallFilter, Kind::ClusterSyscallFilter];

    pub(super) fn name(self) -> &'static str {
        match self {
            Kind::SyscallFilter => "SyscallFilter",
            Kind::ClusterSyscallFilter => "ClusterSyscallFilter",
        }
    }
}

// === impl Catalogue ===

impl Catalogue {
    /// Takes in what became of objects; whether any version of a filter changed that is good.
    pub(super) fn take(&mut self, kind: Kind, update: Update<Object<()>>) -> bool {
        match update {
            Update::One(object) => self.put(kind, &object),
            Update::Gone(object) => self.0.remove(&key(kind, &object)).is_some(),
            Update::All(objects) => {
                let there: Vec<Key> = objects.iter().map(|object| key(kind, object)).collect();
                let before = self.0.len();
                self.0
                    .retain(|known, _| known.0 != kind || there.contains(known));
                let is_gone = self.0.len() < before;
                objects
                    .iter()
                    .fold(is_gone, |changed, object| self.put(kind, object) | changed)
            }
        }
    }

    fn put(&mut self, kind: Kind, object: &Object<()>) -> bool {
        let uid = object.metadata.uid.clone().unwrap_or_default();
        let generation = object.metadata.generation.unwrap_or_default();
        let key = key(kind, object);
        let entry = self.0.entry(key).or_insert_with(|| Entry::new(&uid));
        let is_another = entry.uid != uid;
        if is_another {
            // Deleted and made again: nothing of it was ever good.
            *entry = Entry::new(&uid);
        }
        // A status that was written is no change.
        if entry.seen == generation {
            return is_another;
        }
        entry.seen = generation;
        let trimmed = trim(kind, object);
        match Filter::try_from(&trimmed) {
            Ok(filter) => {
                entry.good = Some(Good {
                    filter,
                    generation,
                    object: trimmed,
                });
                true
            }
            Err(problems) => {
                let problems: Vec<_> = problems.iter().map(Problem::to_string).collect();
                tracing::warn!(
                    kind = kind.name(),
                    namespace = object.metadata.namespace,
                    name = object.metadata.name,
                    generation,
                    in_force = entry.good.as_ref().map(|good| good.generation),
                    "an invalid filter is not applied: {}",
                    problems.join("; ")
                );
                is_another
            }
        }
    }

    /// How many are invalid as they are.
    pub(super) fn invalid(&self) -> u64 {
        let entries = self.0.values();
        entries.filter(|entry| !entry.is_valid()).count() as u64
    }

    /// Takes in the objects of a saved policy, each as it was when it was good.
    pub(super) fn restore(&mut self, objects: Vec<Value>) {
        for object in objects {
            let text = |field: &str| {
                let found = object
                    .get("metadata")
                    .and_then(|metadata| metadata.get(field));
                found.and_then(Value::as_str).unwrap_or_default().to_owned()
            };
            let kind = Kind::ALL
                .into_iter()
                .find(|kind| object.get("kind").and_then(Value::as_str) == Some(kind.name()));
            let generation = object
                .pointer("/metadata/generation")
                .and_then(Value::as_i64);
            let (Some(kind), Ok(filter)) = (kind, Filter::try_from(&object)) else {
                tracing::warn!(
                    name = text("name"),
                    "a saved filter is not valid, and is left out"
                );
                continue;
            };
            let entry = Entry {
                uid: text("uid"),
                // Whatever the API server has is looked at.
                seen: -1,
                good: Some(Good {
                    filter,
                    generation: generation.unwrap_or_default(),
                    object: object.clone(),
                }),
                applied: None,
            };
            self.0
                .insert((kind, text("namespace"), text("name")), entry);
        }
    }

    /// The last good version of every filter, to be saved.
    pub(super) fn objects(&self) -> Vec<Value> {
        let entries = self.0.values();
        entries
            .filter_map(|entry| Some(entry.good.as_ref()?.object.clone()))
            .collect()
    }

    /// Whether any filter selects by the labels of namespaces.
    pub(super) fn selects_namespaces(&self) -> bool {
        let mut good = self.0.values().filter_map(|entry| entry.good.as_ref());
        good.any(|good| good.filter.selects_namespaces())
    }

    /// The filters of the policy. Until namespaces are known, one that selects by them stays what it was.
    pub(super) fn apply(&mut self, are_namespaces_known: bool) -> Vec<Installed> {
        let mut filters = Vec::new();
        for entry in self.0.values_mut() {
            let is_ready = |good: &Good| are_namespaces_known || !good.filter.selects_namespaces();
            if entry.good.as_ref().is_some_and(is_ready) {
                entry.applied = entry.good.clone();
            }
            if let Some(good) = entry.applied.as_ref().filter(|good| is_ready(good)) {
                filters.push(Installed {
                    filter: good.filter.clone(),
                    uid: entry.uid.clone(),
                    generation: good.generation,
                });
            }
        }
        filters
    }
}

// === impl Entry ===

impl Entry {
    fn new(uid: &str) -> Self {
        Entry {
            uid: uid.to_owned(),
            seen: -1,
            good: None,
            applied: None,
        }
    }

    /// Whether what is in force is what was looked at last; one that was saved is until it is looked at.
    fn is_valid(&self) -> bool {
        let good = self.good.as_ref();
        good.is_some_and(|good| self.seen < 0 || good.generation == self.seen)
    }
}

fn key(kind: Kind, object: &Object<()>) -> Key {
    let metadata = &object.metadata;
    (
        kind,
        metadata.namespace.clone().unwrap_or_default(),
        metadata.name.clone().unwrap_or_default(),
    )
}

/// What of an object decides what it does: no annotations, managed fields or status.
fn trim(kind: Kind, object: &Object<()>) -> Value {
    let mut metadata = json!({
        "name": object.metadata.name,
        "uid": object.metadata.uid,
        "generation": object.metadata.generation,
    });
    if let Some(namespace) = &object.metadata.namespace {
        metadata["namespace"] = json!(namespace);
    }
    json!({
        "apiVersion": format!("{}/{}", crd::GROUP, crd::VERSION),
        "kind": kind.name(),
        "metadata": metadata,
        "spec": object.spec,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: &str = r#"{"rules": [{"syscalls": ["getppid"], "handler": "Trace"}]}"#;
    const BAD: &str = r#"{"rules": [{"syscalls": ["getpppid"], "handler": "Trace"}]}"#;

    fn object(name: &str, uid: &str, generation: i64, spec: &str) -> Object<()> {
        let text = format!(
            r#"{{"metadata": {{"namespace": "shop", "name": "{name}", "uid": "{uid}", "generation": {generation},
                "managedFields": [{{"manager": "kubectl"}}]}}, "spec": {spec}, "status": {{"pods": 1}}}}"#
        );
        serde_json::from_str(&text).unwrap()
    }

    fn put(catalogue: &mut Catalogue, object: Object<()>) -> bool {
        catalogue.take(Kind::SyscallFilter, Update::One(object))
    }

    /// Name, uid and generation of each filter in force.
    fn in_force(catalogue: &mut Catalogue) -> Vec<(String, String, i64)> {
        let filters = catalogue.apply(true).into_iter();
        filters
            .map(|one| (one.filter.name().to_string(), one.uid, one.generation))
            .collect()
    }

    fn one(uid: &str, generation: i64) -> Vec<(String, String, i64)> {
        vec![("shop/a".to_owned(), uid.to_owned(), generation)]
    }

    #[test]
    fn a_filter_that_becomes_bad_stays_as_it_was_and_disturbs_no_other() {
        let mut catalogue = Catalogue::default();
        assert!(put(&mut catalogue, object("a", "u1", 1, RULES)));
        assert!(
            !put(&mut catalogue, object("a", "u1", 1, RULES)),
            "only its status changed"
        );
        assert!(!put(&mut catalogue, object("a", "u1", 2, BAD)));
        assert!(
            !put(&mut catalogue, object("b", "u2", 1, BAD)),
            "it never was good"
        );
        assert_eq!(in_force(&mut catalogue), one("u1", 1));
        assert_eq!(catalogue.invalid(), 2);
        assert!(put(&mut catalogue, object("a", "u1", 3, RULES)));
        assert_eq!(catalogue.invalid(), 1);
        assert_eq!(in_force(&mut catalogue), one("u1", 3));
    }

    #[test]
    fn one_that_is_made_again_is_another() {
        let mut catalogue = Catalogue::default();
        put(&mut catalogue, object("a", "u1", 1, RULES));
        assert!(put(&mut catalogue, object("a", "u2", 1, BAD)));
        assert_eq!(in_force(&mut catalogue), []);
    }

    #[test]
    fn what_a_list_does_not_name_is_gone() {
        let mut catalogue = Catalogue::default();
        put(&mut catalogue, object("a", "u1", 1, RULES));
        put(&mut catalogue, object("b", "u2", 1, RULES));
        let list = || Update::All(vec![object("a", "u1", 1, RULES)]);
        assert!(!catalogue.take(Kind::ClusterSyscallFilter, Update::All(Vec::new())));
        assert!(catalogue.take(Kind::SyscallFilter, list()));
        assert!(!catalogue.take(Kind::SyscallFilter, list()));
        assert_eq!(in_force(&mut catalogue), one("u1", 1));
    }

    #[test]
    fn what_was_saved_is_in_force_until_the_server_has_another_that_is_good() {
        let mut before = Catalogue::default();
        put(&mut before, object("a", "u1", 4, RULES));
        let mut catalogue = Catalogue::default();
        catalogue.restore(before.objects());
        assert_eq!(in_force(&mut catalogue), one("u1", 4));
        assert_eq!(catalogue.invalid(), 0);
        put(&mut catalogue, object("a", "u1", 5, BAD));
        assert_eq!(catalogue.invalid(), 1);
        assert_eq!(in_force(&mut catalogue), one("u1", 4));
        put(&mut catalogue, object("a", "u1", 6, RULES));
        assert_eq!(in_force(&mut catalogue), one("u1", 6));
    }

    #[test]
    fn one_that_selects_namespaces_waits_until_they_are_known() {
        let spec = r#"{"namespaceSelector": {"matchLabels": {"team": "a"}}, "host": true}"#;
        let mut catalogue = Catalogue::default();
        let mut put = |generation, spec: &str| {
            let mut object = object("a", "u1", generation, spec);
            object.metadata.namespace = None;
            catalogue.take(Kind::ClusterSyscallFilter, Update::One(object));
            let filters = catalogue.apply(false);
            filters.first().map(|filter| filter.generation)
        };
        assert_eq!(put(1, spec), None);
        assert_eq!(put(2, RULES), Some(2));
        assert_eq!(put(3, spec), Some(2));
        let known = catalogue.apply(true);
        assert_eq!(known.first().map(|filter| filter.generation), Some(3));
    }
}
