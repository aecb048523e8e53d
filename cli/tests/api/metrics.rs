//! The collector's metrics: the names that its page has, and in them what an agent and a reader did.

use std::{collections::BTreeSet, fs, time::Duration};

use ebpf_hello_proto::{
    Timestamp,
    v1::{
        AgentHello, Batch, BatchedEvent, Event, Exec, ObserveRequest, PublishRequest,
        collector_service_client::CollectorServiceClient, event::Kind,
        observe_response::Message as Told, observer_service_client::ObserverServiceClient,
        publish_request::Message,
    },
};
use tokio::time::timeout;
use tonic::{
    Code, Status,
    transport::{Channel, Endpoint},
};

use crate::{
    faults::{Place, Running},
    monitor::metric_names,
};

const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/HEALTH.md");
/// Patience with a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread")]
async fn the_endpoint_has_the_documented_names_and_what_was_published_and_read_in_them() {
    let place = Place::new();
    let collector = Running::start(&place, &[]);
    let socket = format!("unix://{}", collector.socket.display());
    let channel = Endpoint::from_shared(socket).unwrap();
    let channel = channel.connect().await.unwrap();

    // 2 to 4 are left out.
    publish(&channel, [batch(1, 5), batch(5, 4)]).await.unwrap();
    // Sent again, as by an agent that did not hear that it is stored.
    publish(&channel, [batch(5, 4)]).await.unwrap();
    for _ in 0..2 {
        let refused = publish(&channel, [hello()]).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
    }
    let request = ObserveRequest {
        follow: true,
        last: 6,
        ..ObserveRequest::default()
    };
    let mut observer = ObserverServiceClient::new(channel);
    let mut stream = observer.observe(request).await.unwrap().into_inner();
    let mut read = 0;
    while read < 6 {
        let response = timeout(PATIENCE, stream.message()).await.unwrap();
        if let Some(Told::Events(list)) = response.unwrap().unwrap().message {
            read += list.events.len();
        }
    }

    let text = collector.get("/metrics").text;
    let mut told = metric_names(&text);
    assert!(told.remove("ebpf_hello_build_info"), "{text}");
    assert_eq!(told, documented());
    let value = |name: &str| -> u64 {
        let mut lines = text.lines().filter_map(|line| line.split_once(' '));
        let (_, value) = lines.find(|(metric, _)| *metric == name).unwrap();
        value.parse().unwrap()
    };
    // Different ones, where it can be, so that none is taken for another.
    for (name, expected) in [
        ("ebpf_hello_collector_events_received_total", 9 + 4),
        ("ebpf_hello_collector_events_stored_total", 9),
        ("ebpf_hello_collector_events_duplicate_total", 4),
        ("ebpf_hello_collector_batch_gaps_total", 3),
        ("ebpf_hello_collector_refusals_total", 2),
        ("ebpf_hello_subscribers", 1),
        ("ebpf_hello_subscriber_queue_events", 0),
        ("ebpf_hello_subscriber_events_sent_total", 6),
        ("ebpf_hello_subscriber_lost_total", 0),
    ] {
        assert_eq!(value(name), expected, "{name}");
    }
}

/// An agent's whole stream, hello first.
async fn publish<const N: usize>(channel: &Channel, messages: [Message; N]) -> Result<(), Status> {
    let messages: Vec<PublishRequest> = std::iter::once(hello())
        .chain(messages)
        .map(|message| PublishRequest {
            message: Some(message),
        })
        .collect();
    let stream = async {
        let mut client = CollectorServiceClient::new(channel.clone());
        let answers = client.publish(tokio_stream::iter(messages)).await?;
        let mut answers = answers.into_inner();
        while answers.message().await?.is_some() {}
        Ok(())
    };
    timeout(PATIENCE, stream).await.unwrap()
}

fn hello() -> Message {
    Message::Hello(AgentHello {
        node: "n1".into(),
        epoch: 1,
        ..AgentHello::default()
    })
}

fn batch(number: u64, events: u64) -> Message {
    let event = |index| BatchedEvent {
        event: Some(Event {
            time: Some(Timestamp::from_unix_nanos(1_700_000_000_000_000_000)),
            cpu: Some(0),
            sequence: number * 10 + index,
            kind: Some(Kind::Exec(Exec::default())),
            ..Event::default()
        }),
        ..BatchedEvent::default()
    };
    Message::Batch(Batch {
        node: "n1".into(),
        epoch: 1,
        number,
        events: (0..events).map(event).collect(),
        ..Batch::default()
    })
}

/// The names in the page's table of the collector.
fn documented() -> BTreeSet<String> {
    let page = fs::read_to_string(PAGE).unwrap();
    let (_, table) = page.split_once("| collector | |\n|---|---|\n").unwrap();
    table
        .lines()
        .take_while(|line| line.starts_with('|'))
        .flat_map(|row| row.split('|').nth(1).unwrap().split('`').skip(1).step_by(2))
        .flat_map(each_of)
        .collect()
}

/// `a_{b,c}_d` is `a_b_d` and `a_c_d`.
fn each_of(name: &str) -> Vec<String> {
    let Some((start, rest)) = name.split_once('{') else {
        return vec![name.to_owned()];
    };
    let (parts, end) = rest.split_once('}').unwrap();
    let part = |part| format!("{start}{part}{end}");
    parts.split(',').map(part).collect()
}
