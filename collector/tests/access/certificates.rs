//! Certificates that are not good, or not for what is asked.

use std::time::{Duration, SystemTime};

use ebpf_hello_collector::access::{AuthorityPem, node_uri};
use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, SanType};
use tonic::Code;

use super::fixture::{
    Client, PATIENCE, READER, Server, Setup, batch, issue, start, start_with, until,
};

fn node_params(node: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.subject_alt_names = vec![SanType::URI(node_uri(node).as_str().try_into().unwrap())];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    params
}

fn own_authority(server: &Server) -> AuthorityPem {
    AuthorityPem {
        certificates: std::fs::read(server.path("tls/ca.crt")).unwrap(),
        key: std::fs::read(server.path("tls/ca.key")).unwrap(),
    }
}

/// The client sees TLS 1.3 succeed before the server has looked at its certificate: the refusal comes with the answer.
async fn is_refused_at_the_door(server: &Server, client: &Client) {
    let failed = server.door.counts().failed;
    let refused = server.publish(client, "n1").await;
    assert!(refused.is_err(), "it was let in");
    until("the refusal", async || {
        (server.door.counts().failed > failed).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_node_publishes_its_own_events_and_no_other_nodes() {
    let server = start().await;
    let node = server.node("n1").await;
    let (sender, mut answers) = server.publish(&node, "n1").await.unwrap();
    sender.send(batch("n1", 1)).await.unwrap();
    answers
        .message()
        .await
        .unwrap()
        .expect("an acknowledgement");

    let refused = server.publish(&node, "n2").await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
    sender.send(batch("n2", 2)).await.unwrap();
    let refused = loop {
        match answers.message().await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("the stream ended well"),
            Err(refused) => break refused,
        }
    };
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
}

#[tokio::test]
async fn a_node_never_reads_even_with_a_readers_token_and_a_reader_never_publishes() {
    let server = start().await;
    let node = server.node("n1").await;
    for token in ["", READER] {
        let refused = server.observe(&node, token).await.unwrap_err();
        assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
    }
    let refused = server
        .publish(&reader(&server, "alice"), "n1")
        .await
        .unwrap_err();
    // The certificate of a reader is looked up when it is shown: known, and not allowed.
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
    let refused = server.publish(&server.stranger(), "n1").await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated, "{refused}");
}

fn reader(server: &Server, name: &str) -> Client {
    let people = AuthorityPem {
        certificates: std::fs::read(server.path("people.crt")).unwrap(),
        key: std::fs::read(server.path("people.key")).unwrap(),
    };
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params
        .distinguished_name
        .push(rcgen::DnType::CommonName, name);
    Client {
        shows: Some(issue(&people, &params)),
        ..server.stranger()
    }
}

#[tokio::test]
async fn a_reader_is_known_by_its_certificate() {
    let server = start().await;
    server.observe(&reader(&server, "alice"), "").await.unwrap();
    let refused = server
        .observe(&reader(&server, "mallory"), "")
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated);
    assert!(refused.message().contains("mallory"), "{refused}");
}

#[tokio::test]
async fn a_readers_authority_cannot_make_nodes() {
    let server = start().await;
    let people = AuthorityPem {
        certificates: std::fs::read(server.path("people.crt")).unwrap(),
        key: std::fs::read(server.path("people.key")).unwrap(),
    };
    let forged = Client {
        shows: Some(issue(&people, &node_params("n1"))),
        ..server.stranger()
    };
    let refused = server
        .publish(&forged, "n1")
        .await
        .expect_err("a forged node was let in");
    assert_ne!(refused.code(), Code::Ok);
}

#[tokio::test]
async fn a_certificate_of_another_authority_is_refused() {
    let server = start().await;
    let other = AuthorityPem::generate().unwrap();
    let client = Client {
        shows: Some(issue(&other, &node_params("n1"))),
        ..server.stranger()
    };
    is_refused_at_the_door(&server, &client).await;
    // The door is open for others.
    server.node("n1").await;
}

#[tokio::test]
async fn an_expired_certificate_is_refused() {
    let server = start().await;
    let mut params = node_params("n1");
    params.not_before = (SystemTime::now() - Duration::from_secs(7200)).into();
    params.not_after = (SystemTime::now() - Duration::from_secs(3600)).into();
    let client = Client {
        shows: Some(issue(&own_authority(&server), &params)),
        ..server.stranger()
    };
    is_refused_at_the_door(&server, &client).await;
}

#[tokio::test]
async fn a_certificate_of_ours_that_names_no_node_is_refused() {
    let server = start().await;
    for params in [CertificateParams::default(), {
        let mut two = node_params("n1");
        two.subject_alt_names
            .push(SanType::URI(node_uri("n2").as_str().try_into().unwrap()));
        two
    }] {
        let client = Client {
            shows: Some(issue(&own_authority(&server), &params)),
            ..server.stranger()
        };
        is_refused_at_the_door(&server, &client).await;
    }
}

#[tokio::test]
async fn a_connection_ends_with_its_certificate() {
    let server = start_with(Setup {
        life: Duration::from_secs(2),
        ..Setup::default()
    })
    .await;
    let (node, (_sender, mut answers)) = until("a stream in its certificate's life", async || {
        let node = server.node("n1").await;
        let stream = server.publish(&node, "n1").await.ok()?;
        Some((node, stream))
    })
    .await;
    let ended = tokio::time::timeout(PATIENCE, async {
        while let Ok(Some(_)) = answers.message().await {}
    });
    ended
        .await
        .expect("the connection outlived its certificate");
    // A certificate is good to the end of its last second.
    tokio::time::sleep(Duration::from_millis(1100)).await;
    is_refused_at_the_door(&server, &node).await;
}
