//! The custom resource definitions in a real API server.

use ebpf_hello_e2e::{ApiServer, Request, eventually};

#[tokio::test]
async fn the_server_takes_and_explains_the_definitions() {
    let server = ApiServer::start().await;
    server.install_definitions().await;
    // What is served is found a moment after it is established.
    let explained = eventually("kubectl explains", async || {
        server.try_kubectl(&["explain", "syscallfilter.spec.rules.sampling"])
    })
    .await;
    assert!(explained.contains("One event in so many"), "{explained}");
    let applied = |request: &Request| {
        request.resource == "customresourcedefinitions" && request.user == "admin"
    };
    assert!(server.requests().iter().any(applied));
}
