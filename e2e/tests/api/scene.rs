//! A cluster's API without its machines: nodes, the chart's release, and processes of the product that meet there.

use std::{
    net::SocketAddr,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use ebpf_hello_e2e::{ApiServer, Process, eventually, free_address, product};
use ebpf_hello_policy::crd::{FilterStatus, SyscallFilter};
use k8s_openapi::{api::core::v1::Node, apimachinery::pkg::apis::meta::v1::Condition};
use kube::{
    Api,
    api::{DeleteParams, Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};

use crate::release::{COLLECTOR, Release};

pub(crate) use crate::release::HOME;

/// Namespace of the filters.
pub(crate) const SHOP: &str = "shop";

/// An API server with nodes and the product's objects.
pub(crate) struct Scene {
    /// The server.
    pub(crate) server: ApiServer,
    /// The release in it.
    pub(crate) release: Release,
}

/// A collector's process and where it is.
pub(crate) struct Collector {
    /// The process.
    pub(crate) process: Process,
    /// Where agents publish.
    pub(crate) address: SocketAddr,
    /// Where its health is.
    pub(crate) monitor: SocketAddr,
}

// === impl Scene ===

impl Scene {
    /// Starts the server, with these nodes, each of which should run an agent.
    pub(crate) async fn new(nodes: &[&str]) -> Scene {
        let scene = Scene::without_definitions(nodes).await;
        scene.server.install_definitions().await;
        scene
    }

    /// The same before the hook of the chart has run.
    pub(crate) async fn without_definitions(nodes: &[&str]) -> Scene {
        let server = ApiServer::start().await;
        let release = Release::install(&server).await;
        server.namespace(SHOP, &[]).await;
        let scene = Scene { server, release };
        for name in nodes {
            scene.node(name).await;
        }
        scene
    }

    /// Adds a node, with the label by which the chart's DaemonSet knows those that can run an agent.
    pub(crate) async fn node(&self, name: &str) {
        let metadata = json!({"name": name, "labels": {"kubernetes.io/os": "linux"}});
        let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": metadata});
        let node: Node = serde_json::from_value(node).unwrap();
        let api: Api<Node> = Api::all(self.server.client());
        api.create(&PostParams::default(), &node).await.unwrap();
    }

    /// Filters of the shop.
    pub(crate) fn filters(&self) -> Api<SyscallFilter> {
        Api::namespaced(self.server.client(), SHOP)
    }

    /// Starts a collector as the chart's account.
    pub(crate) async fn collector(&self, name: &str) -> Collector {
        self.collector_at(name, free_address(), &[]).await
    }

    /// The same at a known address, with more arguments.
    pub(crate) async fn collector_at(
        &self,
        name: &str,
        address: SocketAddr,
        more: &[&str],
    ) -> Collector {
        let kubeconfig = self.server.kubeconfig_of(HOME, COLLECTOR).await;
        self.collector_as(name, &kubeconfig, address, more)
    }

    /// The same as an account of the test's own.
    pub(crate) fn collector_as(
        &self,
        name: &str,
        kubeconfig: &Path,
        address: SocketAddr,
        more: &[&str],
    ) -> Collector {
        let monitor = free_address();
        let process = Process::start(
            name,
            Command::new(product())
                .arg("collector")
                .args(["--listen", &address.to_string()])
                .args(["--metrics-addr", &monitor.to_string()])
                .args(["--kubernetes", "--namespace", HOME, "--kubeconfig"])
                .arg(kubeconfig)
                .args(more),
        );
        Collector {
            process,
            address,
            monitor,
        }
    }

    /// Makes or changes a filter of the shop.
    pub(crate) async fn apply(&self, name: &str, spec: Value) -> SyscallFilter {
        let filter = json!({
            "apiVersion": "ebpf-hello.dev/v1alpha1", "kind": "SyscallFilter",
            "metadata": {"name": name, "namespace": SHOP}, "spec": spec,
        });
        let parameters = PatchParams::apply("test").force();
        let filters = self.filters();
        filters
            .patch(name, &parameters, &Patch::Apply(&filter))
            .await
            .unwrap()
    }

    /// Waits until a filter's status is as it should be; says how long that took.
    pub(crate) async fn await_status(
        &self,
        name: &str,
        is: impl Fn(&FilterStatus) -> bool,
    ) -> (FilterStatus, Duration) {
        let filters = self.filters();
        let start = Instant::now();
        let found = eventually(&format!("the status of {name}"), async || {
            let filter = filters.get(name).await.map_err(|error| error.to_string())?;
            let current = filter.metadata.generation;
            let status = filter.status.unwrap_or_default();
            if status.observed_generation == current && is(&status) {
                return Ok(status);
            }
            Err(serde_json::to_string(&status).unwrap())
        })
        .await;
        (found, start.elapsed())
    }

    /// Removes a filter of the shop.
    pub(crate) async fn delete(&self, name: &str) {
        let filters = self.filters();
        filters
            .delete(name, &DeleteParams::default())
            .await
            .unwrap();
    }

    /// Waits until somebody holds the lease; says who.
    pub(crate) async fn await_holder(&self, but: Option<&str>) -> String {
        let leases: Api<k8s_openapi::api::coordination::v1::Lease> =
            Api::namespaced(self.server.client(), HOME);
        eventually("a holder of the lease", async || {
            let lease = leases
                .get("ebpf-hello-collector")
                .await
                .map_err(|error| error.to_string())?;
            let holder = lease.spec.and_then(|spec| spec.holder_identity);
            match holder.filter(|holder| !holder.is_empty() && Some(holder.as_str()) != but) {
                Some(holder) => Ok(holder),
                None => Err("nobody, or the same".to_owned()),
            }
        })
        .await
    }

    /// Names of all nodes.
    pub(crate) async fn nodes(&self) -> Vec<String> {
        let api: Api<Node> = Api::all(self.server.client());
        let nodes = api.list(&kube::api::ListParams::default()).await.unwrap();
        nodes.iter().map(kube::ResourceExt::name_any).collect()
    }
}

// === impl Collector ===

impl Collector {
    /// A path of its monitor: status code and body.
    pub(crate) async fn get(&self, path: &str) -> (u16, String) {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let mut stream = eventually("the collector's monitor", async || {
            let connecting = tokio::net::TcpStream::connect(self.monitor);
            connecting.await.map_err(|error| error.to_string())
        })
        .await;
        let request = format!("GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        let code = answer.split(' ').nth(1).unwrap().parse().unwrap();
        (code, answer)
    }

    /// One of its numbers.
    pub(crate) async fn metric(&self, name: &str) -> f64 {
        let (_, text) = self.get("/metrics").await;
        let line = text
            .lines()
            .find(|line| line.split(' ').next() == Some(name));
        let line = line.unwrap_or_else(|| panic!("no {name} in {text}"));
        line.rsplit(' ').next().unwrap().parse().unwrap()
    }
}

/// The condition of a type.
pub(crate) fn condition<'a>(status: &'a FilterStatus, type_: &str) -> &'a Condition {
    let found = status.conditions.iter().find(|one| one.type_ == type_);
    found.unwrap_or_else(|| panic!("no {type_} in {status:?}"))
}

/// Whether a status says so many of so many nodes.
pub(crate) fn says(status: &FilterStatus, summary: &str) -> bool {
    status
        .nodes
        .as_ref()
        .is_some_and(|nodes| nodes.summary == summary)
}

/// A filter that counts one call.
pub(crate) fn counting(call: &str) -> Value {
    json!({"rules": [{"syscalls": [call], "handler": "Count"}]})
}
