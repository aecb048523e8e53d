use std::sync::Arc;

use ebpf_hello_collector::{
    log::{Memory, Place},
    serve::Options,
    token,
};
use ebpf_hello_proto::v1::{self, observer_service_client::ObserverServiceClient};
use prost_types::FieldMask;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::server::*;

fn reason(status: &Status) -> String {
    let details = status.get_error_details();
    details.error_info().unwrap().reason.clone()
}

#[tokio::test]
async fn every_bad_input_names_its_field_and_what_was_expected() {
    let server = start().await;
    let mut client = server.observer().await;
    let selecting = |selection| v1::ObserveRequest {
        selection: Some(selection),
        ..everything()
    };
    let none = v1::Selection::default;
    let text = |text: &str| vec![text.to_owned()];
    let second = |seconds| Some(ebpf_hello_proto::Timestamp { seconds, nanos: 0 });
    #[rustfmt::skip]
    let table = [
        ("selection.nodes[0]", "no glob", selecting(v1::Selection { nodes: text("[z-"), ..none() })),
        ("selection.pods[0]", "expected a name", selecting(v1::Selection { pods: text(""), ..none() })),
        ("selection.namespaces", "at most 256", selecting(v1::Selection { namespaces: vec!["a".into(); 257], ..none() })),
        ("selection.label_selector", "column 8", selecting(v1::Selection { label_selector: "app in cart".into(), ..none() })),
        ("selection.syscalls[0]", "no system call \"opena\"", selecting(v1::Selection { syscalls: text("opena"), ..none() })),
        ("selection.types[0]", "expected one of exec", selecting(v1::Selection { types: text("exek"), ..none() })),
        ("selection.comms[0]", "at most 1024", selecting(v1::Selection { comms: vec!["c".repeat(2000)], ..none() })),
        ("selection.binaries[0]", "no glob", selecting(v1::Selection { binaries: text("a**b"), ..none() })),
        ("selection.uids[0]", "1000-1999", selecting(v1::Selection { uids: text("root"), ..none() })),
        ("selection.cel", "1:7: Syntax error", selecting(v1::Selection { cel: "event.".into(), ..none() })),
        ("selection.cel", "1:1: Event has no field \"nod\"", selecting(v1::Selection { cel: "event.nod == 'x'".into(), ..none() })),
        ("mask.paths[0]", "Event has no field \"nod\"", v1::ObserveRequest {
            mask: Some(FieldMask { paths: text("nod") }), ..everything() }),
        ("last", "at most 100000", v1::ObserveRequest { last: 100_001, ..everything() }),
        ("last", "together with since", v1::ObserveRequest { last: 1, since: second(1), ..everything() }),
        ("last", "together with resume_token", v1::ObserveRequest { last: 1, resume_token: "x".into(), ..everything() }),
        ("until", "not after since", v1::ObserveRequest { since: second(5), until: second(5), ..everything() }),
        ("resume_token", "a resume token has", v1::ObserveRequest { resume_token: "x".into(), ..everything() }),
    ];
    for (field, what, request) in table {
        let status = client.observe(request).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{field}: {status}");
        assert_eq!(reason(&status), "INVALID_FIELD");
        let details = status.get_error_details();
        let violation = &details.bad_request().unwrap().field_violations[0];
        assert_eq!(violation.field, field, "{violation:?}");
        assert!(violation.description.contains(what), "{violation:?}");
    }
    let status = client
        .list_nodes(v1::ListNodesRequest {
            page_token: "?".into(),
            ..v1::ListNodesRequest::default()
        })
        .await
        .unwrap_err();
    assert_eq!(
        status
            .get_error_details()
            .bad_request()
            .unwrap()
            .field_violations[0]
            .field,
        "page_token"
    );
    let status = client
        .get_counters(v1::GetCountersRequest {
            selection: Some(v1::Selection {
                pids: vec![1],
                ..none()
            }),
            ..v1::GetCountersRequest::default()
        })
        .await
        .unwrap_err();
    assert_eq!(
        status
            .get_error_details()
            .bad_request()
            .unwrap()
            .field_violations[0]
            .field,
        "selection.pids"
    );
}

#[tokio::test]
async fn a_token_from_after_the_end_is_refused_not_ignored() {
    let server = start().await;
    let place = Place {
        position: 77,
        event: 0,
    };
    let token = token::encode(server.log.as_ref(), place);
    let request = v1::ObserveRequest {
        resume_token: token,
        ..live()
    };
    let status = server.observer().await.observe(request).await.unwrap_err();
    assert_eq!(
        (status.code(), reason(&status).as_str()),
        (Code::OutOfRange, "TOKEN_AHEAD")
    );
}

#[tokio::test]
async fn subscribers_are_bounded_and_a_place_is_free_again() {
    let options = Options {
        max_subscribers: 1,
        ..Options::default()
    };
    let server = start_with(Arc::new(Memory::new(1 << 20)), options).await;
    let mut client = server.observer().await;
    let first = open(&mut client, live()).await;
    let status = client.observe(live()).await.unwrap_err();
    assert_eq!(
        (status.code(), reason(&status).as_str()),
        (Code::ResourceExhausted, "TOO_MANY_SUBSCRIBERS")
    );
    drop(first);
    let mut again = client.observe(live()).await;
    for _ in 0..500 {
        if again.is_ok() {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        again = client.observe(live()).await;
    }
    again.unwrap();
}

#[tokio::test]
async fn who_may_not_hears_why() {
    let server = start().await;
    let channel = server.tcp_channel().await;
    for (token, code, expected) in [
        (None, Code::Unauthenticated, "NO_CREDENTIALS"),
        (Some("Bearer bad"), Code::Unauthenticated, "NO_CREDENTIALS"),
        (
            Some("Bearer node:n1"),
            Code::PermissionDenied,
            "NOT_ALLOWED",
        ),
    ] {
        let show = move |mut request: tonic::Request<()>| {
            if let Some(token) = token {
                request
                    .metadata_mut()
                    .insert("authorization", token.parse().unwrap());
            }
            Ok::<_, Status>(request)
        };
        let mut client = ObserverServiceClient::with_interceptor(channel.clone(), show);
        let mut statuses = vec![client.observe(live()).await.map(drop).unwrap_err()];
        statuses.push(
            client
                .list_nodes(v1::ListNodesRequest::default())
                .await
                .map(drop)
                .unwrap_err(),
        );
        statuses.push(
            client
                .list_programs(v1::ListProgramsRequest::default())
                .await
                .map(drop)
                .unwrap_err(),
        );
        statuses.push(
            client
                .list_filters(v1::ListFiltersRequest::default())
                .await
                .map(drop)
                .unwrap_err(),
        );
        statuses.push(
            client
                .get_counters(v1::GetCountersRequest::default())
                .await
                .map(drop)
                .unwrap_err(),
        );
        statuses.push(
            client
                .get_ledger(v1::GetLedgerRequest::default())
                .await
                .map(drop)
                .unwrap_err(),
        );
        for status in statuses {
            assert_eq!((status.code(), reason(&status).as_str()), (code, expected));
        }
    }
}

#[tokio::test]
async fn stopping_ends_streams_with_unavailable_and_returns() {
    let server = start().await;
    let mut client = server.observer().await;
    let mut stream = open(&mut client, live()).await;
    server.collector.stop();
    let status = loop {
        match next(&mut stream).await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("ended without a word"),
            Err(status) => break status,
        }
    };
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    tokio::time::timeout(PATIENCE, server.task)
        .await
        .unwrap()
        .unwrap()
        .unwrap();
}

#[tokio::test]
async fn one_reader_has_its_share_of_the_places() {
    let options = Options {
        max_subscribers: 5,
        max_subscribers_per_reader: 2,
        ..Options::default()
    };
    let server = start_with(Arc::new(Memory::new(1 << 20)), options).await;
    let channel = server.tcp_channel().await;
    let observe = async |token: &str| {
        let mut request = tonic::Request::new(live());
        let token = format!("Bearer {token}").parse().unwrap();
        request.metadata_mut().insert("authorization", token);
        ObserverServiceClient::new(channel.clone())
            .observe(request)
            .await
    };
    let mut held = Vec::new();
    held.push(observe("all").await.unwrap());
    held.push(observe("all").await.unwrap());
    let status = observe("all").await.unwrap_err();
    assert_eq!(
        (status.code(), reason(&status).as_str()),
        (Code::ResourceExhausted, "TOO_MANY_SUBSCRIBERS")
    );
    assert!(status.message().contains("2 streams of all"), "{status}");
    held.push(observe("shop").await.unwrap());
    // The Unix socket is not one reader's.
    let mut local = server.observer().await;
    held.push(local.observe(live()).await.unwrap());
    held.push(local.observe(live()).await.unwrap());
    let status = local.observe(live()).await.unwrap_err();
    assert!(status.message().contains("5 streams are open"), "{status}");
}

/// As when other streams are stuck with all that may be borrowed.
#[tokio::test(flavor = "multi_thread")]
async fn a_queue_that_can_borrow_nothing_has_its_own_share_and_tells_what_it_dropped() {
    const BATCHES: u64 = 60;
    const EVENTS: u64 = 250;
    let options = Options {
        all_queues_bytes: 0,
        ..Options::default()
    };
    let server = start_with(Arc::new(Memory::new(256 << 20)), options).await;
    let channel = server.channel(64 << 10).await;
    let mut stuck = open(&mut ObserverServiceClient::new(channel), live()).await;
    for number in 1..=BATCHES {
        server.append(&batch(number, EVENTS)).await;
    }
    let accounts = server.collector.accounts();
    let started = std::time::Instant::now();
    while accounts.ledger().dropped == 0 {
        assert!(started.elapsed() < PATIENCE, "{:?}", accounts.ledger());
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    let queued = accounts.ledger().queued;
    assert!(
        queued * 200 <= 300 << 10,
        "{queued} events of 200 bytes and more"
    );

    // One that asks for history waits for its connection, and gets all of it.
    let whole = all(&mut server.observer().await, everything()).await;
    assert_eq!(
        sequences(&whole),
        (1..=BATCHES * EVENTS).collect::<Vec<u64>>()
    );
    let (mut got, mut lost) = (0, 0);
    while got + lost < BATCHES * EVENTS {
        let response = next(&mut stuck).await.unwrap().unwrap();
        let Some(v1::observe_response::Message::Events(list)) = response.message else {
            continue;
        };
        lost += losses(&list.events)
            .iter()
            .map(|loss| loss.count)
            .sum::<u64>();
        got += list
            .events
            .iter()
            .filter(|event| event.sequence > 0)
            .count() as u64;
    }
    assert_eq!(got + lost, BATCHES * EVENTS);
}
