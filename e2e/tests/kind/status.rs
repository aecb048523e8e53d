//! What `kubectl get syscallfilters` says.

use std::time::Duration;

use ebpf_hello_e2e::kind::{Cluster, Container, SYSTEM, Workload};

pub(crate) fn a_filter_says_how_many_nodes_have_it_and_a_broken_one_says_why(cluster: &Cluster) {
    let shop = cluster.with_namespace("status");
    shop.apply_filter(
        "good",
        r#"{rules: [{syscalls: ["@timer"], handler: Timer}]}"#,
    );
    shop.run(&Workload::of("cart", 2, [Container::running("web", "")]));
    shop.await_programmed("good", "2/2");
    let table = shop.kubectl(&["get", "sf", "-A"]);
    assert!(
        table.contains("PROGRAMMED") && table.contains("2/2"),
        "{table}"
    );

    shop.apply_filter(
        "broken",
        r#"{rules: [{syscalls: [no_such_call], handler: Trace}]}"#,
    );
    cluster.eventually("the broken filter says why", || {
        let status = cluster.get(&["-n", shop.name(), "syscallfilter", "broken"])["status"].clone();
        let accepted = status["conditions"]
            .as_array()
            .and_then(|conditions| {
                conditions
                    .iter()
                    .find(|condition| condition["type"] == "Accepted")
                    .cloned()
            })
            .unwrap_or_default();
        let told = accepted["status"] == "False"
            && accepted["message"]
                .as_str()
                .is_some_and(|message| message.contains("no_such_call"));
        if told {
            Ok(())
        } else {
            Err(status.to_string())
        }
    });
    shop.await_programmed("good", "2/2");
}

/// The agent is kept away from the worker: for its status that is a node that has failed.
pub(crate) fn a_node_whose_agent_cannot_start_is_named_within_a_minute(cluster: &Cluster) {
    let shop = cluster.with_namespace("missing");
    shop.apply_filter(
        "timers",
        r#"{rules: [{syscalls: ["@timer"], handler: Timer}]}"#,
    );
    shop.await_programmed("timers", "2/2");
    let worker = cluster.worker();
    // A volume of its pod is no directory any more: the pod is there and cannot start.
    worker.run("mv /var/log/containers /var/log/containers.away && touch /var/log/containers");
    cluster.kubectl(&[
        "-n",
        SYSTEM,
        "delete",
        "pod",
        &cluster.agent_on(worker.name()),
        "--wait=false",
    ]);
    let named = std::panic::catch_unwind(|| {
        cluster.await_that(
            "1/2, with the node and a reason",
            Duration::from_secs(60),
            || {
                let status =
                    cluster.get(&["-n", shop.name(), "syscallfilter", "timers"])["status"].clone();
                let nodes = &status["nodes"];
                let failure = status["failures"]
                    .as_array()
                    .and_then(|failures| failures.first().cloned())
                    .unwrap_or_default();
                let told = nodes["summary"] == "1/2"
                    && failure["node"] == worker.name()
                    && failure["reason"]
                        .as_str()
                        .is_some_and(|reason| !reason.is_empty());
                if told {
                    // As a person asks.
                    let table = cluster.kubectl(&["get", "sf", "-n", shop.name()]);
                    assert!(table.contains(" 1/2 "), "{table}");
                    Ok(failure.to_string())
                } else {
                    Err(status.to_string())
                }
            },
        )
    });
    worker.run("rm /var/log/containers && mv /var/log/containers.away /var/log/containers");
    cluster.await_agents();
    shop.await_programmed("timers", "2/2");
    println!(
        "    {}",
        named.unwrap_or_else(|error| std::panic::resume_unwind(error))
    );
}
