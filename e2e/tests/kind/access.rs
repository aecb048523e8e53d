//! The three ways to read events.

use std::time::Duration;

use ebpf_hello_e2e::kind::{Cluster, Container, Namespace, Observer, Workload};

fn nodes_of(events: &[ebpf_hello_e2e::kind::Event]) -> Vec<String> {
    let mut nodes: Vec<String> = events
        .iter()
        .map(|event| event.text("node").to_owned())
        .collect();
    nodes.sort();
    nodes.dedup();
    nodes
}

/// Pods on both nodes that say the text again and again.
fn run_on_both_nodes(shop: &Namespace<'_>, nonce: &str) {
    let web = Container::repeating("web", &format!("/bin/true {nonce}"), 0.5);
    shop.run(&Workload::of("cart", 2, [web]));
}

/// An administrator, over the socket in the pod.
pub(crate) fn who_may_exec_in_the_collector_observes_there(cluster: &Cluster) {
    let shop = cluster.with_namespace("inside");
    let nonce = shop.nonce("inside");
    run_on_both_nodes(&shop, &nonce);
    let observer = shop.observe_inside("statefulset/ebpf-hello-collector", &[]);
    let events = observer.await_events("execs of both nodes", 8, |event| event.mentions(&nonce));
    assert_eq!(nodes_of(&events).len(), 2, "{:?}", nodes_of(&events));
}

/// A user with a kubeconfig, from outside: the product itself forwards a port and asks for a token.
pub(crate) fn an_account_observes_through_a_port_forward(cluster: &Cluster) {
    let shop = cluster.with_namespace("forward");
    shop.grant_reader("reader");
    let nonce = shop.nonce("forward");
    run_on_both_nodes(&shop, &nonce);
    let account = format!("{}/reader", shop.name());
    let mut command = cluster.product();
    command.args([
        "observe",
        "--service-account",
        &account,
        "-n",
        shop.name(),
        "-f",
        "-o",
        "json",
    ]);
    let observer = Observer::run(command);
    let events = observer.await_events("execs of both nodes", 8, |event| event.mentions(&nonce));
    assert_eq!(nodes_of(&events).len(), 2, "{:?}", nodes_of(&events));

    // An account without the right is told which one it lacks.
    shop.kubectl(&["create", "serviceaccount", "stranger"]);
    let account = format!("{}/stranger", shop.name());
    let mut command = cluster.product();
    command.args([
        "observe",
        "--service-account",
        &account,
        "-n",
        shop.name(),
        "-f",
        "-o",
        "json",
    ]);
    let mut refused = Observer::run(command);
    assert!(!refused.await_end(Duration::from_secs(30)) && refused.events().is_empty());
    assert!(
        refused.complaints().contains("syscallfilters"),
        "{}",
        refused.complaints()
    );
}

/// In an agent's pod there is one node to see.
pub(crate) fn an_agents_pod_shows_its_node_and_says_so(cluster: &Cluster) {
    let shop = cluster.with_namespace("onenode");
    let nonce = shop.nonce("onenode");
    run_on_both_nodes(&shop, &nonce);
    let worker = cluster.worker();
    let observer = shop.observe_inside(&cluster.agent_on(worker.name()), &[]);
    let events = observer.await_events("execs of this node", 6, |event| event.mentions(&nonce));
    assert_eq!(nodes_of(&events), [worker.name()]);
    assert!(
        observer.complaints().contains(worker.name()),
        "it says that it shows one node: {}",
        observer.complaints()
    );
}
