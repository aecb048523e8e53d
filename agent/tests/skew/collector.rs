//! A collector of another version.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
};

use bytes::Bytes;
use prost_reflect::DynamicMessage;
use tokio::net::UnixListener;
use tokio_stream::{Stream, StreamExt as _, wrappers::UnixListenerStream};
use tonic::{
    Request, Response, Status, Streaming, body::Body, server::NamedService, transport::Server,
};
use tower::{Service, service_fn};

use crate::{
    raw::Raw,
    schema::{Schema, get, get_message},
};

pub(crate) struct Theirs {
    directory: tempfile::TempDir,
    requests: Arc<Mutex<Vec<DynamicMessage>>>,
}

#[derive(Clone)]
struct Peer {
    schema: Schema,
    greeting: Vec<Bytes>,
    requests: Arc<Mutex<Vec<DynamicMessage>>>,
}

type Answers = Pin<Box<dyn Stream<Item = Result<Bytes, Status>> + Send>>;

impl Theirs {
    /// It greets so, and acknowledges every batch.
    pub(crate) fn start(schema: Schema, greeting: Vec<Bytes>) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let requests = Arc::<Mutex<Vec<DynamicMessage>>>::default();
        let peer = Peer {
            schema,
            greeting,
            requests: Arc::clone(&requests),
        };
        let socket = UnixListener::bind(directory.path().join("collector.sock")).unwrap();
        let incoming = UnixListenerStream::new(socket);
        tokio::spawn(
            Server::builder()
                .add_service(peer)
                .serve_with_incoming(incoming),
        );
        Theirs {
            directory,
            requests,
        }
    }

    pub(crate) fn url(&self) -> String {
        format!("unix://{}/collector.sock", self.directory.path().display())
    }

    /// What it was told.
    pub(crate) fn requests(&self) -> Vec<DynamicMessage> {
        self.requests.lock().unwrap().clone()
    }
}

impl Peer {
    fn answers(&self, requests: Streaming<Bytes>) -> Answers {
        let peer = self.clone();
        let acknowledgements = requests.filter_map(move |request| {
            let request = peer.schema.decode("PublishRequest", request.ok()?);
            peer.requests.lock().unwrap().push(request.clone());
            if !request.has_field_by_name("batch") {
                return None;
            }
            let batch = get_message(&request, "batch");
            let number = |field| get(&batch, field).as_u64().unwrap();
            let (epoch, number) = (number("epoch"), number("number"));
            let json =
                format!(r#"{{"acknowledgement": {{"epoch": "{epoch}", "number": "{number}"}}}}"#);
            Some(Ok(peer.schema.encode("PublishResponse", &json)))
        });
        let greeting = self.greeting.clone().into_iter().map(Ok);
        Box::pin(tokio_stream::iter(greeting).chain(acknowledgements))
    }
}

impl NamedService for Peer {
    const NAME: &'static str = "ebpfhello.v1.CollectorService";
}

impl Service<http::Request<Body>> for Peer {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let peer = self.clone();
        Box::pin(async move {
            let publish = service_fn(move |request: Request<Streaming<Bytes>>| {
                let answers = peer.answers(request.into_inner());
                async move { Ok::<_, Status>(Response::new(answers)) }
            });
            Ok(tonic::server::Grpc::new(Raw)
                .streaming(publish, request)
                .await)
        })
    }
}
