//! The CRDs: committed as generated, structural and closed, and of one mind with validation.

use std::{collections::BTreeSet, env, fs, path::Path};

use ebpf_hello_policy::{Severity, crd, read};
use kube::core::cel::Validator;
use serde_json::Value;

fn schemas() -> Vec<(String, Value)> {
    let schema =
        |crd: serde_json::Value| crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"].clone();
    crd::crds()
        .into_iter()
        .map(|crd| {
            (
                crd.spec.names.kind.clone(),
                schema(serde_json::to_value(crd).expect("plain data")),
            )
        })
        .collect()
}

/// Calls `visit` with every schema in `schema`, and the path to it.
fn walk(schema: &Value, path: &str, visit: &mut impl FnMut(&str, &Value)) {
    visit(path, schema);
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        walk(property, &format!("{path}.{name}"), visit);
    }
    for inner in ["items", "additionalProperties"] {
        if schema[inner].is_object() {
            walk(&schema[inner], &format!("{path}[]"), visit);
        }
    }
}

#[test]
fn committed_manifests_are_what_the_types_generate() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../manifests/crds");
    let manifests = crd::manifests();
    if env::var_os("UPDATE").is_some() {
        fs::create_dir_all(&folder).expect("the source tree is writable");
        for (file, yaml) in &manifests {
            fs::write(folder.join(file), yaml).expect("the source tree is writable");
        }
    }
    let committed: BTreeSet<_> = fs::read_dir(&folder)
        .expect("manifests/crds")
        .map(|entry| {
            entry
                .expect("readable")
                .file_name()
                .to_string_lossy()
                .into_owned()
        })
        .collect();
    assert_eq!(
        committed,
        manifests.iter().map(|(file, _)| file.clone()).collect()
    );
    for (file, yaml) in &manifests {
        let found = fs::read_to_string(folder.join(file)).expect("readable");
        assert!(
            found == *yaml,
            "{file} has drifted: UPDATE=1 cargo test -p ebpf-hello-policy --test crd"
        );
    }
}

#[test]
fn both_kinds_are_as_interfaces_say() {
    let crds = crd::crds();
    let found: Vec<_> = crds
        .iter()
        .map(|crd| {
            let names = &crd.spec.names;
            let short = names.short_names.clone().unwrap_or_default();
            (
                names.kind.as_str(),
                crd.spec.scope.as_str(),
                short,
                names.categories.clone().unwrap_or_default(),
            )
        })
        .collect();
    let owned = |word: &str| vec![word.to_owned()];
    assert_eq!(
        found,
        [
            (
                "SyscallFilter",
                "Namespaced",
                owned("sf"),
                owned("ebpf-hello")
            ),
            (
                "ClusterSyscallFilter",
                "Cluster",
                owned("csf"),
                owned("ebpf-hello")
            ),
        ]
    );
    for crd in &crds {
        assert_eq!(crd.spec.group, "ebpf-hello.dev");
        let version = &crd.spec.versions[0];
        assert_eq!(version.name, "v1alpha1");
        assert!(
            version
                .subresources
                .as_ref()
                .is_some_and(|s| s.status.is_some())
        );
        let columns: Vec<_> = version
            .additional_printer_columns
            .iter()
            .flatten()
            .map(|column| column.name.as_str())
            .collect();
        assert_eq!(columns, ["Accepted", "Programmed", "Pods", "Age"]);
    }
}

#[test]
fn every_list_map_and_string_is_bounded() {
    for (kind, schema) in schemas() {
        let mut unbounded = Vec::new();
        walk(
            &schema["properties"]["spec"],
            "spec",
            &mut |path, schema| {
                let bound = match schema["type"].as_str() {
                    Some("array") => "maxItems",
                    Some("string") if schema["enum"].is_array() => return,
                    Some("string") => "maxLength",
                    Some("integer") => "maximum",
                    Some("object") if schema["additionalProperties"].is_object() => "maxProperties",
                    Some("object" | "boolean") => return,
                    other => return unbounded.push(format!("{path}: type {other:?}")),
                };
                if schema[bound].is_null() {
                    unbounded.push(format!("{path}: no {bound}"));
                }
            },
        );
        walk(
            &schema["properties"]["status"],
            "status",
            &mut |path, schema| {
                if schema["type"] == "array" && schema["maxItems"].is_null() {
                    unbounded.push(format!("{path}: no maxItems"));
                }
            },
        );
        assert!(unbounded.is_empty(), "{kind}: {unbounded:#?}");
    }
}

/// https://kubernetes.io/docs/tasks/extend-kubernetes/custom-resources/custom-resource-definitions/#specifying-a-structural-schema
#[test]
fn schemas_are_structural_closed_and_described() {
    for (kind, schema) in schemas() {
        let mut wrong = Vec::new();
        walk(&schema, "", &mut |path, schema| {
            let forbidden = [
                "$ref",
                "anyOf",
                "oneOf",
                "allOf",
                "not",
                "nullable",
                "x-kubernetes-preserve-unknown-fields",
            ];
            wrong.extend(
                forbidden
                    .iter()
                    .filter(|word| !schema[**word].is_null())
                    .map(|word| format!("{path}: {word}")),
            );
            if schema["type"].is_null() {
                wrong.push(format!("{path}: no type"));
            }
            if schema["additionalProperties"].is_boolean() {
                wrong.push(format!("{path}: additionalProperties is no schema"));
            }
            let described =
                path.is_empty() || path.ends_with("[]") || schema["description"].is_string();
            if !described {
                wrong.push(format!("{path}: no description"));
            }
            if let Some(format) = schema["format"].as_str()
                && !["int32", "int64", "date-time"].contains(&format)
            {
                wrong.push(format!("{path}: format {format}"));
            }
        });
        assert!(wrong.is_empty(), "{kind}: {wrong:#?}");
    }
}

/// The API server's rules must refuse nothing that validation takes, and every rule must refuse
/// something that validation refuses too: the corpus has a file for each.
#[test]
fn cel_rules_agree_with_validation_on_the_corpus() {
    let schemas = schemas();
    let mut rules = BTreeSet::new();
    for (_, schema) in &schemas {
        walk(schema, "", &mut |_, schema| {
            let messages = schema["x-kubernetes-validations"]
                .as_array()
                .into_iter()
                .flatten();
            rules.extend(
                messages.map(|rule| rule["message"].as_str().unwrap_or_default().to_owned()),
            );
        });
    }
    assert!(rules.len() >= 12, "{rules:?}");

    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let mut fired = BTreeSet::new();
    let files = ["good", "broken"].map(|folder| fs::read_dir(tests.join(folder)).expect(folder));
    for entry in files.into_iter().flatten() {
        let path = entry.expect("readable").path();
        let text = fs::read_to_string(&path).expect("UTF-8");
        let Ok(objects) = serde_saphyr::from_multiple::<Value>(&text) else {
            continue;
        };
        let accepted = match read("corpus", &text) {
            Ok(_) => true,
            Err(diagnostics) => !diagnostics
                .iter()
                .any(|d| d.problem.severity == Severity::Error),
        };
        for object in objects {
            let kind = object["kind"].as_str().unwrap_or_default();
            let Some((_, schema)) = schemas.iter().find(|(name, _)| name == kind) else {
                continue;
            };
            let Err(errors) = Validator::new().validate(schema, &object, None) else {
                continue;
            };
            for error in errors {
                assert!(
                    !accepted,
                    "{}: CEL refuses what validation takes: {error}",
                    path.display()
                );
                let message = error.to_string();
                fired.extend(
                    rules
                        .iter()
                        .filter(|rule| message.contains(rule.as_str()))
                        .cloned(),
                );
            }
        }
    }
    let silent: Vec<_> = rules.difference(&fired).collect();
    assert!(
        silent.is_empty(),
        "no file of the corpus trips these rules: {silent:#?}"
    );
}
