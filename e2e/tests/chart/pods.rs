//! What pods may do.

use std::process::Command;

use ebpf_hello_e2e::{
    chart::{Object, render},
    product,
};
use serde_json::{Value, json};

use super::rendering::{EVERYTHING, NATS};

/// The pods of all workloads: kind, component and spec.
fn pods(objects: &[Object]) -> Vec<(String, Value)> {
    objects
        .iter()
        .filter_map(|object| {
            let spec = match object["kind"].as_str()? {
                "Pod" => &object["spec"],
                "DaemonSet" | "Deployment" | "Job" | "StatefulSet" => {
                    &object["spec"]["template"]["spec"]
                }
                _ => return None,
            };
            let component = &object["metadata"]["labels"]["app.kubernetes.io/component"];
            Some((component.as_str()?.to_owned(), spec.clone()))
        })
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
    let objects = render(&[]);
    let set = objects
        .iter()
        .find(|object| object["kind"] == "DaemonSet")
        .unwrap();
    let update = &set["spec"]["updateStrategy"]["rollingUpdate"];
    assert_eq!(update, &json!({"maxUnavailable": "10%", "maxSurge": 0}));
    let spec = &set["spec"]["template"]["spec"];
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
    let spec = pod(&["--set=agent.nodeSelector.pool=watched"], "test");
    assert_eq!(spec["nodeSelector"]["pool"], "watched");
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
