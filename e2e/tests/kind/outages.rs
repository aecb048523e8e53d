//! What happens while a part is away.

use std::{
    collections::BTreeMap,
    thread,
    time::{Duration, Instant},
};

use ebpf_hello_e2e::kind::{Cluster, Container, Event, Namespace, Observer, SYSTEM, Workload};

/// Pods on both nodes that count: each exec has the next number.
fn start_counting(shop: &Namespace<'_>, nonce: &str) {
    let script = format!("i=$((${{i:-0}}+1)); /bin/true {nonce} $POD $i");
    shop.run(&Workload::of(
        "counter",
        2,
        [Container::repeating("web", &script, 0.2)],
    ));
}

/// Numbers each pod was told with, in the order they came.
fn numbers(observer: &Observer, nonce: &str) -> BTreeMap<String, Vec<u64>> {
    let mut numbers = BTreeMap::<String, Vec<u64>>::new();
    for event in observer.select(|event| event.mentions(nonce) && event.argv()[0] == "/bin/true") {
        let argv = event.argv();
        numbers
            .entry(argv[2].to_owned())
            .or_default()
            .push(argv[3].parse().unwrap());
    }
    numbers
}

/// Waits until each pod has been told with so many numbers more.
fn await_more(observer: &Observer, nonce: &str, more: usize) {
    let before = numbers(observer, nonce);
    let end = Instant::now() + Duration::from_secs(90);
    loop {
        let now = numbers(observer, nonce);
        let grown = now.len() >= 2
            && now
                .iter()
                .all(|(pod, told)| told.len() >= before.get(pod).map_or(0, Vec::len) + more);
        if grown {
            return;
        }
        let counts: Vec<_> = now.values().map(Vec::len).collect();
        assert!(
            Instant::now() < end,
            "{more} more of each pod: {counts:?}\n{}",
            observer.complaints()
        );
        thread::sleep(Duration::from_millis(200));
    }
}

/// Every pod's numbers go up by one: nothing is missing, nothing comes twice.
fn assert_nothing_missing(observer: &Observer, nonce: &str) {
    for (pod, mut told) in numbers(observer, nonce) {
        told.sort_unstable();
        for pair in told.windows(2) {
            assert_eq!(
                pair[1],
                pair[0] + 1,
                "{pod}: between {} and {}",
                pair[0],
                pair[1]
            );
        }
    }
}

fn on_node<'e>(events: &'e [Event], node: &'e str) -> impl Iterator<Item = &'e Event> {
    events
        .iter()
        .filter(move |event| event.text("node") == node)
}

/// Events go on; what nobody saw in between is a hole between two epochs, and no event is told twice.
pub(crate) fn an_agents_pod_is_deleted(cluster: &Cluster) {
    let shop = cluster.with_namespace("agentgone");
    let nonce = shop.nonce("agentgone");
    let observer = shop.observe(&["--type", "exec"]);
    start_counting(&shop, &nonce);
    await_more(&observer, &nonce, 3);
    let worker = cluster.worker();
    cluster.kubectl(&[
        "-n",
        SYSTEM,
        "delete",
        "pod",
        &cluster.agent_on(worker.name()),
    ]);
    cluster.await_agents();
    await_more(&observer, &nonce, 10);

    for (pod, told) in numbers(&observer, &nonce) {
        let mut once = told.clone();
        once.sort_unstable();
        once.dedup();
        assert_eq!(
            once.len(),
            told.len(),
            "{pod} was told an exec twice: {told:?}"
        );
    }
    let events = observer.select(|event| event.mentions(&nonce));
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
        .filter(|event| event.argv()[0] == "/bin/true")
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
    let nonce = shop.nonce("collectorgone");
    let observer = shop.observe(&["--type", "exec"]);
    start_counting(&shop, &nonce);
    await_more(&observer, &nonce, 3);
    cluster.kubectl(&["-n", SYSTEM, "delete", "pod", "ebpf-hello-collector-0"]);
    cluster.await_collector();
    await_more(&observer, &nonce, 30);
    assert_nothing_missing(&observer, &nonce);
}

/// Twenty seconds (E2E_API_AWAY) without the API server: policy, identity and access go on.
pub(crate) fn the_api_server_is_away(cluster: &Cluster) {
    let away = std::env::var("E2E_API_AWAY")
        .ok()
        .and_then(|seconds| seconds.parse().ok())
        .unwrap_or(20);
    let shop = cluster.with_namespace("apiaway");
    let nonce = shop.nonce("apiaway");
    shop.apply_filter("opens", r#"{rules: [{syscalls: [openat], handler: Path}]}"#);
    shop.await_programmed("opens", "2/2");
    let observer = shop.observe(&["--type", "exec", "--type", "path"]);
    start_counting(&shop, &nonce);
    await_more(&observer, &nonce, 3);
    let control_plane = cluster
        .nodes()
        .into_iter()
        .find(|node| node.is_control_plane())
        .unwrap();
    control_plane.remove_api_server();
    let gone = Instant::now();
    cluster.eventually("the API server is gone", || {
        match cluster.try_kubectl(&["get", "--raw", "/readyz", "--request-timeout=1s"]) {
            Ok(_) => Err("it answers".to_owned()),
            Err(_) => Ok(()),
        }
    });
    let opens = observer.select(|event| event.is("path")).len();
    await_more(&observer, &nonce, 10);
    assert!(
        observer.select(|event| event.is("path")).len() > opens,
        "opens are still told"
    );
    thread::sleep(Duration::from_secs(away).saturating_sub(gone.elapsed()));
    control_plane.restore_api_server();
    cluster.eventually("the API server is back", || {
        cluster.try_kubectl(&["get", "--raw", "/readyz", "--request-timeout=1s"])
    });
    await_more(&observer, &nonce, 5);
    assert_nothing_missing(&observer, &nonce);
    // A filter that is applied now arrives: the watches are open again.
    shop.apply_filter("opens", r#"{rules: [{syscalls: [uname], handler: Trace}]}"#);
    shop.await_programmed("opens", "2/2");
}

pub(crate) fn the_worker_is_stopped_and_started(cluster: &Cluster) {
    let shop = cluster.with_namespace("nodegone");
    let nonce = shop.nonce("nodegone");
    let observer = shop.observe(&["--type", "exec"]);
    start_counting(&shop, &nonce);
    await_more(&observer, &nonce, 3);
    let worker = cluster.worker();
    worker.stop();
    let control_plane = cluster
        .nodes()
        .into_iter()
        .find(|node| node.is_control_plane())
        .unwrap();
    let of = |node: &str| {
        observer
            .select(|event| event.mentions(&nonce) && event.text("node") == node)
            .len()
    };
    let before = (of(worker.name()), of(control_plane.name()));
    observer.await_events("the other node goes on", before.1 + 5, |event| {
        event.mentions(&nonce) && event.text("node") == control_plane.name()
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
        event.mentions(&nonce) && event.text("node") == worker.name()
    });
}
