//! A small collector.

use std::{
    path::PathBuf,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard},
};

use ebpf_hello_proto::{
    server::collector_service_server::{CollectorService, CollectorServiceServer},
    v1::{self, Event, publish_response},
    wire::{self, PublishRequest, publish_request},
};
use prost::Message as _;
use tokio::{net::UnixListener, runtime::Runtime, sync::mpsc};
use tokio_stream::{
    Stream,
    wrappers::{ReceiverStream, UnixListenerStream},
};
use tonic::{Request, Response, Status, Streaming, codec::CompressionEncoding, transport::Server};

/// What it does, and what it has.
#[derive(Debug, Default)]
pub(crate) struct Behaviour {
    /// Acknowledges what it stores.
    pub(crate) silent: bool,
    /// Stores nothing more once it has so many batches, and ends the stream.
    pub(crate) stop_after: Option<usize>,
    /// Refuses every stream so.
    pub(crate) refusal: Option<Status>,
    /// Refuses batches that hold this sequence number.
    pub(crate) poison: Option<u64>,
    pub(crate) settings: Option<v1::Settings>,
    pub(crate) batches: Vec<(u64, u64)>,
    pub(crate) duplicates: usize,
    pub(crate) events: Vec<Event>,
    pub(crate) reports: Vec<v1::NodeReport>,
    pub(crate) hellos: Vec<v1::AgentHello>,
    pub(crate) encodings: Vec<Option<String>>,
    /// Into the last stream, for as long as it is open.
    responses: Option<mpsc::WeakSender<Result<v1::PublishResponse, Status>>>,
}

/// A socket, and who serves it. What it stored survives that it stops.
pub(crate) struct Collector {
    directory: tempfile::TempDir,
    behaviour: Arc<Mutex<Behaviour>>,
    accepts: Option<CompressionEncoding>,
    /// A runtime of its own: when it goes, the connections go with it.
    server: Option<Runtime>,
}

struct Service(Arc<Mutex<Behaviour>>);

impl Collector {
    /// One that is away.
    pub(crate) fn new() -> Self {
        Collector {
            directory: tempfile::tempdir().unwrap(),
            behaviour: Arc::default(),
            accepts: Some(CompressionEncoding::Zstd),
            server: None,
        }
    }

    pub(crate) fn accepting(encoding: Option<CompressionEncoding>) -> Self {
        let mut collector = Self::new();
        collector.accepts = encoding;
        collector
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("collector.sock")
    }

    pub(crate) fn address(&self) -> String {
        format!("unix://{}", self.socket().display())
    }

    pub(crate) fn directory(&self) -> PathBuf {
        self.directory.path().join("spool")
    }

    pub(crate) fn behaviour(&self) -> MutexGuard<'_, Behaviour> {
        self.behaviour.lock().unwrap()
    }

    /// Sends other settings into the stream that is open.
    pub(crate) fn change(&self, settings: v1::Settings) {
        let responses = self.behaviour().responses.clone();
        let responses = responses.and_then(|responses| responses.upgrade());
        let message = Some(publish_response::Message::Settings(settings));
        let response = v1::PublishResponse { message };
        responses.unwrap().try_send(Ok(response)).unwrap();
    }

    pub(crate) fn sequences(&self) -> Vec<u64> {
        self.behaviour()
            .events
            .iter()
            .map(|event| event.sequence)
            .collect()
    }

    pub(crate) fn losses(&self) -> Vec<(Event, v1::Loss)> {
        let losses = |event: &Event| match &event.kind {
            Some(v1::event::Kind::Loss(loss)) => Some((event.clone(), loss.clone())),
            _ => None,
        };
        self.behaviour().events.iter().filter_map(losses).collect()
    }

    pub(crate) fn arrive(&mut self) {
        // What is left of the one before.
        let _ = std::fs::remove_file(self.socket());
        let mut service = CollectorServiceServer::new(Service(Arc::clone(&self.behaviour)));
        if let Some(encoding) = self.accepts {
            service = service.accept_compressed(encoding);
        }
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let listener = {
            let _entered = runtime.enter();
            UnixListener::bind(self.socket()).unwrap()
        };
        let server = Server::builder()
            .add_service(service)
            .serve_with_incoming(UnixListenerStream::new(listener));
        runtime.spawn(async move { server.await.unwrap() });
        self.server = Some(runtime);
    }

    /// Goes without a farewell.
    pub(crate) fn leave(&mut self) {
        let _ = std::fs::remove_file(self.socket());
        if let Some(server) = self.server.take() {
            server.shutdown_background();
        }
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.leave();
    }
}

#[tonic::async_trait]
impl CollectorService for Service {
    type PublishStream = Pin<Box<dyn Stream<Item = Result<v1::PublishResponse, Status>> + Send>>;

    async fn publish(
        &self,
        request: Request<Streaming<PublishRequest>>,
    ) -> Result<Response<Self::PublishStream>, Status> {
        let encoding = request.metadata().get("grpc-encoding");
        let encoding = encoding.map(|encoding| encoding.to_str().unwrap().to_owned());
        {
            let mut behaviour = self.0.lock().unwrap();
            behaviour.encodings.push(encoding);
            if let Some(refusal) = &behaviour.refusal {
                return Err(refusal.clone());
            }
        }
        let (responses, stream) = mpsc::channel(16);
        self.0.lock().unwrap().responses = Some(responses.downgrade());
        let behaviour = Arc::clone(&self.0);
        tokio::spawn(async move {
            if let Err(status) = serve(&behaviour, request.into_inner(), &responses).await {
                let _ = responses.send(Err(status)).await;
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }

    async fn enroll(
        &self,
        _: Request<v1::EnrollRequest>,
    ) -> Result<Response<v1::EnrollResponse>, Status> {
        Err(Status::unimplemented("not in this test"))
    }
}

async fn serve(
    behaviour: &Mutex<Behaviour>,
    mut requests: Streaming<PublishRequest>,
    responses: &mpsc::Sender<Result<v1::PublishResponse, Status>>,
) -> Result<(), Status> {
    while let Some(request) = requests.message().await? {
        let answer = match request.message {
            Some(publish_request::Message::Hello(hello)) => {
                let mut behaviour = behaviour.lock().unwrap();
                behaviour.hellos.push(hello);
                let last = behaviour.batches.last();
                Some(publish_response::Message::Hello(v1::CollectorHello {
                    version: "test".into(),
                    last: last.map(|(epoch, number)| v1::Acknowledgement {
                        epoch: *epoch,
                        number: *number,
                    }),
                    settings: behaviour.settings,
                }))
            }
            Some(publish_request::Message::Batch(batch)) => {
                store(&mut behaviour.lock().unwrap(), &batch)?
            }
            Some(publish_request::Message::Report(report)) => {
                behaviour.lock().unwrap().reports.push(*report);
                None
            }
            None => None,
        };
        if answer.is_some() {
            let response = v1::PublishResponse { message: answer };
            let _ = responses.send(Ok(response)).await;
        }
    }
    Ok(())
}

fn store(
    behaviour: &mut Behaviour,
    batch: &[u8],
) -> Result<Option<publish_response::Message>, Status> {
    let batch = wire::Batch::decode(batch).unwrap();
    let key = (batch.epoch, batch.number);
    let mut events = Vec::new();
    for index in 0..batch.events.len() {
        let mut event = Vec::new();
        batch.append_event(index, &mut event).unwrap();
        events.push(Event::decode(event.as_slice()).unwrap());
    }
    let holds = |sequence| events.iter().any(|event| event.sequence == sequence);
    if behaviour.poison.is_some_and(holds) {
        return Err(Status::invalid_argument("events[0]: bad"));
    }
    if behaviour
        .stop_after
        .is_some_and(|most| behaviour.batches.len() >= most)
    {
        return Err(Status::unavailable("stopped as told"));
    }
    if behaviour.batches.last().is_some_and(|last| key <= *last) {
        behaviour.duplicates += 1;
    } else {
        behaviour.batches.push(key);
        behaviour.events.extend(events);
    }
    Ok(
        (!behaviour.silent).then_some(publish_response::Message::Acknowledgement(
            v1::Acknowledgement {
                epoch: batch.epoch,
                number: batch.number,
            },
        )),
    )
}
