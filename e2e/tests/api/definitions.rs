//! The custom resource definitions in a real API server.

use ebpf_hello_e2e::{ApiServer, Request};

#[tokio::test]
async fn the_server_takes_and_explains_the_definitions() {
    let server = ApiServer::start().await;
    server.install_definitions().await;
    let explained = server.kubectl(&["explain", "syscallfilter.spec.rules.sampling"]);
    assert!(explained.contains("One event in so many"), "{explained}");
    let applied = |request: &Request| {
        request.resource == "customresourcedefinitions" && request.user == "admin"
    };
    assert!(server.requests().iter().any(applied));
}
