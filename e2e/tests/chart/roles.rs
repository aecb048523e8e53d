//! What accounts may do: exactly what helm/rbac.yaml gives a reason for.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
};

use ebpf_hello_e2e::chart::{Object, RELEASE, objects, render, repository};
use serde_json::{Value, json};

use super::rendering::{EVERYTHING, NATS};

/// Role, scope, resource, names of objects, verb.
type Right = (String, String, String, Vec<String>, String);

fn texts(list: &Value) -> Vec<String> {
    let mut texts: Vec<_> = list
        .as_array()
        .into_iter()
        .flatten()
        .map(|text| text.as_str().unwrap().to_owned())
        .collect();
    texts.sort_unstable();
    texts
}

/// `RESOURCE[/SUBRESOURCE][.GROUP]`.
fn resource(group: &str, resource: &str) -> String {
    if group.is_empty() {
        resource.to_owned()
    } else {
        format!("{resource}.{group}")
    }
}

fn roles(objects: &[Object]) -> impl Iterator<Item = &Object> {
    objects
        .iter()
        .filter(|object| object["kind"] == "ClusterRole" || object["kind"] == "Role")
}

fn rendered(objects: &[Object]) -> BTreeSet<Right> {
    let mut rights = BTreeSet::new();
    for role in roles(objects) {
        let name = role["metadata"]["name"].as_str().unwrap();
        let scope = if role["kind"] == "Role" {
            "namespace"
        } else {
            "cluster"
        };
        for rule in role["rules"].as_array().unwrap() {
            for group in texts(&rule["apiGroups"]) {
                for plain in texts(&rule["resources"]) {
                    for verb in texts(&rule["verbs"]) {
                        let resource = resource(&group, &plain);
                        let names = texts(&rule["resourceNames"]);
                        rights.insert((name.to_owned(), scope.to_owned(), resource, names, verb));
                    }
                }
            }
        }
    }
    rights
}

fn golden() -> Vec<Value> {
    let text = fs::read_to_string(repository().join("helm/rbac.yaml")).unwrap();
    objects(&text)[0].as_array().unwrap().clone()
}

#[test]
fn every_right_has_its_reason_and_every_reason_its_right() {
    let mut reasoned = BTreeSet::new();
    for entry in golden() {
        let text = |field: &str| {
            entry[field]
                .as_str()
                .unwrap_or_else(|| panic!("{field}: {entry}"))
                .to_owned()
        };
        for (verb, reason) in entry["verbs"].as_object().unwrap() {
            assert!(
                reason.as_str().is_some_and(|reason| reason.len() > 10),
                "{entry}: a reason for {verb}"
            );
            let right = (
                text("role"),
                text("scope"),
                text("resource"),
                texts(&entry["names"]),
                verb.clone(),
            );
            assert!(reasoned.insert(right), "twice: {verb} of {entry}");
        }
    }
    for flags in [&[], EVERYTHING, NATS] {
        let rendered = rendered(&render(flags));
        let unreasoned: Vec<_> = rendered.difference(&reasoned).collect();
        let unneeded: Vec<_> = reasoned.difference(&rendered).collect();
        assert!(
            unreasoned.is_empty() && unneeded.is_empty(),
            "without a reason: {unreasoned:#?}, without a right: {unneeded:#?}"
        );
    }
}

#[test]
fn roles_are_bound_to_the_account_of_their_name_and_no_other() {
    let objects = render(&[]);
    let unbound: BTreeSet<_> = golden()
        .into_iter()
        .filter(|entry| entry["bound"] == false)
        .map(|entry| entry["role"].as_str().unwrap().to_owned())
        .collect();
    for role in roles(&objects) {
        let (kind, name) = (
            role["kind"].as_str().unwrap(),
            role["metadata"]["name"].as_str().unwrap(),
        );
        let subjects: Vec<_> = objects
            .iter()
            .filter(|binding| {
                binding["roleRef"]["kind"] == kind && binding["roleRef"]["name"] == name
            })
            .flat_map(|binding| binding["subjects"].as_array().unwrap())
            .collect();
        if unbound.contains(name) {
            assert!(subjects.is_empty(), "{kind} {name}: {subjects:?}");
        } else {
            let account = json!({"kind": "ServiceAccount", "name": name, "namespace": RELEASE});
            assert_eq!(subjects, [&account], "{kind} {name}");
        }
    }
}

#[test]
fn no_right_is_on_the_list_of_what_nobody_needs() {
    for flags in [&[], EVERYTHING, NATS] {
        for role in roles(&render(flags)) {
            for rule in role["rules"].as_array().unwrap() {
                assert!(!rule.to_string().contains('*'), "a wildcard: {rule}");
                assert!(rule["nonResourceURLs"].is_null(), "{rule}");
                for verb in texts(&rule["verbs"]) {
                    assert!(
                        !["impersonate", "bind", "escalate", "deletecollection"]
                            .contains(&verb.as_str()),
                        "{rule}"
                    );
                }
                for resource in texts(&rule["resources"]) {
                    let forbidden = [
                        "nodes/proxy",
                        "pods/exec",
                        "pods/attach",
                        "pods/portforward",
                        "serviceaccounts/token",
                    ];
                    assert!(!forbidden.contains(&resource.as_str()), "{rule}");
                    let names = texts(&rule["resourceNames"]);
                    assert!(
                        resource != "secrets" || names == ["ebpf-hello-tls"],
                        "{rule}"
                    );
                }
            }
        }
    }
}

#[test]
fn the_documentation_has_the_table_of_roles() {
    let mut table = String::from("| account | where | may | of | why |\n|---|---|---|---|---|\n");
    for entry in golden() {
        let text = |field: &str| entry[field].as_str().unwrap().to_owned();
        let names = texts(&entry["names"]);
        let only = if names.is_empty() {
            String::new()
        } else {
            format!(" only `{}`", names.join("`, `"))
        };
        let scope = if entry["scope"] == "namespace" {
            "its namespace"
        } else {
            "cluster"
        };
        let verbs: BTreeMap<_, _> = entry["verbs"].as_object().unwrap().iter().collect();
        for (verb, reason) in verbs {
            table.push_str(&format!(
                "| `{}` | {scope} | {verb} | `{}`{only} | {} |\n",
                text("role"),
                text("resource"),
                reason.as_str().unwrap()
            ));
        }
    }
    super::generated::part("docs/SECURITY.md", "roles", &table);
}
