//! What pods may do.

use std::{fs, process::Command};

use ebpf_hello_e2e::{
    chart::{Object, objects, render, repository},
    product,
};
use serde_json::{Value, json};

use super::rendering::{EVERYTHING, NATS, named};

/// The pods of all workloads: component, and metadata with spec.
fn templates(objects: &[Object]) -> Vec<(String, Value)> {
    objects
        .iter()
        .filter_map(|object| {
            let template = match object["kind"].as_str()? {
                "Pod" => object,
                "DaemonSet" | "Deployment" | "Job" | "StatefulSet" => &object["spec"]["template"],
                _ => return None,
            };
            let component = &object["metadata"]["labels"]["app.kubernetes.io/component"];
            Some((component.as_str()?.to_owned(), template.clone()))
        })
        .collect()
}

/// The same: component and spec.
fn pods(objects: &[Object]) -> Vec<(String, Value)> {
    templates(objects)
        .into_iter()
        .map(|(component, template)| (component, template["spec"].clone()))
        .collect()
}

fn pod(flags: &[&str], component: &str) -> Value {
    let pods = pods(&render(flags));
    let found = pods.into_iter().find(|(name, _)| name == component);
    found.unwrap_or_else(|| panic!("no pod of {component}")).1
}

#[test]
fn no_pod_shares_a_namespace_of_its_node_or_has_more_than_it_names() {
    for flags in [&[], EVERYTHING, NATS] {
        let pods = pods(&render(flags));
        assert_eq!(pods.len(), 4, "agent, collector, definitions, test");
        for (component, spec) in pods {
            for field in ["hostNetwork", "hostPID", "hostIPC"] {
                assert!(spec[field].is_null(), "{component}: {field}");
            }
            // The token is mounted by name, into containers that need it.
            assert_eq!(spec["automountServiceAccountToken"], false, "{component}");
            assert_eq!(
                spec["securityContext"]["seccompProfile"]["type"], "RuntimeDefault",
                "{component}"
            );
            for container in spec["containers"].as_array().unwrap() {
                let context = &container["securityContext"];
                assert_ne!(context["privileged"], true, "{component}");
                assert_eq!(context["allowPrivilegeEscalation"], false, "{component}");
                assert_eq!(context["readOnlyRootFilesystem"], true, "{component}");
                assert_eq!(
                    context["capabilities"]["drop"],
                    json!(["ALL"]),
                    "{component}"
                );
                let added = if component == "agent" {
                    json!(["BPF", "PERFMON"])
                } else {
                    Value::Null
                };
                assert_eq!(context["capabilities"]["add"], added, "{component}");
                assert!(
                    container["resources"]["limits"]["memory"].is_string(),
                    "{component}"
                );
            }
        }
    }
}

#[test]
fn the_agent_writes_to_one_directory_of_its_node() {
    let spec = pod(&[], "agent");
    let mounts = spec["containers"][0]["volumeMounts"].as_array().unwrap();
    let mut writable = Vec::new();
    let mut paths = Vec::new();
    for volume in spec["volumes"].as_array().unwrap() {
        let Some(path) = volume["hostPath"]["path"].as_str() else {
            continue;
        };
        paths.push(path);
        let of_volume = |mount: &&Value| mount["name"] == volume["name"];
        if mounts
            .iter()
            .filter(of_volume)
            .any(|mount| mount["readOnly"] != true)
        {
            writable.push(path);
        }
    }
    paths.sort_unstable();
    assert_eq!(
        paths,
        [
            "/sys/fs/cgroup",
            "/var/lib/ebpf-hello",
            "/var/log/containers"
        ]
    );
    assert_eq!(writable, ["/var/lib/ebpf-hello"]);
    let spec = pod(&["--set=agent.state.type=emptyDir"], "agent");
    let volumes = spec["volumes"].to_string();
    assert!(!volumes.contains("/var/lib/ebpf-hello"), "{volumes}");
}

#[test]
fn an_agent_runs_on_every_node_and_never_twice_on_one() {
    let update = |flags: &[&str]| {
        let objects = render(flags);
        let set = named(&objects, "DaemonSet", "ebpf-hello-agent").unwrap();
        set["spec"]["updateStrategy"].clone()
    };
    let rolling = |most: Value| {
        let limits = json!({"maxUnavailable": most, "maxSurge": 0});
        json!({"type": "RollingUpdate", "rollingUpdate": limits})
    };
    assert_eq!(update(&[]), rolling(json!("10%")));
    assert_eq!(update(&["--set=agent.maxUnavailable=3"]), rolling(json!(3)));
    let on_delete = update(&["--set=agent.updateStrategy=OnDelete"]);
    assert_eq!(on_delete, json!({"type": "OnDelete"}));
    let spec = pod(&[], "agent");
    assert_eq!(spec["tolerations"], json!([{"operator": "Exists"}]));
    assert_eq!(spec["priorityClassName"], "system-node-critical");
}

/// Where SELinux is enforced, its own type for containers may not call bpf(2).
#[test]
fn only_an_agent_asks_for_another_type_of_selinux() {
    for (component, spec) in pods(&render(EVERYTHING)) {
        for container in spec["containers"].as_array().unwrap() {
            let asked = &container["securityContext"]["seLinuxOptions"]["type"];
            let expected = if component == "agent" {
                json!("spc_t")
            } else {
                Value::Null
            };
            assert_eq!(*asked, expected, "{component}");
        }
    }
    let spec = pod(&["--set-json=agent.seLinuxOptions=null"], "agent");
    assert!(spec["containers"][0]["securityContext"]["seLinuxOptions"].is_null());
}

#[test]
fn the_test_runs_where_agents_do() {
    let (agent, collector) = (additions("agent"), additions("collector"));
    let spec = pod(&[&added("agent"), &added("collector")], "test");
    assert!(has(&spec["nodeSelector"], &agent["nodeSelector"]), "{spec}");
    assert_eq!(spec["affinity"], agent["affinity"]);
    assert_eq!(spec["tolerations"], collector["tolerations"]);
    for component in ["agent", "collector", "crds", "test"] {
        let spec = pod(&[], component);
        assert_eq!(
            spec["nodeSelector"]["kubernetes.io/os"], "linux",
            "{component}"
        );
    }
}

#[test]
fn an_agents_token_is_for_its_collector_only() {
    let spec = pod(&[], "agent");
    let volumes = spec["volumes"].as_array().unwrap();
    let token = volumes
        .iter()
        .find(|volume| volume["name"] == "token")
        .unwrap();
    let token = &token["projected"]["sources"][0]["serviceAccountToken"];
    assert_eq!(token["audience"], "ebpf-hello-collector");
}

#[test]
fn collectors_with_nats_are_a_deployment_that_keeps_nothing() {
    let kinds = |flags: &[&str]| {
        let objects = render(flags);
        let collectors = objects.into_iter().filter(|object| {
            object["metadata"]["name"] == "ebpf-hello-collector"
                && ["Deployment", "StatefulSet"].contains(&object["kind"].as_str().unwrap())
        });
        collectors
            .map(|object| object["kind"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(kinds(&[]), ["StatefulSet"]);
    assert_eq!(kinds(NATS), ["Deployment"]);
    let spec = pod(NATS, "collector");
    let arguments = spec["containers"][0]["args"].to_string();
    assert!(
        arguments.contains("--hub=nats://nats:4222") && !arguments.contains("--store="),
        "{arguments}"
    );
}

/// A full disk of the node would be everybody's.
#[test]
fn no_pod_fills_its_node() {
    let limits = |spec: &Value| {
        let volumes = spec["volumes"].as_array().unwrap();
        let mut limits: Vec<_> = volumes
            .iter()
            .filter(|volume| volume["emptyDir"].is_object())
            .map(|volume| {
                (
                    volume["name"].clone(),
                    volume["emptyDir"]["sizeLimit"].clone(),
                )
            })
            .collect();
        limits.sort_by_key(|(name, _)| name.to_string());
        limits
    };
    let run = || (json!("run"), json!("1Mi"));
    let store = |most: &str| (json!("store"), json!(most));
    let collector = |flags: &[&str]| limits(&pod(flags, "collector"));
    assert_eq!(collector(&[]), [run(), store("2Gi")]);
    let larger = collector(&["--set=collector.storeLimit=20Gi"]);
    assert_eq!(larger, [run(), store("20Gi")]);
    for flags in [NATS, &["--set=collector.persistence.enabled=true"]] {
        assert_eq!(collector(flags), [run()], "{flags:?}");
    }
    assert_eq!(limits(&pod(&[], "agent")), [run()]);
    let state = limits(&pod(&["--set=agent.state.type=emptyDir"], "agent"));
    assert_eq!(state, [run(), (json!("state"), json!("512Mi"))]);
}

/// Values that go into the pods of a component, and where.
const PLACES: &[(&str, &str)] = &[
    ("podLabels", "/metadata/labels"),
    ("podAnnotations", "/metadata/annotations"),
    ("nodeSelector", "/spec/nodeSelector"),
    ("affinity", "/spec/affinity"),
    ("tolerations", "/spec/tolerations"),
    (
        "topologySpreadConstraints",
        "/spec/topologySpreadConstraints",
    ),
    ("extraArgs", "/spec/containers/0/args"),
    ("extraEnv", "/spec/containers/0/env"),
    ("extraVolumes", "/spec/volumes"),
    ("extraVolumeMounts", "/spec/containers/0/volumeMounts"),
    ("extraContainers", "/spec/containers"),
    ("extraInitContainers", "/spec/initContainers"),
];

/// One of each, as the component's values. Each has a name in it that no other component's has.
fn additions(component: &str) -> Value {
    let mine = format!("{component}-only");
    let terms = json!([{"matchExpressions": [{"key": mine, "operator": "Exists"}]}]);
    let mut values = json!({
        "podLabels": {"label": mine},
        "podAnnotations": {"annotation": mine},
        "nodeSelector": {"pool": mine},
        "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}},
        "tolerations": [{"key": mine, "operator": "Exists", "effect": "NoSchedule"}],
        "extraArgs": [format!("--{mine}=a, b")],
        "extraEnv": [{"name": "EXTRA", "value": mine}],
        "extraVolumes": [{"name": mine, "emptyDir": {}}],
        "extraVolumeMounts": [{"name": mine, "mountPath": format!("/{mine}")}],
        "extraContainers": [{"name": format!("beside-{mine}"), "image": "beside"}],
        "extraInitContainers": [{"name": format!("before-{mine}"), "image": "before"}],
    });
    if component == "collector" {
        values["topologySpreadConstraints"] =
            json!([{"maxSkew": 1, "topologyKey": mine, "whenUnsatisfiable": "DoNotSchedule"}]);
    }
    values
}

/// The flag that sets them.
pub(crate) fn added(component: &str) -> String {
    format!("--set-json={component}={}", additions(component))
}

/// Whether a list or a map has all of another.
fn has(whole: &Value, part: &Value) -> bool {
    match (whole, part) {
        (Value::Array(whole), Value::Array(part)) => part.iter().all(|item| whole.contains(item)),
        (Value::Object(whole), Value::Object(part)) => part
            .iter()
            .all(|(key, value)| whole.get(key) == Some(value)),
        _ => false,
    }
}

#[test]
fn what_users_add_to_a_pod_is_in_it_and_in_no_other() {
    let text = fs::read_to_string(repository().join("helm/ebpf-hello/values.yaml")).unwrap();
    let values = &objects(&text)[0];
    for component in ["agent", "collector"] {
        let additions = additions(component);
        for value in values[component].as_object().unwrap().keys() {
            let is_addition = value.starts_with("extra")
                || value.starts_with("pod")
                || PLACES.iter().any(|(name, _)| name == value);
            assert!(
                !is_addition || additions.get(value).is_some(),
                "{component}.{value} is not tried"
            );
        }
        for flags in [&[], NATS] {
            let flag = added(component);
            let all = templates(&render(&[flags, &[flag.as_str()]].concat()));
            for (other, template) in &all {
                if other == component {
                    for (value, wanted) in additions.as_object().unwrap() {
                        let (_, place) = PLACES.iter().find(|(name, _)| name == value).unwrap();
                        assert!(
                            template
                                .pointer(place)
                                .is_some_and(|found| has(found, wanted)),
                            "{component}.{value} is not in {place}: {template}"
                        );
                    }
                } else if other != "test" {
                    // The test's pod runs where an agent does.
                    assert!(
                        !template.to_string().contains(&format!("{component}-only")),
                        "what is the {component}'s is in {other}: {template}"
                    );
                }
            }
        }
    }
}

/// clap refuses what it does not know before it comes to `--help`.
#[test]
fn the_product_knows_every_flag_that_pods_give_it() {
    for flags in [&[], EVERYTHING, NATS] {
        for (component, spec) in pods(&render(flags)) {
            let arguments = spec["containers"][0]["args"].as_array().unwrap();
            let output = Command::new(product())
                .args(arguments.iter().map(|argument| argument.as_str().unwrap()))
                .arg("--help")
                .output()
                .unwrap();
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{component}: {said}");
        }
    }
}
