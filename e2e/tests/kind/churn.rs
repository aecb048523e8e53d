//! Pods that come and go faster than anybody could ask for their names.

use std::{collections::BTreeMap, env, time::Duration};

use ebpf_hello_e2e::kind::Cluster;

/// Pods: E2E_CHURN, default 40.
fn pods() -> usize {
    env::var("E2E_CHURN")
        .ok()
        .and_then(|pods| pods.parse().ok())
        .unwrap_or(40)
}

/// Each pod runs to its end at once, with a text in its arguments that only it has.
pub(crate) fn pods_that_come_and_go_are_told_with_their_names(cluster: &Cluster) {
    let shop = cluster.with_namespace("churn");
    let nonce = shop.nonce("churn");
    let observer = shop.observe(&[]);
    let count = pods();
    let mut manifests = String::new();
    for number in 0..count {
        manifests.push_str(&format!(
            r#"---
apiVersion: v1
kind: Pod
metadata: {{name: p{number}, namespace: {namespace}, labels: {{app: churn}}}}
spec:
  restartPolicy: Never
  terminationGracePeriodSeconds: 0
  automountServiceAccountToken: false
  tolerations: [{{operator: Exists}}]
  containers:
    - {{name: once, image: "{image}", imagePullPolicy: IfNotPresent, command: [/bin/true, {nonce}, "{number}"]}}
"#,
            namespace = shop.name(),
            image = cluster.workload_image(),
        ));
    }
    cluster.apply(&manifests);
    // Two kubelets on a few processors start a few pods in a second.
    let patience = Duration::from_secs(60 + count as u64);
    cluster.await_that("every pod ran to its end", patience, || {
        let pods = shop.kubectl(&["get", "pods", "-l", "app=churn", "--no-headers"]);
        let done = pods
            .lines()
            .filter(|line| line.contains("Completed"))
            .count();
        if done == count {
            Ok(())
        } else {
            Err(format!("{done} of {count}"))
        }
    });
    let events = observer.await_events("an exec of each", count, |event| event.mentions(&nonce));
    let mut told = BTreeMap::<String, usize>::new();
    let mut joined = 0;
    for event in &events {
        let number = event.argv()[2].to_owned();
        // What was not known in time follows as an identity of the same cgroup.
        joined += usize::from(event.text("pod/name").is_empty());
        let name = observer.identified(event).text("pod/name").to_owned();
        assert_eq!(name, format!("p{number}"), "{}", event.line());
        *told.entry(number).or_default() += 1;
    }
    let twice: Vec<_> = told.iter().filter(|(_, times)| **times != 1).collect();
    assert!(
        told.len() == count && twice.is_empty(),
        "{} of {count}, more than once: {twice:?}",
        told.len()
    );
    println!("    {joined} of {count} pods got their name by an identity that followed");
}
