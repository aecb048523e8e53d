use std::{sync::Arc, time::Duration};

use ebpf_hello_collector::{log::Memory, serve::Options};
use ebpf_hello_proto::v1::{self, observer_service_client::ObserverServiceClient};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
use tonic_reflection::pb;

use crate::server::*;

#[tokio::test(flavor = "multi_thread")]
async fn garbage_closes_its_connection_and_nothing_else() {
    let server = start().await;
    let mut client = server.observer().await;
    let mut stream = open(&mut client, live()).await;
    let head = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let mut frames = head.to_vec();
    frames.extend([0xff; 4096]);
    let mut half = head.to_vec();
    // A SETTINGS frame that says it is longer than frames may be.
    half.extend([0xff, 0xff, 0xff, 4, 0, 0, 0, 0, 0]);
    for garbage in [
        &[0_u8; 4096][..],
        &[0xff; 4096],
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"hello?\r\n\r\n",
        &frames,
        &half,
        b"GET /v1/events HTTP/9.9\r\n\r\n",
    ] {
        let mut connection = TcpStream::connect(server.tcp).await.unwrap();
        connection.write_all(garbage).await.unwrap();
        let mut answer = Vec::new();
        // Closed, or reset.
        let _ = timeout(PATIENCE, connection.read_to_end(&mut answer))
            .await
            .unwrap();
    }
    server.append(&batch(1, 1)).await;
    let response = next(&mut stream).await.unwrap().unwrap();
    assert!(matches!(
        response.message,
        Some(v1::observe_response::Message::Events(_))
    ));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_says_nothing_is_closed_and_connections_are_bounded() {
    let options = Options {
        handshake_timeout: Duration::from_millis(300),
        max_connections: 3,
        ..Options::default()
    };
    let server = start_with(Arc::new(Memory::new(1 << 20)), options).await;
    let mut idle = Vec::new();
    for _ in 0..10 {
        idle.push(TcpStream::connect(server.tcp).await.unwrap());
    }
    for mut connection in idle {
        let mut answer = Vec::new();
        let _ = timeout(PATIENCE, connection.read_to_end(&mut answer))
            .await
            .unwrap();
        assert!(answer.is_empty());
    }
    // And then there is room.
    open(&mut server.observer().await, live()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_of_a_connection_are_bounded_and_the_next_waits_until_one_ends() {
    let options = Options {
        max_streams: 2,
        ..Options::default()
    };
    let server = start_with(Arc::new(Memory::new(1 << 20)), options).await;
    let mut client = server.observer().await;
    let mut streams = Vec::new();
    for _ in 0..2 {
        let stream = timeout(PATIENCE, open(&mut client, live())).await;
        streams.push(stream.expect("there is room"));
    }
    let mut third = tokio::spawn(async move { open(&mut client, live()).await });
    // Another connection has its own.
    streams.push(open(&mut server.observer().await, live()).await);
    let waits = timeout(Duration::from_millis(300), &mut third).await;
    assert!(waits.is_err(), "{waits:?}");
    assert_eq!(server.collector.accounts().ledger().subscribers, 3);
    drop(streams.swap_remove(0));
    timeout(PATIENCE, third).await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn reflection_lists_the_services_in_both_versions() {
    let server = start().await;
    let channel = server.tcp_channel().await;
    let expected = [
        "ebpfhello.v1.CollectorService",
        "ebpfhello.v1.ObserverService",
        "grpc.health.v1.Health",
    ];
    let request = pb::v1::ServerReflectionRequest {
        host: String::new(),
        message_request: Some(
            pb::v1::server_reflection_request::MessageRequest::ListServices(String::new()),
        ),
    };
    let mut client = pb::v1::server_reflection_client::ServerReflectionClient::new(channel.clone());
    let mut answers = client
        .server_reflection_info(tokio_stream::iter([request]))
        .await
        .unwrap()
        .into_inner();
    let answer = answers.message().await.unwrap().unwrap();
    let Some(pb::v1::server_reflection_response::MessageResponse::ListServicesResponse(list)) =
        answer.message_response
    else {
        panic!("no list");
    };
    for name in expected {
        assert!(
            list.service.iter().any(|service| service.name == name),
            "{list:?}"
        );
    }
    let request = pb::v1alpha::ServerReflectionRequest {
        host: String::new(),
        message_request: Some(
            pb::v1alpha::server_reflection_request::MessageRequest::FileContainingSymbol(
                "ebpfhello.v1.Event".into(),
            ),
        ),
    };
    let mut client = pb::v1alpha::server_reflection_client::ServerReflectionClient::new(channel);
    let mut answers = client
        .server_reflection_info(tokio_stream::iter([request]))
        .await
        .unwrap()
        .into_inner();
    let answer = answers.message().await.unwrap().unwrap();
    assert!(matches!(
        answer.message_response,
        Some(pb::v1alpha::server_reflection_response::MessageResponse::FileDescriptorResponse(_))
    ));
}

#[tokio::test(flavor = "multi_thread")]
async fn probes_ask_for_health_without_credentials() {
    let server = start().await;
    let mut client = HealthClient::new(server.tcp_channel().await);
    for service in [
        "",
        "ebpfhello.v1.CollectorService",
        "ebpfhello.v1.ObserverService",
    ] {
        let answer = client
            .check(HealthCheckRequest {
                service: service.into(),
            })
            .await
            .unwrap();
        assert_eq!(answer.into_inner().status, 1, "{service}: SERVING");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn probes_and_whoever_asks_for_the_schema_send_little() {
    let server = start().await;
    let channel = server.tcp_channel().await;
    let long = "x".repeat(40 << 10);
    let request = HealthCheckRequest {
        service: long.clone(),
    };
    let refused = HealthClient::new(channel.clone()).check(request).await;
    let refused = refused.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::ResourceExhausted, "{refused}");
    assert!(refused.message().contains("32768 bytes"), "{refused}");

    let request = pb::v1::ServerReflectionRequest {
        host: String::new(),
        message_request: Some(
            pb::v1::server_reflection_request::MessageRequest::FileContainingSymbol(long.clone()),
        ),
    };
    let mut client = pb::v1::server_reflection_client::ServerReflectionClient::new(channel.clone());
    let answers = client.server_reflection_info(tokio_stream::iter([request]));
    let answer = match answers.await {
        Ok(answers) => answers.into_inner().message().await,
        Err(status) => Err(status),
    };
    assert!(!matches!(answer, Ok(Some(_))), "{answer:?}");

    // A reader's selection may be larger.
    let reader = |mut request: tonic::Request<()>| {
        let token = "Bearer all".parse().unwrap();
        request.metadata_mut().insert("authorization", token);
        Ok(request)
    };
    let mut client = ObserverServiceClient::with_interceptor(channel, reader);
    let ask = |length: usize| v1::ListNodesRequest {
        page_token: "x".repeat(length),
        ..v1::ListNodesRequest::default()
    };
    let refused = client.list_nodes(ask(40 << 10)).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::InvalidArgument, "{refused}");
    let refused = client.list_nodes(ask(2 << 20)).await.unwrap_err();
    let too_large = [tonic::Code::OutOfRange, tonic::Code::ResourceExhausted];
    assert!(too_large.contains(&refused.code()), "{refused}");
}
