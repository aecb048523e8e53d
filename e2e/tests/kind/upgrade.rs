//! From an older release to this one, back, and away.

use std::collections::BTreeSet;

use ebpf_hello_e2e::kind::{Cluster, RELEASE, SYSTEM};

use crate::counter::Counter;

/// A chart of an older release: its definitions lack `sampling`, its values have other names, and its
/// agents are replaced only when their pods are deleted.
const OLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/chart-0.0.1");

/// What an agent keeps on its node.
const STATE: [&str; 4] = ["epoch", "identity", "policy.json", "spool"];

/// What is not of the release, and may stay: told in the chart's notes.
pub(crate) fn uninstall_leaves_what_is_the_users_and_nothing_else(cluster: &Cluster) {
    let shop = cluster.with_namespace("mine");
    shop.apply_filter(
        "mine",
        r#"{rules: [{syscalls: ["@timer"], handler: Timer}]}"#,
    );
    let notes = cluster.helm(&["get", "notes", RELEASE]);
    for told in ["kubectl delete crd", "/var/lib/ebpf-hello"] {
        assert!(
            notes.contains(told),
            "the notes say how to remove what stays: {notes}"
        );
    }
    let said = cluster.uninstall();
    println!("    {}", said.trim().replace('\n', "\n    "));
    shop.kubectl(&["get", "syscallfilter", "mine"]);

    let left: BTreeSet<String> = cluster
        .inventory()
        .difference(cluster.before())
        .cloned()
        .collect();
    let users = |line: &String| {
        line.starts_with("CustomResourceDefinition.") // the definitions, and what a server derives of them
            || line.starts_with("SyscallFilter.")
            || line.ends_with(".ebpf-hello.dev")
            || line.contains(&format!(" {}/", shop.name()))
            || line.ends_with(&format!(" {SYSTEM}/kube-root-ca.crt"))
            || line.ends_with(&format!(" {SYSTEM}/default"))
            || line.ends_with(&format!(" /{SYSTEM}"))
    };
    let ours: Vec<&String> = left
        .iter()
        .filter(|line| !users(line) && !of_other_tests(line))
        .collect();
    assert!(ours.is_empty(), "left behind: {ours:#?}");
    for node in cluster.nodes() {
        // The directory is the node's; what its files are for is documented.
        let files = node.run("ls -A /var/lib/ebpf-hello");
        let files: BTreeSet<&str> = files.split_whitespace().collect();
        println!("    {}:/var/lib/ebpf-hello: {files:?}", node.name());
        assert!(files.is_subset(&STATE.into()), "{files:?}");
        assert_eq!(node.run("stat -c %a /var/lib/ebpf-hello").trim(), "700");
        node.run("rm -rf /var/lib/ebpf-hello");
        let programs = node.run("ls /run/ebpf-hello 2>/dev/null || true");
        assert!(programs.trim().is_empty(), "{}: {programs}", node.name());
    }
}

/// Namespaces of tests before this one, which may be on their way out.
fn of_other_tests(line: &str) -> bool {
    let suffix = format!("-{:x}", std::process::id());
    line.contains(&format!("{suffix}/"))
        || line.ends_with(&suffix)
        || line.contains(" shop/")
        || line.ends_with(" /shop")
}

/// Deletes the agents' pods, and waits for their successors.
fn replace_agents(cluster: &Cluster) {
    let old: BTreeSet<_> = cluster.pods_of("agent").into_iter().collect();
    for (pod, _) in &old {
        cluster.kubectl(&["-n", SYSTEM, "delete", "pod", pod, "--wait=false"]);
    }
    cluster.eventually("their successors", || {
        let now: BTreeSet<_> = cluster.pods_of("agent").into_iter().collect();
        if now.is_disjoint(&old) && now.len() == old.len() {
            Ok(())
        } else {
            Err(format!("{now:?}"))
        }
    });
    cluster.await_agents();
}

pub(crate) fn an_older_release_is_upgraded_and_rolled_back(cluster: &Cluster) {
    cluster.kubectl(&[
        "delete",
        "crd",
        "--ignore-not-found",
        "syscallfilters.ebpf-hello.dev",
        "clustersyscallfilters.ebpf-hello.dev",
    ]);
    cluster.install(OLDER, &[]);
    let explained = |path: &str| cluster.try_kubectl(&["explain", path]);
    assert!(
        explained("syscallfilter.spec.rules.sampling").is_err(),
        "the older definition has no sampling"
    );

    let shop = cluster.with_namespace("older");
    shop.apply_filter("kept", r#"{rules: [{syscalls: [openat], handler: Path}]}"#);
    let uid =
        || cluster.get(&["-n", shop.name(), "syscallfilter", "kept"])["metadata"]["uid"].clone();
    let kept = uid();
    shop.await_programmed("kept", "2/2");
    let counter = Counter::of(&shop, "older");
    let observer = shop.observe(&["--type", "exec"]);
    counter.start(&shop);
    counter.await_more(&observer, 5);

    let agents: BTreeSet<_> = cluster.pods_of("agent").into_iter().collect();
    // Nodes take their time: a new collector has old agents first.
    cluster.install(cluster.chart(), &["--set", "agent.updateStrategy=OnDelete"]);
    cluster.eventually("the new definitions", || {
        explained("syscallfilter.spec.rules.sampling")
    });
    let still: BTreeSet<_> = cluster.pods_of("agent").into_iter().collect();
    let old_agents = still == agents;
    counter.await_more(&observer, 5);
    println!("    old agents with the new collector: {old_agents}");
    assert!(old_agents, "the old agents were still there: {still:?}");
    // Nothing is missing over the change of the collector.
    counter.assert_nothing_missing(&observer);
    replace_agents(cluster);
    for (pod, node) in cluster.pods_of("agent") {
        // One that runs is read while it changes: what is on its way between two looks makes a moment's difference.
        let ledger = cluster.eventually(&format!("the ledger of {node} is closed"), || {
            let status = cluster.inside(&pod, &["status"]);
            let ledger = status.lines().find(|line| line.starts_with("ledger: "));
            match ledger {
                Some(ledger) if !ledger.contains("imbalance=") => Ok(ledger.to_owned()),
                _ => Err(status),
            }
        });
        println!("    {node}: {ledger}");
    }
    assert_eq!(uid(), kept, "the filter is the same object");
    shop.await_programmed("kept", "2/2");

    // Not to be waited for: of agents that are replaced only when their pods are deleted helm waits forever.
    cluster.helm(&["rollback", RELEASE, "1", "--timeout", "3m"]);
    cluster.await_collector();
    replace_agents(cluster);
    assert_eq!(uid(), kept, "the filter outlives the way back");
    counter.await_more(&observer, 5);
    cluster.uninstall();
}
