//! A collector on a Unix socket and a TCP port, and clients of it.

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use async_trait::async_trait;
use ebpf_hello_collector::{
    caller::{Authenticate, Caller, Peer, Publisher, Reader, Trusted},
    log::{BatchKey, Log, Memory},
    refusal,
    serve::{Collector, Listener, Options, Socket, serve},
};
use ebpf_hello_proto::{
    Timestamp,
    v1::{
        self, collector_service_client::CollectorServiceClient, event::Kind,
        observe_response::Message, observer_service_client::ObserverServiceClient,
    },
};
use hyper_util::rt::TokioIo;
use prost::Message as _;
use tokio::{
    net::{TcpListener, UnixListener, UnixStream},
    task::JoinHandle,
    time::timeout,
};
use tonic::{
    Status, Streaming,
    transport::{Channel, Endpoint},
};

/// Patience with a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) struct Server {
    pub(crate) collector: Arc<Collector>,
    pub(crate) log: Arc<dyn Log>,
    pub(crate) tcp: SocketAddr,
    pub(crate) task: JoinHandle<std::io::Result<()>>,
    socket: PathBuf,
    _directory: tempfile::TempDir,
}

/// On TCP: `Bearer all`, `Bearer NAMESPACE`, `Bearer node:NAME`.
#[derive(Debug)]
struct Bearer;

#[async_trait]
impl Authenticate for Bearer {
    async fn authenticate(&self, peer: &Peer, headers: &http::HeaderMap) -> Result<Caller, Status> {
        assert!(peer.address.is_some(), "a TCP connection has an address");
        let Some(header) = headers.get("authorization") else {
            return Ok(Caller::default());
        };
        let token = header.to_str().unwrap().strip_prefix("Bearer ").unwrap();
        let caller = |reads: Option<Reader>, publishes| Caller {
            name: Some(token.to_owned()),
            reads: reads.map(Into::into),
            publishes,
        };
        match token.split_once(':') {
            Some(("node", node)) => Ok(caller(None, Some(Publisher::Node(node.into())))),
            _ if token == "all" => Ok(caller(Some(Reader::All), None)),
            _ if token == "bad" => Err(refusal::unauthenticated("an unknown token")),
            _ => {
                let namespaces = Arc::new([token.to_owned()].into());
                Ok(caller(Some(Reader::Namespaces(namespaces)), None))
            }
        }
    }
}

pub(crate) async fn start() -> Server {
    start_with(Arc::new(Memory::new(256 << 20)), Options::default()).await
}

/// A server with twenty events, and a request that goes on where somebody was in another's log.
pub(crate) async fn replaced() -> (Server, v1::ObserveRequest) {
    let old = start().await;
    old.append(&batch(1, 10)).await;
    let mut stream = open(&mut old.observer().await, everything()).await;
    let token = next(&mut stream).await.unwrap().unwrap().resume_token;
    let new = start().await;
    new.append(&batch(2, 20)).await;
    let request = v1::ObserveRequest {
        resume_token: token,
        ..everything()
    };
    (new, request)
}

pub(crate) async fn start_with(log: Arc<dyn Log>, options: Options) -> Server {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("observer.sock");
    let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = tcp.local_addr().unwrap();
    let collector = Collector::new(log.clone(), None, options);
    let listeners = vec![
        Listener {
            socket: Socket::Unix(UnixListener::bind(&socket).unwrap()),
            handshake: None,
            authenticate: Arc::new(Trusted),
        },
        Listener {
            socket: Socket::Tcp(tcp),
            handshake: None,
            authenticate: Arc::new(Bearer),
        },
    ];
    Server {
        task: tokio::spawn(serve(collector.clone(), listeners)),
        collector,
        log,
        tcp: address,
        socket,
        _directory: directory,
    }
}

// === impl Server ===

impl Server {
    #[allow(dead_code, reason = "for tests/api, which shares this file")]
    pub(crate) fn socket(&self) -> &std::path::Path {
        &self.socket
    }

    /// A connection over the Unix socket that takes at most so many bytes that nobody reads.
    pub(crate) async fn channel(&self, window: u32) -> Channel {
        let socket = self.socket.clone();
        Endpoint::from_static("http://local")
            .initial_stream_window_size(window)
            .initial_connection_window_size(window)
            .connect_with_connector(tower::service_fn(move |_| {
                let socket = socket.clone();
                async move { UnixStream::connect(socket).await.map(TokioIo::new) }
            }))
            .await
            .unwrap()
    }

    pub(crate) async fn observer(&self) -> ObserverServiceClient<Channel> {
        ObserverServiceClient::new(self.channel(1 << 20).await)
    }

    pub(crate) async fn publisher(&self) -> CollectorServiceClient<Channel> {
        CollectorServiceClient::new(self.channel(1 << 20).await)
    }

    pub(crate) async fn tcp_channel(&self) -> Channel {
        Endpoint::from_shared(format!("http://{}", self.tcp))
            .unwrap()
            .connect()
            .await
            .unwrap()
    }

    pub(crate) async fn append(&self, batch: &v1::Batch) {
        let key = BatchKey {
            epoch: batch.epoch,
            number: batch.number,
        };
        self.log
            .append(&batch.node, key, batch.encode_to_vec().into())
            .await
            .unwrap();
    }
}

/// A batch of n1: execs of pod shop/cart-0, of bank/safe-0 and of the host in turn, with sequences that go on
/// from batch to batch, a second apart.
pub(crate) fn batch(number: u64, events: u64) -> v1::Batch {
    let pod = |namespace: &str, name: &str| v1::Pod {
        namespace: namespace.into(),
        name: name.into(),
        ..v1::Pod::default()
    };
    v1::Batch {
        node: "n1".into(),
        epoch: 1,
        number,
        processes: vec![v1::Process {
            pid: 42,
            comm: "sh".into(),
            ..v1::Process::default()
        }],
        pods: vec![pod("shop", "cart-0"), pod("bank", "safe-0")],
        policies: vec![],
        events: (0..events)
            .map(|index| {
                let sequence = (number - 1) * events + index + 1;
                v1::BatchedEvent {
                    event: Some(v1::Event {
                        time: Some(Timestamp::from_unix_nanos(
                            (1_700_000_000 + sequence) * 1_000_000_000,
                        )),
                        cpu: Some(0),
                        sequence,
                        kind: Some(Kind::Exec(v1::Exec {
                            filename: format!("/bin/{}", "x".repeat(200)),
                            ..v1::Exec::default()
                        })),
                        ..v1::Event::default()
                    }),
                    process: 1,
                    pod: (sequence % 3) as u32,
                    ..v1::BatchedEvent::default()
                }
            })
            .collect(),
    }
}

pub(crate) fn everything() -> v1::ObserveRequest {
    v1::ObserveRequest::default()
}

pub(crate) fn live() -> v1::ObserveRequest {
    v1::ObserveRequest {
        follow: true,
        ..v1::ObserveRequest::default()
    }
}

/// The next message, in reasonable time; `None` at the end.
pub(crate) async fn next(
    stream: &mut Streaming<v1::ObserveResponse>,
) -> Result<Option<v1::ObserveResponse>, Status> {
    timeout(PATIENCE, stream.message())
        .await
        .expect("a message in reasonable time")
}

/// Opens a stream and reads its hello.
pub(crate) async fn open(
    client: &mut ObserverServiceClient<Channel>,
    request: v1::ObserveRequest,
) -> Streaming<v1::ObserveResponse> {
    let mut stream = client.observe(request).await.unwrap().into_inner();
    let hello = next(&mut stream).await.unwrap().unwrap();
    assert!(
        matches!(hello.message, Some(Message::Hello(_))),
        "{hello:?}"
    );
    stream
}

/// The events of a stream that ends.
pub(crate) async fn all(
    client: &mut ObserverServiceClient<Channel>,
    request: v1::ObserveRequest,
) -> Vec<v1::Event> {
    let mut stream = open(client, request).await;
    let mut events = Vec::new();
    while let Some(response) = next(&mut stream).await.unwrap() {
        assert!(
            response.encoded_len() <= (256 << 10) + 1024,
            "messages are bounded"
        );
        if let Some(Message::Events(list)) = response.message {
            events.extend(list.events);
        }
    }
    events
}

pub(crate) fn sequences(events: &[v1::Event]) -> Vec<u64> {
    events.iter().map(|event| event.sequence).collect()
}

/// Counts of the `loss` events among them.
pub(crate) fn losses(events: &[v1::Event]) -> Vec<v1::Loss> {
    events
        .iter()
        .filter_map(|event| match &event.kind {
            Some(Kind::Loss(loss)) => Some(loss.clone()),
            _ => None,
        })
        .collect()
}
