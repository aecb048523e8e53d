//! The stream to the collector: one at a time, opened again for ever.

use std::{future::Future, pin::Pin, sync::Arc, time::Duration};

use ebpf_hello_proto::{
    v1::{self, publish_response},
    wire::{PublishRequest, publish_request},
};
use http::uri::PathAndQuery;
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep, sleep_until, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Code, Request, Status, Streaming,
    client::Grpc,
    codec::CompressionEncoding,
    transport::{Channel, Endpoint},
};
use tonic_prost::ProstCodec;

use super::{backlog::Key, retry::Backoff, shared::Shared};

/// Time to connect, and for the collector's hello.
const OPENING: Duration = Duration::from_secs(10);
/// A peer that is silent so long is asked whether it lives, and given up after the second time.
const KEEP_ALIVE: Duration = Duration::from_secs(10);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// Time between reports where what is in the kernel changed: the collector tells of it within a second.
const REPORT_SOON: Duration = Duration::from_millis(10);
/// For the last acknowledgements and a clean end of the stream.
const CLOSING: Duration = Duration::from_secs(1);

const PATH: PathAndQuery = PathAndQuery::from_static("/ebpfhello.v1.CollectorService/Publish");

/// Why there is no connection.
pub type ConnectError = Box<dyn std::error::Error + Send + Sync>;

/// Makes connections to the collector. Asked anew for each, so that certificates can change in between.
pub trait Connect: Send + Sync + 'static {
    /// A connection.
    fn connect(&self) -> Pin<Box<dyn Future<Output = Result<Channel, ConnectError>> + Send + '_>>;
}

/// Without TLS of its own making: an `https` endpoint brings its configuration. `unix:///path` is a socket.
impl Connect for Endpoint {
    fn connect(&self) -> Pin<Box<dyn Future<Output = Result<Channel, ConnectError>> + Send + '_>> {
        let endpoint = self
            .clone()
            .connect_timeout(OPENING)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
            .keep_alive_while_idle(true);
        Box::pin(async move { Ok(Endpoint::connect(&endpoint).await?) })
    }
}

/// How messages are compressed: the next is tried when the peer does not know this one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Compression {
    Zstd,
    Gzip,
    None,
}

/// The task.
pub(super) struct Uplink {
    pub(super) shared: Arc<Shared>,
    pub(super) connect: Box<dyn Connect>,
    pub(super) version: String,
    pub(super) compression: Compression,
    pub(super) reports: watch::Receiver<Option<v1::NodeReport>>,
    /// Becomes true when the publisher ends.
    pub(super) stop: watch::Receiver<bool>,
}

/// A stream that is open.
struct Session<'a> {
    uplink: &'a mut Uplink,
    requests: mpsc::Sender<PublishRequest>,
    responses: Streaming<v1::PublishResponse>,
    /// A report that was not sent yet, and when the next may be.
    report: bool,
    report_due: Instant,
    /// When the last one was sent, and what it said of filters.
    reported: Option<(Instant, Vec<Told>)>,
}

/// What a report says of one filter and must not wait to be told: which it is, and what became of it.
type Told = (String, String, i64, bool, String);

// === impl Compression ===

impl Compression {
    fn encoding(self) -> Option<CompressionEncoding> {
        match self {
            Compression::Zstd => Some(CompressionEncoding::Zstd),
            Compression::Gzip => Some(CompressionEncoding::Gzip),
            Compression::None => None,
        }
    }

    fn simpler(self) -> Option<Self> {
        match self {
            Compression::Zstd => Some(Compression::Gzip),
            Compression::Gzip => Some(Compression::None),
            Compression::None => None,
        }
    }
}

// === impl Uplink ===

impl Uplink {
    /// Publishes until it is told to stop.
    pub(super) async fn run(mut self) {
        let mut backoff = Backoff::new();
        let mut stop = self.stop.clone();
        // The value can only become true; a sender that is gone means the same.
        let stopped = async move { drop(stop.wait_for(|stop| *stop).await) };
        tokio::pin!(stopped);
        loop {
            let opened = tokio::select! {
                opened = self.open() => opened,
                () = &mut stopped => return,
            };
            let status = match opened {
                // It ends by itself when it is told to stop, with a farewell.
                Ok(mut session) => {
                    let (status, useful) = session.publish().await;
                    if useful {
                        backoff.reset();
                    }
                    status
                }
                Err(status) => status,
            };
            self.disconnected(&status);
            if *self.stop.borrow() {
                return;
            }
            if status.code() == Code::Unimplemented
                && let Some(simpler) = self.compression.simpler()
            {
                tracing::debug!(from = ?self.compression, to = ?simpler, "the collector does not know this compression");
                self.compression = simpler;
                continue;
            }
            let pause = backoff.pause(status.code());
            tokio::select! {
                () = sleep(pause) => {}
                () = &mut stopped => return,
            }
        }
    }

    /// Notes that the stream ended; says it once for each reason.
    fn disconnected(&mut self, status: &Status) {
        let why = why(status);
        let refused = matches!(status.code(), Code::InvalidArgument | Code::OutOfRange)
            .then(|| self.shared.refused())
            .flatten();
        let mut state = self.shared.state();
        let was_connected = std::mem::replace(&mut state.connected, false);
        let known = state.error.as_ref() == Some(&why);
        state.error = Some(why.clone());
        state.backlog.close();
        drop(state);
        self.shared.tell_changed();
        if let Some(batch) = refused {
            tracing::error!(
                batch = batch.key.number,
                events = batch.tally.events(),
                reason = why,
                "the collector refuses a batch as invalid: its events are lost"
            );
        } else if *self.stop.borrow() || (known && !was_connected) {
            tracing::debug!(reason = why, "not publishing");
        } else if matches!(
            status.code(),
            Code::Aborted | Code::PermissionDenied | Code::Unauthenticated
        ) {
            tracing::error!(
                node = self.shared.node(),
                reason = why,
                "{}",
                advice(status.code())
            );
        } else {
            tracing::warn!(
                reason = why,
                "not publishing: events are kept until the collector is back"
            );
        }
    }

    /// Opens a stream, both hellos included.
    async fn open(&mut self) -> Result<Session<'_>, Status> {
        let channel = timeout(OPENING, self.connect.connect())
            .await
            .map_err(|_| Status::unavailable("connecting took too long"))?
            .map_err(|error| Status::unavailable(chain(&*error)))?;
        let mut client = Grpc::new(channel)
            .accept_compressed(CompressionEncoding::Zstd)
            .accept_compressed(CompressionEncoding::Gzip);
        if let Some(encoding) = self.compression.encoding() {
            client = client.send_compressed(encoding);
        }
        client
            .ready()
            .await
            .map_err(|error| Status::unavailable(chain(&error)))?;
        let (requests, outgoing) = mpsc::channel(1);
        let hello = v1::AgentHello {
            node: self.shared.node().to_owned(),
            epoch: self.shared.epoch(),
            version: self.version.clone(),
        };
        // The channel is new: it has room, and its receiver is at hand.
        let _ = requests.try_send(hello.into());
        let codec = ProstCodec::<PublishRequest, v1::PublishResponse>::default();
        let call = client.streaming(Request::new(ReceiverStream::new(outgoing)), PATH, codec);
        let opening = async move {
            let mut responses = call.await?.into_inner();
            let first = responses.message().await?;
            Ok::<_, Status>((responses, first))
        };
        let (responses, first) = timeout(OPENING, opening)
            .await
            .map_err(|_| Status::deadline_exceeded("the collector does not say hello"))??;
        let Some(publish_response::Message::Hello(hello)) = first.and_then(|first| first.message)
        else {
            return Err(Status::internal(
                "the collector's first message is no hello",
            ));
        };
        self.greeted(&hello)?;
        self.reports.mark_changed();
        Ok(Session {
            uplink: self,
            requests,
            responses,
            report: false,
            report_due: Instant::now(),
            reported: None,
        })
    }

    fn greeted(&self, hello: &v1::CollectorHello) -> Result<(), Status> {
        if let Some(last) = hello.last {
            if last.epoch > self.shared.epoch() {
                // It would take everything of ours for something that it has.
                return Err(Status::aborted(format!(
                    "the collector has batches of run {} of this node, which is later than ours, {}",
                    last.epoch,
                    self.shared.epoch()
                )));
            }
            self.shared.acknowledge(key(last));
        }
        let mut state = self.shared.state();
        state.set(&hello.settings.unwrap_or_default());
        state.backlog.open();
        state.connected = true;
        state.error = None;
        drop(state);
        self.shared.tell_changed();
        self.shared.opened.notify_one();
        tracing::info!(collector = hello.version, "publishing");
        Ok(())
    }
}

// === impl Session ===

impl Session<'_> {
    /// Sends what there is until the stream ends. Says why it did, and whether it was of any use.
    async fn publish(&mut self) -> (Status, bool) {
        let opened = Instant::now();
        let mut useful = false;
        let mut stop = self.uplink.stop.clone();
        let mut reports = self.uplink.reports.clone();
        let mut idle = false;
        let mut report_is_due = false;
        let shared = Arc::clone(&self.uplink.shared);
        let requests = self.requests.clone();
        let status = loop {
            tokio::select! {
                biased;
                message = self.responses.message() => match message {
                    Ok(Some(response)) => {
                        if let Some(message) = response.message {
                            useful |= self.receive(message);
                        }
                    }
                    Ok(None) => break Status::unavailable("the collector ended the stream"),
                    Err(status) => break status,
                },
                () = async { drop(stop.wait_for(|stop| *stop).await) } => break Status::cancelled("the agent ends"),
                () = sleep_until(self.report_due), if self.report && !report_is_due => report_is_due = true,
                // Nothing waits for room but here: a collector that takes nothing must not keep us from hearing it, or the stop.
                permit = requests.reserve(), if report_is_due || !idle => match permit {
                    Ok(permit) if report_is_due => {
                        report_is_due = false;
                        if let Some(report) = self.next_report(&mut reports) {
                            permit.send(report);
                        }
                    }
                    Ok(permit) => match next_batch(&shared) {
                        Some(batch) => permit.send(batch),
                        None => idle = true,
                    },
                    // The call has ended: the reason comes with the responses.
                    Err(_) => break self.reason().await,
                },
                () = shared.work.notified(), if idle => idle = false,
                Ok(()) = reports.changed() => {
                    self.report = true;
                    self.hasten(reports.borrow_and_update().as_ref());
                }
            }
        };
        drop(requests);
        let stopped = *stop.borrow();
        if stopped {
            self.close().await;
        }
        (status, useful || opened.elapsed() > KEEP_ALIVE)
    }

    fn receive(&mut self, message: publish_response::Message) -> bool {
        match message {
            publish_response::Message::Acknowledgement(last) => {
                self.uplink.shared.acknowledge(key(last));
                true
            }
            publish_response::Message::Settings(settings) => {
                self.uplink.shared.state().set(&settings);
                self.uplink.shared.tell_changed();
                // A batch that is open may have less time now.
                self.uplink.shared.opened.notify_one();
                false
            }
            publish_response::Message::Hello(_) => false,
        }
    }

    /// A report with news of filters does not wait for the interval to pass.
    fn hasten(&mut self, report: Option<&v1::NodeReport>) {
        if let (Some(report), Some((sent, before))) = (report, &self.reported)
            && *before != told(report)
        {
            self.report_due = self.report_due.min(*sent + REPORT_SOON);
        }
    }

    fn next_report(
        &mut self,
        reports: &mut watch::Receiver<Option<v1::NodeReport>>,
    ) -> Option<PublishRequest> {
        self.report = false;
        // The first one is sent as soon as it is there.
        let report = reports.borrow_and_update().clone()?;
        let now = Instant::now();
        self.report_due = now + self.uplink.shared.state().report_interval;
        self.reported = Some((now, told(&report)));
        Some(PublishRequest {
            message: Some(publish_request::Message::Report(Box::new(report))),
        })
    }

    /// Why the call ended.
    async fn reason(&mut self) -> Status {
        loop {
            match timeout(CLOSING, self.responses.message()).await {
                Ok(Ok(Some(_))) => {}
                Ok(Err(status)) => return status,
                Ok(Ok(None)) | Err(_) => {
                    return Status::unavailable("the collector ended the stream");
                }
            }
        }
    }

    /// Says that nothing more comes, and waits for the collector to end the stream.
    async fn close(&mut self) {
        // The stream of requests ends with its last sender.
        let (closed, _) = mpsc::channel(1);
        self.requests = closed;
        let farewell = async {
            while let Ok(Some(response)) = self.responses.message().await {
                if let Some(message) = response.message {
                    self.receive(message);
                }
            }
        };
        // A collector that does not end it in time is left.
        let _ = timeout(CLOSING, farewell).await;
    }
}

fn told(report: &v1::NodeReport) -> Vec<Told> {
    let filters = report.filters.iter();
    filters
        .map(|state| {
            (
                state.filter.clone(),
                state.uid.clone(),
                state.observed_generation,
                state.programmed,
                state.reason.clone(),
            )
        })
        .collect()
}

fn next_batch(shared: &Shared) -> Option<PublishRequest> {
    let bytes = shared.state().backlog.next_to_send()?;
    Some(PublishRequest {
        message: Some(publish_request::Message::Batch(bytes)),
    })
}

fn key(last: v1::Acknowledgement) -> Key {
    Key {
        epoch: last.epoch,
        number: last.number,
    }
}

fn advice(code: Code) -> &'static str {
    match code {
        Code::Aborted => {
            "not publishing: another agent publishes as this node, or did so later by the clock; \
             each node needs one agent and a name of its own"
        }
        Code::PermissionDenied => {
            "not publishing: the collector does not let this agent publish as this node; \
             its certificate and --node must name the same node"
        }
        _ => "not publishing: the collector does not know who we are; the agent has to enrol",
    }
}

/// A status in a line, with what caused it.
fn why(status: &Status) -> String {
    let mut why = match status.message() {
        "" => status.code().to_string(),
        message => message.to_owned(),
    };
    if let Some(source) = std::error::Error::source(status) {
        why = format!("{why}: {}", chain(source));
    }
    why
}

/// An error with all its causes.
fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |chain, cause| {
        format!("{chain}: {cause}")
    })
}
