//! A namespace that a test has to itself.

use std::{collections::BTreeMap, process::Command};

use super::{Cluster, Observer, Workload, cluster::in_pod};

/// A namespace, deleted with the value.
pub struct Namespace<'c> {
    cluster: &'c Cluster,
    name: String,
}

/// A pod as the API server knows it.
#[derive(Clone, Debug)]
pub struct Pod {
    /// Its name.
    pub name: String,
    /// Its uid.
    pub uid: String,
    /// Its node.
    pub node: String,
    /// Ids of its containers, by name, without the runtime's prefix.
    pub containers: BTreeMap<String, String>,
}

// === impl Namespace ===

impl<'c> Namespace<'c> {
    pub(super) fn create(cluster: &'c Cluster, prefix: &str) -> Namespace<'c> {
        // Nobody waits for the one of an earlier run to go.
        let name = format!("{prefix}-{:x}", std::process::id());
        cluster.kubectl(&["create", "namespace", &name]);
        Namespace { cluster, name }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// kubectl in it.
    ///
    /// # Panics
    /// It fails.
    pub fn kubectl(&self, arguments: &[&str]) -> String {
        let mut all = vec!["--namespace", &self.name];
        all.extend(arguments);
        self.cluster.kubectl(&all)
    }

    /// A SyscallFilter with this spec.
    ///
    /// # Panics
    /// The server refuses it.
    pub fn apply_filter(&self, name: &str, spec: &str) {
        let namespace = &self.name;
        self.cluster.apply(&format!(
            "{{apiVersion: ebpf-hello.dev/v1alpha1, kind: SyscallFilter, metadata: {{name: {name}, namespace: {namespace}}}, spec: {spec}}}"
        ));
    }

    /// Waits until a filter's column of nodes says this (`2/2`).
    ///
    /// # Panics
    /// It does not come to say it.
    pub fn await_programmed(&self, filter: &str, summary: &str) {
        self.cluster
            .eventually(&format!("{filter} programmed on {summary}"), || {
                let object = self
                    .cluster
                    .get(&["-n", &self.name, "syscallfilter", filter]);
                let status = &object["status"];
                if status["nodes"]["summary"] == summary
                    && status["observedGeneration"] == object["metadata"]["generation"]
                {
                    Ok(())
                } else {
                    Err(status.to_string())
                }
            });
    }

    /// Starts pods and waits until they are ready.
    ///
    /// # Panics
    /// They do not become ready.
    pub fn run(&self, workload: &Workload) -> Vec<Pod> {
        self.start(workload);
        self.await_ready(workload)
    }

    /// Starts pods.
    ///
    /// # Panics
    /// The server refuses them.
    pub fn start(&self, workload: &Workload) {
        self.cluster
            .apply(&workload.manifest(&self.name, self.cluster.workload_image()));
    }

    /// Waits until the workload's pods are ready.
    ///
    /// # Panics
    /// They do not become ready.
    pub fn await_ready(&self, workload: &Workload) -> Vec<Pod> {
        let what = format!("deployment/{}", workload.name);
        if let Err(error) = self.cluster.try_kubectl(&[
            "-n",
            &self.name,
            "rollout",
            "status",
            &what,
            "--timeout=120s",
        ]) {
            panic!("{error}\n{}", self.kubectl(&["get", "pods,events"]));
        }
        self.pods(&workload.name)
    }

    /// Pods with the label `app`.
    pub fn pods(&self, app: &str) -> Vec<Pod> {
        let list = self
            .cluster
            .get(&["-n", &self.name, "pods", "-l", &format!("app={app}")]);
        let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
        list["items"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|pod| pod["metadata"]["deletionTimestamp"].is_null())
            .map(|pod| Pod {
                name: text(&pod["metadata"]["name"]),
                uid: text(&pod["metadata"]["uid"]),
                node: text(&pod["spec"]["nodeName"]),
                containers: pod["status"]["containerStatuses"]
                    .as_array()
                    .into_iter()
                    .flatten()
                    .map(|status| {
                        let id = text(&status["containerID"]);
                        (
                            text(&status["name"]),
                            id.rsplit("//").next().unwrap().to_owned(),
                        )
                    })
                    .collect(),
            })
            .collect()
    }

    /// An account that may read this namespace's events, and what it sees from now on.
    ///
    /// # Panics
    /// The server refuses, or the collector does.
    pub fn observe(&self, arguments: &[&str]) -> Observer {
        self.grant_reader("reader");
        let mut all = vec!["--namespace", self.name.as_str()];
        all.extend(arguments);
        Observer::follow(self.cluster, &self.name, "reader", &all)
    }

    /// What an administrator sees who runs `ebpf-hello observe` in a pod of the product's, as it goes on.
    pub fn observe_inside(&self, pod: &str, arguments: &[&str]) -> Observer {
        let mut command = Command::new("kubectl");
        command
            .args(in_pod(pod))
            .args(["observe", "-f", "-o", "json"])
            .args(["-n", &self.name])
            .args(arguments);
        Observer::run(command)
    }

    /// Makes an account and lets it read this namespace's events.
    ///
    /// # Panics
    /// The server refuses.
    pub fn grant_reader(&self, account: &str) {
        let namespace = &self.name;
        self.cluster.apply(&format!(
            r#"
apiVersion: v1
kind: ServiceAccount
metadata: {{name: {account}, namespace: {namespace}}}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {{name: {account}-reads-events, namespace: {namespace}}}
roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: ebpf-hello-reader}}
subjects: [{{kind: ServiceAccount, name: {account}, namespace: {namespace}}}]
"#
        ));
    }

    /// Text that nothing else on the machine says.
    pub fn nonce(&self, what: &str) -> String {
        format!("{what}-{}-{:08x}", self.name, fastrand::u32(..))
    }
}

impl Drop for Namespace<'_> {
    fn drop(&mut self) {
        if std::env::var_os("E2E_KEEP").is_none() || !std::thread::panicking() {
            let _ = self
                .cluster
                .try_kubectl(&["delete", "namespace", &self.name, "--wait=false"]);
        }
    }
}
