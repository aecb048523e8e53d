//! The chart's release beside an API server that has no nodes: its accounts with the rights they get, and nothing more;
//! its Secret, ConfigMap, Lease and DaemonSet; and the command lines of its pods, which tests run as processes.

use std::fs;

use ebpf_hello_e2e::{
    ApiServer,
    chart::{Object, RELEASE, render},
};
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, ResourceExt as _, api::PostParams};
use serde_json::{Value, json};

/// Namespace of the product.
pub(crate) const HOME: &str = RELEASE;
/// The accounts.
pub(crate) const AGENT: &str = "ebpf-hello-agent";
pub(crate) const COLLECTOR: &str = "ebpf-hello-collector";
pub(crate) const HOOK: &str = "ebpf-hello-crds";
pub(crate) const TEST: &str = "ebpf-hello-test";

/// What is put into the API server. Its pods are processes of the tests, started when they need them.
const INSTALLED: [&str; 9] = [
    "ServiceAccount",
    "Role",
    "ClusterRole",
    "RoleBinding",
    "ClusterRoleBinding",
    "Secret",
    "ConfigMap",
    "Lease",
    "DaemonSet",
];

/// The chart, as it is without any value set.
pub(crate) struct Release {
    objects: Vec<Object>,
}

// === impl Release ===

impl Release {
    /// Installs it in its namespace.
    pub(crate) async fn install(server: &ApiServer) -> Release {
        server.namespace(HOME, &[]).await;
        let objects = render(&[]);
        let installed: Vec<_> = objects
            .iter()
            .filter(|object| INSTALLED.contains(&object["kind"].as_str().unwrap()))
            .collect();
        let list = json!({"apiVersion": "v1", "kind": "List", "items": installed});
        let path = server.directory().join("release.json");
        fs::write(&path, list.to_string()).unwrap();
        server.kubectl(&["apply", "-f", path.to_str().unwrap()]);
        Release { objects }
    }

    /// What helm rendered.
    pub(crate) fn objects(&self) -> &[Object] {
        &self.objects
    }

    /// The arguments of a workload's only container, with other values of those flags that name a place: `("--ca", "FILE")`.
    pub(crate) fn arguments(&self, kind: &str, name: &str, places: &[(&str, &str)]) -> Vec<String> {
        let mut objects = self.objects.iter();
        let object = objects
            .find(|object| object["kind"] == kind && object["metadata"]["name"] == name)
            .unwrap_or_else(|| panic!("the chart has no {kind} {name}"));
        let spec = match kind {
            "Pod" => &object["spec"],
            _ => &object["spec"]["template"]["spec"],
        };
        let arguments = spec["containers"][0]["args"].as_array().unwrap();
        let mut arguments: Vec<String> = arguments
            .iter()
            .map(|argument| argument.as_str().unwrap().to_owned())
            .collect();
        for (flag, place) in places {
            let flag = format!("{flag}=");
            let mut found = arguments
                .iter_mut()
                .filter(|argument| argument.starts_with(&flag));
            *found
                .next()
                .unwrap_or_else(|| panic!("{kind} {name} is started without {flag}")) =
                format!("{flag}{place}");
        }
        arguments
    }
}

/// Makes a pod of an account on a node, unless it is there; its UID.
pub(crate) async fn pod(
    server: &ApiServer,
    namespace: &str,
    name: &str,
    account: &str,
    node: &str,
) -> String {
    let pod: Value = json!({
        "metadata": {"name": name},
        "spec": {
            "nodeName": node,
            "serviceAccountName": account,
            "containers": [{"name": "main", "image": "example.com/image:1"}],
        },
    });
    let pod: Pod = serde_json::from_value(pod).unwrap();
    let pods: Api<Pod> = Api::namespaced(server.client(), namespace);
    match pods.create(&PostParams::default(), &pod).await {
        Err(kube::Error::Api(status)) if status.code == 409 => pods.get(name).await,
        created => created,
    }
    .unwrap()
    .uid()
    .unwrap()
}
