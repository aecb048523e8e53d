use std::{sync::Arc, thread::available_parallelism};

use ebpf_hello_collector::{log::Memory, serve::Options};
use ebpf_hello_proto::v1::{
    self, collector_service_client::CollectorServiceClient, event::Kind, observe_response::Message,
    observer_service_client::ObserverServiceClient, publish_request::Message as Ask,
    publish_response::Message as Answer,
};
use tokio::{
    sync::mpsc,
    task::JoinHandle,
    time::{Duration, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming, transport::Channel};

use crate::server::*;

/// An expression that takes milliseconds for an event of [`costly_batch`], and then fails.
const COSTLY: &str = "event.exec.argv.all(a, event.exec.argv.exists(b, b == a + 'x') || true)";
/// So many keep a processor busy for most of a minute.
const EVENTS: u64 = 20_000;

fn costly_batch() -> v1::Batch {
    let mut batch = batch(1, EVENTS);
    for event in &mut batch.events {
        event.event.as_mut().unwrap().kind = Some(Kind::Exec(v1::Exec {
            argv: (0..80).map(|n: u32| n.to_string()).collect(),
            ..v1::Exec::default()
        }));
    }
    batch
}

fn costly(request: v1::ObserveRequest) -> v1::ObserveRequest {
    v1::ObserveRequest {
        selection: Some(v1::Selection {
            cel: COSTLY.into(),
            ..v1::Selection::default()
        }),
        ..request
    }
}

/// Reads a stream to its end.
fn read(
    mut client: ObserverServiceClient<Channel>,
    request: v1::ObserveRequest,
) -> JoinHandle<Result<(), Status>> {
    tokio::spawn(async move {
        let mut stream = client.observe(request).await?.into_inner();
        while stream.message().await?.is_some() {}
        Ok(())
    })
}

/// Publishes a batch on an open stream, and waits until it is acknowledged.
async fn publish(
    asks: &mpsc::Sender<v1::PublishRequest>,
    answers: &mut Streaming<v1::PublishResponse>,
    batch: v1::Batch,
) {
    let number = batch.number;
    let message = Some(Ask::Batch(batch));
    asks.send(v1::PublishRequest { message }).await.unwrap();
    loop {
        let answer = timeout(PATIENCE, answers.message()).await.unwrap();
        if let Some(Answer::Acknowledgement(ack)) = answer.unwrap().unwrap().message
            && ack.number == number
        {
            return;
        }
    }
}

async fn agent(
    client: &mut CollectorServiceClient<Channel>,
) -> (
    mpsc::Sender<v1::PublishRequest>,
    Streaming<v1::PublishResponse>,
) {
    let (asks, receiver) = mpsc::channel(10);
    let hello = v1::AgentHello {
        node: "n2".into(),
        epoch: 1,
        version: "0.1.0".into(),
    };
    let message = Some(Ask::Hello(hello));
    asks.send(v1::PublishRequest { message }).await.unwrap();
    let answers = client.publish(ReceiverStream::new(receiver)).await.unwrap();
    (asks, answers.into_inner())
}

/// Twice as many as there are processors judge the batch, streams and those that look back for a start; an agent and a
/// quick reader do all of theirs before the first of them is through.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn expressions_leave_the_others_their_share() {
    let server = start().await;
    server.append(&costly_batch()).await;
    let mut stuck = Vec::new();
    for _ in 0..available_parallelism().unwrap().get() {
        stuck.push(read(server.observer().await, costly(everything())));
        let counted = v1::ObserveRequest {
            last: 1,
            ..costly(everything())
        };
        stuck.push(read(server.observer().await, counted));
    }
    // Long enough for all of them to be at it.
    tokio::time::sleep(Duration::from_millis(500)).await;
    let mut follower = open(&mut server.observer().await, live()).await;
    let mut client = server.publisher().await;
    let (asks, mut answers) = agent(&mut client).await;
    for number in 1..=20 {
        let batch = v1::Batch {
            node: "n2".into(),
            ..batch(number, 2)
        };
        publish(&asks, &mut answers, batch).await;
        let mut events = Vec::new();
        while events.len() < 2 {
            let response = next(&mut follower).await.unwrap().unwrap();
            if let Some(Message::Events(list)) = response.message {
                events.extend(list.events);
            }
        }
        assert_eq!(sequences(&events), [2 * number - 1, 2 * number]);
    }
    for task in stuck {
        assert!(!task.is_finished(), "the test's load is too small");
        task.abort();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_ends_in_the_middle_of_a_costly_entry() {
    let server = start().await;
    server.append(&costly_batch()).await;
    let mut stream = open(&mut server.observer().await, costly(everything())).await;
    server.collector.stop();
    let status = next(&mut stream).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status}");
}

/// A client takes a stream that is silent for dead, and would begin the same entry again and again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_is_alive_in_the_middle_of_a_costly_entry_and_goes_on_there() {
    let options = Options {
        heartbeat: Duration::from_millis(50),
        ..Options::default()
    };
    let server = start_with(Arc::new(Memory::new(256 << 20)), options).await;
    server.append(&costly_batch()).await;
    let mut client = server.observer().await;
    let mut stream = open(&mut client, costly(everything())).await;
    let response = loop {
        let response = next(&mut stream).await.unwrap().unwrap();
        match &response.message {
            Some(Message::Heartbeat(heartbeat)) if heartbeat.cel_errors > 0 => break response,
            _ => {}
        }
    };
    let Some(Message::Heartbeat(heartbeat)) = response.message else {
        unreachable!("it was one");
    };
    assert!(heartbeat.cel_errors < EVENTS, "in the middle");
    let rest = v1::ObserveRequest {
        resume_token: response.resume_token,
        ..everything()
    };
    let rest = all(&mut client, rest).await;
    assert_eq!(rest.len() as u64, EVENTS - heartbeat.cel_errors);
}
