//! A filter as the API server has it: which one, whether it is valid, and what its status says.

use ebpf_hello_policy::{
    Filter, Problem,
    crd::{ClusterSyscallFilter, FilterStatus, GROUP, SyscallFilter, VERSION},
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::{
    ResourceExt as _,
    core::{ApiResource, DynamicObject, GroupVersionKind, Selector},
};
use serde_json::Value;

/// Problems that a message names.
const MAX_PROBLEMS: usize = 10;

/// The two kinds of filters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    Namespaced,
    Cluster,
}

/// One filter.
#[derive(Clone, Debug)]
pub(super) struct Object {
    pub(super) kind: Kind,
    pub(super) namespace: Option<String>,
    pub(super) name: String,
    pub(super) uid: String,
    pub(super) generation: i64,
    /// Its `metadata.resourceVersion`: what is written against an older one is refused.
    pub(super) version: String,
    /// Why it is not valid.
    pub(super) refusal: Option<Refusal>,
    /// The nodes it is for. All, where that cannot be read.
    pub(super) nodes: Selector,
    pub(super) status: Option<FilterStatus>,
}

/// Why a filter is not valid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) reason: String,
    pub(super) message: String,
}

// === impl Kind ===

impl Kind {
    pub(super) fn name(self) -> &'static str {
        match self {
            Kind::Namespaced => "SyscallFilter",
            Kind::Cluster => "ClusterSyscallFilter",
        }
    }

    pub(super) fn resource(self) -> ApiResource {
        let plural = match self {
            Kind::Namespaced => "syscallfilters",
            Kind::Cluster => "clustersyscallfilters",
        };
        ApiResource::from_gvk_with_plural(
            &GroupVersionKind::gvk(GROUP, VERSION, self.name()),
            plural,
        )
    }
}

// === impl Object ===

impl Object {
    /// Reads an object of the API server. One that is stored against a newer or older definition than ours is no
    /// reason to see none of the others: it is refused like any that is not valid.
    pub(super) fn read(kind: Kind, object: &DynamicObject, known: Option<&Object>) -> Object {
        let generation = object.metadata.generation.unwrap_or(0);
        let uid = object.uid().unwrap_or_default();
        let same = known.filter(|known| known.generation == generation && known.uid == uid);
        let (refusal, nodes) = match same {
            Some(known) => (known.refusal.clone(), known.nodes.clone()),
            None => (refusal(kind, object), nodes(&object.data)),
        };
        let status = object.data.get("status").cloned();
        Object {
            kind,
            namespace: object.namespace(),
            name: object.name_any(),
            uid,
            generation,
            version: object.resource_version().unwrap_or_default(),
            refusal,
            nodes,
            status: status.and_then(|status| serde_json::from_value(status).ok()),
        }
    }

    /// The `metadata.generation` that the status is about.
    pub(super) fn observed(&self) -> Option<i64> {
        self.status.as_ref()?.observed_generation
    }
}

fn refusal(kind: Kind, object: &DynamicObject) -> Option<Refusal> {
    let value = match serde_json::to_value(object) {
        Ok(value) => value,
        Err(error) => return Some(unreadable(&error)),
    };
    let problems = match kind {
        Kind::Namespaced => match serde_json::from_value::<SyscallFilter>(value) {
            Ok(filter) => Filter::try_from(&filter).err(),
            Err(error) => return Some(unreadable(&error)),
        },
        Kind::Cluster => match serde_json::from_value::<ClusterSyscallFilter>(value) {
            Ok(filter) => Filter::try_from(&filter).err(),
            Err(error) => return Some(unreadable(&error)),
        },
    };
    problems.and_then(|problems| told(&problems))
}

fn unreadable(error: &serde_json::Error) -> Refusal {
    Refusal {
        reason: "InvalidSchema".into(),
        message: format!("it is not what the definition of this version says: {error}"),
    }
}

fn told(problems: &[Problem]) -> Option<Refusal> {
    let first = problems.first()?;
    let mut message: Vec<String> = problems
        .iter()
        .take(MAX_PROBLEMS)
        .map(ToString::to_string)
        .collect();
    if problems.len() > MAX_PROBLEMS {
        message.push(format!("and {} more", problems.len() - MAX_PROBLEMS));
    }
    Some(Refusal {
        reason: first.reason.as_str().into(),
        message: message.join("; "),
    })
}

fn nodes(data: &Value) -> Selector {
    let selector = data.pointer("/spec/nodeSelector").cloned();
    let selector = selector.and_then(|value| serde_json::from_value::<LabelSelector>(value).ok());
    selector
        .and_then(|selector| Selector::try_from(selector).ok())
        .unwrap_or_default()
}

#[cfg(test)]
pub(super) mod tests {
    use serde_json::json;

    use super::*;

    pub(in crate::status) fn read(spec: Value, generation: i64) -> Object {
        let object = json!({
            "apiVersion": "ebpf-hello.dev/v1alpha1", "kind": "SyscallFilter",
            "metadata": {
                "name": "cart", "namespace": "shop", "uid": "u1", "resourceVersion": "7",
                "generation": generation,
            },
            "spec": spec,
        });
        let object = serde_json::from_value(object).unwrap();
        Object::read(Kind::Namespaced, &object, None)
    }

    pub(in crate::status) fn good() -> Value {
        json!({"rules": [{"syscalls": ["execve"], "handler": "Exec"}]})
    }

    pub(in crate::status) fn bad() -> Value {
        json!({"rules": [{"syscalls": ["execvee", "opennat"], "handler": "Count"}]})
    }

    #[test]
    fn a_valid_filter_is_not_refused() {
        let object = read(good(), 3);
        assert_eq!((object.refusal, object.generation), (None, 3));
        assert_eq!((object.uid.as_str(), object.version.as_str()), ("u1", "7"));
    }

    #[test]
    fn an_invalid_one_has_its_first_problems_reason_and_all_of_them_in_words() {
        let refusal = read(bad(), 1).refusal.unwrap();
        assert_eq!(refusal.reason, "UnknownSyscall");
        for part in ["spec.rules[0].syscalls[0]", "execvee", "; ", "opennat"] {
            assert!(refusal.message.contains(part), "{}", refusal.message);
        }
    }

    #[test]
    fn what_the_type_cannot_hold_is_refused_and_not_fatal() {
        let refusal = read(json!({"priority": "high"}), 1).refusal.unwrap();
        assert_eq!(refusal.reason, "InvalidSchema");
    }

    #[test]
    fn it_is_validated_once_for_each_generation() {
        let known = Object {
            refusal: Some(Refusal {
                reason: "Kept".into(),
                message: String::new(),
            }),
            ..read(good(), 3)
        };
        let object = |generation: i64| {
            serde_json::from_value::<DynamicObject>(json!({
                "metadata": {"name": "cart", "uid": "u1", "generation": generation}, "spec": good(),
            }))
            .unwrap()
        };
        assert!(
            Object::read(Kind::Namespaced, &object(3), Some(&known))
                .refusal
                .is_some()
        );
        let next = Object::read(Kind::Namespaced, &object(4), Some(&known));
        assert!(next.refusal.is_none(), "{:?}", next.refusal);
    }
}
