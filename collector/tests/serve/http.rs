use std::sync::Arc;

use ebpf_hello_collector::{
    log::{Memory, Place},
    serve::Options,
    token,
};
use ebpf_hello_proto::{
    DESCRIPTOR,
    v1::{self, event::Kind},
};
use prost::Message as _;
use prost_reflect::DescriptorPool;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

use crate::server::*;

/// Sends bytes and reads all that comes back until the other side closes.
async fn exchange(server: &Server, request: &[u8]) -> String {
    let mut stream = TcpStream::connect(server.tcp).await.unwrap();
    stream.write_all(request).await.unwrap();
    let mut answer = Vec::new();
    timeout(PATIENCE, stream.read_to_end(&mut answer))
        .await
        .unwrap()
        .unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}

async fn get(server: &Server, path: &str, headers: &str) -> String {
    let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{headers}\r\n");
    exchange(server, request.as_bytes()).await
}

const ALL: &str = "authorization: Bearer all\r\n";

#[tokio::test(flavor = "multi_thread")]
async fn events_are_lines_of_json_over_plain_http() {
    let server = start().await;
    server.append(&batch(1, 9)).await;
    let answer = get(
        &server,
        "/v1/events?namespaces=shop&last=2&mask=process.comm,pod.name",
        ALL,
    )
    .await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(
        answer.contains("content-type: application/x-ndjson"),
        "{answer}"
    );
    let lines: Vec<&str> = answer
        .lines()
        .filter(|line| line.starts_with('{'))
        .collect();
    assert_eq!(
        lines,
        [
            r#"{"time":"2023-11-14T22:13:24Z","node":"n1","cpu":0,"sequence":"4","epoch":"1","process":{"comm":"sh"},"pod":{"name":"cart-0"},"exec":{}}"#,
            r#"{"time":"2023-11-14T22:13:27Z","node":"n1","cpu":0,"sequence":"7","epoch":"1","process":{"comm":"sh"},"pod":{"name":"cart-0"},"exec":{}}"#,
        ]
    );
    let since = get(
        &server,
        "/v1/events?since=2023-11-14T22:13:28Z&until=2023-11-14T22:13:29Z",
        ALL,
    )
    .await;
    assert_eq!(
        since.lines().filter(|line| line.starts_with('{')).count(),
        1
    );
    let shop = get(&server, "/v1/events", "authorization: Bearer shop\r\n").await;
    assert_eq!(shop.lines().filter(|line| line.starts_with('{')).count(), 3);
}

/// A server with six events, of which no two are alike.
async fn with_six_events() -> Server {
    let pod = |namespace: &str, name: &str, app: &str, container: &str| v1::Pod {
        namespace: namespace.into(),
        name: name.into(),
        labels: [("app".to_owned(), app.to_owned())].into(),
        container: Some(v1::Container {
            name: container.into(),
            ..v1::Container::default()
        }),
        ..v1::Pod::default()
    };
    let process = |pid, uid, comm: &str, binary: &str| v1::Process {
        pid,
        uid: Some(uid),
        comm: comm.into(),
        binary: binary.into(),
        ..v1::Process::default()
    };
    let cart = pod("shop", "cart-0", "cart", "web");
    let safe = pod("bank", "safe-0", "safe", "vault");
    let sh = process(42, 0, "sh", "/bin/dash");
    let curl = process(43, 1000, "curl", "/usr/bin/curl");
    let wget = process(44, 2000, "wget", "/usr/bin/wget");
    let exec = || Kind::Exec(v1::Exec::default());
    let openat = Kind::Path(v1::Path {
        name: "openat".into(),
        ..v1::Path::default()
    });
    let connect = Kind::Sock(v1::Sock {
        name: "connect".into(),
        ..v1::Sock::default()
    });
    let getppid = Kind::Syscall(v1::Syscall {
        name: "getppid".into(),
        ..v1::Syscall::default()
    });
    let server = start().await;
    let log = [
        ("n1", Some(&cart), &sh, exec()),
        ("n1", Some(&cart), &curl, openat),
        ("n1", Some(&safe), &wget, Kind::Exit(v1::Exit::default())),
        ("n2", Some(&safe), &curl, connect),
        ("n2", None, &sh, getppid),
        ("n2", Some(&cart), &wget, exec()),
    ];
    for (sequence, (node, pod, process, kind)) in (1..).zip(log) {
        let mut batch = batch(sequence, 1);
        batch.node = node.into();
        batch.processes = vec![process.clone()];
        batch.pods = pod.into_iter().cloned().collect();
        batch.events[0].pod = u32::from(pod.is_some());
        batch.events[0].event.as_mut().unwrap().kind = Some(kind);
        server.append(&batch).await;
    }
    server
}

#[tokio::test(flavor = "multi_thread")]
async fn plain_http_takes_each_filter_of_observe() {
    let server = with_six_events().await;
    let third = Place {
        position: 3,
        event: 0,
    };
    let resume = format!("resume_token={}", token::encode(server.log.as_ref(), third));
    // Values that are of use to one filter only: another that gets them selects something else, or refuses them.
    #[rustfmt::skip]
    let table: [(&str, &[u64]); 21] = [
        ("", &[1, 2, 3, 4, 5, 6]),
        ("nodes=*2", &[4, 5, 6]),
        ("namespaces=shop", &[1, 2, 6]),
        ("namespaces=shop&namespaces=bank", &[1, 2, 3, 4, 6]),
        ("pods=safe-?", &[3, 4]),
        ("label_selector=app+in+(cart,shelf)", &[1, 2, 6]),
        ("containers=vault", &[3, 4]),
        ("syscalls=openat&syscalls=connect", &[2, 4]),
        ("syscalls=@file", &[2]),
        ("types=exec&types=exit", &[1, 3, 6]),
        ("comms=c*", &[2, 4]),
        ("binaries=/usr/*", &[2, 3, 4, 6]),
        ("uids=1000-1999", &[2, 4]),
        ("pids=42&pids=44", &[1, 3, 5, 6]),
        ("cel=event.process.pid==44+%26%26+event.node=='n1'", &[3]),
        ("types=exec&comms=sh", &[1]),
        ("since=2023-11-14T22:13:24Z", &[4, 5, 6]),
        ("until=2023-11-14T22:13:22Z", &[1]),
        ("last=2", &[5, 6]),
        ("follow=false", &[1, 2, 3, 4, 5, 6]),
        (&resume, &[3, 4, 5, 6]),
    ];
    for (query, expected) in table {
        let answer = get(&server, &format!("/v1/events?{query}"), ALL).await;
        let sequences: Vec<u64> = answer
            .lines()
            .filter(|line| line.starts_with('{'))
            .filter_map(|line| serde_json::from_str::<v1::Event>(line).ok())
            .map(|event| event.sequence)
            .collect();
        assert_eq!(sequences, expected, "{query}: {answer}");
    }
    let schema = DescriptorPool::decode(DESCRIPTOR).unwrap();
    let selection = schema
        .get_message_by_name("ebpfhello.v1.Selection")
        .unwrap();
    for field in selection.fields() {
        let parameter = format!("{}=", field.name());
        assert!(
            table.iter().any(|(query, _)| query.starts_with(&parameter)),
            "no query with {parameter}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn following_over_plain_http_shows_events_as_they_come() {
    let server = start().await;
    let mut stream = TcpStream::connect(server.tcp).await.unwrap();
    let request = format!("GET /v1/events?follow HTTP/1.1\r\nhost: x\r\n{ALL}\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    let mut buffer = [0; 4096];
    while !answer.contains("\"sequence\":\"2\"") {
        if answer.contains("200 OK") {
            // Again and again, since it may not be at the end of the log yet.
            let number = server.log.range().await.unwrap().end;
            server.append(&batch(number, 1)).await;
        }
        let read = tokio::time::timeout(
            std::time::Duration::from_millis(100),
            stream.read(&mut buffer),
        );
        if let Ok(read) = read.await {
            answer.push_str(&String::from_utf8_lossy(&buffer[..read.unwrap()]));
        }
        assert!(server.log.range().await.unwrap().end < 600, "{answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_queries_name_the_parameter() {
    let server = start().await;
    let long = format!("/v1/events?cel={}", "x".repeat(20_000));
    for (path, headers, status, expected) in [
        ("/v1/events?pidz=1", ALL, 400, "\"field\":\"pidz\""),
        ("/v1/events?pids=x", ALL, 400, "\"field\":\"pids\""),
        ("/v1/events?last=-1", ALL, 400, "\"field\":\"last\""),
        ("/v1/events?since=yesterday", ALL, 400, "such as 10m"),
        ("/v1/events?follow=perhaps", ALL, 400, "true or false"),
        ("/v1/events?types=exek", ALL, 400, "selection.types[0]"),
        ("/v1/events?mask=nod", ALL, 400, "mask.paths[0]"),
        (long.as_str(), ALL, 400, "at most 16384"),
        ("/v1/events", "", 401, "NO_CREDENTIALS"),
        (
            "/v1/events",
            "authorization: Bearer bad\r\n",
            401,
            "unknown token",
        ),
        (
            "/v1/events",
            "authorization: Bearer node:n1\r\n",
            403,
            "NOT_ALLOWED",
        ),
    ] {
        let answer = get(&server, path, headers).await;
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{path:.40}: {answer}"
        );
        assert!(answer.contains(expected), "{path:.40}: {answer}");
        assert!(
            answer.contains("content-type: application/json"),
            "{answer}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_browser_speaks_grpc_web_over_http_1() {
    let server = start().await;
    server.append(&batch(1, 3)).await;
    let message = v1::ObserveRequest::default().encode_to_vec();
    let mut body = vec![0];
    body.extend(u32::try_from(message.len()).unwrap().to_be_bytes());
    body.extend(message);
    let mut request = format!(
        "POST /ebpfhello.v1.ObserverService/Observe HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\
         content-type: application/grpc-web+proto\r\ncontent-length: {}\r\n{ALL}\r\n",
        body.len()
    )
    .into_bytes();
    request.extend(body);
    let answer = exchange(&server, &request).await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(
        answer.contains("content-type: application/grpc-web+proto"),
        "{answer}"
    );
    assert!(
        answer.contains("/bin/xxx") && answer.contains("cart-0"),
        "{answer}"
    );
    assert!(answer.contains("grpc-status:0"), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn browsers_of_other_origins_are_let_in_only_where_listed() {
    let preflight = |server: &Server| {
        let address = server.tcp;
        async move {
            let mut stream = TcpStream::connect(address).await.unwrap();
            let request = "OPTIONS /v1/events HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\
                           origin: https://ui.example\r\naccess-control-request-method: GET\r\n\r\n";
            stream.write_all(request.as_bytes()).await.unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.unwrap();
            answer
        }
    };
    let closed = start().await;
    assert!(
        !preflight(&closed)
            .await
            .contains("access-control-allow-origin")
    );
    let options = Options {
        origins: vec!["https://ui.example".into()],
        ..Options::default()
    };
    let open = start_with(Arc::new(Memory::new(1 << 20)), options).await;
    let answer = preflight(&open).await;
    assert!(
        answer.contains("access-control-allow-origin: https://ui.example"),
        "{answer}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quiet_answer_shows_that_it_is_alive_and_one_that_comes_at_once_is_events_only() {
    let options = Options {
        heartbeat: std::time::Duration::from_millis(50),
        ..Options::default()
    };
    let server = start_with(Arc::new(Memory::new(1 << 20)), options).await;
    let mut stream = TcpStream::connect(server.tcp).await.unwrap();
    let request = format!("GET /v1/events?follow HTTP/1.1\r\nhost: x\r\n{ALL}\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    let mut buffer = [0; 4096];
    // Chunks of an empty line.
    while answer.matches("1\r\n\n\r\n").count() < 3 {
        let read = timeout(PATIENCE, stream.read(&mut buffer)).await.unwrap();
        let read = read.unwrap();
        assert_ne!(read, 0, "{answer}");
        answer.push_str(&String::from_utf8_lossy(&buffer[..read]));
    }

    let server = start().await;
    server.append(&batch(1, 3)).await;
    let answer = get(&server, "/v1/events", ALL).await;
    assert!(answer.contains("\"sequence\":\"3\""), "{answer}");
    assert!(!answer.contains("\r\n\n\r\n"), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_browser_that_is_nobody_sends_little_too() {
    let server = start().await;
    let length = 40_u32 << 10;
    let mut body = vec![0];
    body.extend(length.to_be_bytes());
    body.resize(body.len() + length as usize, 0);
    let mut request = format!(
        "POST /ebpfhello.v1.CollectorService/Enroll HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\
         content-type: application/grpc-web+proto\r\ncontent-length: {}\r\n\r\n",
        body.len()
    )
    .into_bytes();
    request.extend(body);
    let answer = exchange(&server, &request).await;
    assert!(
        answer.contains("grpc-status: 8"),
        "RESOURCE_EXHAUSTED: {answer}"
    );
    assert!(answer.contains("32768"), "{answer}");
}
