//! A server whose every answer the test decides, on a Unix socket.

use std::{
    collections::VecDeque,
    fs,
    path::PathBuf,
    sync::{Arc, Mutex},
    time::Duration,
};

use ebpf_hello_proto::{
    server::observer_service_server::{ObserverService, ObserverServiceServer},
    v1::{
        Event, EventList, GetCountersRequest, GetCountersResponse, GetLedgerRequest,
        GetLedgerResponse, Heartbeat, ListFiltersRequest, ListFiltersResponse, ListNodesRequest,
        ListNodesResponse, ListProgramsRequest, ListProgramsResponse, ObserveRequest,
        ObserverHello,
    },
    wire::{ObserveResponse, observe_response::Message},
};
use prost::Message as _;
use tempfile::TempDir;
use tokio::{net::UnixListener, runtime::Runtime, sync::mpsc, time::sleep};
use tokio_stream::wrappers::{ReceiverStream, UnixListenerStream};
use tonic::{Request, Response, Status, transport};

/// What the server does next in a stream.
#[derive(Clone)]
pub(crate) enum Step {
    Send(ObserveResponse),
    /// The same message again and again, without end.
    Flood(ObserveResponse),
    Wait(Duration),
    Fail(Status),
    /// Neither events nor heartbeats, without end.
    Silence,
}

/// What the server was asked and will answer.
#[derive(Default)]
pub(crate) struct Answers {
    /// A script for each stream; further streams are refused.
    pub(crate) streams: VecDeque<Vec<Step>>,
    pub(crate) counters: VecDeque<GetCountersResponse>,
    pub(crate) nodes: VecDeque<ListNodesResponse>,
    pub(crate) filters: VecDeque<ListFiltersResponse>,
    pub(crate) ledgers: VecDeque<GetLedgerResponse>,
    /// As its health says.
    pub(crate) serving: bool,
    /// The requests for streams so far.
    pub(crate) observed: Vec<ObserveRequest>,
    pub(crate) counted: Vec<GetCountersRequest>,
}

/// A running server; it stops when this is dropped.
pub(crate) struct Server {
    folder: TempDir,
    answers: Arc<Mutex<Answers>>,
    runtime: Option<Runtime>,
}

#[derive(Clone)]
struct Service {
    answers: Arc<Mutex<Answers>>,
}

// === impl Server ===

impl Server {
    pub(crate) fn start(answers: Answers) -> Server {
        let mut server = Server {
            folder: tempfile::tempdir().unwrap(),
            answers: Arc::new(Mutex::new(answers)),
            runtime: None,
        };
        server.resume();
        server
    }

    /// A server that streams these scripts, one after the other.
    pub(crate) fn streaming(streams: impl IntoIterator<Item = Vec<Step>>) -> Server {
        Server::start(Answers {
            streams: streams.into_iter().collect(),
            ..Answers::default()
        })
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("server.sock")
    }

    pub(crate) fn url(&self) -> String {
        format!("unix://{}", self.socket().display())
    }

    pub(crate) fn answers(&self) -> std::sync::MutexGuard<'_, Answers> {
        self.answers.lock().unwrap()
    }

    /// Every connection breaks, nobody listens any more.
    pub(crate) fn stop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
        let _ = fs::remove_file(self.socket());
    }

    /// It listens again.
    pub(crate) fn resume(&mut self) {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let service = Service {
            answers: Arc::clone(&self.answers),
        };
        let serving = self.answers().serving;
        let socket = self.socket();
        let (ready, is_ready) = std::sync::mpsc::channel();
        runtime.spawn(async move {
            let listener = UnixListener::bind(socket).unwrap();
            let (reporter, health) = tonic_health::server::health_reporter();
            let status = match serving {
                true => tonic_health::ServingStatus::Serving,
                false => tonic_health::ServingStatus::NotServing,
            };
            reporter.set_service_status("", status).await;
            ready.send(()).unwrap();
            transport::Server::builder()
                .add_service(health)
                .add_service(ObserverServiceServer::new(service))
                .serve_with_incoming(UnixListenerStream::new(listener))
                .await
                .unwrap();
        });
        is_ready.recv().unwrap();
        self.runtime = Some(runtime);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}

// === messages ===

pub(crate) fn hello(scope: &str) -> Step {
    Step::Send(ObserveResponse {
        message: Some(Message::Hello(ObserverHello {
            version: "0.1.0".into(),
            scope: scope.into(),
            all_namespaces: true,
            ..ObserverHello::default()
        })),
        resume_token: "t0".into(),
    })
}

pub(crate) fn events(events: Vec<Event>, token: &str) -> Step {
    Step::Send(list(events, token))
}

/// Without end.
pub(crate) fn flood(events: Vec<Event>) -> Step {
    Step::Flood(list(events, "flood"))
}

pub(crate) fn heartbeat(cel_errors: u64, token: &str) -> Step {
    Step::Send(ObserveResponse {
        message: Some(Message::Heartbeat(Heartbeat {
            cel_errors,
            ..Heartbeat::default()
        })),
        resume_token: token.into(),
    })
}

fn list(events: Vec<Event>, token: &str) -> ObserveResponse {
    ObserveResponse {
        message: Some(Message::Events(EventList { events }.encode_to_vec().into())),
        resume_token: token.into(),
    }
}

// === impl Service ===

impl Service {
    /// The next answer of a list; none left is the test's mistake.
    fn next<T>(
        &self,
        list: impl Fn(&mut Answers) -> &mut VecDeque<T>,
    ) -> Result<Response<T>, Status> {
        list(&mut self.answers.lock().unwrap())
            .pop_front()
            .map(Response::new)
            .ok_or_else(|| Status::internal("the test has no further answer"))
    }
}

#[tonic::async_trait]
impl ObserverService for Service {
    type ObserveStream = ReceiverStream<Result<ObserveResponse, Status>>;

    async fn observe(
        &self,
        request: Request<ObserveRequest>,
    ) -> Result<Response<Self::ObserveStream>, Status> {
        let script = {
            let mut answers = self.answers.lock().unwrap();
            answers.observed.push(request.into_inner());
            answers.streams.pop_front()
        };
        let Some(script) = script else {
            return Err(Status::invalid_argument("the test has no further stream"));
        };
        // A script that begins with a failure is a refusal, without a stream.
        if let Some(Step::Fail(status)) = script.first() {
            return Err(status.clone());
        }
        let (sender, receiver) = mpsc::channel(1);
        tokio::spawn(async move {
            for step in script {
                match step {
                    Step::Send(message) => drop(sender.send(Ok(message)).await),
                    Step::Flood(message) => while sender.send(Ok(message.clone())).await.is_ok() {},
                    Step::Wait(time) => sleep(time).await,
                    Step::Fail(status) => drop(sender.send(Err(status)).await),
                    Step::Silence => std::future::pending().await,
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }

    async fn get_counters(
        &self,
        request: Request<GetCountersRequest>,
    ) -> Result<Response<GetCountersResponse>, Status> {
        self.answers
            .lock()
            .unwrap()
            .counted
            .push(request.into_inner());
        self.next(|answers| &mut answers.counters)
    }

    async fn list_nodes(
        &self,
        _: Request<ListNodesRequest>,
    ) -> Result<Response<ListNodesResponse>, Status> {
        self.next(|answers| &mut answers.nodes)
    }

    async fn list_programs(
        &self,
        _: Request<ListProgramsRequest>,
    ) -> Result<Response<ListProgramsResponse>, Status> {
        Err(Status::unimplemented("no command asks for it"))
    }

    async fn list_filters(
        &self,
        _: Request<ListFiltersRequest>,
    ) -> Result<Response<ListFiltersResponse>, Status> {
        self.next(|answers| &mut answers.filters)
    }

    async fn get_ledger(
        &self,
        _: Request<GetLedgerRequest>,
    ) -> Result<Response<GetLedgerResponse>, Status> {
        self.next(|answers| &mut answers.ledgers)
    }
}
