//! A node without its kubelet: an agent with its collector, cgroups, links to logs, and a way to the API server that can be
//! cut.

use std::{
    collections::BTreeSet,
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use ebpf_hello_e2e::{ApiServer, PATIENCE, Process, eventually, free_address, product};
use k8s_openapi::api::core::v1::Node;
use kube::{Api, api::PostParams};
use serde_json::json;
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    sync::watch,
    time::sleep,
};

use crate::release::{AGENT, HOME, Release};

/// The node.
pub(super) const NODE: &str = "n1";
/// The namespace of its pods.
pub(super) const NAMESPACE: &str = "churn";

/// An agent that knows its pods, and a collector.
pub(super) struct Fixture {
    pub(super) server: ApiServer,
    pub(super) proxy: Proxy,
    pub(super) place: Arc<Place>,
    collector: Process,
    /// The collector's.
    pub(super) url: String,
    agent: Process,
    /// The agent's.
    pub(super) metrics: SocketAddr,
}

impl Fixture {
    /// Starts all, and waits until the agent is ready.
    pub(super) async fn start() -> Fixture {
        let server = ApiServer::start().await;
        server.install_definitions().await;
        server.namespace(NAMESPACE, &[]).await;
        Release::install(&server).await;
        let node: Node = serde_json::from_value(json!({"metadata": {"name": NODE}})).unwrap();
        let nodes: Api<Node> = Api::all(server.client());
        nodes.create(&PostParams::default(), &node).await.unwrap();
        let address = server.url().trim_start_matches("https://").parse().unwrap();
        let proxy = Proxy::start(address).await;
        let kubeconfig = server.kubeconfig_of(HOME, AGENT).await;
        through(
            &kubeconfig,
            &server.url(),
            &format!("https://{}", proxy.address),
        );
        let place = Place::make(server.directory());
        let address = free_address();
        let collector = Process::start(
            "collector",
            Command::new(product())
                .args(["collector", "--listen", &address.to_string()])
                .args(["--metrics-addr", "127.0.0.1:0"]),
        );
        eventually("the collector answers", async || {
            TcpStream::connect(address).await.map(drop)
        })
        .await;
        let (url, metrics) = (format!("http://{address}"), free_address());
        let mut agent = Process::start(
            "agent",
            Command::new(product())
                .args(["agent", "--node", NODE, "--collector", &url, "--kubernetes"])
                .arg("--kubeconfig")
                .arg(&kubeconfig)
                .arg("--log-links")
                .arg(&place.links)
                .args(["--metrics-addr", &metrics.to_string(), "--spool", "none"])
                .arg("--state-dir")
                .arg(server.directory().join("state")),
        );
        agent.await_log("the pods of this node are known");
        agent.await_log("ready: canaries come through every attached program");
        Fixture {
            server,
            proxy,
            place,
            collector,
            url,
            agent,
            metrics,
        }
    }

    /// Ends agent and collector. The agent's ledger balances, and of pods it asked for nothing but what it may.
    pub(super) fn stop(mut self) {
        let status = self.agent.stop();
        let log = self.agent.log();
        assert!(status.success(), "{log}");
        let ledger = log.lines().rfind(|line| line.starts_with("ledger:"));
        let ledger = ledger.unwrap_or_else(|| panic!("no ledger: {log}"));
        println!("{ledger}");
        let balances = ledger.contains("in_flight=0") && !ledger.contains("imbalance");
        assert!(balances, "{ledger}");
        self.collector.stop();
        let requests = self.server.requests();
        let user = format!("system:serviceaccount:{HOME}:{AGENT}");
        let of_agent: Vec<_> = requests
            .iter()
            .filter(|request| request.user == user)
            .filter(|request| request.resource == "pods")
            .collect();
        assert!(!of_agent.is_empty(), "the agent asked for no pods");
        let verbs: BTreeSet<&str> = of_agent
            .iter()
            .map(|request| request.verb.as_str())
            .collect();
        println!("{} requests for pods: {verbs:?}", of_agent.len());
        for request in of_agent {
            let is_its_right =
                ["list", "watch"].contains(&request.verb.as_str()) && request.code == 200;
            assert!(is_its_right, "{request:?}");
            assert!(request.uri.contains("spec.nodeName"), "{request:?}");
        }
    }
}

/// The cgroups and the links of one node.
pub(super) struct Place {
    root: PathBuf,
    links: PathBuf,
}

impl Place {
    fn make(directory: &Path) -> Arc<Place> {
        let mount = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"]
            .map(Path::new)
            .into_iter()
            .find(|mount| mount.join("cgroup.controllers").is_file())
            .expect("cgroup v2 is mounted");
        // Each test has its own: it removes them at its end.
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let place = Place {
            root: mount.join(format!("identity-{}-{number}", std::process::id())),
            links: directory.join("links"),
        };
        fs::create_dir_all(place.root.join("kubepods/besteffort")).unwrap();
        fs::create_dir_all(&place.links).unwrap();
        Arc::new(place)
    }

    pub(super) fn pod(&self, uid: &str) -> PathBuf {
        self.root.join(format!("kubepods/besteffort/pod{uid}"))
    }

    pub(super) fn link(&self, pod: &str, container: &str) {
        let name = format!("{pod}_{NAMESPACE}_web-{container}.log");
        std::os::unix::fs::symlink("/nowhere", self.links.join(name)).unwrap();
    }

    pub(super) async fn remove(&self, uid: &str, container: &str) {
        let pod = self.pod(uid);
        for directory in [pod.join(container), pod] {
            let end = Instant::now() + PATIENCE;
            while let Err(error) = fs::remove_dir(&directory) {
                // Gone already is as good.
                if error.kind() == std::io::ErrorKind::NotFound {
                    break;
                }
                assert!(Instant::now() < end, "{}: {error}", directory.display());
                sleep(Duration::from_millis(20)).await;
            }
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // What a failed test left.
        for class in ["kubepods/besteffort", "kubepods", ""] {
            let directory = self.root.join(class);
            for entry in fs::read_dir(&directory).into_iter().flatten().flatten() {
                for inner in fs::read_dir(entry.path()).into_iter().flatten().flatten() {
                    let _ = fs::remove_dir(inner.path());
                }
                let _ = fs::remove_dir(entry.path());
            }
            let _ = fs::remove_dir(directory);
        }
    }
}

/// Between agent and API server, to be cut.
pub(super) struct Proxy {
    address: SocketAddr,
    is_cut: Arc<AtomicBool>,
    /// Ends the connections that are.
    cuts: watch::Sender<()>,
}

impl Proxy {
    async fn start(server: SocketAddr) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let proxy = Proxy {
            address: listener.local_addr().unwrap(),
            is_cut: Arc::default(),
            cuts: watch::Sender::new(()),
        };
        let (is_cut, cuts) = (Arc::clone(&proxy.is_cut), proxy.cuts.subscribe());
        tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                if is_cut.load(Ordering::SeqCst) {
                    continue;
                }
                let mut cuts = cuts.clone();
                cuts.mark_unchanged();
                tokio::spawn(async move {
                    let mut upstream = TcpStream::connect(server).await?;
                    tokio::select! {
                        copied = copy_bidirectional(&mut client, &mut upstream) => copied.map(drop),
                        _ = cuts.changed() => Ok(()),
                    }
                });
            }
        });
        proxy
    }

    /// Ends what is open, and lets nothing through for a while.
    pub(super) async fn cut(&self, time: Duration) {
        self.is_cut.store(true, Ordering::SeqCst);
        self.cuts.send_replace(());
        sleep(time).await;
        self.is_cut.store(false, Ordering::SeqCst);
    }
}

fn through(kubeconfig: &Path, server: &str, proxy: &str) {
    let text = fs::read_to_string(kubeconfig).unwrap();
    assert!(text.contains(server), "{text}");
    fs::write(kubeconfig, text.replace(server, proxy)).unwrap();
}
