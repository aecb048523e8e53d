//! The log in a real NATS server.

use std::{
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use ebpf_hello_collector::{
    fleet::{Fleet, Peers},
    log::{Appended, Log, LogError, Nats, NatsOptions, Next, Place},
    token,
};
use tempfile::TempDir;

use crate::{
    killed, rates,
    suite::{self, append, batch, key, read, read_entry},
};

/// A server of its own, on loopback; ends with it.
struct Server {
    child: Child,
    port: u16,
    directory: TempDir,
    config: String,
    scheme: &'static str,
}

/// A stream that fits on any disk: the server refuses one that may outgrow what is free.
fn options(url: String) -> NatsOptions {
    NatsOptions {
        max_bytes: 256 << 20,
        ..NatsOptions::new(url)
    }
}

/// On PATH, or unpacked from the folder that EBPF_HELLO_ASSETS names.
fn nats_server() -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let on_path = std::env::split_paths(&path).map(|folder| folder.join("nats-server"));
    if let Some(found) = on_path.into_iter().find(|file| file.is_file()) {
        return found;
    }
    let assets = std::env::var_os("EBPF_HELLO_ASSETS")
        .expect("nats-server is not on PATH, and EBPF_HELLO_ASSETS names no folder that has it");
    let unpacked = Path::new(env!("CARGO_TARGET_TMPDIR")).join("assets");
    let unpack = Command::new(Path::new(&assets).join("unpack.sh"))
        .arg(&unpacked)
        .status();
    assert!(unpack.unwrap().success());
    unpacked.join("nats-server")
}

// === impl Server ===

impl Server {
    async fn start() -> Self {
        Self::start_with("", "nats").await
    }

    /// With more lines in its configuration; `DIR` in them is its directory.
    async fn start_with(config: &str, scheme: &'static str) -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), config, scheme).await
    }

    async fn start_in(directory: TempDir, config: &str, scheme: &'static str) -> Self {
        let port = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let name = directory.path().to_str().unwrap();
        let config = config.replace("DIR", name);
        let mut server = Server {
            child: Command::new("true").spawn().unwrap(),
            port,
            config: format!(
                "listen: 127.0.0.1:{port}\njetstream {{ store_dir: \"{name}\" }}\n{config}"
            ),
            directory,
            scheme,
        };
        server.run().await;
        server
    }

    /// Starts the process, again after [`kill`](Self::kill).
    async fn run(&mut self) {
        let _ = self.child.wait();
        let config = self.directory.path().join("nats.conf");
        std::fs::write(&config, &self.config).unwrap();
        let log = std::fs::File::create(self.directory.path().join("log")).unwrap();
        self.child = Command::new(nats_server())
            .arg("-c")
            .arg(config)
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let start = Instant::now();
        while tokio::net::TcpStream::connect(("127.0.0.1", self.port))
            .await
            .is_err()
        {
            let log = std::fs::read_to_string(self.directory.path().join("log"));
            assert!(
                start.elapsed() < Duration::from_secs(20),
                "{}",
                log.unwrap()
            );
            assert!(self.child.try_wait().unwrap().is_none(), "{}", log.unwrap());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    fn url(&self) -> String {
        format!("{}://127.0.0.1:{}", self.scheme, self.port)
    }

    async fn log(&self) -> Arc<dyn Log> {
        Arc::new(self.log_of(|_| ()).await.unwrap())
    }

    async fn log_of(&self, change: impl FnOnce(&mut NatsOptions)) -> Result<Nats, LogError> {
        let mut options = options(self.url());
        change(&mut options);
        Nats::open(options).await
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

async fn empty() -> (Arc<dyn Log>, Server) {
    let server = Server::start().await;
    (server.log().await, server)
}

mod promises {
    crate::promises!(super::empty());
}

/// The same with almost nothing in memory: readers read from the server.
mod promises_from_the_server {
    async fn empty() -> (std::sync::Arc<dyn super::Log>, super::Server) {
        let server = super::Server::start().await;
        let log = server.log_of(|options| options.tail = 1).await.unwrap();
        (std::sync::Arc::new(log), server)
    }

    crate::promises!(empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn counts_what_is_gone_while_it_watched() {
    let server = Server::start().await;
    let log = server
        .log_of(|options| (options.max_bytes, options.tail) = (256 << 10, 16 << 10))
        .await
        .unwrap();
    // All but the last batches may still be on their way into this process's memory.
    suite::counts_what_is_gone(&log).await;
    // Another collector, which saw nothing of it, does not guess.
    let late = server
        .log_of(|options| options.max_bytes = 256 << 10)
        .await
        .unwrap();
    let gone = read(&mut *late.reader(0).await.unwrap()).await;
    assert!(
        matches!(
            gone,
            Next::Gone {
                from: 1,
                events: None,
                ..
            }
        ),
        "{gone:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn keeps_everything_over_a_restart_of_both() {
    let (log, mut server) = empty().await;
    append(&*log, "n1", key(5, 1), 1).await;
    append(&*log, "n1", key(5, 2), 1).await;
    append(&*log, "n2", key(4, 1), 1).await;
    let (id, range) = (log.id().to_owned(), log.range().await.unwrap());
    let place = Place {
        position: 2,
        event: 1,
    };
    let token = token::encode(&*log, place);
    drop(log);
    server.kill();
    server.run().await;
    let log = server.log().await;
    assert_eq!((log.id(), log.range().await.unwrap()), (&*id, range));
    assert_eq!(token::decode(&*log, &token), Ok(place));
    suite::has_once(&*log).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn collectors_share_it() {
    let (one, server) = empty().await;
    let two = server.log().await;
    assert_eq!(one.id(), two.id());
    let token = token::encode(&*one, Place::default());
    assert_eq!(token::decode(&*two, &token), Ok(Place::default()));
    let mut reader = two.reader(0).await.unwrap();
    append(&*one, "n1", key(1, 1), 1).await;
    assert_eq!(read_entry(&mut *reader).await.batch.number, 1);
    // An agent that moved, and whose old connection is not yet dead: both append the same batches at once.
    let mut stored = 0;
    for number in 2..=60 {
        let key = key(1, number);
        let (left, right) = tokio::join!(
            one.append("n1", key, batch("n1", key, 3)),
            two.append("n1", key, batch("n1", key, 3)),
        );
        for appended in [left.unwrap(), right.unwrap()] {
            stored += usize::from(matches!(appended, Appended::Stored(_)));
        }
    }
    assert_eq!(stored, 59);
    // What one has moved past, the other does not append any more.
    append(&*one, "n1", key(2, 1), 1).await;
    let old = two
        .append("n1", key(1, 99), batch("n1", key(1, 99), 1))
        .await;
    assert_eq!(old.unwrap(), Appended::Duplicate);
    for log in [&one, &two] {
        let mut reader = log.reader(0).await.unwrap();
        for number in 1..=60 {
            assert_eq!(read_entry(&mut *reader).await.batch.number, number);
        }
        assert_eq!(read_entry(&mut *reader).await.batch.epoch, 2);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn goes_on_when_the_server_returns() {
    let (log, mut server) = empty().await;
    let mut reader = log.reader(0).await.unwrap();
    append(&*log, "n1", key(1, 1), 1).await;
    assert_eq!(read_entry(&mut *reader).await.batch.number, 1);
    server.kill();
    let two = key(1, 2);
    let error = log
        .append("n1", two, batch("n1", two, 1))
        .await
        .unwrap_err();
    assert!(error.to_string().starts_with("NATS: "), "{error}");
    assert!(matches!(reader.next().await.unwrap(), Next::End));
    server.run().await;
    let start = Instant::now();
    while let Err(error) = log.append("n1", two, batch("n1", two, 1)).await {
        assert!(start.elapsed() < Duration::from_secs(30), "{error}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    append(&*log, "n1", key(1, 3), 1).await;
    for number in 2..=3 {
        assert_eq!(read_entry(&mut *reader).await.batch.number, number);
    }
    assert_eq!(log.last("n1").await.unwrap(), Some(key(1, 3)));
}

/// A server that lost what it had not yet synced: its files as they were before.
#[tokio::test(flavor = "multi_thread")]
async fn readers_hear_of_messages_that_the_server_has_lost() {
    let (log, mut server) = empty().await;
    for number in 1..=3 {
        append(&*log, "n1", key(1, number), 2).await;
    }
    server.kill();
    let store = server.directory.path().join("jetstream");
    let kept = server.directory.path().join("kept");
    let copy = |from: &Path, to: &Path| {
        let copied = Command::new("cp").arg("-a").arg(from).arg(to).status();
        assert!(copied.unwrap().success());
    };
    copy(&store, &kept);
    server.run().await;
    let (mut reader, mut slow) = (log.reader(0).await.unwrap(), log.reader(0).await.unwrap());
    let mut lost = 0;
    for number in 4..=5 {
        lost = append_when_it_is_back(&*log, number).await;
    }
    for number in 1..=5 {
        assert_eq!(read_entry(&mut *reader).await.batch.number, number);
    }
    assert_eq!(read_entry(&mut *slow).await.batch.number, 1);

    server.kill();
    std::fs::remove_dir_all(&store).unwrap();
    copy(&kept, &store);
    server.run().await;
    // Also who waits for more, before there is any.
    let gone = read(&mut *reader).await;
    assert!(
        matches!(gone, Next::Gone { from, to, events: None } if from == lost + 1 && to == lost - 1),
        "{gone:?}"
    );
    assert_eq!(log.last("n1").await.unwrap(), Some(key(1, 3)));
    // An agent that had no acknowledgement of the fourth sends it again: it is no duplicate.
    for number in [4, 6] {
        append_when_it_is_back(&*log, number).await;
        assert_eq!(read_entry(&mut *reader).await.batch.number, number);
    }
    for number in [2, 3, 4, 6] {
        assert_eq!(read_entry(&mut *slow).await.batch.number, number);
    }
    let range = log.range().await.unwrap();
    assert_eq!(range.end, lost + 1, "the positions are given again");
}

/// Appends a batch of n1 as soon as the server takes it, and says where.
async fn append_when_it_is_back(log: &dyn Log, number: u64) -> u64 {
    let start = Instant::now();
    let key = key(1, number);
    loop {
        match log.append("n1", key, batch("n1", key, 2)).await {
            Ok(Appended::Stored(position)) => return position,
            other => assert!(
                other.is_err() && start.elapsed() < Duration::from_secs(60),
                "{number}: {other:?}"
            ),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[test]
fn a_kill_of_collector_and_server_loses_nothing_that_was_acknowledged() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let mut server = runtime.block_on(Server::start());
    let acknowledged = killed::kill_amid("nats::appender", &server.url());
    server.kill();
    runtime.block_on(async {
        server.run().await;
        killed::has_all(&*server.log().await, &acknowledged).await;
    });
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "is started by a_kill_of_collector_and_server_loses_nothing_that_was_acknowledged"]
async fn appender() {
    let url = std::env::var("LOG_TEST_PLACE").unwrap();
    killed::append_for_ever(Arc::new(Nats::open(options(url)).await.unwrap())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn says_why_it_cannot_use_a_server() {
    let nobody = NatsOptions::new("nats://user:secret@127.0.0.1:1");
    let error = Nats::open(nobody).await.unwrap_err().to_string();
    assert!(error.contains("connecting to 127.0.0.1:1"), "{error}");
    assert!(!error.contains("secret"), "{error}");
    let error = Nats::open(NatsOptions::new("http://x")).await.unwrap_err();
    assert!(error.to_string().contains("the server's URL"), "{error}");
    let server = Server::start_with("authorization { user: u, password: \"p@ss\" }", "nats").await;
    let error = server.log_of(|_| ()).await.unwrap_err().to_string();
    assert!(error.to_lowercase().contains("authorization"), "{error}");
    let named = format!("nats://u:p%40ss@127.0.0.1:{}", server.port);
    server.log_of(|options| options.url = named).await.unwrap();
    let missing = |options: &mut NatsOptions| options.credentials = Some("/nowhere/x.creds".into());
    let error = server.log_of(missing).await.unwrap_err().to_string();
    assert!(
        error.contains("the credentials in /nowhere/x.creds"),
        "{error}"
    );
    let missing = |options: &mut NatsOptions| options.authorities = Some("/nowhere/ca.pem".into());
    let error = server.log_of(missing).await.unwrap_err().to_string();
    assert!(error.contains("reading /nowhere/ca.pem"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn refuses_a_stream_of_somebody_else() {
    let server = Server::start().await;
    let client = async_nats::connect(server.url()).await.unwrap();
    let context = async_nats::jetstream::new(client);
    let config = async_nats::jetstream::stream::Config {
        name: "EBPF_HELLO".into(),
        ..Default::default()
    };
    context.create_stream(config).await.unwrap();
    let error = server.log_of(|_| ()).await.unwrap_err().to_string();
    assert!(
        error.contains("EBPF_HELLO") && error.contains("not made by a collector"),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn speaks_tls_with_a_certificate_of_ours() {
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str| directory.path().join(name);
    let authority_key = rcgen::KeyPair::generate().unwrap();
    let mut parameters = rcgen::CertificateParams::new(vec![]).unwrap();
    parameters.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let certificate = parameters.self_signed(&authority_key).unwrap();
    std::fs::write(file("ca.pem"), certificate.pem()).unwrap();
    let authority = rcgen::Issuer::new(parameters, authority_key);
    for name in ["server", "client"] {
        let key = rcgen::KeyPair::generate().unwrap();
        let names = vec!["127.0.0.1".to_owned(), "localhost".to_owned()];
        let parameters = rcgen::CertificateParams::new(names).unwrap();
        let certificate = parameters.signed_by(&key, &authority).unwrap();
        std::fs::write(file(&format!("{name}.pem")), certificate.pem()).unwrap();
        std::fs::write(file(&format!("{name}.key")), key.serialize_pem()).unwrap();
    }
    let (authorities, ours) = (file("ca.pem"), (file("client.pem"), file("client.key")));
    let config = r#"tls { cert_file: "DIR/server.pem", key_file: "DIR/server.key", ca_file: "DIR/ca.pem", verify: true }"#;
    let server = Server::start_in(directory, config, "tls").await;
    let error = server.log_of(|_| ()).await.unwrap_err().to_string();
    assert!(error.contains("connecting to 127.0.0.1"), "{error}");
    let error = server
        .log_of(|options| options.authorities = Some(authorities.clone()))
        .await;
    assert!(error.is_err(), "without a certificate of ours");
    let log = server
        .log_of(|options| {
            options.authorities = Some(authorities);
            options.certificate = Some(ours);
        })
        .await
        .unwrap();
    append(&log, "n1", key(1, 1), 1).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "prints rates"]
async fn rates() {
    for tail in [1 << 30, 1] {
        let server = Server::start().await;
        let log = server.log_of(|options| options.tail = tail).await.unwrap();
        rates::print(&format!("nats, {tail} bytes in memory"), Arc::new(log)).await;
    }
}

#[tokio::test]
async fn what_agents_say_to_one_collector_the_others_know() {
    use ebpf_hello_proto::v1;
    let server = Server::start().await;
    let hello = |epoch| v1::AgentHello {
        node: "n1".into(),
        epoch,
        ..v1::AgentHello::default()
    };
    let report = |epoch, generation| v1::NodeReport {
        time: Some(std::time::SystemTime::now().into()),
        node: Some(v1::Node {
            epoch,
            ..v1::Node::default()
        }),
        filters: vec![v1::FilterState {
            uid: "u".into(),
            observed_generation: generation,
            ..v1::FilterState::default()
        }],
        ..v1::NodeReport::default()
    };
    let start = async || {
        let nats = Nats::open(options(server.url())).await.unwrap();
        let fleet = Arc::new(Fleet::new(Duration::from_secs(60)));
        let peers = Peers::start(&nats, fleet.clone());
        (nats, fleet, peers)
    };
    let sees = async |fleet: &Arc<Fleet>, what: (bool, i64)| {
        let end = Instant::now() + Duration::from_secs(20);
        loop {
            let agents = fleet.agents();
            let found = agents.first().map(|(_, agent)| {
                let filter = agent.report.filters.first();
                (
                    agent.present,
                    filter.map_or(0, |filter| filter.observed_generation),
                )
            });
            if found == Some(what) {
                return;
            }
            assert!(Instant::now() < end, "{found:?}, not {what:?}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let (one, other) = (start().await, start().await);
    let session = one.1.connect(hello(1));
    session.report(report(1, 1));
    sees(&other.1, (true, 1)).await;
    // Who comes later asks.
    let late = start().await;
    sees(&late.1, (true, 1)).await;
    session.report(report(1, 2));
    sees(&other.1, (true, 2)).await;
    // The agent moves: what its former collector says of its end is no news.
    let moved = other.1.connect(hello(2));
    moved.report(report(2, 3));
    sees(&late.1, (true, 3)).await;
    drop(session);
    tokio::time::sleep(Duration::from_millis(300)).await;
    for fleet in [&one.1, &other.1, &late.1] {
        sees(fleet, (true, 3)).await;
    }
    drop(moved);
    for fleet in [&one.1, &other.1, &late.1] {
        sees(fleet, (false, 3)).await;
    }
}
