//! A node of a cluster: a real agent with its programs in this kernel, a collector, and cgroups in kubelet's layout
//! that the test makes itself.

use std::{
    fs,
    io::Read as _,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
};

use ebpf_hello_e2e::{ApiServer, Process, eventually, free_address, generator, product};
use ebpf_hello_policy::crd::{ClusterSyscallFilter, SyscallFilter};
use ebpf_hello_proto::v1::Event;
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, ResourceExt as _,
    api::{DeleteParams, Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};

use crate::release::{AGENT, HOME, Release};

/// This node.
pub(crate) const NODE: &str = "n1";

/// A cluster of one node, whose agent is not started yet.
pub(crate) struct Stage {
    pub(crate) server: ApiServer,
    /// What kubelet would have made, and empty.
    cgroups: Cgroups,
    directory: tempfile::TempDir,
    kubeconfig: PathBuf,
    /// Ends with the stage.
    _collector: Process,
    collector_url: String,
}

/// A running agent.
pub(crate) struct Agent {
    process: Process,
    metrics: u16,
}

/// Events as a reader of the collector sees them.
pub(crate) struct Reader(Process);

/// Directories that are removed with their parents at the end.
pub(crate) struct Cgroups {
    root: PathBuf,
}

/// The generator's `mix`: calls at a rate until it is ended.
pub(crate) struct Mix {
    child: Child,
    orders: Option<ChildStdin>,
}

// === impl Stage ===

impl Stage {
    pub(crate) async fn set() -> Stage {
        let server = ApiServer::start().await;
        server.install_definitions().await;
        Release::install(&server).await;
        let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": NODE, "labels": {"disk": "ssd"}}});
        let file = server.directory().join("node.json");
        fs::write(&file, node.to_string()).unwrap();
        server.kubectl(&["apply", "-f", file.to_str().unwrap()]);
        let kubeconfig = server.kubeconfig_of(HOME, AGENT).await;
        let port = free_address().port();
        let mut collector = Process::start(
            "collector",
            Command::new(product())
                .args(["collector", "--hub", "memory", "--listen"])
                .arg(format!("127.0.0.1:{port}"))
                .args(["--metrics-addr", "127.0.0.1:0"])
                .env_remove("EBPF_HELLO_LOG"),
        );
        collector.await_log("serving");
        Stage {
            server,
            cgroups: Cgroups::make(),
            directory: tempfile::tempdir().unwrap(),
            kubeconfig,
            _collector: collector,
            collector_url: format!("http://127.0.0.1:{port}"),
        }
    }

    /// Starts an agent. The second of a stage finds what the first one saved.
    pub(crate) fn agent(&self, more: &[&str]) -> Agent {
        Agent::start(
            NODE,
            &self.kubeconfig,
            self.directory.path(),
            &self.collector_url,
            more,
        )
    }

    /// From now on agents reach the API server through what logs their requests with all headers.
    pub(crate) async fn observe_requests(&mut self) -> Process {
        let (process, kubeconfig) = self.server.observed(&self.kubeconfig).await;
        self.kubeconfig = kubeconfig;
        process
    }

    /// Where an agent keeps its state.
    pub(crate) fn state(&self) -> &Path {
        self.directory.path()
    }

    /// Follows events from here on.
    pub(crate) fn reader(&self) -> Reader {
        let reader = Process::start(
            "observe",
            Command::new(product())
                .args([
                    "observe",
                    "-f",
                    "--since",
                    "1h",
                    "-o",
                    "json",
                    "--server",
                    &self.collector_url,
                ])
                .env_remove("EBPF_HELLO_LOG"),
        );
        Reader(reader)
    }

    /// Makes a pod that is bound to this node, as the scheduler would; its UID.
    pub(crate) async fn pod(
        &self,
        namespace: &str,
        name: &str,
        app: &str,
        containers: &[&str],
    ) -> String {
        let containers: Vec<Value> = containers
            .iter()
            .map(|name| json!({"name": name, "image": "example.com/image:1"}))
            .collect();
        let pod = json!({
            "metadata": {"name": name, "labels": {"app": app}},
            "spec": {"nodeName": NODE, "containers": containers},
        });
        let pods: Api<Pod> = Api::namespaced(self.server.client(), namespace);
        let pod = serde_json::from_value(pod).unwrap();
        let made = pods.create(&PostParams::default(), &pod).await.unwrap();
        made.uid().unwrap()
    }

    /// Says that containers run, as kubelet would.
    pub(crate) async fn run(&self, namespace: &str, name: &str, containers: &[(&str, &str)]) {
        let statuses: Vec<Value> = containers
            .iter()
            .map(|(name, id)| {
                json!({
                    "name": name, "containerID": format!("containerd://{id}"), "image": "example.com/image:1",
                    "imageID": "", "ready": true, "restartCount": 0,
                })
            })
            .collect();
        let pods: Api<Pod> = Api::namespaced(self.server.client(), namespace);
        let status = json!({"status": {"phase": "Running", "containerStatuses": statuses}});
        pods.patch_status(name, &PatchParams::default(), &Patch::Merge(&status))
            .await
            .unwrap();
    }

    /// Deletes a pod at once, as if kubelet had ended it.
    pub(crate) async fn delete_pod(&self, namespace: &str, name: &str) {
        let pods: Api<Pod> = Api::namespaced(self.server.client(), namespace);
        let at_once = DeleteParams::default().grace_period(0);
        pods.delete(name, &at_once).await.unwrap();
    }

    /// Applies a SyscallFilter; its generation.
    pub(crate) async fn filter(&self, namespace: &str, name: &str, spec: Value) -> i64 {
        let filters: Api<SyscallFilter> = Api::namespaced(self.server.client(), namespace);
        let filter = json!({"apiVersion": "ebpf-hello.dev/v1alpha1", "kind": "SyscallFilter", "metadata": {"name": name}, "spec": spec});
        let applied = filters
            .patch(
                name,
                &PatchParams::apply("test").force(),
                &Patch::Apply(&filter),
            )
            .await;
        applied.unwrap().metadata.generation.unwrap()
    }

    /// Applies a ClusterSyscallFilter; its generation.
    pub(crate) async fn cluster_filter(&self, name: &str, spec: Value) -> i64 {
        let filters: Api<ClusterSyscallFilter> = Api::all(self.server.client());
        let filter = json!({"apiVersion": "ebpf-hello.dev/v1alpha1", "kind": "ClusterSyscallFilter", "metadata": {"name": name}, "spec": spec});
        let applied = filters
            .patch(
                name,
                &PatchParams::apply("test").force(),
                &Patch::Apply(&filter),
            )
            .await;
        applied.unwrap().metadata.generation.unwrap()
    }

    /// Deletes a ClusterSyscallFilter.
    pub(crate) async fn delete_cluster_filter(&self, name: &str) {
        let filters: Api<ClusterSyscallFilter> = Api::all(self.server.client());
        filters
            .delete(name, &DeleteParams::default())
            .await
            .unwrap();
    }

    /// Makes the cgroup of a pod without requests or limits, with kubelet's cgroupfs driver.
    pub(crate) fn pod_cgroup(&self, uid: &str) -> PathBuf {
        self.cgroups.pod(uid)
    }

    /// The same with its systemd driver.
    pub(crate) fn pod_slice(&self, uid: &str) -> PathBuf {
        let uid = uid.replace('-', "_");
        let path = self
            .cgroups
            .root
            .join("kubepods.slice/kubepods-besteffort.slice")
            .join(format!("kubepods-besteffort-pod{uid}.slice"));
        fs::create_dir_all(&path).unwrap();
        path
    }
}

// === impl Agent ===

impl Agent {
    /// Starts one that takes filters and pods from an API server, and waits until it runs.
    pub(crate) fn start(
        node: &str,
        kubeconfig: &Path,
        state: &Path,
        collector: &str,
        more: &[&str],
    ) -> Agent {
        let metrics = free_address().port();
        let mut command = Command::new(product());
        command
            .args(["agent", "--kubernetes", "--node", node, "--kubeconfig"])
            .arg(kubeconfig)
            .arg("--state-dir")
            .arg(state)
            .args(["--collector", collector])
            .args(["--metrics-addr", &format!("127.0.0.1:{metrics}")])
            .args(["--process-events", "off"])
            .args(more);
        Agent::of(&mut command, metrics)
    }

    /// The same of a whole command line, with the port of its metrics.
    pub(crate) fn of(command: &mut Command, metrics: u16) -> Agent {
        let mut process = Process::start("agent", command.env_remove("EBPF_HELLO_LOG"));
        process.await_log("running");
        Agent { process, metrics }
    }

    /// What `ebpf-hello status -o json` prints, asked for without a process of its own.
    pub(crate) fn status(&self) -> Value {
        let path = format!("/run/ebpf-hello/{}.sock", self.process.pid());
        let mut socket = UnixStream::connect(path).unwrap();
        let mut text = String::new();
        socket.read_to_string(&mut text).unwrap();
        serde_json::from_str(&text).unwrap()
    }

    /// A filter as the agent has it, once it fits.
    pub(crate) async fn await_filter(&self, name: &str, fits: impl Fn(&Value) -> bool) -> Value {
        eventually(
            &format!("{name} is in the kernel as expected"),
            async || {
                let status = self.status();
                let filters = status["filters"].as_array().unwrap();
                let found = filters.iter().find(|filter| filter["filter"] == name);
                match found {
                    Some(found) if fits(found) => Ok(found.clone()),
                    _ => Err(status["filters"].to_string()),
                }
            },
        )
        .await
    }

    /// A filter at a generation, with a number of pods.
    pub(crate) async fn await_programmed(&self, name: &str, generation: i64, pods: u64) {
        self.await_filter(name, |filter| {
            filter["programmed"] == true
                && filter["generation"] == generation
                && filter["pods"] == pods
        })
        .await;
    }

    /// Nothing of a filter is in the kernel.
    pub(crate) async fn await_gone(&self, name: &str) {
        eventually(&format!("{name} is gone"), async || {
            let status = self.status();
            let filters = status["filters"].as_array().unwrap();
            let is_there = filters.iter().any(|filter| filter["filter"] == name);
            if is_there {
                Err(status["filters"].to_string())
            } else {
                Ok(())
            }
        })
        .await;
    }

    /// What `/readyz` says: nothing when it is ready.
    pub(crate) fn unready(&self) -> String {
        let (code, text) = self.get("/readyz");
        if code == 200 { String::new() } else { text }
    }

    pub(crate) async fn await_ready(&self) {
        eventually("the agent is ready", async || match self.unready() {
            lacks if lacks.is_empty() => Ok(()),
            lacks => Err(lacks),
        })
        .await;
    }

    /// What Prometheus would get.
    pub(crate) fn metrics(&self) -> String {
        self.get("/metrics").1
    }

    fn get(&self, path: &str) -> (u16, String) {
        use std::io::Write as _;
        let mut socket = std::net::TcpStream::connect(("127.0.0.1", self.metrics)).unwrap();
        write!(
            socket,
            "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        )
        .unwrap();
        let mut text = String::new();
        socket.read_to_string(&mut text).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        let code = head.split(' ').nth(1).unwrap().parse().unwrap();
        (code, body.to_owned())
    }

    pub(crate) fn log(&self) -> String {
        self.process.log()
    }

    /// Ends it; its ledger, as it prints it last.
    pub(crate) fn end(mut self) -> Ledger {
        assert!(self.process.stop().success(), "{}", self.process.log());
        Ledger::of(&self.process.log())
    }

    pub(crate) fn kill(&mut self) {
        self.process.kill();
    }
}

/// The line of a ledger.
#[derive(Debug)]
pub(crate) struct Ledger(Vec<(String, u64)>);

impl Ledger {
    fn of(log: &str) -> Ledger {
        let line = log
            .lines()
            .rfind(|line| line.contains("ledger: "))
            .unwrap_or_else(|| panic!("{log}"));
        let words = line
            .split(['(', ')', ' '])
            .filter_map(|word| word.split_once('='));
        Ledger(
            words
                .map(|(term, count)| (term.to_owned(), count.parse().unwrap()))
                .collect(),
        )
    }

    pub(crate) fn get(&self, term: &str) -> u64 {
        self.0
            .iter()
            .find(|(name, _)| name == term)
            .map_or(0, |(_, count)| *count)
    }

    /// The equation holds, and nothing is on its way.
    pub(crate) fn assert_balanced(&self) {
        let parts = [
            "delivered",
            "counted",
            "suppressed",
            "self",
            "canary",
            "table_miss",
            "lost",
            "in_flight",
        ];
        let sum: u64 = parts.iter().map(|term| self.get(term)).sum();
        assert_eq!(self.get("seen"), sum, "{self:?}");
    }
}

// === impl Reader ===

impl Reader {
    /// What came so far.
    pub(crate) fn events(&self) -> Vec<Event> {
        let log = self.0.log();
        // The last line may not be whole.
        let whole = log.rfind('\n').map_or("", |end| &log[..end]);
        whole
            .lines()
            .filter(|line| line.starts_with('{'))
            .map(|line| {
                serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))
            })
            .collect()
    }

    /// Events of a process, once there are as many.
    pub(crate) async fn await_events(&self, pid: u32, count: usize) -> Vec<Event> {
        eventually(&format!("{count} events of process {pid}"), async || {
            let events = of_process(self.events(), pid);
            if events.len() >= count {
                Ok(events)
            } else {
                Err(format!("there are {}", events.len()))
            }
        })
        .await
    }
}

/// The system calls of a process.
pub(crate) fn of_process(events: Vec<Event>, pid: u32) -> Vec<Event> {
    let is_its = |event: &Event| {
        event
            .process
            .as_ref()
            .is_some_and(|process| process.pid == pid)
    };
    let events = events.into_iter().filter(is_its);
    events.filter(|event| event.policy.is_some()).collect()
}

// === impl Cgroups ===

impl Cgroups {
    /// Those of a node.
    pub(crate) fn make() -> Cgroups {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let root = mount().join(format!("ebpf-hello-e2e-{}-{number}", std::process::id()));
        fs::create_dir_all(root.join("kubepods/besteffort")).unwrap();
        fs::create_dir_all(root.join("kubepods.slice/kubepods-besteffort.slice")).unwrap();
        Cgroups { root }
    }

    /// Makes the one of a pod without requests or limits, as kubelet's cgroupfs driver does.
    pub(crate) fn pod(&self, uid: &str) -> PathBuf {
        let path = self
            .root
            .join("kubepods/besteffort")
            .join(format!("pod{uid}"));
        fs::create_dir_all(&path).unwrap();
        path
    }
}

impl Drop for Cgroups {
    fn drop(&mut self) {
        remove(&self.root);
    }
}

/// Left behind at worst, and empty.
fn remove(directory: &Path) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            remove(&entry.path());
        }
    }
    let _ = fs::remove_dir(directory);
}

/// Where cgroup v2 is mounted (proc_pid_mountinfo(5)).
fn mount() -> PathBuf {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let of_line = |line: &str| {
        let (left, right) = line.split_once(" - ")?;
        let place = left.split(' ').nth(4)?;
        right.starts_with("cgroup2 ").then(|| PathBuf::from(place))
    };
    mounts
        .lines()
        .find_map(of_line)
        .expect("cgroup v2 is mounted somewhere")
}

/// Makes a cgroup and calls in it, at once; the process that did.
pub(crate) fn call(cgroup: &Path, call: &str, count: u64) -> u32 {
    fs::create_dir_all(cgroup).unwrap();
    let child = Command::new(generator())
        .args(["call", call, &count.to_string(), "--cgroup"])
        .arg(cgroup)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let pid = child.id();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
    pid
}

// === impl Mix ===

impl Mix {
    /// `call` so many times a second in a cgroup.
    pub(crate) fn start(cgroup: &Path, rates: &[&str]) -> Mix {
        fs::create_dir_all(cgroup).unwrap();
        let mut child = Command::new(generator())
            .arg("mix")
            .args(rates)
            .arg("--cgroup")
            .arg(cgroup)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        Mix {
            orders: child.stdin.take(),
            child,
        }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Ends it; what it says it made.
    pub(crate) fn end(mut self) -> Value {
        self.orders = None;
        let mut text = String::new();
        self.child
            .stdout
            .take()
            .unwrap()
            .read_to_string(&mut text)
            .unwrap();
        assert!(self.child.wait().unwrap().success());
        serde_json::from_str(&text).unwrap()
    }
}

impl Drop for Mix {
    fn drop(&mut self) {
        // It has ended, unless the test failed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
