//! What a fleet costs the API server, in the server's own metrics. Figures, not limits: `scripts/soak` prints them.
//!
//! An agent here opens the watches of a real one, with its code, over connections of its own, and reports to a real
//! collector, which writes status; only the kernel is left out. The metrics do not say whose a watch is: those of the
//! collector (nodes and filters) and of the server itself (it follows all pods, too) are in the sums, so that the figures
//! are a little more than an agent's share.

use std::{sync::Arc, time::Duration};

use ebpf_hello_agent::{
    identity::{Pods, follow_pods},
    kubernetes::{Kubernetes, watch},
};
use ebpf_hello_e2e::free_address;
use ebpf_hello_policy::crd::ClusterSyscallFilter;
use futures::{StreamExt as _, stream};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::{
    Api,
    api::{PartialObjectMeta, Patch, PatchParams},
    runtime::watcher::Config,
};
use serde_json::json;
use tokio::{
    task::JoinSet,
    time::{Instant, sleep, sleep_until},
};

use crate::{
    poser::Poser,
    release::{self, AGENT},
    scene::{Collector, HOME, SHOP, Scene, counting, says},
};

/// Agents at which it is measured.
const SIZES: [usize; 3] = [10, 100, 1_000];
/// The life of a watch, as the agent asks for it: in such a time each is opened again exactly once.
const WINDOW: Duration = Duration::from_secs(290);
/// What happens in a window.
const FILTER_CHANGES: usize = 2;
const POD_CHANGES: usize = 5;
/// Filters that there are, and that change at once.
const FILTERS: usize = 20;
/// Requests of the test's own at a time.
const AT_ONCE: usize = 16;
/// What an agent watches while no filter selects by namespaces.
const WATCHED: [&str; 4] = ["pods", "nodes", "syscallfilters", "clustersyscallfilters"];

/// A fleet that grows.
struct Fleet {
    stage: Scene,
    collector: Collector,
    posers: Vec<Poser>,
    /// The other watches of the agents.
    watches: JoinSet<()>,
}

fn node_name(number: usize) -> String {
    format!("n{number}")
}

// === impl Fleet ===

impl Fleet {
    async fn begin() -> Fleet {
        let stage = Scene::new(&[]).await;
        // All agents come from this machine's address.
        let more = ["--connections-per-address", "2000"];
        let collector = stage.collector_at("collector", free_address(), &more).await;
        stage.await_holder(None).await;
        for number in 0..FILTERS {
            stage
                .apply(&format!("filter-{number}"), counting("mkdir"))
                .await;
        }
        Fleet {
            stage,
            collector,
            posers: Vec::new(),
            watches: JoinSet::new(),
        }
    }

    /// Lets agents come until there are so many, each with a node and a pod on it, and waits until all filters are in
    /// force on all of them.
    async fn grow(&mut self, size: usize) {
        let new = self.posers.len()..size;
        let stage = &self.stage;
        stream::iter(new.clone())
            .for_each_concurrent(AT_ONCE, |number| async move {
                let node = node_name(number);
                stage.node(&node).await;
                release::pod(&stage.server, SHOP, &node, "default", &node).await;
            })
            .await;
        let kubeconfig = self.stage.server.kubeconfig_of(HOME, AGENT).await;
        for number in new {
            let node = node_name(number);
            let kubernetes = Kubernetes::new(Some(&kubeconfig), &*node).await.unwrap();
            let client = kubernetes.client.clone();
            let reach = kubernetes.reach.clone();
            let poser = Poser::start(&node, client.clone(), self.collector.address);
            self.posers.push(poser);
            let filters: Api<ClusterSyscallFilter> = Api::all(client.clone());
            let filters = watch(filters, Config::default(), reach.clone());
            self.watches.spawn(filters.for_each(async |_| {}));
            let nodes: Api<PartialObjectMeta<Node>> = Api::all(client);
            let own = Config::default().fields(&format!("metadata.name={node}"));
            self.watches
                .spawn(watch(nodes, own, reach).for_each(async |_| {}));
            self.watches
                .spawn(follow_pods(kubernetes, Arc::new(Pods::default())));
            // Not more handshakes at once than two CPUs are good for.
            sleep(Duration::from_millis(10)).await;
        }
        self.await_in_force().await;
    }

    /// All filters are in force on all nodes, as their status has it.
    async fn await_in_force(&self) {
        let desired = self.posers.len();
        let summary = format!("{desired}/{desired}");
        for number in 0..FILTERS {
            let name = format!("filter-{number}");
            self.stage
                .await_status(&name, |status| says(status, &summary))
                .await;
        }
    }

    /// Something of each pod changes, as kubelet tells it.
    async fn change_pods(&self, round: usize) {
        let pods: Api<Pod> = Api::namespaced(self.stage.server.client(), SHOP);
        let pods = &pods;
        let patch = &json!({"metadata": {"annotations": {"round": round.to_string()}}});
        stream::iter(0..self.posers.len())
            .for_each_concurrent(AT_ONCE, |number| async move {
                let (parameters, patch) = (PatchParams::default(), Patch::Merge(patch));
                let changed = pods.patch(&node_name(number), &parameters, &patch).await;
                changed.unwrap();
            })
            .await;
    }

    /// A window's cost of one agent, in an hour.
    async fn measure(&self) -> Cost {
        let start = Instant::now();
        let before = Cost::so_far(&self.stage.server.metrics().await);
        let steps = u32::try_from(POD_CHANGES).unwrap();
        for round in 0..POD_CHANGES {
            if round < FILTER_CHANGES {
                self.stage
                    .apply(&format!("filter-{round}"), counting("rmdir"))
                    .await;
            }
            self.change_pods(round).await;
            let next = u32::try_from(round + 1).unwrap();
            sleep_until(start + WINDOW / steps * next).await;
        }
        let cost = Cost::so_far(&self.stage.server.metrics().await).since(&before);
        #[allow(clippy::cast_precision_loss, reason = "not so many agents")]
        let agents = self.posers.len() as f64;
        cost.times(3600.0 / start.elapsed().as_secs_f64() / agents)
    }

    /// Changes all filters at once; how many statuses were written for that, until they said that all is in force, and
    /// how long that took.
    async fn change_all_filters(&self, call: &str) -> (f64, Duration) {
        let written = async || {
            self.collector
                .metric("ebpf_hello_status_writes_total")
                .await
        };
        let (before, start) = (written().await, Instant::now());
        for number in 0..FILTERS {
            self.stage
                .apply(&format!("filter-{number}"), counting(call))
                .await;
        }
        self.await_in_force().await;
        let took = start.elapsed();
        (written().await - before, took)
    }
}

/// What the server was asked and told about what agents watch.
#[derive(Debug)]
struct Cost {
    requests: f64,
    bytes: f64,
    /// Watch events of each of [`WATCHED`], bookmarks among them.
    events: [f64; 4],
}

// === impl Cost ===

impl Cost {
    fn so_far(metrics: &str) -> Cost {
        let of = |family: &str, resource: &str| sum(metrics, family, resource);
        let all = |family: &str| WATCHED.iter().map(|one| of(family, one)).sum();
        Cost {
            requests: all("apiserver_request_total"),
            bytes: all("apiserver_watch_events_sizes_sum"),
            events: WATCHED.map(|resource| of("apiserver_watch_events_total", resource)),
        }
    }

    fn since(mut self, before: &Cost) -> Cost {
        self.requests -= before.requests;
        self.bytes -= before.bytes;
        for (now, before) in self.events.iter_mut().zip(before.events) {
            *now -= before;
        }
        self
    }

    fn times(self, factor: f64) -> Cost {
        Cost {
            requests: self.requests * factor,
            bytes: self.bytes * factor,
            events: self.events.map(|events| events * factor),
        }
    }
}

/// The sum of a family's rows about a resource: of requests, those that read it.
fn sum(metrics: &str, family: &str, resource: &str) -> f64 {
    let rows = metrics.lines().filter(|line| {
        let labels = line
            .strip_prefix(family)
            .and_then(|rest| rest.strip_prefix('{'));
        labels.is_some_and(|labels| {
            let has = |label: &str| labels.contains(label);
            let reads = [r#"verb="WATCH""#, r#"verb="LIST""#];
            has(&format!("resource=\"{resource}\""))
                && (!has("verb=") || reads.into_iter().any(has))
        })
    });
    rows.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap())
        .sum()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "prints figures, in 17 minutes: scripts/soak"]
async fn requests_and_watch_events_of_an_agent_in_an_hour() {
    let mut fleet = Fleet::begin().await;
    for (index, size) in SIZES.into_iter().enumerate() {
        fleet.grow(size).await;
        let cost = fleet.measure().await;
        let hours = 3600.0 / WINDOW.as_secs_f64();
        #[allow(clippy::cast_precision_loss, reason = "a handful")]
        let [filters, pods] = [FILTER_CHANGES, POD_CHANGES].map(|count| count as f64 * hours);
        let of: Vec<_> = WATCHED
            .iter()
            .zip(cost.events)
            .map(|(resource, events)| format!("{resource} {events:.0}"))
            .collect();
        println!(
            "watchers {size}: {:.0} requests, {:.0} watch events ({}), {:.0} kB of them per agent-hour, at {filters:.0} filter changes in the cluster and {pods:.0} pod changes on each node an hour",
            cost.requests,
            cost.events.iter().sum::<f64>(),
            of.join(", "),
            cost.bytes / 1000.0
        );
        // Each watch is opened again in a window, and nothing is listed again.
        let expected = hours * WATCHED.len() as f64;
        assert!(
            cost.requests > expected * 0.9,
            "{} requests: watches are not opened again",
            cost.requests
        );

        // Another call each time, so that it is a change.
        let call = ["chmod", "fchmod", "chown"][index];
        let (writes, took) = fleet.change_all_filters(call).await;
        #[allow(clippy::cast_precision_loss, reason = "not so many agents")]
        let agents = size as f64;
        let events = writes * agents;
        println!(
            "watchers {size}: {FILTERS} filters changed at once: {writes} status writes in {took:.1?}, {:.0} watch events a second",
            events / took.as_secs_f64()
        );
        assert!(writes >= FILTERS as f64, "{writes} writes");
        // The budget of status writes, with what it lets pass at once.
        let budget = 1_000.0 * took.as_secs_f64() + agents.max(1_000.0);
        assert!(events <= budget, "{events} watch events in {took:?}");
    }
}
