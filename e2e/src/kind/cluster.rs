//! The cluster that `scripts/e2e` made, or that E2E_CONTEXT names.

use std::{
    collections::BTreeSet,
    env,
    io::Write as _,
    path::PathBuf,
    process::{Command, Output, Stdio},
    time::{Duration, Instant},
};

use serde_json::Value;

use super::{Namespace, Node};
use crate::{eventually::PATIENCE, executable::product};

/// Name of the release, and of the chart's objects.
pub const RELEASE: &str = "ebpf-hello";
/// The namespace it is installed in.
pub const SYSTEM: &str = "ebpf-hello";
/// Longest time until the pods of a workload are ready.
const ROLLOUT: Duration = Duration::from_secs(120);

/// A running cluster.
pub struct Cluster {
    chart: PathBuf,
    image: String,
    workload_image: String,
    before: BTreeSet<String>,
}

// === impl Cluster ===

impl Cluster {
    /// The cluster of KUBECONFIG.
    ///
    /// # Panics
    /// `scripts/e2e` did not start this, or the cluster does not answer.
    pub fn connect() -> Cluster {
        let variable = |name: &str| {
            env::var(name).unwrap_or_else(|_| panic!("{name} is not set: run `make e2e`"))
        };
        variable("KUBECONFIG");
        let mut cluster = Cluster {
            chart: PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../helm/ebpf-hello")),
            image: variable("E2E_IMAGE"),
            workload_image: variable("E2E_WORKLOAD_IMAGE"),
            before: BTreeSet::new(),
        };
        // Of a run before this one, where the cluster was kept.
        let _ = cluster.try_helm(&["uninstall", RELEASE, "--wait", "--timeout", "1m"]);
        cluster.kubectl(&[
            "delete",
            "namespace",
            SYSTEM,
            "--ignore-not-found",
            "--timeout=60s",
        ]);
        cluster.kubectl(&[
            "delete",
            "crd",
            "--ignore-not-found",
            "syscallfilters.ebpf-hello.dev",
            "clustersyscallfilters.ebpf-hello.dev",
        ]);
        cluster.before = cluster.inventory();
        cluster
    }

    /// All objects there were before the installation.
    pub fn before(&self) -> &BTreeSet<String> {
        &self.before
    }

    /// All objects in the cluster, a line each: `RESOURCE NAMESPACE/NAME`. Not what comes and goes by itself.
    pub fn inventory(&self) -> BTreeSet<String> {
        let resources = self.kubectl(&["api-resources", "--verbs=list", "-o", "name"]);
        let listed: Vec<&str> = resources
            .lines()
            .filter(|resource| !PASSING.contains(resource))
            .collect();
        let template = "{range .items[*]}{.kind}.{.apiVersion} {.metadata.namespace}/{.metadata.name}{\"\\n\"}{end}";
        self.kubectl(&[
            "get",
            &listed.join(","),
            "-A",
            "--ignore-not-found",
            "-o",
            &format!("jsonpath={template}"),
        ])
        .lines()
        // The nodes' and the control plane's own: renewed under changing names.
        .filter(|line| !line.contains(" kube-"))
        .map(str::to_owned)
        .collect()
    }

    /// The image of the tests' own pods.
    pub fn workload_image(&self) -> &str {
        &self.workload_image
    }

    /// The repository's chart.
    pub fn chart(&self) -> &str {
        self.chart.to_str().unwrap()
    }

    /// kubectl as an administrator: what it prints.
    ///
    /// # Panics
    /// It fails.
    pub fn kubectl(&self, arguments: &[&str]) -> String {
        self.try_kubectl(arguments)
            .unwrap_or_else(|error| panic!("{error}"))
    }

    /// The same, where a failure is an answer.
    pub fn try_kubectl(&self, arguments: &[&str]) -> Result<String, String> {
        run(Command::new("kubectl").args(arguments), None)
    }

    /// What `kubectl get … -o json` says.
    ///
    /// # Panics
    /// It fails.
    pub fn get(&self, arguments: &[&str]) -> Value {
        let mut all = vec!["get", "-o", "json"];
        all.extend(arguments);
        serde_json::from_str(&self.kubectl(&all)).unwrap()
    }

    /// `kubectl apply` of this text.
    ///
    /// # Panics
    /// The server refuses it.
    pub fn apply(&self, yaml: &str) {
        self.try_apply(yaml)
            .unwrap_or_else(|error| panic!("{error}\n{yaml}"));
    }

    /// The same, where a refusal is an answer.
    pub fn try_apply(&self, yaml: &str) -> Result<String, String> {
        run(
            Command::new("kubectl").args(["apply", "-f", "-"]),
            Some(yaml),
        )
    }

    /// The product in one of its own pods: what it prints.
    ///
    /// # Panics
    /// It fails.
    pub fn inside(&self, pod: &str, arguments: &[&str]) -> String {
        self.try_inside(pod, arguments)
            .unwrap_or_else(|error| panic!("{error}"))
    }

    /// The same, where a failure is an answer.
    pub fn try_inside(&self, pod: &str, arguments: &[&str]) -> Result<String, String> {
        self.try_kubectl(&[&in_pod(pod), arguments].concat())
    }

    /// helm: what it prints.
    ///
    /// # Panics
    /// It fails.
    pub fn helm(&self, arguments: &[&str]) -> String {
        self.try_helm(arguments)
            .unwrap_or_else(|error| panic!("{error}"))
    }

    /// The same, where a failure is an answer.
    pub fn try_helm(&self, arguments: &[&str]) -> Result<String, String> {
        run(
            Command::new("helm")
                .args(["--namespace", SYSTEM])
                .args(arguments),
            None,
        )
    }

    /// The values that every installation here needs: our image, and a collector that is reached from
    /// outside the cluster, whichever pod it is.
    pub fn values(&self) -> Vec<String> {
        let (repository, tag) = self.image.rsplit_once(':').unwrap();
        let mut values = vec![
            "--set".to_owned(),
            format!(
                "image.repository={repository},image.tag={tag},image.pullPolicy=IfNotPresent,collector.service.type=NodePort"
            ),
            // Where the worker is stopped, the collector goes on.
            "--set-string".to_owned(),
            r"collector.nodeSelector.node-role\.kubernetes\.io/control-plane=".to_owned(),
            // Two kubelets and their control plane on a few processors: what names a container comes late.
            "--set".to_owned(),
            "agent.identityWait=10s".to_owned(),
        ];
        for (place, node) in self.nodes().iter().enumerate() {
            values.extend([
                "--set".to_owned(),
                format!("tls.extraNames[{place}]={}", node.address()),
            ]);
        }
        values
    }

    /// Installs the chart, or upgrades to it, and waits until every pod of it is ready.
    ///
    /// # Panics
    /// helm fails, or the pods do not become ready.
    pub fn install(&self, chart: &str, more: &[&str]) {
        self.allow_privileged(SYSTEM);
        let values = self.values();
        let mut arguments = vec!["upgrade", "--install", RELEASE, chart, "--timeout", "3m"];
        arguments.extend(values.iter().map(String::as_str));
        arguments.extend(more);
        self.helm(&arguments);
        self.await_agents();
        self.await_collector();
    }

    /// Waits until every node's agent is ready.
    ///
    /// # Panics
    /// They do not become ready.
    pub fn await_agents(&self) {
        // `kubectl rollout status` knows no strategy but RollingUpdate, which the older release has not.
        self.await_workload("every node's agent is ready", || {
            let set = self.get(&["-n", SYSTEM, "daemonset", "ebpf-hello-agent"]);
            let (spec, status) = (&set["spec"], &set["status"]);
            let desired = status["desiredNumberScheduled"].as_u64();
            let replaced = spec["updateStrategy"]["type"] == "OnDelete"
                || status["updatedNumberScheduled"].as_u64() == desired;
            let ready = desired.is_some_and(|desired| desired > 0)
                && status["numberReady"].as_u64() == desired
                && status["observedGeneration"] == set["metadata"]["generation"];
            if ready && replaced {
                Ok(())
            } else {
                Err(status.to_string())
            }
        });
    }

    /// Waits until every collector is ready.
    ///
    /// # Panics
    /// They do not become ready.
    pub fn await_collector(&self) {
        self.await_workload("the collector is ready", || {
            // With NATS it is a Deployment.
            let kinds = "statefulset,deployment";
            let label = "app.kubernetes.io/component=collector";
            let what = self.kubectl(&["-n", SYSTEM, "get", kinds, "-l", label, "-o", "name"]);
            self.try_kubectl(&[
                "-n",
                SYSTEM,
                "rollout",
                "status",
                what.trim(),
                "--timeout=5s",
            ])
        });
    }

    /// Takes the release away, if it is there, and waits until its pods are gone; what helm said.
    ///
    /// # Panics
    /// helm fails, or the pods stay.
    pub fn uninstall(&self) -> String {
        let said = self.helm(&[
            "uninstall",
            RELEASE,
            "--ignore-not-found",
            "--wait",
            "--timeout",
            "2m",
        ]);
        self.eventually("its pods are gone", || {
            let pods = ["get", "pods", "--no-headers", "--ignore-not-found"];
            let left = self.kubectl(&[["-n", SYSTEM].as_slice(), &pods].concat());
            if left.trim().is_empty() {
                Ok(())
            } else {
                Err(left)
            }
        });
        said
    }

    /// Waits for pods; if they do not come, tells what the cluster says of them.
    fn await_workload<T>(&self, what: &str, ask: impl FnMut() -> Result<T, String>) {
        if let Err(error) = ask_until(ROLLOUT, ask) {
            let pods = self.kubectl(&["-n", SYSTEM, "get", "pods", "-o", "wide"]);
            let events = self.kubectl(&["-n", SYSTEM, "get", "events", "--sort-by=.lastTimestamp"]);
            let logs = self
                .try_kubectl(&[
                    "-n",
                    SYSTEM,
                    "logs",
                    "--tail=20",
                    "--prefix",
                    "-l",
                    "app.kubernetes.io/name=ebpf-hello",
                ])
                .unwrap_or_default();
            panic!("{what}, within {ROLLOUT:?}: {error}\n{pods}\n{events}\n{logs}");
        }
    }

    /// Makes a namespace, if it is not there, whose pods may have what an agent needs.
    pub fn allow_privileged(&self, namespace: &str) {
        self.apply(&format!(
            "{{apiVersion: v1, kind: Namespace, metadata: {{name: {namespace}, labels: {{pod-security.kubernetes.io/enforce: privileged}}}}}}"
        ));
    }

    /// A namespace of the test's own, gone with the value.
    pub fn with_namespace(&self, name: &str) -> Namespace<'_> {
        Namespace::create(self, name)
    }

    /// The nodes.
    pub fn nodes(&self) -> Vec<Node> {
        let nodes = self.get(&["nodes"]);
        nodes["items"]
            .as_array()
            .unwrap()
            .iter()
            .map(Node::of)
            .collect()
    }

    /// The node with the API server.
    ///
    /// # Panics
    /// There is none.
    pub fn control_plane(&self) -> Node {
        self.nodes()
            .into_iter()
            .find(Node::is_control_plane)
            .expect("a control plane")
    }

    /// The node that is no control plane.
    ///
    /// # Panics
    /// There is none.
    pub fn worker(&self) -> Node {
        self.nodes()
            .into_iter()
            .find(|node| !node.is_control_plane())
            .expect("a worker: the cluster has one node")
    }

    /// The agent's pod on a node.
    ///
    /// # Panics
    /// There is none.
    pub fn agent_on(&self, node: &str) -> String {
        self.pods_of("agent")
            .into_iter()
            .find_map(|(pod, on)| (on == node).then_some(pod))
            .unwrap_or_else(|| panic!("no agent on {node}"))
    }

    /// Pods of a component of the release, with their nodes.
    pub fn pods_of(&self, component: &str) -> Vec<(String, String)> {
        let label = format!("app.kubernetes.io/component={component}");
        let pods = self.get(&["-n", SYSTEM, "pods", "-l", &label]);
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        pods["items"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|pod| pod["metadata"]["deletionTimestamp"].is_null())
            .map(|pod| {
                (
                    text(&pod["metadata"]["name"]),
                    text(&pod["spec"]["nodeName"]),
                )
            })
            .collect()
    }

    /// Where the collector is reached from outside.
    pub fn collector_url(&self) -> String {
        let service = self.get(&["-n", SYSTEM, "service", "ebpf-hello-collector"]);
        let port = service["spec"]["ports"]
            .as_array()
            .unwrap()
            .iter()
            .find(|port| port["port"] == 7443)
            .unwrap()["nodePort"]
            .clone();
        format!("https://{}:{port}", self.control_plane().address())
    }

    /// The product, told where the collector is.
    pub fn product(&self) -> Command {
        Command::new(product())
    }

    /// Asks until it is so.
    ///
    /// # Panics
    /// It is not within the time.
    pub fn await_that<T>(
        &self,
        what: &str,
        within: Duration,
        ask: impl FnMut() -> Result<T, String>,
    ) -> T {
        ask_until(within, ask)
            .unwrap_or_else(|reason| panic!("{what}, within {within:?}: {reason}"))
    }

    /// The same, with patience.
    ///
    /// # Panics
    /// It does not become so.
    pub fn eventually<T>(&self, what: &str, ask: impl FnMut() -> Result<T, String>) -> T {
        self.await_that(what, PATIENCE, ask)
    }
}

/// Resources whose objects come and go without anybody's doing.
const PASSING: &[&str] = &["events", "events.events.k8s.io", "componentstatuses"];

/// kubectl's arguments that run the product in one of its own pods; its own arguments follow.
pub(super) fn in_pod(pod: &str) -> [&str; 6] {
    ["-n", SYSTEM, "exec", pod, "--", "ebpf-hello"]
}

/// Asks again and again until there is an answer.
///
/// # Errors
/// The time is over: the last reason why there is none.
pub fn ask_until<T>(
    within: Duration,
    mut ask: impl FnMut() -> Result<T, String>,
) -> Result<T, String> {
    let end = Instant::now() + within;
    loop {
        let answer = ask();
        if answer.is_ok() || Instant::now() >= end {
            return answer;
        }
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// Runs a command to its end: what it printed, or why it failed.
pub(super) fn run(command: &mut Command, input: Option<&str>) -> Result<String, String> {
    let mut child = command
        .stdin(if input.is_some() {
            Stdio::piped()
        } else {
            Stdio::null()
        })
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| format!("{command:?}: {error}"))?;
    if let Some(input) = input {
        // Who does not read it says why.
        let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    }
    let Output {
        status,
        stdout,
        stderr,
    } = child.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&stdout).into_owned();
    if status.success() {
        Ok(text)
    } else {
        Err(format!(
            "{command:?}: {status}\n{text}{}",
            String::from_utf8_lossy(&stderr)
        ))
    }
}
