//! Agents and collectors one version apart, in both directions. The other side speaks the protocol as it was released,
//! or a next one in which every message, enum and choice has something more, through descriptors alone.

#![allow(
    clippy::unwrap_used,
    reason = "a test that unwraps fails with the reason"
)]

mod collector;
mod raw;
mod schema;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use ebpf_hello_agent::{
    Accounts, Item, Outcome,
    publish::{MEMORY, PublishOptions, Publisher},
};
use ebpf_hello_collector::{
    caller::Trusted,
    log::Memory,
    serve::{Collector, Listener, Options, Socket, serve},
};
use ebpf_hello_loader::abi::Handler;
use ebpf_hello_proto::v1::{
    self, Event, ObserveRequest, event::Kind, observe_response::Message,
    observer_service_client::ObserverServiceClient,
};
use http::uri::PathAndQuery;
use prost_reflect::DynamicMessage;
use tokio::{net::UnixListener, sync::mpsc, time::timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Request, Streaming,
    client::Grpc,
    transport::{Channel, Endpoint},
};

use self::{
    raw::Raw,
    schema::{NEW_FIELD, NEW_MEMBER, NEW_VALUE, Schema, get, get_message},
};

/// Longer than anything takes here, on a machine that does other things.
const LONG: Duration = Duration::from_secs(30);

/// Our collector.
struct Ours {
    directory: tempfile::TempDir,
    _collector: Arc<Collector>,
}

impl Ours {
    fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let collector = Collector::new(Arc::new(Memory::new(1 << 20)), None, Options::default());
        let socket = UnixListener::bind(directory.path().join("collector.sock")).unwrap();
        let listener = Listener {
            socket: Socket::Unix(socket),
            handshake: None,
            authenticate: Arc::new(Trusted),
        };
        tokio::spawn(serve(Arc::clone(&collector), vec![listener]));
        Ours {
            directory,
            _collector: collector,
        }
    }

    async fn connect(&self) -> Channel {
        let url = format!("unix://{}/collector.sock", self.directory.path().display());
        let endpoint = Endpoint::from_shared(url).unwrap();
        endpoint.connect().await.unwrap()
    }

    /// Publishes messages of another version.
    async fn publish(&self, messages: Vec<Bytes>) -> (mpsc::Sender<Bytes>, Streaming<Bytes>) {
        let mut client = Grpc::new(self.connect().await);
        client.ready().await.unwrap();
        let (sender, receiver) = mpsc::channel(16);
        for message in messages {
            sender.send(message).await.unwrap();
        }
        let path = PathAndQuery::from_static("/ebpfhello.v1.CollectorService/Publish");
        let request = Request::new(ReceiverStream::new(receiver));
        let answers = client.streaming(request, path, Raw).await.unwrap();
        (sender, answers.into_inner())
    }

    /// The events it has, as one of another version sees them.
    async fn events(&self, schema: &Schema) -> Vec<DynamicMessage> {
        let mut client = Grpc::new(self.connect().await);
        client.ready().await.unwrap();
        let path = PathAndQuery::from_static("/ebpfhello.v1.ObserverService/Observe");
        let request = Request::new(schema.encode("ObserveRequest", "{}"));
        let answers = client.server_streaming(request, path, Raw).await.unwrap();
        let mut answers = answers.into_inner();
        let mut events = Vec::new();
        while let Some(answer) = answers.message().await.unwrap() {
            let answer = schema.decode("ObserveResponse", answer);
            if answer.has_field_by_name("events") {
                let list = get_message(&answer, "events");
                let list = get(&list, "events");
                let list = list.as_list().unwrap();
                events.extend(list.iter().map(|event| event.as_message().unwrap().clone()));
            }
        }
        events
    }
}

async fn answer(schema: &Schema, answers: &mut Streaming<Bytes>) -> DynamicMessage {
    let answer = timeout(LONG, answers.message()).await.unwrap();
    schema.decode("PublishResponse", answer.unwrap().unwrap())
}

#[tokio::test]
async fn what_a_newer_agent_says_is_kept_and_delivered() {
    let (ours, next) = (Ours::start(), Schema::next());
    let (_requests, mut answers) = ours
        .publish(vec![
            next.encode(
                "PublishRequest",
                r#"{"hello": {"node": "n1", "epoch": "7", "version": "9.0.0", "newField": "a"}, "newField": "b"}"#,
            ),
            // A kind of message that we do not know.
            next.encode("PublishRequest", r#"{"novelty": {"text": "c"}}"#),
            next.encode(
                "PublishRequest",
                r#"{"report": {"node": {"name": "n1", "newField": "d"}, "newField": "e"}}"#,
            ),
            next.encode(
                "PublishRequest",
                &format!(
                    r#"{{"batch": {{"node": "n1", "epoch": "7", "number": "1", "newField": "f",
                    "processes": [{{"pid": 42, "comm": "sh", "newField": "g"}}],
                    "events": [
                        {{"process": 1, "event": {{"sequence": "1", "novelty": {{"text": "h"}}, "newField": "i"}}}},
                        {{"event": {{"sequence": "2", "loss": {{"reason": {NEW_VALUE}, "count": "3", "newField": "j"}}}}}}
                    ]}}}}"#
                ),
            ),
        ])
        .await;
    answer(&next, &mut answers).await;
    let acknowledged = get_message(&answer(&next, &mut answers).await, "acknowledgement");
    assert_eq!(get(&acknowledged, "number").as_u64(), Some(1));

    // One of its own version gets all of it.
    let events = ours.events(&next).await;
    assert_eq!(events.len(), 2);
    let novelty = get_message(&events[0], NEW_MEMBER);
    assert_eq!(get(&novelty, "text").as_str(), Some("h"));
    assert_eq!(get(&events[0], NEW_FIELD).as_str(), Some("i"));
    let process = get_message(&events[0], "process");
    assert_eq!(get(&process, NEW_FIELD).as_str(), Some("g"));
    let loss = get_message(&events[1], "loss");
    assert_eq!(get(&loss, "reason").as_enum_number(), Some(NEW_VALUE));
    assert_eq!(get(&loss, NEW_FIELD).as_str(), Some("j"));

    // One of ours gets the event, of a kind that it does not know.
    let mut client = ObserverServiceClient::new(ours.connect().await);
    let mut stream = client
        .observe(ObserveRequest::default())
        .await
        .unwrap()
        .into_inner();
    let mut events = Vec::new();
    while let Some(response) = stream.message().await.unwrap() {
        if let Some(Message::Events(list)) = response.message {
            events.extend(list.events);
        }
    }
    assert_eq!(events.len(), 2);
    assert_eq!((events[0].sequence, &events[0].kind), (1, &None));
    assert_eq!(events[0].process.as_ref().unwrap().pid, 42);
    let Some(Kind::Loss(loss)) = &events[1].kind else {
        panic!("{:?}", events[1]);
    };
    assert_eq!((loss.reason, loss.count), (NEW_VALUE, 3));
}

#[tokio::test]
async fn an_older_agent_publishes_and_is_listed() {
    let (ours, released) = (Ours::start(), Schema::released());
    let (_requests, mut answers) = ours
        .publish(vec![
            released.encode(
                "PublishRequest",
                r#"{"hello": {"node": "n1", "epoch": "7"}}"#,
            ),
            released.encode(
                "PublishRequest",
                r#"{"report": {"node": {"name": "n1"}, "filters": [{"filter": "host-timers"}]}}"#,
            ),
            released.encode(
                "PublishRequest",
                r#"{"batch": {"node": "n1", "epoch": "7", "number": "1",
                    "events": [{"event": {"sequence": "1", "exit": {"code": 3}}}]}}"#,
            ),
        ])
        .await;
    // What it does not know of our hello it passes over.
    let hello = get_message(&answer(&released, &mut answers).await, "hello");
    assert!(hello.has_field_by_name("settings"));
    let acknowledged = get_message(&answer(&released, &mut answers).await, "acknowledgement");
    assert_eq!(get(&acknowledged, "number").as_u64(), Some(1));
    let events = ours.events(&released).await;
    let exit = get_message(&events[0], "exit");
    assert_eq!(get(&exit, "code").as_i32(), Some(3));
    let mut client = ObserverServiceClient::new(ours.connect().await);
    let listed = client
        .list_filters(v1::ListFiltersRequest::default())
        .await
        .unwrap()
        .into_inner();
    assert_eq!(listed.filters.len(), 1, "{listed:?}");
}

#[tokio::test]
async fn ours_publishes_to_a_newer_collector() {
    let next = Schema::next();
    let greeting = [
        r#"{"hello": {"version": "9.0.0", "settings": {"windowBatches": 2, "newField": "a"}, "newField": "b"}, "newField": "c"}"#,
        r#"{"novelty": {"text": "d"}}"#,
        r#"{"settings": {"windowBatches": 3, "newField": "e"}}"#,
    ];
    publish_to(&next, &greeting).await;
}

#[tokio::test]
async fn ours_publishes_to_an_older_collector() {
    publish_to(&Schema::released(), &[r#"{"hello": {}}"#]).await;
}

/// Publishes through our publisher to a collector of another version, which then has everything.
async fn publish_to(schema: &Schema, greeting: &[&str]) {
    let greeting = greeting
        .iter()
        .map(|json| schema.encode("PublishResponse", json))
        .collect();
    let theirs = collector::Theirs::start(schema.clone(), greeting);
    let accounts = Arc::new(Accounts::default());
    let options = PublishOptions {
        node: "n1".into(),
        epoch: 7,
        version: "0.1.0".into(),
        memory: MEMORY,
        spool: None,
        compress: false,
    };
    let endpoint = Endpoint::from_shared(theirs.url()).unwrap();
    let publisher = Publisher::start(options, endpoint, Arc::clone(&accounts)).unwrap();
    let report = v1::NodeReport {
        node: Some(v1::Node {
            name: "n1".into(),
            ..v1::Node::default()
        }),
        filters: vec![v1::FilterState {
            uid: "newer-than-the-release".into(),
            ..v1::FilterState::default()
        }],
        ..v1::NodeReport::default()
    };
    publisher.reports().send_replace(Some(report));
    for sequence in 1..=20_000 {
        let event = Event {
            cpu: Some(0),
            sequence,
            kind: Some(Kind::Exit(v1::Exit::default())),
            ..Event::default()
        };
        let item = Item {
            handler: Some(Handler::ProcessExit),
            event,
        };
        publisher.offer(vec![item], LONG);
    }
    publisher.drain(LONG).await;
    let delivered = accounts.settled(Handler::ProcessExit, Outcome::Delivered);
    assert_eq!(delivered, 20_000);
    let requests = theirs.requests();
    assert!(requests[0].has_field_by_name("hello"));
    assert!(
        requests
            .iter()
            .any(|request| request.has_field_by_name("report"))
    );
    let sequences: Vec<u64> = requests
        .iter()
        .filter(|request| request.has_field_by_name("batch"))
        .flat_map(|request| {
            let events = get(&get_message(request, "batch"), "events");
            let events = events.as_list().unwrap().to_vec();
            events.into_iter().map(|event| {
                let event = get_message(event.as_message().unwrap(), "event");
                get(&event, "sequence").as_u64().unwrap()
            })
        })
        .collect();
    assert!(sequences.into_iter().eq(1..=20_000), "each once, in order");
}
