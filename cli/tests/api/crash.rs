//! A collector that is killed again and again loses nothing in silence: what the load made was delivered once, or
//! lies in a loss report. On both hubs.

use std::{
    net::SocketAddr,
    path::Path,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use ebpf_hello_agent::{
    Accounts,
    publish::{MEMORY, PublishOptions, Publisher, SpoolOptions},
};
use ebpf_hello_proto::v1::{
    ObserveRequest, event::Kind, observe_response::Message,
    observer_service_client::ObserverServiceClient,
};
use tokio::{task::JoinHandle, time::timeout};
use tonic::transport::Endpoint;

use crate::{
    load,
    servers::{self, Server},
};

/// Events a second.
const RATE: u64 = 20_000;
/// Between two kills of the collector, and of the consumer: never in step.
const COLLECTOR_LIFE: Duration = Duration::from_secs(5);
const CONSUMER_LIFE: Duration = Duration::from_millis(2_300);
/// For what is still on its way at the end.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long there is load: EBPF_HELLO_CRASH_SECONDS, else this.
const SECONDS: u64 = 15;

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_collector_with_a_store_loses_nothing_in_silence() {
    let directory = tempfile::tempdir().unwrap();
    let store = directory.path().join("store");
    let collector = servers::collector(&["--store", store.to_str().unwrap()]);
    crash("store", collector, directory.path()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_collector_on_nats_loses_nothing_in_silence() {
    let directory = tempfile::tempdir().unwrap();
    let nats = servers::nats(&directory.path().join("nats"));
    let hub = format!("nats://{}", nats.address());
    let collector = servers::collector(&["--hub", &hub, "--store-size", "256MiB"]);
    crash("nats", collector, directory.path()).await;
}

async fn crash(hub: &str, mut collector: Server, directory: &Path) {
    let time = std::env::var("EBPF_HELLO_CRASH_SECONDS")
        .map_or(SECONDS, |text| text.parse().expect("seconds"));
    let time = Duration::from_secs(time);
    let consumer = Consumer::start(collector.address());
    let publisher = publisher(collector.address(), directory);
    let generator = tokio::task::spawn_blocking(move || {
        let made = load::generate(&publisher, RATE, time);
        (publisher, made)
    });
    let start = Instant::now();
    let mut kills = 0;
    while start.elapsed() < time || kills < 3 {
        tokio::time::sleep(COLLECTOR_LIFE).await;
        collector = tokio::task::spawn_blocking(move || {
            collector.kill_and_restart();
            collector
        })
        .await
        .unwrap();
        kills += 1;
    }
    let (publisher, made) = generator.await.unwrap();
    publisher.drain(PATIENCE).await;
    let seen = consumer.await_all(made).await;
    println!(
        "{hub}: made {made}, delivered {}, lost {}, repeated {}; {kills} kills of the collector, {} of the consumer",
        seen.delivered, seen.lost, seen.repeated, seen.connections
    );
    assert_eq!(seen.repeated, 0, "no event comes twice");
    assert_eq!(
        seen.delivered + seen.lost,
        made,
        "delivered or told as lost"
    );
    assert!(kills >= 3 && seen.connections > 3);
}

fn publisher(collector: SocketAddr, directory: &Path) -> Publisher {
    let epoch = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap();
    let options = PublishOptions {
        node: "n1".into(),
        epoch: u64::try_from(epoch.as_micros()).unwrap(),
        version: "load".into(),
        memory: MEMORY,
        spool: Some(SpoolOptions {
            directory: directory.join("spool"),
            bytes: 256 << 20,
        }),
        compress: true,
    };
    let endpoint = Endpoint::from_shared(format!("http://{collector}")).unwrap();
    Publisher::start(options, endpoint, Arc::new(Accounts::default())).unwrap()
}

/// What a consumer saw.
#[derive(Clone, Debug, Default)]
struct Seen {
    /// By the event's number.
    events: Vec<bool>,
    delivered: u64,
    repeated: u64,
    lost: u64,
    connections: u64,
    token: String,
}

/// Reads, and is cut off and goes on by token, until everything is there.
struct Consumer {
    seen: Arc<std::sync::Mutex<Seen>>,
    task: JoinHandle<()>,
}

// === impl Consumer ===

impl Consumer {
    fn start(collector: SocketAddr) -> Self {
        let seen = Arc::<std::sync::Mutex<Seen>>::default();
        let since = Some(SystemTime::now().into());
        let shared = Arc::clone(&seen);
        let task = tokio::spawn(async move {
            loop {
                let request = {
                    let mut seen = shared.lock().unwrap();
                    seen.connections += 1;
                    ObserveRequest {
                        follow: true,
                        since: if seen.token.is_empty() { since } else { None },
                        resume_token: seen.token.clone(),
                        ..ObserveRequest::default()
                    }
                };
                // Cut off in the middle of whatever it was at; or the collector was.
                let _ = timeout(CONSUMER_LIFE, read(collector, request, &shared)).await;
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        });
        Consumer { seen, task }
    }

    async fn await_all(self, made: u64) -> Seen {
        let start = Instant::now();
        loop {
            let seen = self.seen.lock().unwrap().clone();
            if seen.delivered + seen.lost >= made || start.elapsed() > PATIENCE {
                self.task.abort();
                return seen;
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }
}

async fn read(
    collector: SocketAddr,
    request: ObserveRequest,
    seen: &std::sync::Mutex<Seen>,
) -> anyhow::Result<()> {
    let channel = Endpoint::from_shared(format!("http://{collector}"))?
        .connect()
        .await?;
    let mut stream = ObserverServiceClient::new(channel)
        .observe(request)
        .await?
        .into_inner();
    while let Some(response) = stream.message().await? {
        let mut seen = seen.lock().unwrap();
        if let Some(Message::Events(list)) = response.message {
            for event in &list.events {
                match &event.kind {
                    Some(Kind::Loss(loss)) => seen.lost += loss.count,
                    _ => seen.note(usize::try_from(load::number(event))?),
                }
            }
        }
        seen.token = response.resume_token;
    }
    Ok(())
}

// === impl Seen ===

impl Seen {
    fn note(&mut self, number: usize) {
        if self.events.len() <= number {
            self.events.resize(number + 1, false);
        }
        if std::mem::replace(&mut self.events[number], true) {
            self.repeated += 1;
        } else {
            self.delivered += 1;
        }
    }
}
