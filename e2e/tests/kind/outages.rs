//! What happens while a part is away.

use std::{
    thread,
    time::{Duration, Instant},
};

use ebpf_hello_e2e::kind::{Cluster, Event, SYSTEM};

use crate::counter::Counter;

fn on_node<'e>(events: &'e [Event], node: &'e str) -> impl Iterator<Item = &'e Event> {
    events
        .iter()
        .filter(move |event| event.text("node") == node)
}

/// Events go on; what nobody saw in between is a hole between two epochs, and no event is told twice.
pub(crate) fn an_agents_pod_is_deleted(cluster: &Cluster) {
    let shop = cluster.with_namespace("agentgone");
    let counter = Counter::of(&shop, "agentgone");
    let observer = shop.observe(&["--type", "exec"]);
    counter.start(&shop);
    counter.await_more(&observer, 3);
    let worker = cluster.worker();
    cluster.kubectl(&[
        "-n",
        SYSTEM,
        "delete",
        "pod",
        &cluster.agent_on(worker.name()),
    ]);
    cluster.await_agents();
    counter.await_more(&observer, 10);

    for (pod, told) in counter.numbers(&observer) {
        let mut once = told.clone();
        once.sort_unstable();
        once.dedup();
        assert_eq!(
            once.len(),
            told.len(),
            "{pod} was told an exec twice: {told:?}"
        );
    }
    let events = counter.counted(&observer);
    let mut epochs: Vec<&str> = on_node(&events, worker.name())
        .map(|event| event.text("epoch"))
        .collect();
    epochs.dedup();
    assert_eq!(
        epochs.len(),
        2,
        "epochs of the worker's agent, one after the other: {epochs:?}"
    );
    // The other node's agent was not touched.
    let other = cluster
        .nodes()
        .into_iter()
        .find(|node| node.name() != worker.name())
        .unwrap();
    let mut untouched: Vec<u64> = on_node(&events, other.name())
        .map(|event| event.argv()[3].parse().unwrap())
        .collect();
    untouched.sort_unstable();
    assert!(
        untouched.windows(2).all(|pair| pair[1] == pair[0] + 1),
        "{untouched:?}"
    );
}

/// The store goes with the pod; what agents had not got rid of waits with them.
pub(crate) fn the_collector_is_deleted_and_nothing_is_lost(cluster: &Cluster) {
    let shop = cluster.with_namespace("collectorgone");
    let counter = Counter::of(&shop, "collectorgone");
    let observer = shop.observe(&["--type", "exec"]);
    counter.start(&shop);
    counter.await_more(&observer, 3);
    cluster.kubectl(&["-n", SYSTEM, "delete", "pod", "ebpf-hello-collector-0"]);
    cluster.await_collector();
    counter.await_more(&observer, 30);
    counter.assert_nothing_missing(&observer);
}

/// Waits until pods on every node find the API server: after a long time away, a node's kube-proxy takes up to a
/// minute to look for it.
fn await_routes(cluster: &Cluster) {
    let service = cluster.get(&["service", "kubernetes"]);
    let address = service["spec"]["clusterIP"].as_str().unwrap();
    for node in cluster.nodes() {
        let what = format!("the way to the API server on {}", node.name());
        cluster.await_that(&what, Duration::from_secs(120), || {
            node.try_run(&format!("timeout 1 bash -c '</dev/tcp/{address}/443'"))
        });
    }
}

/// Twenty seconds (E2E_API_AWAY) without the API server: policy, identity and access go on.
pub(crate) fn the_api_server_is_away(cluster: &Cluster) {
    let away = std::env::var("E2E_API_AWAY")
        .ok()
        .and_then(|seconds| seconds.parse().ok())
        .unwrap_or(20);
    let shop = cluster.with_namespace("apiaway");
    let counter = Counter::of(&shop, "apiaway");
    shop.apply_filter("opens", r#"{rules: [{syscalls: [openat], handler: Path}]}"#);
    shop.await_programmed("opens", "2/2");
    let observer = shop.observe(&["--type", "exec", "--type", "path"]);
    counter.start(&shop);
    counter.await_more(&observer, 3);
    let control_plane = cluster.control_plane();
    control_plane.remove_api_server();
    let gone = Instant::now();
    cluster.eventually("the API server is gone", || {
        match cluster.try_kubectl(&["get", "--raw", "/readyz", "--request-timeout=1s"]) {
            Ok(_) => Err("it answers".to_owned()),
            Err(_) => Ok(()),
        }
    });
    let opens = observer.select(|event| event.is("path")).len();
    counter.await_more(&observer, 10);
    assert!(
        observer.select(|event| event.is("path")).len() > opens,
        "opens are still told"
    );
    thread::sleep(Duration::from_secs(away).saturating_sub(gone.elapsed()));
    control_plane.restore_api_server();
    cluster.eventually("the API server is back", || {
        cluster.try_kubectl(&["get", "--raw", "/readyz", "--request-timeout=1s"])
    });
    await_routes(cluster);
    counter.await_more(&observer, 5);
    counter.assert_nothing_missing(&observer);
    // A filter that is applied now arrives: the watches are open again.
    shop.apply_filter("opens", r#"{rules: [{syscalls: [uname], handler: Trace}]}"#);
    shop.await_programmed("opens", "2/2");
}

pub(crate) fn the_worker_is_stopped_and_started(cluster: &Cluster) {
    let shop = cluster.with_namespace("nodegone");
    let counter = Counter::of(&shop, "nodegone");
    let observer = shop.observe(&["--type", "exec"]);
    counter.start(&shop);
    counter.await_more(&observer, 3);
    let worker = cluster.worker();
    worker.stop();
    let control_plane = cluster.control_plane();
    let of = |node: &str| {
        observer
            .select(|event| counter.is_counted(event) && event.text("node") == node)
            .len()
    };
    let before = (of(worker.name()), of(control_plane.name()));
    observer.await_events("the other node goes on", before.1 + 5, |event| {
        counter.is_counted(event) && event.text("node") == control_plane.name()
    });
    worker.start();
    cluster.eventually("the worker is ready", || {
        cluster.try_kubectl(&[
            "wait",
            "--for=condition=Ready",
            &format!("node/{}", worker.name()),
            "--timeout=1s",
        ])
    });
    cluster.await_agents();
    observer.await_events("the worker's events are back", before.0 + 5, |event| {
        counter.is_counted(event) && event.text("node") == worker.name()
    });
}
