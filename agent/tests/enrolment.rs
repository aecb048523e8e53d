//! A node enrols at a collector, over real TLS, and keeps its certificate.

#![allow(
    clippy::unwrap_used,
    reason = "a test that unwraps fails with the reason"
)]

use std::{
    net::SocketAddr,
    os::unix::fs::PermissionsExt as _,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use ebpf_hello_agent::enrolment::{Enrolment, EnrolmentError, EnrolmentOptions};
use ebpf_hello_collector::{
    access::{
        AuthorityPem, Credentials, Directory, Door, Enrollment, EnrollmentOptions, Limits, Reload,
        ServerCertificate, TlsFiles, TokenFile,
    },
    log::Memory,
    serve::{Collector, Listener, Options, Socket, serve},
};
use ebpf_hello_proto::v1::{
    AgentHello, PublishRequest, collector_service_client::CollectorServiceClient, publish_request,
};

const POLL: Duration = Duration::from_millis(20);
const PATIENCE: Duration = Duration::from_secs(60);
const TOKEN: &str = "bootstrap-token-of-node-n1";

struct Server {
    address: SocketAddr,
    directory: tempfile::TempDir,
}

async fn start(life: Duration) -> Server {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    std::fs::write(path("tokens"), format!("{TOKEN},n1\n")).unwrap();
    std::fs::write(path("token"), TOKEN).unwrap();
    let files = TlsFiles {
        authority: Some(Arc::new(Directory(path("tls")))),
        certificate: ServerCertificate::Own(vec!["localhost".into()]),
        readers: None,
    };
    let tls = Reload::start(files, POLL).await.unwrap();
    let tokens = TokenFile::open(path("tokens"), POLL).await.unwrap();
    let enrol = Enrollment::new(
        tls.clone(),
        Some(Arc::new(tokens)),
        EnrollmentOptions { life },
    );
    let collector = Collector::new(
        Arc::new(Memory::new(1 << 20)),
        Some(Arc::new(enrol)),
        Options::default(),
    );
    let socket = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    let listener = Listener {
        socket: Socket::Tcp(socket),
        handshake: Some(Arc::new(Door::new(Some(tls), Limits::default()))),
        authenticate: Arc::new(Credentials::new(None)),
    };
    tokio::spawn(serve(collector, vec![listener]));
    Server { address, directory }
}

impl Server {
    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn options(&self, node: &str) -> EnrolmentOptions {
        EnrolmentOptions {
            node: node.into(),
            collector: format!("https://localhost:{}", self.address.port()),
            token: Some(self.path("token")),
            authorities: Some(self.path("tls/ca.crt")),
            directory: self.path("state"),
        }
    }
}

/// Publishes as a node, as far as the collector's hello.
async fn publish(enrolment: &Enrolment, node: &str) -> Result<(), tonic::Status> {
    let channel = enrolment.connect().await.unwrap();
    let hello = AgentHello {
        node: node.into(),
        epoch: 1,
        version: "0".into(),
    };
    let request = PublishRequest {
        message: Some(publish_request::Message::Hello(hello)),
    };
    let mut answers = CollectorServiceClient::new(channel)
        .publish(tokio_stream::once(request))
        .await?
        .into_inner();
    answers.message().await.map(|_| ())
}

#[tokio::test]
async fn a_node_enrols_once_and_comes_back_with_what_it_kept() {
    let server = start(Duration::from_secs(3600)).await;
    let enrolment = Enrolment::open(server.options("n1")).await.unwrap();
    assert!(enrolment.expires().is_none());
    publish(&enrolment, "n1").await.unwrap();
    let expires = enrolment.expires().unwrap();
    let mode = |name: &str| {
        std::fs::metadata(server.path(name))
            .unwrap()
            .permissions()
            .mode()
            & 0o777
    };
    assert_eq!((mode("state"), mode("state/node.pem")), (0o700, 0o600));

    // Neither the token nor the operator's authority is needed any more.
    let options = EnrolmentOptions {
        token: None,
        authorities: None,
        ..server.options("n1")
    };
    let again = Enrolment::open(options.clone()).await.unwrap();
    assert_eq!(again.expires(), Some(expires));
    publish(&again, "n1").await.unwrap();
    assert_eq!(
        publish(&again, "n2").await.unwrap_err().code(),
        tonic::Code::PermissionDenied
    );

    // What was another node's, or is broken, is not used.
    let other = Enrolment::open(EnrolmentOptions {
        node: "n2".into(),
        ..options.clone()
    })
    .await
    .unwrap();
    assert!(matches!(
        other.connect().await,
        Err(EnrolmentError::NoToken { .. })
    ));
    std::fs::write(server.path("state/node.pem"), "broken").unwrap();
    assert!(Enrolment::open(options).await.unwrap().expires().is_none());
}

#[tokio::test]
async fn a_certificate_is_renewed_with_itself_before_it_ends() {
    let server = start(Duration::from_secs(20)).await;
    let enrolment = Arc::new(Enrolment::open(server.options("n1")).await.unwrap());
    enrolment.connect().await.unwrap();
    // From here on only the certificate can renew itself.
    std::fs::remove_file(server.path("token")).unwrap();
    let first = enrolment.expires().unwrap();
    let kept = enrolment.clone();
    let keeper = tokio::spawn(async move { kept.keep().await });
    let started = Instant::now();
    while enrolment.expires().unwrap() == first {
        assert!(started.elapsed() < PATIENCE, "it was not renewed");
        tokio::time::sleep(POLL).await;
    }
    publish(&enrolment, "n1").await.unwrap();
    keeper.abort();
}

/// Below a file, because root may write to any directory.
#[tokio::test]
async fn a_certificate_that_cannot_be_kept_serves_and_is_renewed() {
    let server = start(Duration::from_secs(3600)).await;
    std::fs::write(server.path("state"), "a file").unwrap();
    for place in ["state", "state/identity"] {
        let options = EnrolmentOptions {
            directory: server.path(place),
            ..server.options("n1")
        };
        let enrolment = Enrolment::open(options.clone()).await.unwrap();
        publish(&enrolment, "n1").await.unwrap();
        let expires = enrolment.expires().unwrap();
        // Times of certificates are whole seconds.
        tokio::time::sleep(Duration::from_millis(1100)).await;
        enrolment.renew().await.unwrap();
        assert!(enrolment.expires().unwrap() > expires, "{place}");
        publish(&enrolment, "n1").await.unwrap();
        // The next run starts without it.
        let next = Enrolment::open(options).await.unwrap();
        assert_eq!(next.expires(), None);
        publish(&next, "n1").await.unwrap();
    }

    // Once there is room, the next renewal is kept.
    let options = EnrolmentOptions {
        directory: server.path("state/identity"),
        ..server.options("n1")
    };
    let enrolment = Enrolment::open(options.clone()).await.unwrap();
    enrolment.connect().await.unwrap();
    std::fs::remove_file(server.path("state")).unwrap();
    enrolment.renew().await.unwrap();
    let next = Enrolment::open(options).await.unwrap();
    assert_eq!(next.expires(), enrolment.expires());
}

#[tokio::test]
async fn a_renewal_brings_the_next_authority() {
    let server = start(Duration::from_secs(3600)).await;
    std::fs::copy(server.path("tls/ca.crt"), server.path("first.crt")).unwrap();
    let options = EnrolmentOptions {
        authorities: Some(server.path("first.crt")),
        ..server.options("n1")
    };
    let enrolment = Enrolment::open(options).await.unwrap();
    enrolment.connect().await.unwrap();
    let until_named = async |count: usize| {
        let named = || {
            std::fs::read_to_string(server.path("state/authorities.pem"))
                .unwrap()
                .matches("BEGIN")
                .count()
        };
        let started = Instant::now();
        while named() != count {
            assert!(
                started.elapsed() < PATIENCE,
                "{count} authorities were not named"
            );
            enrolment.renew().await.unwrap();
            tokio::time::sleep(POLL).await;
        }
    };
    let old = std::fs::read(server.path("tls/ca.crt")).unwrap();
    let new = AuthorityPem::generate().unwrap();
    std::fs::write(
        server.path("tls/ca.crt"),
        [&old[..], &new.certificates].concat(),
    )
    .unwrap();
    until_named(2).await;
    // The key follows, and the certificates of before are still good.
    std::fs::write(server.path("tls/ca.key"), &new.key).unwrap();
    tokio::time::sleep(POLL * 20).await;
    enrolment.renew().await.unwrap();
    std::fs::write(server.path("tls/ca.crt"), &new.certificates).unwrap();
    until_named(1).await;
    publish(&enrolment, "n1").await.unwrap();
}

#[tokio::test]
async fn what_stands_in_the_way_is_said() {
    let server = start(Duration::from_secs(3600)).await;
    let says = async |options: EnrolmentOptions, expected: &[&str]| {
        let error = match Enrolment::open(options).await {
            Ok(enrolment) => enrolment
                .connect()
                .await
                .map(|_| ())
                .expect_err("it connected"),
            Err(error) => error,
        };
        let text = Chain(&error).to_string();
        for word in expected {
            assert!(text.contains(word), "{text:?} does not say {word:?}");
        }
    };
    let other = AuthorityPem::generate().unwrap();
    std::fs::write(server.path("other.crt"), &other.certificates).unwrap();
    std::fs::write(server.path("unknown"), "a-token-that-nobody-knows").unwrap();
    std::fs::write(server.path("empty"), "\n").unwrap();
    let good = || server.options("n1");
    let file = |name: &str| Some(server.path(name));
    says(
        EnrolmentOptions {
            authorities: file("other.crt"),
            ..good()
        },
        &["not trusted here", "--ca"],
    )
    .await;
    says(
        EnrolmentOptions {
            authorities: None,
            ..good()
        },
        &["no authority is trusted", "--ca"],
    )
    .await;
    says(
        EnrolmentOptions {
            authorities: file("empty"),
            ..good()
        },
        &["no authority is trusted"],
    )
    .await;
    says(
        EnrolmentOptions {
            token: file("unknown"),
            ..good()
        },
        &["\"n1\"", "unknown"],
    )
    .await;
    says(
        EnrolmentOptions {
            token: file("empty"),
            ..good()
        },
        &["empty", "bootstrap token"],
    )
    .await;
    says(
        EnrolmentOptions {
            token: file("missing"),
            ..good()
        },
        &["cannot read", "missing"],
    )
    .await;
    says(
        EnrolmentOptions {
            token: None,
            ..good()
        },
        &["\"n1\"", "--token-file"],
    )
    .await;
    says(
        EnrolmentOptions {
            node: "n2".into(),
            ..good()
        },
        &["\"n1\"", "\"n2\""],
    )
    .await;
    let at = |collector: String| EnrolmentOptions {
        collector,
        ..server.options("n1")
    };
    let port = server.address.port();
    says(at(format!("https://127.0.0.1:{port}")), &["other names"]).await;
    says(
        at("https://localhost:1".into()),
        &["cannot connect", "refused"],
    )
    .await;
    says(at("http://localhost:1".into()), &["https://HOST:PORT"]).await;
}

/// An error with its causes.
struct Chain<'a>(&'a dyn std::error::Error);

impl std::fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)?;
        match self.0.source() {
            None => Ok(()),
            Some(cause) => write!(f, ": {}", Chain(cause)),
        }
    }
}
