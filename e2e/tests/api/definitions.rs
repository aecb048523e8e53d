//! The custom resource definitions in a real API server.

use ebpf_hello_e2e::ApiServer;

#[tokio::test]
async fn the_server_takes_and_explains_the_definitions() {
    let server = ApiServer::start().await;
    server.install_definitions().await;
    let explained = server.kubectl(&["explain", "syscallfilter.spec.rules.sampling"]);
    assert!(explained.contains("One event in so many"), "{explained}");
    let mine = |request: &&ebpf_hello_e2e::Request| request.resource == "customresourcedefinitions";
    let requests = server.requests();
    assert!(
        requests
            .iter()
            .find(mine)
            .is_some_and(|request| request.user == "admin")
    );
}
