//! Readers by their tokens.

use ebpf_hello_collector::access::{AccessError, Listen};
use tonic::Code;
use tonic_types::StatusExt as _;

use super::fixture::{READER, start, until};

#[tokio::test]
async fn a_token_says_what_may_be_read() {
    let server = start().await;
    let stranger = server.stranger();
    server.observe(&stranger, READER).await.unwrap();
    server
        .observe(&stranger, "reader-of-the-shop")
        .await
        .unwrap();
    for (token, code, reason) in [
        ("", Code::Unauthenticated, "NO_CREDENTIALS"),
        (
            "reader-of-the-moon",
            Code::Unauthenticated,
            "UNKNOWN_CREDENTIALS",
        ),
        (
            "reader-of-before",
            Code::Unauthenticated,
            "EXPIRED_CREDENTIALS",
        ),
        ("reader-of-nothing", Code::PermissionDenied, "NOT_ALLOWED"),
    ] {
        let refused = server.observe(&stranger, token).await.unwrap_err();
        assert_eq!(refused.code(), code, "{token}: {refused}");
        assert_eq!(
            refused.get_error_details().error_info().unwrap().reason,
            reason,
            "{refused}"
        );
    }
}

#[tokio::test]
async fn the_file_of_readers_is_read_again_and_a_broken_one_changes_nothing() {
    let server = start().await;
    let stranger = server.stranger();
    std::fs::write(server.path("readers"), "short,*\n").unwrap();
    tokio::time::sleep(super::fixture::POLL * 5).await;
    server.observe(&stranger, READER).await.unwrap();

    std::fs::write(server.path("readers"), "reader-of-tomorrow,*\n").unwrap();
    until("the new reader", async || {
        server.observe(&stranger, "reader-of-tomorrow").await.ok()
    })
    .await;
    let refused = server.observe(&stranger, READER).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated, "{refused}");
}

#[tokio::test]
async fn what_cannot_be_listened_on_is_named() {
    let taken = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = taken.local_addr().unwrap();
    let refused = Listen::Tcp(address).bind().await.unwrap_err();
    assert!(
        matches!(refused, AccessError::Bind { .. })
            && refused.to_string().contains(&address.to_string())
    );
}

/// By `kubectl port-forward` all come from loopback.
#[tokio::test]
async fn whoever_was_known_does_not_wait_for_what_is_not_good_of_others() {
    let server = start().await;
    let stranger = server.stranger();
    server.observe(&stranger, READER).await.unwrap();
    let mut refused = None;
    for _ in 0..20 {
        refused = server.observe(&stranger, "reader-of-the-moon").await.err();
    }
    let refused = refused.unwrap();
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
    server.observe(&stranger, READER).await.unwrap();
    // One that was not there before has to wait, good or not.
    let refused = server
        .observe(&stranger, "reader-of-the-shop")
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");

    // And what is no longer good is looked at once more, not for ever.
    std::fs::write(server.path("readers"), "reader-of-tomorrow,*\n").unwrap();
    let refused = until("the file to be read", async || {
        server.observe(&stranger, READER).await.err()
    })
    .await;
    assert_eq!(refused.code(), Code::Unauthenticated, "{refused}");
    let refused = server.observe(&stranger, READER).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
}
