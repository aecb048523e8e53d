//! One node's stream, from its hello to its end.

use std::{sync::Arc, time::Duration};

use ebpf_hello_proto::{
    v1::{self, publish_response::Message as Answer},
    wire::{self, publish_request::Message},
};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, MissedTickBehavior, interval_at, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};

use super::{Ingest, check, settings};
use crate::{
    accounts::Accounts,
    caller::Publisher,
    fleet::Session,
    log::{Appended, BatchKey, Log},
    refusal::{self, Invalid},
};

/// Time a new stream has to say who it is.
const HELLO_TIMEOUT: Duration = Duration::from_secs(10);
/// Time between looks whether the fleet's size asks for other settings.
const SETTINGS_INTERVAL: Duration = Duration::from_secs(10);
/// Batches that are acknowledged together while more are waiting.
const BATCHES_PER_ACKNOWLEDGEMENT: u32 = 16;
/// Answers that may wait for an agent that does not read them.
const ANSWERS: usize = 16;
/// Longest name of a node: a DNS name.
const MAX_NODE_BYTES: usize = 253;
/// Longest version of an agent: semantic, with what a build may add to it.
const MAX_VERSION_BYTES: usize = 64;

type Answers = mpsc::Sender<Result<v1::PublishResponse, Status>>;

struct Stream {
    log: Arc<dyn Log>,
    accounts: Arc<Accounts>,
    publisher: Publisher,
    session: Session,
    agents: Arc<crate::fleet::Fleet>,
    /// The agent's run: later ones are not this stream's.
    epoch: u64,
    /// The last batch taken, here or before.
    last: Option<BatchKey>,
    /// The last batch of this stream.
    previous: Option<BatchKey>,
    settings: v1::Settings,
    answers: Answers,
    unacknowledged: u32,
    stop: watch::Receiver<bool>,
}

/// Reads the hello, answers it, and leaves the stream to a task of its own.
pub(super) async fn open(
    ingest: &Ingest,
    publisher: Publisher,
    mut requests: Streaming<wire::PublishRequest>,
) -> Result<ReceiverStream<Result<v1::PublishResponse, Status>>, Status> {
    let first = timeout(HELLO_TIMEOUT, requests.message())
        .await
        .map_err(|_| Status::deadline_exceeded("no hello came"))?
        .map_err(unreadable)?;
    let Some(Message::Hello(hello)) = first.and_then(|request| request.message) else {
        return Err(Invalid::new("message", "expected hello as the first message").into());
    };
    check_hello(&publisher, &hello)?;
    let last = ingest
        .log
        .last(&hello.node)
        .await
        .map_err(|error| unavailable(&error))?;
    if let Some(last) = last.filter(|last| last.epoch > hello.epoch) {
        // Taken for duplicates, its batches would be lost without a word.
        return Err(refusal::because(
            Code::FailedPrecondition,
            "EPOCH_BEHIND",
            format!(
                "epoch {} of {} is before {} in the store: did the node's clock or state go back?",
                hello.epoch, hello.node, last.epoch
            ),
        ));
    }
    let epoch = hello.epoch;
    tracing::info!(node = %hello.node, version = %hello.version, epoch, "an agent publishes");
    let session = ingest.fleet.connect(hello);
    let settings = settings::settings(ingest.fleet.connected());
    let (answers, receiver) = mpsc::channel(ANSWERS);
    let greeting = v1::CollectorHello {
        version: env!("CARGO_PKG_VERSION").into(),
        last: last.map(acknowledgement),
        settings: Some(settings),
    };
    // The channel is new: there is room.
    let _ = answers.try_send(Ok(answer(Answer::Hello(greeting))));
    let stream = Stream {
        log: ingest.log.clone(),
        accounts: ingest.accounts.clone(),
        publisher,
        session,
        agents: ingest.fleet.clone(),
        epoch,
        last,
        previous: None,
        settings,
        answers,
        unacknowledged: 0,
        stop: ingest.stop.clone(),
    };
    tokio::spawn(stream.run(requests));
    Ok(ReceiverStream::new(receiver))
}

/// Returns when the collector shuts down.
pub(crate) async fn stopped(stop: &mut watch::Receiver<bool>) {
    // If nobody can say so any more, that is the end too.
    let _ = stop.wait_for(|stop| *stop).await;
}

/// What ended the reading of a stream; that a message is too large has its own code in the protocol.
fn unreadable(status: Status) -> Status {
    match status.code() {
        Code::OutOfRange => refusal::because(
            Code::ResourceExhausted,
            "MESSAGE_TOO_LARGE",
            status.message(),
        ),
        _ => status,
    }
}

fn check_hello(publisher: &Publisher, hello: &v1::AgentHello) -> Result<(), Status> {
    let node = &hello.node;
    if node.is_empty() || node.len() > MAX_NODE_BYTES || node.chars().any(char::is_control) {
        let expected = format!("expected the node's name, at most {MAX_NODE_BYTES} bytes");
        return Err(Invalid::new("hello.node", expected).into());
    }
    let version = &hello.version;
    // It goes into logs, tables and headers as it is.
    if version.len() > MAX_VERSION_BYTES || version.chars().any(char::is_control) {
        let expected = format!(
            "expected the agent's version, at most {MAX_VERSION_BYTES} bytes without control characters"
        );
        return Err(Invalid::new("hello.version", expected).into());
    }
    if hello.epoch == 0 {
        return Err(Invalid::new("hello.epoch", "0: expected 1 or more").into());
    }
    if !publisher.is_for(node) {
        return Err(another_node(node, publisher));
    }
    Ok(())
}

fn another_node(node: &str, publisher: &Publisher) -> Status {
    let of = match publisher {
        Publisher::Node(own) => own,
        Publisher::Any => node,
    };
    refusal::because(
        Code::PermissionDenied,
        "ANOTHER_NODE",
        format!("events of node {node:?} over a connection of {of:?}"),
    )
}

fn unavailable(error: &crate::log::LogError) -> Status {
    refusal::because(Code::Unavailable, "STORE_FAILED", error.to_string())
}

fn acknowledgement(key: BatchKey) -> v1::Acknowledgement {
    v1::Acknowledgement {
        epoch: key.epoch,
        number: key.number,
    }
}

fn answer(message: Answer) -> v1::PublishResponse {
    v1::PublishResponse {
        message: Some(message),
    }
}

// === impl Stream ===

impl Stream {
    async fn run(mut self, requests: Streaming<wire::PublishRequest>) {
        let node = self.session.node().to_owned();
        match self.take(requests).await {
            Ok(()) => tracing::info!(%node, "the agent's stream ended"),
            Err(status) => {
                if status.code() == Code::InvalidArgument {
                    self.accounts.refused();
                }
                tracing::warn!(%node, code = ?status.code(), message = status.message(), "an agent's stream ends");
                // It may not read: then it does not hear why.
                let _ = timeout(Duration::from_secs(1), self.answers.send(Err(status))).await;
            }
        }
    }

    async fn take(&mut self, mut requests: Streaming<wire::PublishRequest>) -> Result<(), Status> {
        let mut look = interval_at(Instant::now() + SETTINGS_INTERVAL, SETTINGS_INTERVAL);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut stop = self.stop.clone();
        loop {
            let acknowledge = self.unacknowledged > 0;
            tokio::select! {
                biased;
                () = self.session.superseded() => {
                    return Err(refusal::because(
                        Code::Aborted,
                        "SUPERSEDED",
                        "a newer stream of this node took over",
                    ));
                }
                () = stopped(&mut stop) => {
                    self.acknowledge().await;
                    return Err(Status::unavailable("the collector shuts down"));
                }
                _ = look.tick() => self.look_at_settings(),
                // What is there already is taken before it is acknowledged.
                request = requests.message() => match request.map_err(unreadable)? {
                    None => {
                        self.acknowledge().await;
                        return Ok(());
                    }
                    Some(request) => self.handle(request).await?,
                },
                () = std::future::ready(()), if acknowledge => self.acknowledge().await,
            }
            if self.unacknowledged >= BATCHES_PER_ACKNOWLEDGEMENT {
                self.acknowledge().await;
            }
        }
    }

    async fn handle(&mut self, request: wire::PublishRequest) -> Result<(), Status> {
        match request.message {
            Some(Message::Batch(bytes)) => self.store(bytes).await,
            Some(Message::Report(report)) => {
                let named = report.node.as_ref().map(|node| node.name.as_str());
                if let Some(named) =
                    named.filter(|name| !name.is_empty() && *name != self.session.node())
                {
                    return Err(another_node(
                        named,
                        &Publisher::Node(self.session.node().into()),
                    ));
                }
                if !self.session.report(*report) {
                    tracing::warn!(
                        node = self.session.node(),
                        "a report too large to keep whole"
                    );
                }
                Ok(())
            }
            Some(Message::Hello(_)) => {
                Err(Invalid::new("message", "a second hello: expected a batch or a report").into())
            }
            // A message newer than this build.
            None => Ok(()),
        }
    }

    async fn store(&mut self, bytes: bytes::Bytes) -> Result<(), Status> {
        // Bytes of its own: a slice of the receive buffer would keep all of that for as long as the entry lives.
        let bytes = bytes::Bytes::copy_from_slice(&bytes);
        let batch = check::batch(&bytes)?;
        if batch.node != self.session.node() {
            let own = Publisher::Node(self.session.node().into());
            let by = match &self.publisher {
                Publisher::Any => &own,
                publisher => publisher,
            };
            return Err(another_node(&batch.node, by));
        }
        let key = BatchKey {
            epoch: batch.epoch,
            number: batch.number,
        };
        self.check_order(key)?;
        let events = batch.events.len() as u64;
        let appended = self.log.append_decoded(batch, bytes).await;
        self.accounts
            .note_append(appended.as_ref().err().map(ToString::to_string));
        match appended.map_err(|error| unavailable(&error))? {
            Appended::Stored(_) => {
                self.accounts.stored(events);
                self.count_gap(key);
            }
            Appended::Duplicate => self.accounts.duplicate(events),
        }
        self.previous = Some(key);
        self.last = self.last.max(Some(key));
        self.unacknowledged += 1;
        self.session.heard();
        Ok(())
    }

    fn check_order(&self, key: BatchKey) -> Result<(), Status> {
        if key.epoch > self.epoch {
            let what = format!("{}: this stream's hello said {}", key.epoch, self.epoch);
            return Err(Invalid::new("batch.epoch", what).into());
        }
        match self.previous {
            Some(previous) if key <= previous => Err(Invalid::new(
                "batch.number",
                format!(
                    "{} of epoch {} after {} of epoch {}: expected growing ones",
                    key.number, key.epoch, previous.number, previous.epoch
                ),
            )
            .into()),
            _ => Ok(()),
        }
    }

    /// A number that was left out is no loss event: an agent that gave batches up says so itself, with what
    /// was in them. It is counted, for one that does not.
    fn count_gap(&self, key: BatchKey) {
        let missing = match self.last {
            Some(last) if last.epoch == key.epoch => key.number.saturating_sub(last.number + 1),
            _ => key.number - 1,
        };
        if missing > 0 {
            self.accounts.gap(missing);
            tracing::warn!(
                node = self.session.node(),
                epoch = key.epoch,
                number = key.number,
                missing,
                "batch numbers were left out"
            );
        }
    }

    async fn acknowledge(&mut self) {
        let Some(last) = self.last.filter(|_| self.unacknowledged > 0) else {
            return;
        };
        let message = answer(Answer::Acknowledgement(acknowledgement(last)));
        // An agent that reads no answers is waited for, as long as no newer stream of its node comes: then, and
        // when the stream is gone, reading the stream tells.
        tokio::select! {
            _ = self.answers.send(Ok(message)) => {}
            () = self.session.superseded() => {}
        }
        self.unacknowledged = 0;
    }

    fn look_at_settings(&mut self) {
        let now = settings::settings(self.agents.connected());
        if settings::differ(&self.settings, &now)
            && self
                .answers
                .try_send(Ok(answer(Answer::Settings(now))))
                .is_ok()
        {
            self.settings = now;
        }
    }
}
