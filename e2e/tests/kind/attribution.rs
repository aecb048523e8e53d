//! Whose an event is.

use std::collections::BTreeMap;

use ebpf_hello_e2e::kind::{Cluster, Container, Event, Workload};

const EXECS: usize = 25;

/// Both nodes share one kernel, in which both agents' programs see every exec.
pub(crate) fn every_exec_is_told_once_by_its_node_with_pod_container_workload_and_labels(
    cluster: &Cluster,
) {
    let shop = cluster.with_namespace("shop");
    let nonce = shop.nonce("exec");
    let observer = shop.observe(&["--type", "exec", "--type", "identity"]);
    // The shell that runs this script is the container's first process: its own exec carries the nonce too.
    let script =
        format!("i=0; while [ $i -lt {EXECS} ]; do /bin/true {nonce} $i; i=$((i+1)); done");
    let workload = Workload::of(
        "cart",
        4,
        [
            Container::running("web", &script),
            Container::running("side", &script),
        ],
    );
    let pods = shop.run(&workload);
    let nodes: Vec<&str> = pods.iter().map(|pod| pod.node.as_str()).collect();
    for node in cluster.nodes() {
        assert!(
            nodes.contains(&node.name()),
            "a pod on {}: {nodes:?}",
            node.name()
        );
    }

    let expected = pods.len() * 2 * (EXECS + 1);
    let events = observer.await_events("execs with the nonce", expected, |event| {
        event.mentions(&nonce)
    });
    let mut told = BTreeMap::<(String, String, String), usize>::new();
    let mut late = 0;
    for event in &events {
        late += usize::from(event.text("pod/container/name").is_empty());
        let event = observer.identified(event);
        let argv = event.argv();
        let number = if argv[0] == "/bin/sh" {
            "first"
        } else {
            argv[2]
        };
        let key = (
            event.text("pod/uid"),
            event.text("pod/container/name"),
            number,
        );
        *told
            .entry((key.0.to_owned(), key.1.to_owned(), key.2.to_owned()))
            .or_default() += 1;

        let pod = pods
            .iter()
            .find(|pod| pod.uid == event.text("pod/uid"))
            .unwrap_or_else(|| panic!("an event of a pod that is none of ours: {}", event.line()));
        let field = |path: &str, expected: &str| {
            assert_eq!(event.text(path), expected, "{path}: {}", event.line())
        };
        field("node", &pod.node);
        field("pod/namespace", shop.name());
        field("pod/name", &pod.name);
        field("pod/labels/app", "cart");
        field("pod/labels/tier", "test");
        field("pod/workload/kind", "Deployment");
        field("pod/workload/name", "cart");
        let container = event.text("pod/container/name");
        field("pod/container/id", &pod.containers[container]);
    }
    println!(
        "    {late} of {expected} execs got their container's name by an identity that followed"
    );
    let twice: Vec<_> = told.iter().filter(|(_, times)| **times != 1).collect();
    assert!(twice.is_empty(), "told more than once: {twice:?}");
    assert_eq!(told.len(), expected, "every exec of every container once");
}

pub(crate) fn a_namespace_never_sees_anothers_events(cluster: &Cluster) {
    let (mine, theirs) = (
        cluster.with_namespace("mine"),
        cluster.with_namespace("theirs"),
    );
    let nonce = mine.nonce("secret");
    let observer = mine.observe(&[]);
    let script = format!("/bin/true {nonce}");
    mine.run(&Workload::of(
        "a",
        2,
        [Container::repeating("a", &script, 1.0)],
    ));
    theirs.run(&Workload::of(
        "b",
        2,
        [Container::repeating("b", &script, 0.2)],
    ));
    observer.await_events("my own", 10, |event| event.mentions(&nonce));
    let foreign =
        observer.select(|event| !event.is("loss") && event.text("pod/namespace") != mine.name());
    assert!(
        foreign.is_empty(),
        "{:?}",
        foreign.iter().map(Event::line).collect::<Vec<_>>()
    );

    // The same account asks for the other namespace, and for all.
    for asked in [&["-n", theirs.name()][..], &[]] {
        let mut refused =
            ebpf_hello_e2e::kind::Observer::follow(cluster, mine.name(), "reader", asked);
        let well = refused.await_end(std::time::Duration::from_secs(30));
        assert!(
            !well && refused.events().is_empty(),
            "{asked:?}: {}",
            refused.complaints()
        );
        assert!(
            refused.complaints().contains("syscallfilters"),
            "{}",
            refused.complaints()
        );
    }
}
