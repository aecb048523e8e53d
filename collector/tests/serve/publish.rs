use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::SystemTime,
};

use async_trait::async_trait;
use bytes::Bytes;
use ebpf_hello_collector::{
    log::{Appended, BatchKey, Log, LogError, Memory, Range, Reader},
    serve::Options,
    token::TokenKey,
};
use ebpf_hello_proto::{
    v1::{
        self, collector_service_client::CollectorServiceClient, publish_request::Message as Ask,
        publish_response::Message as Answer,
    },
    wire,
};
use tokio::{sync::mpsc, time::timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming, transport::Channel};

use crate::server::*;

struct Agent {
    /// The last batch that was stored before.
    stored: u64,
    asks: mpsc::Sender<v1::PublishRequest>,
    answers: Streaming<v1::PublishResponse>,
}

impl Agent {
    async fn connect(
        client: &mut CollectorServiceClient<Channel>,
        epoch: u64,
    ) -> Result<(Agent, v1::CollectorHello), Status> {
        let hello = v1::AgentHello {
            node: "n1".into(),
            epoch,
            version: "0.1.0".into(),
        };
        let mut agent = Self::first(client, Ask::Hello(hello)).await?;
        match agent.answer().await?.unwrap() {
            Answer::Hello(hello) => {
                agent.stored = hello.last.as_ref().map_or(0, |last| last.number);
                Ok((agent, hello))
            }
            other => panic!("{other:?}"),
        }
    }

    async fn first(
        client: &mut CollectorServiceClient<Channel>,
        message: Ask,
    ) -> Result<Agent, Status> {
        let (asks, receiver) = mpsc::channel(1000);
        asks.try_send(v1::PublishRequest {
            message: Some(message),
        })
        .unwrap();
        let answers = client.publish(ReceiverStream::new(receiver)).await?;
        Ok(Agent {
            stored: 0,
            asks,
            answers: answers.into_inner(),
        })
    }

    async fn send(&self, message: Ask) {
        let request = v1::PublishRequest {
            message: Some(message),
        };
        self.asks.send(request).await.unwrap();
    }

    async fn answer(&mut self) -> Result<Option<Answer>, Status> {
        let answer = timeout(PATIENCE, self.answers.message()).await.unwrap()?;
        Ok(answer.and_then(|answer| answer.message))
    }

    /// Waits until all up to this number are acknowledged; the acknowledgements it took.
    async fn acknowledged(&mut self, number: u64) -> usize {
        let mut count = 0;
        let mut last = 0;
        while last < number {
            let Answer::Acknowledgement(ack) = self.answer().await.unwrap().unwrap() else {
                panic!("no acknowledgement");
            };
            // Grows, but that what was stored before and is sent again is acknowledged each time, by the last of it.
            let again = ack.number == self.stored && last == self.stored;
            assert!(ack.number > last || again, "{} after {last}", ack.number);
            last = ack.number;
            count += 1;
        }
        assert_eq!(last, number);
        count
    }

    async fn refused(&mut self) -> Status {
        loop {
            match self.answer().await {
                Err(status) => return status,
                Ok(Some(_)) => {}
                Ok(None) => panic!("ended without a word"),
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_published_is_stored_once_acknowledged_and_observed() {
    let server = start().await;
    let mut client = server.publisher().await;
    let (mut agent, hello) = Agent::connect(&mut client, 1).await.unwrap();
    assert_eq!(hello.last, None);
    let settings = hello.settings.unwrap();
    assert_eq!(settings.linger.unwrap().to_string(), "0.005s");
    assert!(settings.window_batches > 0 && settings.window_bytes > 0);
    for number in 1..=40 {
        agent.send(Ask::Batch(batch(number, 10))).await;
    }
    agent.acknowledged(40).await;
    drop(agent);

    // It did not hear the last acknowledgements: it sends again, and goes on.
    let (mut agent, hello) = Agent::connect(&mut client, 2).await.unwrap();
    let last = hello.last.unwrap();
    assert_eq!((last.epoch, last.number), (1, 40));
    for number in 38..=42 {
        agent.send(Ask::Batch(batch(number, 10))).await;
    }
    agent.acknowledged(42).await;
    let events = all(&mut server.observer().await, everything()).await;
    assert_eq!(sequences(&events), (1..=420).collect::<Vec<u64>>());

    let ledger = server.collector.accounts().ledger();
    assert_eq!(
        (ledger.received, ledger.stored, ledger.duplicates),
        (450, 420, 30)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_report_shows_in_the_fleet_as_long_as_the_agent_is_there() {
    let server = start().await;
    let mut client = server.publisher().await;
    let (agent, _) = Agent::connect(&mut client, 9).await.unwrap();
    let report = v1::NodeReport {
        node: Some(v1::Node {
            kernel: "6.12".into(),
            ..v1::Node::default()
        }),
        ..v1::NodeReport::default()
    };
    agent.send(Ask::Report(report)).await;
    let mut observer = server.observer().await;
    let mut node = v1::Node::default();
    for _ in 0..500 {
        let nodes = observer.list_nodes(v1::ListNodesRequest::default()).await;
        node = nodes.unwrap().into_inner().nodes.remove(0);
        if !node.kernel.is_empty() {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    assert_eq!(
        (node.name.as_str(), node.epoch, node.connected),
        ("n1", 9, true)
    );
    assert_eq!(
        (node.kernel.as_str(), node.version.as_str()),
        ("6.12", "0.1.0")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newer_stream_of_the_node_ends_the_older() {
    let server = start().await;
    let mut client = server.publisher().await;
    let (mut older, _) = Agent::connect(&mut client, 1).await.unwrap();
    let (mut newer, _) = Agent::connect(&mut client, 1).await.unwrap();
    assert_eq!(older.refused().await.code(), Code::Aborted);
    newer.send(Ask::Batch(batch(1, 1))).await;
    newer.acknowledged(1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_breaks_the_rules_ends_the_stream_and_is_not_stored() {
    let server = start().await;
    let mut client = server.publisher().await;
    let (mut agent, _) = Agent::connect(&mut client, 5).await.unwrap();
    let good = v1::Batch {
        epoch: 5,
        ..batch(3, 1)
    };
    agent.send(Ask::Batch(good.clone())).await;
    agent.acknowledged(3).await;
    assert_eq!(
        server.collector.accounts().gaps(),
        2,
        "1 and 2 were left out"
    );
    drop(agent);

    let hello = v1::AgentHello::default();
    type Change = fn(v1::Batch) -> v1::Batch;
    let table: [(Code, &str, Change); 6] = [
        (Code::PermissionDenied, "\"n2\"", |good| v1::Batch {
            node: "n2".into(),
            number: 9,
            ..good
        }),
        (Code::InvalidArgument, "batch.epoch", |good| v1::Batch {
            epoch: 6,
            ..good
        }),
        (Code::InvalidArgument, "batch.number", |good| v1::Batch {
            number: 4,
            ..good
        }),
        (Code::InvalidArgument, "batch.events[0].pod", |mut good| {
            good.number = 9;
            good.events[0].pod = 7;
            good
        }),
        (Code::InvalidArgument, "has a node", |mut good| {
            good.number = 9;
            good.events[0].event.as_mut().unwrap().node = "n2".into();
            good
        }),
        (Code::ResourceExhausted, "too large", |good| v1::Batch {
            number: 9,
            node: "x".repeat(5 << 20),
            ..good
        }),
    ];
    for (code, what, change) in table {
        let (mut agent, _) = Agent::connect(&mut client, 5).await.unwrap();
        // Two, the first good, so that an order can be wrong.
        agent
            .send(Ask::Batch(v1::Batch {
                number: 4,
                ..good.clone()
            }))
            .await;
        agent.send(Ask::Batch(change(good.clone()))).await;
        let status = agent.refused().await;
        assert_eq!(status.code(), code, "{status}");
        assert!(status.message().contains(what), "{status}");
    }
    let stored = all(&mut server.observer().await, everything()).await;
    assert_eq!(stored.len(), 2, "3 and 4");

    for (message, what) in [
        (Ask::Batch(good), "expected hello"),
        (Ask::Hello(hello.clone()), "hello.node"),
        (
            Ask::Hello(v1::AgentHello {
                node: "n1".into(),
                ..hello
            }),
            "hello.epoch",
        ),
    ] {
        let status = Agent::first(&mut client, message).await.err().unwrap();
        assert_eq!(status.code(), Code::InvalidArgument, "{status}");
        assert!(status.message().contains(what), "{status}");
    }
    // Its batches would all be taken for duplicates.
    let status = Agent::connect(&mut client, 4).await.err().unwrap();
    assert_eq!(status.code(), Code::FailedPrecondition, "{status}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_publishes_for_its_node_only() {
    let server = start().await;
    let channel = server.tcp_channel().await;
    for (token, code) in [
        (None, Code::Unauthenticated),
        (Some("Bearer all"), Code::PermissionDenied),
        (Some("Bearer node:n2"), Code::PermissionDenied),
    ] {
        let show = move |mut request: tonic::Request<()>| {
            if let Some(token) = token {
                request
                    .metadata_mut()
                    .insert("authorization", token.parse().unwrap());
            }
            Ok::<_, Status>(request)
        };
        let mut client = CollectorServiceClient::with_interceptor(channel.clone(), show);
        let hello = v1::PublishRequest {
            message: Some(Ask::Hello(v1::AgentHello {
                node: "n1".into(),
                epoch: 1,
                ..v1::AgentHello::default()
            })),
        };
        let status = client
            .publish(tokio_stream::iter([hello]))
            .await
            .err()
            .unwrap();
        assert_eq!(status.code(), code, "{status}");
    }
}

/// A log whose disk can be full.
#[derive(Debug)]
struct Failing(Memory, AtomicBool);

#[async_trait]
impl Log for Failing {
    fn id(&self) -> &str {
        self.0.id()
    }

    fn token_key(&self) -> &TokenKey {
        self.0.token_key()
    }

    async fn last(&self, node: &str) -> Result<Option<BatchKey>, LogError> {
        self.0.last(node).await
    }

    async fn append_decoded(
        &self,
        batch: wire::Batch,
        encoded: Bytes,
    ) -> Result<Appended, LogError> {
        if self.1.load(Relaxed) {
            return Err(LogError::Store {
                directory: "/store".into(),
                message: "no space left on device".into(),
            });
        }
        self.0.append_decoded(batch, encoded).await
    }

    async fn range(&self) -> Result<Range, LogError> {
        self.0.range().await
    }

    async fn position_at(&self, time: SystemTime) -> Result<u64, LogError> {
        self.0.position_at(time).await
    }

    async fn reader(&self, position: u64) -> Result<Box<dyn Reader>, LogError> {
        self.0.reader(position).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_cannot_be_stored_is_not_acknowledged() {
    let log = Arc::new(Failing(Memory::new(1 << 20), AtomicBool::new(true)));
    let server = start_with(log.clone(), Options::default()).await;
    let mut client = server.publisher().await;
    let (mut agent, _) = Agent::connect(&mut client, 1).await.unwrap();
    agent.send(Ask::Batch(batch(1, 3))).await;
    let status = agent.answer().await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert!(status.message().contains("no space left"), "{status}");
    assert_eq!(server.collector.accounts().ledger().received, 0);
    // There is room again: the agent still has it.
    log.1.store(false, Relaxed);
    let (mut agent, hello) = Agent::connect(&mut client, 1).await.unwrap();
    assert_eq!(hello.last, None);
    agent.send(Ask::Batch(batch(1, 3))).await;
    agent.acknowledged(1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_that_could_be_none_is_refused_by_its_field() {
    let server = start().await;
    let mut client = server.publisher().await;
    let hello = |version: &str| {
        Ask::Hello(v1::AgentHello {
            node: "n1".into(),
            epoch: 1,
            version: version.into(),
        })
    };
    for version in ["0.1.0\nx", "0.1.0\r", "\u{1b}[31m", &"1".repeat(65)] {
        let status = Agent::first(&mut client, hello(version)).await.err();
        let status = status.unwrap();
        assert_eq!(status.code(), Code::InvalidArgument, "{status}");
        assert!(status.message().contains("hello.version"), "{status}");
    }
    for version in [
        "",
        "0.1.0",
        "0.1.0-rc.1+7b2ccb3e65bba26c6b04ab70bad1e8b1a1d53e21",
    ] {
        let mut agent = Agent::first(&mut client, hello(version)).await.unwrap();
        let answer = agent.answer().await.unwrap();
        assert!(matches!(answer, Some(Answer::Hello(_))), "{answer:?}");
    }
}
