//! What filters ask for is what comes.

use std::{collections::BTreeSet, fs, path::Path};

use ebpf_hello_e2e::kind::{Cluster, Container, Event, Workload};

/// Twenty pods of two containers; the filter is for one of them.
pub(crate) fn the_first_open_of_a_selected_container_is_told_and_none_of_the_other(
    cluster: &Cluster,
) {
    let shop = cluster.with_namespace("opens");
    shop.apply_filter(
        "web-opens",
        r#"{podSelector: {matchLabels: {app: cart}}, containers: [web], rules: [{syscalls: [openat], handler: Path}]}"#,
    );
    shop.await_programmed("web-opens", "2/2");
    let observer = shop.observe(&["--type", "path"]);
    // The program's loader opens first: before a line of the script has run.
    let script = "/bin/cat /etc/greeting >/dev/null";
    let workload = Workload::of(
        "cart",
        20,
        [
            Container::running("web", script),
            Container::running("side", script),
        ],
    );
    let pods = shop.run(&workload);

    let greetings = observer.await_events("the greeting, once for each pod", pods.len(), |event| {
        event.text("path/path") == "/etc/greeting"
    });
    assert_eq!(greetings.len(), pods.len(), "opens of the greeting");
    let filter = format!("{}/web-opens", shop.name());
    let opens = observer.select(|event| event.is("path"));
    for event in &opens {
        assert_eq!(event.text("pod/container/name"), "web", "{}", event.line());
        assert_eq!(event.text("policy/filter"), filter, "{}", event.line());
    }
    // What the first process of each container opens first is its loader's cache.
    let first: BTreeSet<&str> = opens
        .iter()
        .filter(|event| {
            event.text("path/path") == "/etc/ld.so.cache" && event.text("process/comm") == "sh"
        })
        .map(|event| event.text("pod/uid"))
        .collect();
    let all: BTreeSet<&str> = pods.iter().map(|pod| pod.uid.as_str()).collect();
    assert_eq!(first, all, "pods whose first process told its first open");
}

pub(crate) fn an_edited_filter_changes_the_stream_without_a_restart(cluster: &Cluster) {
    let shop = cluster.with_namespace("edits");
    shop.apply_filter("what", r#"{rules: [{syscalls: [openat], handler: Path}]}"#);
    let workload = Workload::of(
        "cart",
        2,
        [Container::repeating(
            "web",
            "/bin/cat /etc/greeting >/dev/null; /bin/uname >/dev/null",
            0.5,
        )],
    );
    let before = shop.run(&workload);
    shop.await_programmed("what", "2/2");
    let observer = shop.observe(&[]);
    observer.await_event("an open", |event| {
        event.text("path/path") == "/etc/greeting"
    });
    let called = |event: &Event| event.text("syscall/name") == "uname";
    assert!(
        observer.select(called).is_empty(),
        "uname before it was asked for"
    );

    shop.apply_filter("what", r#"{rules: [{syscalls: [uname], handler: Trace}]}"#);
    shop.await_programmed("what", "2/2");
    let generation = observer
        .await_event("a uname", called)
        .text("policy/generation")
        .to_owned();
    let opens = || observer.select(|event| event.is("path"));
    assert!(
        opens()
            .iter()
            .all(|event| event.text("policy/generation") != generation)
    );
    // What was under way when the table flipped has come.
    std::thread::sleep(std::time::Duration::from_secs(2));
    let so_far = opens().len();
    observer.await_events("more of them", observer.select(called).len() + 6, called);
    assert_eq!(
        opens().len(),
        so_far,
        "opens after they were no longer asked for"
    );
    let uids = |pods: &[ebpf_hello_e2e::kind::Pod]| {
        pods.iter()
            .map(|pod| pod.uid.clone())
            .collect::<BTreeSet<_>>()
    };
    assert_eq!(
        uids(&before),
        uids(&shop.pods("cart")),
        "nobody restarted the pods"
    );
}

/// What the README tells a newcomer to do.
pub(crate) fn the_tail_sample_shows_its_lines_for_pods_on_both_nodes(cluster: &Cluster) {
    let sample = Path::new(env!("CARGO_MANIFEST_DIR")).join("../manifests/samples/hello-tail.yaml");
    let text =
        fs::read_to_string(&sample).unwrap_or_else(|error| panic!("{}: {error}", sample.display()));
    // The sample's workload is an image by its public name; the nodes have ours.
    let text = with_image(&text, cluster.workload_image());
    cluster.apply(&text);
    for node in cluster.nodes() {
        let what = format!(
            "lines of the sample on {}, seen in the collector's pod",
            node.name()
        );
        let of_node = ["observe", "-n", "shop", "--node", node.name()];
        let shown = ["--last", "4", "-o", "wide"];
        let lines = cluster.eventually(&what, || {
            let collector = "statefulset/ebpf-hello-collector";
            let lines = cluster.try_inside(collector, &[of_node.as_slice(), &shown].concat())?;
            if lines.contains("shop/hello-tail") {
                Ok(lines)
            } else {
                Err(lines)
            }
        });
        println!("    {}", lines.trim().replace('\n', "\n    "));
    }
    cluster.kubectl(&["delete", "namespace", "shop", "--wait=false"]);
}

/// The manifest with another image in each `image:`.
fn with_image(manifest: &str, image: &str) -> String {
    manifest
        .lines()
        .map(|line| match line.split_once("image:") {
            Some((before, _)) => format!("{before}image: {image}\n"),
            None => format!("{line}\n"),
        })
        .collect()
}
