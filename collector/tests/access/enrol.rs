//! Enroll: who gets a certificate, and for what.

use std::time::SystemTime;

use ebpf_hello_proto::v1::{EnrollRequest, collector_service_client::CollectorServiceClient};
use rcgen::{CertificateParams, KeyPair};
use tonic::{Code, Request, codec::CompressionEncoding};
use tonic_types::StatusExt as _;

use super::fixture::{Client, READER, TOKEN, TOKEN_N1, enrolled, start};

fn request() -> Vec<u8> {
    CertificateParams::default()
        .serialize_request(&KeyPair::generate().unwrap())
        .unwrap()
        .der()
        .to_vec()
}

#[tokio::test]
async fn a_token_gives_a_certificate_and_the_certificate_the_next() {
    let server = start().await;
    let (first, key) = server.enrol(&server.stranger(), "n1", TOKEN_N1).await;
    let first = first.unwrap();
    let expires = SystemTime::try_from(prost_types::Timestamp {
        seconds: first.expires.unwrap().seconds,
        nanos: 0,
    });
    let life = expires
        .unwrap()
        .duration_since(SystemTime::now())
        .unwrap()
        .as_secs();
    assert!((3500..=3600).contains(&life), "{life} s");
    assert_eq!(first.authorities.len(), 1);

    let node = enrolled(first, key);
    let (second, key) = server.enrol(&node, "n1", "").await;
    let node = enrolled(second.unwrap(), key);
    server.publish(&node, "n1").await.unwrap();

    let (other, _) = server.enrol(&node, "n2", "").await;
    let refused = other.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    assert!(
        refused.message().contains("\"n1\"") && refused.message().contains("\"n2\""),
        "{refused}"
    );
}

#[tokio::test]
async fn tokens_that_are_not_good_are_refused_with_a_reason() {
    let server = start().await;
    for (node, token, code, reason) in [
        (
            "n1",
            "a-token-that-nobody-knows",
            Code::Unauthenticated,
            "UNKNOWN_CREDENTIALS",
        ),
        (
            "n1",
            "bootstrap-token-of-before",
            Code::Unauthenticated,
            "EXPIRED_CREDENTIALS",
        ),
        (
            "n2",
            TOKEN_N1,
            Code::PermissionDenied,
            "TOKEN_OF_ANOTHER_NODE",
        ),
        ("n1", "", Code::Unauthenticated, "NO_CREDENTIALS"),
        (
            "n1",
            &"x".repeat(20_000),
            Code::Unauthenticated,
            "UNKNOWN_CREDENTIALS",
        ),
    ] {
        let (answer, _) = server.enrol(&server.stranger(), node, token).await;
        let refused = answer.unwrap_err();
        assert_eq!(refused.code(), code, "{refused}");
        assert_eq!(
            refused.get_error_details().error_info().unwrap().reason,
            reason,
            "{refused}"
        );
        assert!(
            token.is_empty() || !refused.message().contains(token),
            "{refused}"
        );
    }
}

#[tokio::test]
async fn requests_that_are_none_name_their_field() {
    let server = start().await;
    let mut forged = request();
    let last = forged.len() - 1;
    forged[last] ^= 1;
    let foreign = {
        let key = KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
        CertificateParams::default()
            .serialize_request(&key)
            .unwrap()
            .der()
            .to_vec()
    };
    for (node, certificate_request, field) in [
        ("", request(), "node"),
        ("a/b", request(), "node"),
        ("n1\n", request(), "node"),
        ("n1", Vec::new(), "certificate_request"),
        ("n1", vec![0x30; 100], "certificate_request"),
        ("n1", vec![0x30; 20_000], "certificate_request"),
        ("n1", forged, "certificate_request"),
    ] {
        let request = EnrollRequest {
            node: node.into(),
            token: TOKEN.into(),
            certificate_request,
        };
        let refused = server
            .send_enrol(&server.stranger(), request)
            .await
            .unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
        let details = refused.get_error_details();
        assert_eq!(
            details.bad_request().unwrap().field_violations[0].field,
            field,
            "{refused}"
        );
    }
    // Another kind of key that is allowed.
    let request = EnrollRequest {
        node: "n1".into(),
        token: TOKEN.into(),
        certificate_request: foreign,
    };
    server
        .send_enrol(&server.stranger(), request)
        .await
        .unwrap();
}

#[tokio::test]
async fn what_a_request_asks_for_itself_is_not_given() {
    let server = start().await;
    let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    let asked = params.serialize_request(&key).unwrap();
    let request = EnrollRequest {
        node: "n1".into(),
        token: TOKEN.into(),
        certificate_request: asked.der().to_vec(),
    };
    let answer = server
        .send_enrol(&server.stranger(), request)
        .await
        .unwrap();
    let (_, given) = x509_parser::parse_x509_certificate(&answer.certificates[0]).unwrap();
    assert!(!given.is_ca());
    let names = given.subject_alternative_name().unwrap().unwrap().value;
    assert_eq!(names.general_names.len(), 1, "{names:?}");
    let usage = given.extended_key_usage().unwrap().unwrap().value;
    assert!(usage.client_auth && !usage.server_auth);
}

#[tokio::test]
async fn who_guesses_has_to_wait_and_who_has_a_certificate_does_not() {
    let server = start().await;
    let node = server.node("n1").await;
    let mut refused = None;
    for guess in 0..20 {
        let (answer, _) = server
            .enrol(
                &server.stranger(),
                "n1",
                &format!("a-guess-number-{guess}-of-many"),
            )
            .await;
        refused = Some(answer.unwrap_err());
    }
    let refused = refused.unwrap();
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
    let wait = refused
        .get_error_details()
        .retry_info()
        .unwrap()
        .retry_delay
        .unwrap();
    assert!(wait.as_secs() <= 60 && !wait.is_zero());
    let (renewed, _) = server.enrol(&node, "n1", "").await;
    renewed.unwrap();
}

/// Anybody may ask to be enrolled, and the request is read before anybody knows who asks.
#[tokio::test]
async fn nobody_makes_the_server_hold_much() {
    let server = start().await;
    let reason = |status: &tonic::Status| {
        let details = status.get_error_details();
        details.error_info().unwrap().reason.clone()
    };
    let ask = |token: usize, certificate_request: usize| EnrollRequest {
        node: "n1".into(),
        token: "x".repeat(token),
        certificate_request: vec![0; certificate_request],
    };
    let compressing = async |client: &Client| {
        let channel = server.channel(client).await.unwrap();
        CollectorServiceClient::new(channel).send_compressed(CompressionEncoding::Zstd)
    };
    let stranger = server.stranger();
    // 300 bytes or so, that become 3 MiB.
    let bomb = ask(3 << 20, 0);
    let refused = compressing(&stranger).await.enroll(bomb.clone()).await;
    let refused = refused.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated, "{refused}");
    assert_eq!(reason(&refused), "NO_CREDENTIALS", "{refused}");
    assert!(refused.message().contains("grpc-encoding"), "{refused}");
    let mut of_a_reader = Request::new(bomb);
    let token = format!("Bearer {READER}").parse().unwrap();
    of_a_reader.metadata_mut().insert("authorization", token);
    let refused = compressing(&stranger).await.enroll(of_a_reader).await;
    let refused = refused.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
    assert!(refused.message().contains("grpc-encoding"), "{refused}");

    let refused = server.send_enrol(&stranger, ask(40 << 10, 0)).await;
    let refused = refused.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
    assert_eq!(reason(&refused), "MESSAGE_TOO_LARGE", "{refused}");
    assert!(refused.message().contains("32768 bytes"), "{refused}");
    // The largest that can be meant is read.
    let refused = server.send_enrol(&stranger, ask(8 << 10, 8 << 10)).await;
    assert_eq!(reason(&refused.unwrap_err()), "UNKNOWN_CREDENTIALS");
    let node = server.node("n1").await;
    let renewal = EnrollRequest {
        node: "n1".into(),
        token: String::new(),
        certificate_request: request(),
    };
    let renewed = compressing(&node).await.enroll(renewal).await;
    renewed.expect("a node may compress");
}
