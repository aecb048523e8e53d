//! One writer among two collectors, whatever happens to the one that holds the lease.

use std::{path::PathBuf, time::Duration};

use ebpf_hello_e2e::free_address;

use crate::{
    poser::Poser,
    release::COLLECTOR,
    scene::{HOME, Scene, counting, says},
};

/// A kubeconfig of an account of its own that has the collector's rights: the audit log then tells who did what.
async fn account(stage: &Scene, name: &str) -> PathBuf {
    stage.server.service_account(HOME, name).await;
    let who = format!("--serviceaccount={HOME}:{name}");
    let role = format!("--clusterrole={COLLECTOR}");
    stage
        .server
        .kubectl(&["create", "clusterrolebinding", name, &role, &who]);
    let role = format!("--role={COLLECTOR}");
    stage
        .server
        .kubectl(&["create", "rolebinding", name, &role, &who, "-n", HOME]);
    stage.server.kubeconfig_of(HOME, name).await
}

/// Statuses that an account wrote and the server took.
fn written(stage: &Scene, name: &str) -> usize {
    let user = format!("system:serviceaccount:{HOME}:{name}");
    let requests = stage.server.requests();
    requests
        .iter()
        .filter(|one| one.user == user && one.subresource == "status" && one.code < 300)
        .count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_holder_that_is_stopped_writes_nothing_after_another_took_over() {
    let stage = Scene::new(&["n1"]).await;
    let (first, second) = (
        account(&stage, "first").await,
        account(&stage, "second").await,
    );
    let one = stage.collector_as("first", &first, free_address(), &[]);
    let holder = stage.await_holder(None).await;
    let other = stage.collector_as("second", &second, free_address(), &[]);
    // The agent is the second's, so that it has something to tell as soon as it may.
    let agent = Poser::start("n1", stage.server.client(), other.address);
    let another = Poser::start("n1", stage.server.client(), one.address);
    stage.apply("a", counting("mkdir")).await;
    stage.await_status("a", |status| says(status, "1/1")).await;
    // More than once, where the agent's report came after the first.
    let before = written(&stage, "first");
    assert!(before >= 1 && written(&stage, "second") == 0);
    assert!(one.metric("ebpf_hello_lease_held").await > 0.5);
    assert!(other.metric("ebpf_hello_lease_held").await < 0.5);

    one.process.freeze();
    let frozen = std::time::Instant::now();
    stage.await_holder(Some(&holder)).await;
    println!("taken over after {:?}", frozen.elapsed());
    assert!(
        frozen.elapsed() > Duration::from_secs(10),
        "not before it can have expired"
    );
    stage.apply("b", counting("mkdir")).await;
    stage.await_status("b", |status| says(status, "1/1")).await;
    assert_eq!(written(&stage, "first"), before);
    let by_second = written(&stage, "second");
    assert!(by_second >= 1);

    // It wakes with a term that is over, and with news that it would have written.
    one.process.thaw();
    stage.apply("c", counting("mkdir")).await;
    stage.await_status("c", |status| says(status, "1/1")).await;
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert_eq!(written(&stage, "first"), before);
    assert!(written(&stage, "second") > by_second);
    assert!(one.metric("ebpf_hello_lease_held").await < 0.5);

    // Given back, it is taken at once.
    let mut other = other;
    let holder = stage.await_holder(None).await;
    let given = std::time::Instant::now();
    assert!(other.process.stop().success());
    stage.await_holder(Some(&holder)).await;
    println!(
        "taken over after {:?} when it was given back",
        given.elapsed()
    );
    assert!(given.elapsed() < Duration::from_secs(14)); // a lease that is not given back lasts 15
    agent.stop().await;
    another.stop().await;
}
