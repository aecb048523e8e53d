//! An agent is the node that its pod is on, and no other.

use ebpf_hello_e2e::TokenFor;
use tonic::{Code, Status};

use super::fixture::{AGENT, AGENTS, Cluster, HOME, READERS, batch, enrol, publish, reason};

#[tokio::test]
async fn an_agent_of_one_node_is_no_other_by_token_certificate_or_batch() {
    let cluster = Cluster::start().await;
    let collector = cluster.collector(&[]).await;
    let stranger = cluster.connect(&collector).await;
    let token = cluster.agent("n1").await;

    // By token.
    let refused = enrol(stranger.clone(), "n2", &token).await.unwrap_err();
    assert_eq!(
        (refused.code(), reason(&refused).as_str()),
        (Code::PermissionDenied, "TOKEN_OF_ANOTHER_NODE"),
        "{refused}"
    );
    assert!(refused.message().contains("\"n1\""), "{refused}");
    let of = async |namespace: &str, account: &str, audience, pod| {
        let whom = TokenFor {
            audience,
            pod,
            seconds: None,
        };
        let token = cluster.server.token(namespace, account, whom).await;
        enrol(stranger.clone(), "n1", &token).await.unwrap_err()
    };
    let pod = cluster.pod(HOME, AGENT, "n1").await;
    let elsewhere = cluster.pod("shop", AGENT, "n1").await;
    let told: Vec<(Status, Code, &str)> = vec![
        (
            of(HOME, AGENT, Some(READERS), Some(pod.as_str())).await,
            Code::Unauthenticated,
            "for \"ebpf-hello\"",
        ),
        (
            of(HOME, AGENT, None, Some(pod.as_str())).await,
            Code::Unauthenticated,
            "audience ebpf-hello-collector",
        ),
        (
            of("shop", AGENT, Some(AGENTS), Some(elsewhere.as_str())).await,
            Code::PermissionDenied,
            "of system:serviceaccount:shop:",
        ),
        (
            of(HOME, AGENT, Some(AGENTS), None).await,
            Code::PermissionDenied,
            "names no pod",
        ),
        (
            enrol(stranger.clone(), "n1", "no-token-of-anybody")
                .await
                .unwrap_err(),
            Code::Unauthenticated,
            "unknown",
        ),
    ];
    for (status, code, what) in told {
        assert_eq!(status.code(), code, "{status}");
        assert!(status.message().contains(what), "{status}");
    }

    // By certificate.
    let n1 = cluster.node(&collector, "n1").await;
    let refused = enrol(n1.clone(), "n2", "").await.unwrap_err();
    assert_eq!(reason(&refused), "CERTIFICATE_OF_ANOTHER_NODE", "{refused}");
    let refused = publish(n1.clone(), "n2").await.err().unwrap();
    assert_eq!(reason(&refused), "ANOTHER_NODE", "{refused}");

    // By batch.
    let mut publishing = publish(n1.clone(), "n1").await.unwrap();
    let good = batch("n1", 1, &[("shop", "cart-0")]);
    publishing.sender.send(good).await.unwrap();
    publishing.answers.message().await.unwrap().unwrap();
    let bad = batch("n2", 2, &[("shop", "cart-0")]);
    publishing.sender.send(bad).await.unwrap();
    let refused = publishing.answers.message().await.unwrap_err();
    assert_eq!(
        (refused.code(), reason(&refused).as_str()),
        (Code::PermissionDenied, "ANOTHER_NODE"),
        "{refused}"
    );

    // It reads nothing, and without certificate nobody publishes.
    let refused = publish(stranger, "n1").await.err().unwrap();
    assert_eq!(refused.code(), Code::Unauthenticated, "{refused}");
    let mut observer =
        ebpf_hello_proto::v1::observer_service_client::ObserverServiceClient::new(n1);
    let refused = observer
        .list_nodes(ebpf_hello_proto::v1::ListNodesRequest::default())
        .await;
    assert_eq!(refused.unwrap_err().code(), Code::PermissionDenied);
}
