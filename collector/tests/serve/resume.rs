use std::{sync::Arc, time::Duration};

use ebpf_hello_collector::{log::Memory, serve::Options};
use ebpf_hello_proto::v1::{
    self, observe_response::Message, observer_service_client::ObserverServiceClient,
};
use tokio::time::{Instant, sleep};
use tonic::Streaming;

use crate::server::*;

const EVENTS: u64 = 250;

fn numbered(events: &[v1::Event]) -> impl Iterator<Item = u64> {
    sequences(events)
        .into_iter()
        .filter(|sequence| *sequence > 0)
}

/// A live stream of a client that takes next to nothing, when its queue is full and heartbeats have come after that;
/// and the sequence of the last event in the log.
async fn stalled(server: &Server) -> (Streaming<v1::ObserveResponse>, u64) {
    let mut client = ObserverServiceClient::new(server.channel(64 << 10).await);
    let stream = open(&mut client, live()).await;
    let started = Instant::now();
    let mut number = 0;
    while server.collector.accounts().ledger().dropped == 0 {
        number += 1;
        server.append(&batch(number, EVENTS)).await;
        sleep(Duration::from_millis(1)).await;
        assert!(started.elapsed() < PATIENCE, "its queue never fills");
    }
    sleep(Duration::from_millis(500)).await;
    (stream, number * EVENTS)
}

async fn rest(server: &Server, resume_token: String) -> Vec<v1::Event> {
    let request = v1::ObserveRequest {
        resume_token,
        ..everything()
    };
    all(&mut server.observer().await, request).await
}

async fn start_impatient() -> Server {
    let options = Options {
        queue_bytes: 1 << 20,
        heartbeat: Duration::from_millis(20),
        ..Options::default()
    };
    start_with(Arc::new(Memory::new(256 << 20)), options).await
}

#[tokio::test(flavor = "multi_thread")]
async fn who_goes_on_before_a_loss_was_told_gets_the_events() {
    let server = start_impatient().await;
    let (mut stream, last) = stalled(&server).await;
    let (mut got, mut token, mut heartbeats) = (Vec::new(), String::new(), 0);
    loop {
        let response = next(&mut stream).await.unwrap().unwrap();
        match response.message {
            Some(Message::Events(list)) if losses(&list.events).is_empty() => {
                assert_eq!(heartbeats, 0, "the queue was full before they came");
                got.extend(numbered(&list.events));
            }
            Some(Message::Events(_)) => break,
            _ if got.is_empty() => continue,
            _ => heartbeats += 1,
        }
        token = response.resume_token;
    }
    assert!(heartbeats > 0, "one came between the drop and its report");
    let rest = rest(&server, token).await;
    assert_eq!(losses(&rest), []);
    got.extend(numbered(&rest));
    assert_eq!(got, (1..=last).collect::<Vec<u64>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn who_goes_on_after_a_loss_was_told_gets_nothing_of_it_again() {
    let server = start_impatient().await;
    let (mut stream, mut last) = stalled(&server).await;
    let mut got = Vec::new();
    let (lost, token) = loop {
        let response = next(&mut stream).await.unwrap().unwrap();
        if let Some(Message::Events(list)) = response.message {
            got.extend(numbered(&list.events));
            if let Some(loss) = losses(&list.events).pop() {
                break (loss, response.resume_token);
            }
        }
    };
    last += EVENTS;
    server.append(&batch(last / EVENTS, EVENTS)).await;
    got.extend(lost.first_sequence..=lost.last_sequence);
    let rest = rest(&server, token).await;
    assert_eq!(losses(&rest), []);
    got.extend(numbered(&rest));
    assert_eq!(got, (1..=last).collect::<Vec<u64>>());
}

/// The collector stops while something is owed: the next one has the log, and the stream its place in it.
#[tokio::test(flavor = "multi_thread")]
async fn who_goes_on_after_the_collector_stopped_misses_nothing() {
    let server = start_impatient().await;
    let (mut stream, last) = stalled(&server).await;
    server.collector.stop();
    // Longer than a farewell.
    sleep(Duration::from_secs(3)).await;
    let (mut got, mut lost, mut token) = (Vec::new(), 0, String::new());
    while let Ok(Some(response)) = next(&mut stream).await {
        token = response.resume_token;
        if let Some(Message::Events(list)) = response.message {
            lost += losses(&list.events).iter().map(|l| l.count).sum::<u64>();
            got.extend(numbered(&list.events));
        }
    }
    let next = start_with(server.log.clone(), Options::default()).await;
    let rest = rest(&next, token).await;
    assert_eq!(losses(&rest), []);
    got.extend(numbered(&rest));
    assert_eq!((got.len() as u64, lost), (last, 0));
    assert!(got.is_sorted());
}

/// The first message has a token as well: of before the loss that follows.
#[tokio::test]
async fn who_heard_only_the_hello_of_a_replaced_log_still_hears_of_the_loss() {
    let (new, request) = replaced().await;
    let mut stream = new.observer().await.observe(request).await.unwrap();
    let hello = next(stream.get_mut()).await.unwrap().unwrap();
    assert!(matches!(hello.message, Some(Message::Hello(_))));
    let told = rest(&new, hello.resume_token).await;
    assert_eq!(losses(&told).len(), 1, "{told:?}");
    assert_eq!(told.len(), 1 + 20);
}
