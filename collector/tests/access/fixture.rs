//! A collector with TLS on loopback, and clients with whatever they show.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use ebpf_hello_collector::{
    access::{
        AuthorityPem, Credentials, Directory, Door, Enrollment, EnrollmentOptions, Limits,
        ReaderFile, Reload, ServerCertificate, TlsFiles, TokenFile,
    },
    log::{Log, Memory},
    serve::{Collector, Listener, Options, Socket, serve},
};
use ebpf_hello_proto::v1::{
    AgentHello, Batch, BatchedEvent, EnrollRequest, EnrollResponse, Event, Exit, ObserveRequest,
    PublishRequest, PublishResponse, collector_service_client::CollectorServiceClient, event::Kind,
    observe_response, observer_service_client::ObserverServiceClient, publish_request,
};
use hyper_util::rt::TokioIo;
use rcgen::{CertificateParams, KeyPair};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{
        CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, pem::PemObject as _,
    },
};
use tokio::{net::TcpStream, sync::mpsc};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Request, Status, Streaming,
    transport::{Channel, Endpoint},
};

/// How often the server looks at its files.
pub(crate) const POLL: Duration = Duration::from_millis(20);
/// Patience with a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
pub(crate) const TOKEN: &str = "bootstrap-token-of-any-node";
pub(crate) const TOKEN_N1: &str = "bootstrap-token-of-node-n1";
pub(crate) const READER: &str = "reader-of-everything";

pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    pub(crate) directory: tempfile::TempDir,
    pub(crate) door: Arc<Door>,
}

/// How a server differs from the usual one.
pub(crate) struct Setup {
    pub(crate) life: Duration,
    pub(crate) limits: Limits,
    pub(crate) options: Options,
    /// The server's certificate is in the files `server.crt` and `server.key`.
    pub(crate) files: bool,
}

/// What a client trusts and shows.
#[derive(Clone, Default)]
pub(crate) struct Client {
    pub(crate) trusts: Vec<CertificateDer<'static>>,
    pub(crate) shows: Option<(Vec<CertificateDer<'static>>, Arc<KeyPair>)>,
}

impl Default for Setup {
    fn default() -> Self {
        Setup {
            life: Duration::from_secs(3600),
            limits: Limits::default(),
            options: Options {
                heartbeat: Duration::from_millis(100),
                ..Options::default()
            },
            files: false,
        }
    }
}

pub(crate) async fn start() -> Server {
    start_with(Setup::default()).await
}

pub(crate) async fn start_with(setup: Setup) -> Server {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    let tokens = format!(
        "# bootstrap tokens\n{TOKEN}\n{TOKEN_N1},n1\nbootstrap-token-of-before,expires=2020-01-01T00:00:00Z\n"
    );
    std::fs::write(path("tokens"), tokens).unwrap();
    let readers = format!(
        "{READER},*\nreader-of-the-shop,shop\nreader-of-nothing\nreader-of-before,*,expires=2020-01-01T00:00:00Z\ncertificate:alice,shop\n"
    );
    std::fs::write(path("readers"), readers).unwrap();
    let people = AuthorityPem::generate().unwrap();
    std::fs::write(path("people.crt"), &people.certificates).unwrap();
    std::fs::write(path("people.key"), &people.key).unwrap();
    let certificate = if setup.files {
        write_server(directory.path(), "localhost");
        ServerCertificate::Files {
            certificate: path("server.crt"),
            key: path("server.key"),
        }
    } else {
        ServerCertificate::Own(vec!["localhost".into(), "127.0.0.1".into()])
    };
    let files = TlsFiles {
        authority: Some(Arc::new(Directory(path("tls")))),
        certificate,
        readers: Some(path("people.crt")),
    };
    let tls = Reload::start(files, POLL).await.unwrap();
    let enrol = Enrollment::new(
        tls.clone(),
        Some(Arc::new(
            TokenFile::open(path("tokens"), POLL).await.unwrap(),
        )),
        EnrollmentOptions { life: setup.life },
    );
    let log: Arc<dyn Log> = Arc::new(Memory::new(64 << 20));
    let collector = Collector::new(log, Some(Arc::new(enrol)), setup.options);
    let door = Arc::new(Door::new(Some(tls), setup.limits));
    let socket = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    let readers = ReaderFile::open(path("readers"), POLL).await.unwrap();
    let listener = Listener {
        socket: Socket::Tcp(socket),
        handshake: Some(door.clone()),
        authenticate: Arc::new(Credentials::new(Some(Arc::new(readers)))),
    };
    tokio::spawn(serve(collector, vec![listener]));
    Server {
        address,
        directory,
        door,
    }
}

/// The certificates in a file.
pub(crate) fn read_certificates(path: impl AsRef<Path>) -> Vec<CertificateDer<'static>> {
    CertificateDer::pem_file_iter(path)
        .unwrap()
        .collect::<Result<_, _>>()
        .unwrap()
}

/// Writes `server.crt` and `server.key`, self-signed for a name.
pub(crate) fn write_server(directory: &Path, name: &str) {
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(vec![name.to_owned()])
        .unwrap()
        .self_signed(&key)
        .unwrap();
    std::fs::write(directory.join("server.crt"), certificate.pem()).unwrap();
    std::fs::write(directory.join("server.key"), key.serialize_pem()).unwrap();
}

// === impl Server ===

impl Server {
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The authorities in a file of the server's.
    pub(crate) fn certificates(&self, name: &str) -> Vec<CertificateDer<'static>> {
        read_certificates(self.path(name))
    }

    /// Trusts the server, shows nothing.
    pub(crate) fn stranger(&self) -> Client {
        Client {
            trusts: self.certificates("tls/ca.crt"),
            shows: None,
        }
    }

    /// A client that enrolled as a node.
    pub(crate) async fn node(&self, node: &str) -> Client {
        let (answer, key) = self.enrol(&self.stranger(), node, TOKEN).await;
        enrolled(answer.unwrap(), key)
    }

    /// Asks for a certificate.
    pub(crate) async fn enrol(
        &self,
        client: &Client,
        node: &str,
        token: &str,
    ) -> (Result<EnrollResponse, Status>, Arc<KeyPair>) {
        let key = Arc::new(KeyPair::generate().unwrap());
        let request = CertificateParams::default()
            .serialize_request(&*key)
            .unwrap();
        let request = EnrollRequest {
            node: node.into(),
            token: token.into(),
            certificate_request: request.der().to_vec(),
        };
        (self.send_enrol(client, request).await, key)
    }

    pub(crate) async fn send_enrol(
        &self,
        client: &Client,
        request: EnrollRequest,
    ) -> Result<EnrollResponse, Status> {
        let channel = self.channel(client).await.unwrap();
        CollectorServiceClient::new(channel)
            .enroll(request)
            .await
            .map(|answer| answer.into_inner())
    }

    pub(crate) async fn channel(
        &self,
        client: &Client,
    ) -> Result<Channel, tonic::transport::Error> {
        let (client, address) = (client.clone(), self.address);
        Endpoint::from_static("http://localhost")
            .connect_with_connector(tower::service_fn(move |_| {
                let client = client.clone();
                async move { client.tls(address).await.map(TokioIo::new) }
            }))
            .await
    }

    /// Opens Observe with a token; the stream, after its hello.
    pub(crate) async fn observe(
        &self,
        client: &Client,
        token: &str,
    ) -> Result<Streaming<ebpf_hello_proto::v1::ObserveResponse>, Status> {
        let channel = self
            .channel(client)
            .await
            .map_err(|error| Status::from_error(Box::new(error)))?;
        let mut request = Request::new(ObserveRequest {
            follow: true,
            ..ObserveRequest::default()
        });
        if !token.is_empty() {
            request
                .metadata_mut()
                .insert("authorization", format!("Bearer {token}").parse().unwrap());
        }
        let mut stream = ObserverServiceClient::new(channel)
            .observe(request)
            .await?
            .into_inner();
        match stream.message().await?.unwrap().message {
            Some(observe_response::Message::Hello(_)) => Ok(stream),
            other => panic!("expected a hello, got {other:?}"),
        }
    }

    /// Opens Publish as a node; what to send on, and the answers after the hello.
    pub(crate) async fn publish(
        &self,
        client: &Client,
        node: &str,
    ) -> Result<(mpsc::Sender<PublishRequest>, Streaming<PublishResponse>), Status> {
        let channel = self
            .channel(client)
            .await
            .map_err(|error| Status::from_error(Box::new(error)))?;
        let (sender, receiver) = mpsc::channel(8);
        let hello = AgentHello {
            node: node.into(),
            epoch: 1,
            version: "0".into(),
        };
        sender
            .send(PublishRequest {
                message: Some(publish_request::Message::Hello(hello)),
            })
            .await
            .unwrap();
        let mut stream = CollectorServiceClient::new(channel)
            .publish(ReceiverStream::new(receiver))
            .await?
            .into_inner();
        stream.message().await?;
        Ok((sender, stream))
    }
}

/// A batch of one event.
pub(crate) fn batch(node: &str, number: u64) -> PublishRequest {
    let event = Event {
        cpu: Some(0),
        sequence: number,
        time: Some(ebpf_hello_proto::Timestamp::from(
            std::time::SystemTime::now(),
        )),
        kind: Some(Kind::Exit(Exit {
            code: Some(0),
            ..Exit::default()
        })),
        ..Event::default()
    };
    PublishRequest {
        message: Some(publish_request::Message::Batch(Batch {
            node: node.into(),
            epoch: 1,
            number,
            events: vec![BatchedEvent {
                event: Some(event),
                ..BatchedEvent::default()
            }],
            ..Batch::default()
        })),
    }
}

/// The next event's sequence number.
pub(crate) async fn next_sequence(
    stream: &mut Streaming<ebpf_hello_proto::v1::ObserveResponse>,
) -> u64 {
    let next = async {
        loop {
            if let Some(observe_response::Message::Events(list)) =
                stream.message().await.unwrap().unwrap().message
            {
                return list.events[0].sequence;
            }
        }
    };
    tokio::time::timeout(PATIENCE, next).await.unwrap()
}

/// What an enrolled node shows and trusts.
pub(crate) fn enrolled(answer: EnrollResponse, key: Arc<KeyPair>) -> Client {
    let der = |all: Vec<Vec<u8>>| all.into_iter().map(CertificateDer::from).collect();
    Client {
        trusts: der(answer.authorities),
        shows: Some((der(answer.certificates), key)),
    }
}

/// A certificate of an authority in PEM, as wanted.
pub(crate) fn issue(
    authority: &AuthorityPem,
    params: &CertificateParams,
) -> (Vec<CertificateDer<'static>>, Arc<KeyPair>) {
    let key = KeyPair::from_pem(std::str::from_utf8(&authority.key).unwrap()).unwrap();
    let issuer =
        rcgen::Issuer::from_ca_cert_pem(std::str::from_utf8(&authority.certificates).unwrap(), key)
            .unwrap();
    let own = KeyPair::generate().unwrap();
    let certificate = params.signed_by(&own, &issuer).unwrap();
    (vec![certificate.der().clone()], Arc::new(own))
}

/// Waits until something holds.
pub(crate) async fn until<T>(what: &str, mut holds: impl AsyncFnMut() -> Option<T>) -> T {
    let started = std::time::Instant::now();
    loop {
        if let Some(value) = holds().await {
            return value;
        }
        assert!(started.elapsed() < PATIENCE, "{what} did not come about");
        tokio::time::sleep(POLL).await;
    }
}

// === impl Client ===

impl Client {
    pub(crate) fn config(&self) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        for root in &self.trusts {
            roots.add(root.clone()).unwrap();
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_root_certificates(roots);
        let mut config = match &self.shows {
            None => builder.with_no_client_auth(),
            Some((chain, key)) => {
                let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
                builder.with_client_auth_cert(chain.clone(), key).unwrap()
            }
        };
        config.alpn_protocols = vec![b"h2".to_vec()];
        config
    }

    pub(crate) async fn tls(&self, address: SocketAddr) -> std::io::Result<TlsStream<TcpStream>> {
        let stream = TcpStream::connect(address).await?;
        let name = ServerName::try_from("localhost").unwrap();
        TlsConnector::from(Arc::new(self.config()))
            .connect(name, stream)
            .await
    }
}
