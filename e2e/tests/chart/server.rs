//! The chart in a real API server: what it takes, what upgrades leave alone, what an uninstall leaves behind.
//!
//! There are no controllers and no kubelet: nothing here runs a pod.

use std::{collections::BTreeSet, fs, path::PathBuf};

use ebpf_hello_e2e::{
    ApiServer,
    chart::{Object, RELEASE, helm, render},
};
use serde_json::{Value, json};

use super::{
    pods::added,
    rendering::{EVERYTHING, NATS, OBJECTS},
};

/// Writes objects where kubectl can read them.
pub(crate) fn written(server: &ApiServer, name: &str, objects: &[Object]) -> PathBuf {
    let path = server.directory().join(name);
    fs::write(
        &path,
        json!({"apiVersion": "v1", "kind": "List", "items": objects}).to_string(),
    )
    .unwrap();
    path
}

/// helm beside the server; its output.
#[track_caller]
fn helm_at(server: &ApiServer, arguments: &[&str]) -> String {
    let kubeconfig = server.admin_kubeconfig();
    let to = [
        "--namespace",
        RELEASE,
        "--kubeconfig",
        kubeconfig.to_str().unwrap(),
    ];
    let output = helm(arguments.iter().chain(&to));
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    let complained = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "helm {arguments:?}: {told}{complained}"
    );
    told
}

#[tokio::test]
async fn the_server_takes_every_object() {
    let server = ApiServer::start().await;
    server.install_definitions().await;
    server
        .namespace(
            RELEASE,
            &[("pod-security.kubernetes.io/enforce", "privileged")],
        )
        .await;
    let (agent, collector) = (added("agent"), added("collector"));
    for (name, flags) in [
        ("defaults", &[][..]),
        ("everything", EVERYTHING),
        ("nats", NATS),
        ("additions", &[&agent, &collector, OBJECTS]),
    ] {
        // Whose definitions are other projects'.
        let foreign = ["monitoring.coreos.com/v1", "cert-manager.io/v1"];
        let objects: Vec<_> = render(flags)
            .into_iter()
            .filter(|object| !foreign.contains(&object["apiVersion"].as_str().unwrap()))
            .collect();
        let file = written(&server, name, &objects);
        let file = file.to_str().unwrap();
        let taken = server.kubectl(&["apply", "--dry-run=server", "--validate=strict", "-f", file]);
        assert_eq!(taken.lines().count(), objects.len(), "{taken}");
        assert!(!taken.contains("Warning"), "{taken}");
    }
}

#[tokio::test]
async fn the_plain_manifests_are_taken_and_only_the_agent_needs_a_privileged_namespace() {
    let server = ApiServer::start().await;
    let repository = ebpf_hello_e2e::chart::repository();
    let install = repository.join("manifests/install.yaml");
    server.kubectl(&["apply", "--server-side", "-f", install.to_str().unwrap()]);
    server.kubectl(&[
        "wait",
        "--for=condition=Established",
        "--timeout=60s",
        "crd",
        "--all",
    ]);
    let samples = repository.join("manifests/samples");
    server.kubectl(&["apply", "-f", samples.to_str().unwrap()]);
    let filters = server.kubectl(&["get", "syscallfilters", "-n", "shop", "-o", "name"]);
    assert_eq!(filters.lines().count(), 4, "{filters}");

    for standard in ["baseline", "restricted"] {
        server
            .namespace(
                standard,
                &[("pod-security.kubernetes.io/enforce", standard)],
            )
            .await;
    }
    for flags in [&[][..], NATS, EVERYTHING] {
        for object in render(flags) {
            let template = match object["kind"].as_str().unwrap() {
                "Pod" => &object,
                "DaemonSet" | "Deployment" | "Job" | "StatefulSet" => &object["spec"]["template"],
                _ => continue,
            };
            let mut spec = template["spec"].clone();
            // Classes and accounts are not what this is about.
            spec.as_object_mut().unwrap().remove("priorityClassName");
            if object["kind"] == "StatefulSet" && !object["spec"]["volumeClaimTemplates"].is_null()
            {
                let claim =
                    json!({"name": "store", "persistentVolumeClaim": {"claimName": "store"}});
                spec["volumes"].as_array_mut().unwrap().push(claim);
            }
            let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod"}, "spec": spec});
            let file = written(&server, "pod", &[pod]);
            let create = |namespace: &str| {
                let arguments = [
                    "create",
                    "--dry-run=server",
                    "-n",
                    namespace,
                    "-f",
                    file.to_str().unwrap(),
                ];
                server.try_kubectl(&arguments)
            };
            if object["kind"] == "DaemonSet" {
                let refused = create("baseline").unwrap_err();
                assert!(
                    refused.contains("violates PodSecurity \"baseline"),
                    "{refused}"
                );
            } else {
                create("restricted")
                    .unwrap_or_else(|refused| panic!("{}: {refused}", object["kind"]));
            }
        }
    }
}

/// Every object in the server but those that it makes for itself.
fn inventory(server: &ApiServer) -> BTreeSet<String> {
    let own = [
        "events",
        "leases",
        "apiservices",
        "flowschemas",
        "prioritylevelconfigurations",
        "endpoints",
        "endpointslices",
    ];
    let resources = server.kubectl(&["api-resources", "--verbs=list", "-o", "name"]);
    let listed: Vec<_> = resources
        .lines()
        .filter(|resource| !own.contains(&resource.split('.').next().unwrap()))
        .collect();
    let all = server.kubectl(&["get", &listed.join(","), "-A", "-o", "json"]);
    let all: Value = serde_json::from_str(&all).unwrap();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    all["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|object| {
            let metadata = &object["metadata"];
            format!(
                "{} {}/{}",
                text(&object["kind"]),
                text(&metadata["namespace"]),
                text(&metadata["name"])
            )
        })
        .collect()
}

/// What the collector wrote, and what is there now.
async fn kept(server: &ApiServer) -> (Value, Value) {
    let get = |kind: &str, name: &str| -> Value {
        let text = server.kubectl(&["get", kind, name, "-n", RELEASE, "-o", "json"]);
        serde_json::from_str::<Value>(&text).unwrap()["data"].clone()
    };
    (
        get("secret", "ebpf-hello-tls"),
        get("configmap", "ebpf-hello-ca"),
    )
}

#[tokio::test]
async fn upgrades_leave_what_the_collector_wrote_and_an_uninstall_leaves_what_is_the_users() {
    let server = ApiServer::start().await;
    server
        .namespace(
            RELEASE,
            &[("pod-security.kubernetes.io/enforce", "baseline")],
        )
        .await;
    server.namespace("shop", &[]).await;
    let before = inventory(&server);
    let notes = helm_at(
        &server,
        &["install", RELEASE, "helm/ebpf-hello", "--no-hooks"],
    );
    assert!(
        notes.contains("NO AGENT WILL START: the namespace ebpf-hello enforces the Pod Security Standard \"baseline\""),
        "{notes}"
    );
    assert!(
        notes.contains(
            "kubectl label namespace ebpf-hello pod-security.kubernetes.io/enforce=privileged"
        ),
        "{notes}"
    );
    server.kubectl(&[
        "wait",
        "--for=condition=Established",
        "--timeout=60s",
        "crd",
        "--all",
    ]);
    let users = json!({
        "apiVersion": "ebpf-hello.dev/v1alpha1", "kind": "SyscallFilter",
        "metadata": {"name": "mine", "namespace": "shop"},
        "spec": {"rules": [{"syscalls": ["execve"], "handler": "Exec"}]},
    });
    let users = written(&server, "filter", &[users]);
    server.kubectl(&["apply", "-f", users.to_str().unwrap()]);

    // As the collector's account may: patch, and no more.
    let account = server.kubeconfig_of(RELEASE, "ebpf-hello-collector").await;
    for (object, patch) in [
        (
            "secret/ebpf-hello-tls",
            json!({"data": {"ca.crt": "cHVibGlj", "ca.key": "c2VjcmV0"}}),
        ),
        (
            "configmap/ebpf-hello-ca",
            json!({"data": {"ca.crt": "public"}}),
        ),
    ] {
        let patch = patch.to_string();
        let account = account.to_str().unwrap();
        server.kubectl(&[
            "patch",
            object,
            "-n",
            RELEASE,
            "--type=merge",
            "-p",
            &patch,
            "--kubeconfig",
            account,
        ]);
    }
    let wrote = kept(&server).await;
    assert_eq!(wrote.0["ca.key"], "c2VjcmV0");
    assert_eq!(wrote.1["ca.crt"], "public");

    for merge in [
        &[][..],
        &["--server-side=false"],
        &["--server-side=true", "--force-conflicts"],
    ] {
        let label = format!("--set=commonLabels.merge=m{}", merge.len());
        let upgrade = ["upgrade", RELEASE, "helm/ebpf-hello", "--no-hooks", &label];
        helm_at(&server, &[&upgrade[..], merge].concat());
        assert_eq!(
            kept(&server).await,
            wrote,
            "after an upgrade with {merge:?}"
        );
    }
    helm_at(&server, &["rollback", RELEASE, "1", "--no-hooks"]);
    assert_eq!(kept(&server).await, wrote, "after a rollback");

    helm_at(&server, &["uninstall", RELEASE, "--no-hooks"]);
    let left: Vec<_> = inventory(&server).difference(&before).cloned().collect();
    assert_eq!(
        left,
        [
            "CustomResourceDefinition /clustersyscallfilters.ebpf-hello.dev",
            "CustomResourceDefinition /syscallfilters.ebpf-hello.dev",
            "SyscallFilter shop/mine",
        ]
    );
}
