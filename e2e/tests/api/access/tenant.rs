//! A tenant walks every RPC while another tenant is busy, and learns nothing of it.

use std::{sync::Arc, time::Duration};

use ebpf_hello_proto::v1::{
    self, observe_response::Message, observer_service_client::ObserverServiceClient,
    publish_request, publish_response::Message as Answer,
};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName, pem::PemObject as _},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    sync::watch,
};
use tonic::{Code, transport::Channel};

use super::fixture::{Cluster, Collector, HOME, batch, follow, pod, publish, publish_batch, with};

/// What only the other tenant, or the node as a whole, has: names, and counts that are nobody else's.
const THEIRS: [&str; 11] = [
    "bank",
    "safe-0",
    "everything",
    "nosuchkernel",
    "sys_enter_prog",
    "700001",
    "700002",
    "700003",
    "700005",
    "700006",
    "700007",
];

fn counters(count: u64) -> Option<v1::Counters> {
    Some(v1::Counters {
        execs: vec![v1::ExecCount {
            uid: Some(0),
            count,
        }],
        ..v1::Counters::default()
    })
}

/// What an agent reports of a node with both tenants.
fn report() -> v1::PublishRequest {
    let pod = |namespace: &str, name: &str, count| v1::PodCounters {
        namespace: namespace.into(),
        pod: name.into(),
        counters: counters(count),
    };
    let filter = |name: &str, pods| v1::FilterState {
        filter: name.into(),
        pods,
        programmed: true,
        ..v1::FilterState::default()
    };
    publish_report(v1::NodeReport {
        node: Some(v1::Node {
            name: "n1".into(),
            epoch: 1,
            kernel: "nosuchkernel".into(),
            generation: 700_001,
            ..v1::Node::default()
        }),
        programs: vec![v1::Program {
            name: "sys_enter_prog".into(),
            runs: 700_002,
            ..v1::Program::default()
        }],
        filters: vec![
            filter("shop/cart", 1),
            filter("bank/safe", 3),
            filter("everything", 4),
        ],
        ledger: Some(v1::Ledger {
            seen: 700_003,
            delivered: 700_003,
            ..v1::Ledger::default()
        }),
        counters: counters(700_004),
        pods: vec![
            pod("shop", "cart-0", 11),
            pod("bank", "safe-0", 700_005),
            pod("", "", 700_006),
        ],
        ..v1::NodeReport::default()
    })
}

fn publish_report(report: v1::NodeReport) -> v1::PublishRequest {
    v1::PublishRequest {
        message: Some(publish_request::Message::Report(report)),
    }
}

/// A loss that may be of anybody's events, and one of a pod's.
fn losses(number: u64) -> v1::PublishRequest {
    let loss = |count, pod, cpu| v1::BatchedEvent {
        event: Some(v1::Event {
            time: Some(std::time::SystemTime::now().into()),
            cpu,
            kind: Some(v1::event::Kind::Loss(v1::Loss {
                stage: v1::LossStage::Kernel.into(),
                reason: v1::LossReason::RingbufFull.into(),
                count,
                node: "n1".into(),
                first_sequence: if pod == 0 { 700_007 } else { 0 },
                last_sequence: if pod == 0 { 700_007 } else { 0 },
                ..v1::Loss::default()
            })),
            ..v1::Event::default()
        }),
        pod,
        ..v1::BatchedEvent::default()
    };
    publish_batch(v1::Batch {
        node: "n1".into(),
        epoch: 1,
        number,
        pods: vec![pod("shop", "cart-0"), pod("bank", "safe-0")],
        events: vec![
            loss(700_007, 0, Some(3)),
            loss(5, 1, None),
            loss(700_005, 2, None),
        ],
        ..v1::Batch::default()
    })
}

/// Everything a reader is told, over every RPC that takes a selection or none, as text.
async fn walk(
    observer: &mut ObserverServiceClient<Channel>,
    token: &str,
    namespace: &str,
) -> Vec<(&'static str, Result<String, tonic::Status>)> {
    // Of no namespace: everything.
    let named: Vec<&str> = [namespace]
        .into_iter()
        .filter(|name| !name.is_empty())
        .collect();
    let selection = || follow(&named).selection;
    let text = |value: Result<serde_json::Value, serde_json::Error>| value.unwrap().to_string();
    let mut told = Vec::new();
    let counters = v1::GetCountersRequest {
        selection: selection(),
        ..Default::default()
    };
    let answer = observer.get_counters(with(token, counters)).await;
    told.push((
        "GetCounters",
        answer.map(|all| text(serde_json::to_value(all.get_ref()))),
    ));
    let filters = v1::ListFiltersRequest {
        namespace: namespace.into(),
        ..Default::default()
    };
    let answer = observer.list_filters(with(token, filters)).await;
    told.push((
        "ListFilters",
        answer.map(|all| text(serde_json::to_value(all.get_ref()))),
    ));
    let answer = observer
        .list_nodes(with(token, v1::ListNodesRequest::default()))
        .await;
    told.push((
        "ListNodes",
        answer.map(|all| text(serde_json::to_value(all.get_ref()))),
    ));
    let answer = observer
        .list_programs(with(token, v1::ListProgramsRequest::default()))
        .await;
    told.push((
        "ListPrograms",
        answer.map(|all| text(serde_json::to_value(all.get_ref()))),
    ));
    let answer = observer
        .get_ledger(with(token, v1::GetLedgerRequest::default()))
        .await;
    told.push((
        "GetLedger",
        answer.map(|all| text(serde_json::to_value(all.get_ref()))),
    ));
    told
}

/// All messages of a stream that ends, as text, and how many events of pods were among them.
async fn observe(
    observer: &mut ObserverServiceClient<Channel>,
    token: &str,
    namespaces: &[&str],
) -> (String, Vec<v1::Event>) {
    let request = v1::ObserveRequest {
        follow: false,
        ..follow(namespaces)
    };
    let mut stream = observer
        .observe(with(token, request))
        .await
        .unwrap()
        .into_inner();
    let (mut text, mut events) = (String::new(), Vec::new());
    while let Some(message) = stream.message().await.unwrap() {
        text += &serde_json::to_string(&message).unwrap();
        if let Some(Message::Events(list)) = message.message {
            events.extend(list.events);
        }
    }
    (text, events)
}

/// An HTTP/1.1 request over TLS, and all of the answer.
async fn http(cluster: &Cluster, collector: &Collector, request: &[u8]) -> String {
    let mut roots = RootCertStore::empty();
    let authorities = cluster.authorities().await;
    for root in CertificateDer::pem_slice_iter(authorities.as_bytes()) {
        roots.add(root.unwrap()).unwrap();
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let stream = tokio::net::TcpStream::connect(("127.0.0.1", collector.port))
        .await
        .unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    let mut stream = tokio_rustls::TlsConnector::from(Arc::new(config))
        .connect(name, stream)
        .await
        .unwrap();
    stream.write_all(request).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn a_tenant_learns_nothing_of_another_by_any_way() {
    let cluster = Cluster::start().await;
    let collector = cluster.collector(&[]).await;
    let n1 = cluster.node(&collector, "n1").await;
    let mut publishing = publish(n1, "n1").await.unwrap();
    publishing.sender.send(report()).await.unwrap();
    let token = cluster.reader("shop", "reader").await;
    let auditor = cluster.reader(HOME, "auditor").await;
    let mut observer = cluster.observer(&collector).await;
    let live = observer.observe(with(&token, follow(&["shop"]))).await;
    let mut live = live.unwrap().into_inner();

    // The other tenant is busy all the time.
    let sender = publishing.sender.clone();
    let busy = tokio::spawn(async move {
        for number in 1.. {
            let message = match number {
                10 => losses(number),
                20 => batch(
                    "n1",
                    number,
                    &[("bank", "safe-0"), ("shop", "cart-0"), ("bank", "safe-0")],
                ),
                _ => batch("n1", number, &[("bank", "safe-0"); 3]),
            };
            if sender.send(message).await.is_err() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    let (stored, mut told) = watch::channel(0);
    let reading = tokio::spawn(async move {
        while let Ok(Some(answer)) = publishing.answers.message().await {
            if let Some(Answer::Acknowledgement(last)) = answer.message {
                stored.send_replace(last.number);
            }
        }
    });
    told.wait_for(|last| *last >= 30).await.unwrap();

    // Who may see everything sees all of it: otherwise nothing below would prove anything.
    let mut everything = String::new();
    for (rpc, told) in walk(&mut observer, &auditor, "").await {
        everything += &told.unwrap_or_else(|refused| panic!("{rpc}: {refused}"));
    }
    let (text, _) = observe(&mut observer, &auditor, &[]).await;
    everything += &text;
    for their in THEIRS {
        assert!(
            everything.contains(their),
            "{their} is nowhere: {everything:.4000}"
        );
    }

    // The tenant, of its own namespace.
    for (rpc, told) in walk(&mut observer, &token, "shop").await {
        match told {
            Ok(told) => {
                assert!(
                    ["GetCounters", "ListFilters"].contains(&rpc),
                    "{rpc}: {told}"
                );
                assert!(told.contains("shop"), "{rpc}: {told}");
                for their in THEIRS {
                    assert!(!told.contains(their), "{rpc} tells {their}: {told}");
                }
            }
            // What is of the node as a whole.
            Err(refused) => {
                assert_eq!(refused.code(), Code::PermissionDenied, "{rpc}: {refused}");
                assert!(
                    ["ListNodes", "ListPrograms", "GetLedger"].contains(&rpc),
                    "{rpc}: {refused}"
                );
            }
        }
    }
    // Of the other's, and of everything.
    for namespace in ["bank", ""] {
        for (rpc, told) in walk(&mut observer, &token, namespace).await {
            assert_eq!(
                told.unwrap_err().code(),
                Code::PermissionDenied,
                "{rpc} of {namespace:?}"
            );
        }
    }
    let (text, events) = observe(&mut observer, &token, &["shop"]).await;
    for their in THEIRS {
        assert!(!text.contains(their), "Observe tells {their}: {text}");
    }
    let mine = |event: &&v1::Event| {
        event
            .pod
            .as_ref()
            .is_some_and(|pod| pod.namespace == "shop")
    };
    assert_eq!(
        events.iter().filter(mine).count(),
        2,
        "an exec, and its own loss: {events:?}"
    );
    let told: Vec<(u64, bool)> = events
        .iter()
        .filter_map(|event| match &event.kind {
            Some(v1::event::Kind::Loss(loss)) => Some((loss.count, loss.count_withheld)),
            _ => None,
        })
        .collect();
    assert_eq!(told, [(0, true), (5, false)]);
    // The live stream had the same, with nothing of the store's times.
    let Some(Message::Hello(hello)) = live.message().await.unwrap().unwrap().message else {
        panic!("no hello");
    };
    assert_eq!((hello.store_oldest, hello.store_newest), (None, None));
    assert_eq!(hello.namespaces, ["shop"]);

    // Plain HTTP and gRPC-web are the same services.
    let lines = |query: &str, token: &str| {
        format!(
            "GET /v1/events{query} HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {token}\r\nconnection: \
             close\r\n\r\n"
        )
    };
    let answer = http(
        &cluster,
        &collector,
        lines("?namespaces=shop", &token).as_bytes(),
    )
    .await;
    assert!(
        answer.contains("200 OK") && answer.contains("cart-0"),
        "{answer}"
    );
    for their in THEIRS {
        assert!(
            !answer.contains(their),
            "/v1/events tells {their}: {answer}"
        );
    }
    for query in ["?namespaces=bank", ""] {
        let answer = http(&cluster, &collector, lines(query, &token).as_bytes()).await;
        assert!(
            answer.contains("403 Forbidden") && !answer.contains("safe-0"),
            "{answer}"
        );
    }
    let answer = http(&cluster, &collector, lines("", &auditor).as_bytes()).await;
    assert!(answer.contains("safe-0"), "{answer:.2000}");
    let web = |rpc: &str, token: &str| {
        let head = format!(
            "POST /ebpfhello.v1.ObserverService/{rpc} HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer \
             {token}\r\ncontent-type: application/grpc-web+proto\r\ncontent-length: 5\r\nconnection: close\r\n\r\n"
        );
        [head.as_bytes(), &[0; 5]].concat()
    };
    for rpc in [
        "GetCounters",
        "ListFilters",
        "ListNodes",
        "ListPrograms",
        "GetLedger",
        "Observe",
    ] {
        let answer = http(&cluster, &collector, &web(rpc, &token)).await;
        assert!(
            answer.contains("grpc-status:7") || answer.contains("grpc-status: 7"),
            "{rpc}: {answer}"
        );
    }
    let answer = http(&cluster, &collector, &web("ListFilters", &auditor)).await;
    assert!(answer.contains("bank/safe"), "{answer}");
    busy.abort();
    reading.abort();
}
