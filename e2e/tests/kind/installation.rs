//! What `helm install` brings.

use ebpf_hello_e2e::kind::{Cluster, RELEASE};

pub(crate) fn every_node_has_a_ready_agent(cluster: &Cluster) {
    let agents = cluster.pods_of("agent");
    for node in cluster.nodes() {
        let on_it = agents.iter().filter(|(_, on)| on == node.name()).count();
        assert_eq!(on_it, 1, "agents on {}: {agents:?}", node.name());
    }
    // Ready is a canary that came through every attached program: asked of the agent itself.
    for (pod, _) in &agents {
        cluster.inside(pod, &["status", "--probe"]);
        let status = cluster.inside(pod, &["status"]);
        assert!(
            status.contains("one node of several on this kernel"),
            "{status}"
        );
    }
}

/// The chart's own test, as whoever installed it runs it.
pub(crate) fn helm_test_sees_an_event_of_its_pod_arrive(cluster: &Cluster) {
    let said = cluster.helm(&["test", RELEASE, "--timeout", "3m"]);
    // The pod ends well when an event of its own came back from the collector, and in no other way.
    let suite = said
        .split("TEST SUITE:")
        .find(|suite| suite.trim_start().starts_with("ebpf-hello-test\n"))
        .unwrap_or_else(|| panic!("{said}"));
    assert!(suite.contains("Succeeded"), "{said}");
}
