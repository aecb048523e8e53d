//! Where events are kept: on a volume that outlives the collector's pod, and in NATS for more than one collector.

use std::collections::BTreeSet;

use ebpf_hello_e2e::kind::{Cluster, Namespace, Observer, RELEASE, SYSTEM};

use crate::counter::Counter;

/// The volume that is made by hand, and its directory on the node.
const VOLUME: &str = "ebpf-hello-e2e";
const DIRECTORY: &str = "/var/local/ebpf-hello-e2e";

/// Installs anew: neither a StatefulSet's volumes nor the kind of the collector's object can be changed in place.
fn install(cluster: &Cluster, values: &str) {
    cluster.uninstall();
    cluster.install(cluster.chart(), &["--set", values]);
}

/// What is observed inside of a pod of the collector's, from the first event that is kept.
fn observe_all(shop: &Namespace<'_>, pod: &str) -> Observer {
    shop.observe_inside(pod, &["--since", "1h", "--type", "exec"])
}

pub(crate) fn what_a_volume_keeps_outlives_the_collectors_pod(cluster: &Cluster) {
    let node = cluster.control_plane();
    node.run(&format!("mkdir -p {DIRECTORY}"));
    cluster.apply(&format!(
        r#"
apiVersion: v1
kind: PersistentVolume
metadata: {{name: {VOLUME}}}
spec:
  capacity: {{storage: 5Gi}}
  accessModes: [ReadWriteOnce]
  persistentVolumeReclaimPolicy: Retain
  local: {{path: {DIRECTORY}}}
  nodeAffinity: {{required: {{nodeSelectorTerms: [{{matchExpressions: [{{key: kubernetes.io/hostname, operator: In, values: [{node}]}}]}}]}}}}
"#,
        node = node.name()
    ));
    let by_hand = format!(
        "collector.persistence.enabled=true,collector.persistence.storageClassName=-,collector.persistence.volumeName={VOLUME}"
    );
    install(cluster, &by_hand);

    let shop = cluster.with_namespace("volume");
    let counter = Counter::of(&shop, "volume");
    let outside = shop.observe(&["--type", "exec"]);
    counter.start(&shop);
    counter.await_more(&outside, 10);
    let before = counter.numbers(&outside);
    let pod = format!("{RELEASE}-collector-0");
    cluster.kubectl(&["-n", SYSTEM, "delete", "pod", &pod]);
    cluster.await_collector();
    counter.await_more(&outside, 10);
    counter.assert_nothing_missing(&outside);
    assert!(
        !outside.complaints().contains("HISTORY_GONE"),
        "the stream went on in the same log: {}",
        outside.complaints()
    );
    // Who asks only now gets what was stored before, too.
    let later = observe_all(&shop, &pod);
    counter.await_more(&later, 20);
    counter.assert_nothing_missing(&later);
    for (pod, told) in counter.numbers(&later) {
        assert!(before[&pod].iter().all(|number| told.contains(number)));
    }

    cluster.uninstall();
    let claim = format!("store-{pod}");
    let kept = cluster.get(&["-n", SYSTEM, "persistentvolumeclaim", &claim]);
    assert_eq!(
        kept["status"]["phase"], "Bound",
        "the events are the user's"
    );
    cluster.kubectl(&["-n", SYSTEM, "delete", "persistentvolumeclaim", &claim]);
    cluster.kubectl(&["delete", "persistentvolume", VOLUME]);
    node.run(&format!("rm -rf {DIRECTORY}"));
}

/// A NATS with JetStream in its pod, gone with the namespace: where it is reached.
fn start_nats(cluster: &Cluster, namespace: &Namespace<'_>) -> String {
    cluster.apply(&format!(
        r#"
apiVersion: v1
kind: Pod
metadata: {{name: nats, namespace: {namespace}, labels: {{app: nats}}}}
spec:
  automountServiceAccountToken: false
  tolerations: [{{operator: Exists}}]
  terminationGracePeriodSeconds: 0
  containers:
    - name: nats
      image: {image}
      imagePullPolicy: IfNotPresent
      command: [/usr/bin/nats-server, --jetstream, --store_dir, /data]
      readinessProbe: {{tcpSocket: {{port: 4222}}, periodSeconds: 1}}
      volumeMounts: [{{name: data, mountPath: /data}}]
  volumes: [{{name: data, emptyDir: {{}}}}]
---
apiVersion: v1
kind: Service
metadata: {{name: nats, namespace: {namespace}}}
spec:
  selector: {{app: nats}}
  ports: [{{port: 4222}}]
"#,
        namespace = namespace.name(),
        image = cluster.workload_image(),
    ));
    namespace.kubectl(&["wait", "--for=condition=Ready", "pod/nats", "--timeout=60s"]);
    format!("nats://nats.{}.svc:4222", namespace.name())
}

/// Each serves what both took, and what one took is there when it is gone.
pub(crate) fn two_collectors_share_their_events_through_nats(cluster: &Cluster) {
    let hub = cluster.with_namespace("nats");
    let url = start_nats(cluster, &hub);
    let values = format!("collector.replicas=2,hub.nats.url={url}");
    install(cluster, &values);

    let shop = cluster.with_namespace("shared");
    shop.apply_filter("names", r#"{rules: [{syscalls: [uname], handler: Trace}]}"#);
    let counter = Counter::of(&shop, "shared");
    let outside = shop.observe(&["--type", "exec"]);
    counter.start(&shop);
    counter.await_more(&outside, 5);
    let collectors = cluster.pods_of("collector");
    assert_eq!(collectors.len(), 2, "{collectors:?}");
    for (pod, _) in &collectors {
        let inside = observe_all(&shop, pod);
        counter.await_more(&inside, 5);
        counter.assert_nothing_missing(&inside);
        let counted = counter.counted(&inside);
        let nodes: BTreeSet<&str> = counted.iter().map(|event| event.text("node")).collect();
        assert_eq!(nodes.len(), 2, "{pod}: {nodes:?}");
    }
    // Its writer hears from both of them how far nodes are.
    shop.await_programmed("names", "2/2");

    for (pod, _) in &collectors {
        cluster.kubectl(&["-n", SYSTEM, "delete", "pod", pod]);
        cluster.await_collector();
        counter.await_more(&outside, 5);
    }
    counter.assert_nothing_missing(&outside);
    let (successor, _) = cluster.pods_of("collector").remove(0);
    let inside = observe_all(&shop, &successor);
    counter.await_more(&inside, 20);
    counter.assert_nothing_missing(&inside);
    cluster.uninstall();
}
